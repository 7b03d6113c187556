"""Judging the sandboxes of this machine: the whole battery, run for real, and a report that stands by itself."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import hashlib
import importlib.resources
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orchestrator
from orchestrator.errors import InvalidInput
from orchestrator.protocol import js_json
from orchestrator.task_groups import TaskGroup
from orchestrator.wallet import keys
from orchestrator.worker.battery import CASES, Area, Case, Ground, NotApplicable, NotContained
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings, RuntimeUnavailable

FORMAT = "dcp-orchestrator self-check 1"


class Verdict(enum.StrEnum):
    CONTAINED = "contained"
    NOT_CONTAINED = "not contained"
    NOT_APPLICABLE = "not applicable"
    """It cannot be judged from here; `seen` says why."""
    BROKEN = "broken"
    """The case itself could not be carried out; `seen` says why. Counts as a failure: nothing was shown."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of a case. `seen` is what was seen from outside."""

    case: Case
    verdict: Verdict
    seen: str
    seconds: float

    @property
    def good(self) -> bool:
        return self.verdict in (Verdict.CONTAINED, Verdict.NOT_APPLICABLE)

    def to_json(self) -> dict[str, Any]:
        case = self.case
        return {
            "area": str(case.area),
            "case": case.name,
            "tries": case.tries,
            "wall": case.wall,
            "verdict": str(self.verdict),
            "seen": self.seen,
            "seconds": round(self.seconds, 3),
        }


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that was found, and about what: `machine` names kernel, Engine, runtime, image and lock-down."""

    machine: Mapping[str, Any]
    started_at: float
    findings: Sequence[Finding]

    @property
    def good(self) -> bool:
        return all(finding.good for finding in self.findings)

    def counts(self) -> dict[str, int]:
        counted = Counter(finding.verdict for finding in self.findings)
        return {str(verdict): counted[verdict] for verdict in Verdict}

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "started": _utc(self.started_at),
            "machine": dict(self.machine),
            "counts": self.counts(),
            "good": self.good,
            "findings": [finding.to_json() for finding in self.findings],
        }


def select(areas: Iterable[str] = (), names: Iterable[str] = ()) -> list[Case]:
    """The cases of these areas whose id contains one of these texts; no area or no text stands for all.

    Raises `InvalidInput` when nothing is left.
    """
    areas, names = set(areas), [name.lower() for name in names]
    chosen = [
        case
        for case in CASES
        if (not areas or case.area in areas) and (not names or any(name in case.id.lower() for name in names))
    ]
    if not chosen:
        raise InvalidInput(f"no case is called like {', '.join(names)!r}: --list shows all {len(CASES)}")
    return chosen


async def check(
    cases: Sequence[Case],
    settings: RuntimeSettings,
    *,
    at_once: int = 2,
    on_finding: Callable[[Finding], None] = lambda _finding: None,
) -> Report:
    """Run the cases, `at_once` at a time. Raises `RuntimeUnavailable` when no sandbox can be had at all.

    When cancelled, the sandboxes of the cases under way are removed.
    """
    started_at = time.time()
    machine = await describe_machine(settings)
    findings: dict[str, Finding] = {}
    slots = asyncio.Semaphore(at_once)

    async def one(case: Case) -> None:
        async with slots:
            finding = await judge(case, Ground(settings))
        findings[case.id] = finding
        on_finding(finding)

    async with TaskGroup() as group:
        for case in cases:
            group.create_task(one(case), name=case.id)
    return Report(machine, started_at, [findings[case.id] for case in cases])


async def judge(case: Case, ground: Ground) -> Finding:
    """One case. Never raises but when cancelled."""
    began = time.monotonic()
    try:
        verdict, seen = Verdict.CONTAINED, await case.run(ground)
    except NotContained as error:
        verdict, seen = Verdict.NOT_CONTAINED, error.message
    except NotApplicable as error:
        verdict, seen = Verdict.NOT_APPLICABLE, error.message
    except RuntimeUnavailable as error:
        verdict, seen = Verdict.BROKEN, error.message
    except Exception as error:  # whatever it is: the other cases must still be judged
        verdict, seen = Verdict.BROKEN, f"{type(error).__name__}: {error}"
    return Finding(case, verdict, seen, time.monotonic() - began)


async def describe_machine(settings: RuntimeSettings) -> dict[str, Any]:
    """What was judged. Raises `RuntimeUnavailable`."""
    async with DockerRuntime("battery-describe", settings) as runtime:
        info = runtime.info
        assert info is not None
        return {
            "host": platform.node(),
            "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "engine": info.version,
            "runtime": settings.runtime or info.default_runtime,
            "cgroup_driver": info.cgroup_driver,
            "image": settings.image,
            "image_id": runtime.image_id,
            "lockdown_sha256": _digest("lockdown.json"),
            "seccomp_sha256": _digest("seccomp.json"),
            "orchestrator": orchestrator.__version__,
        }


def _digest(name: str) -> str:
    return hashlib.sha256((importlib.resources.files("orchestrator.worker") / name).read_bytes()).hexdigest()


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


# -- reports for others ------------------------------------------------------------------------------------------------


def sign(report: Mapping[str, Any], key: keys.PrivateKey) -> dict[str, Any]:
    """The report with `signature` {address, r, s, v}: `personal_sign` (EIP-191) over its JSON text without it."""
    signature = key.sign_message(_signed_text(report))
    proof = {"address": key.address, "r": signature.r.hex(), "s": signature.s.hex(), "v": signature.v}
    return {**report, "signature": proof}


def signer(report: Mapping[str, Any]) -> str:
    """The address that signed a report. Raises `InvalidInput` unless it is a report with a good signature."""
    proof = report.get("signature")
    if report.get("format") != FORMAT or not isinstance(proof, Mapping):
        raise InvalidInput(f"this is no signed report of format {FORMAT!r}")
    try:
        r, s = bytes.fromhex(str(proof["r"])), bytes.fromhex(str(proof["s"]))
        found = keys.recover(keys.message_digest(_signed_text(report)), r, s, int(proof["v"]))
    except (KeyError, ValueError, TypeError):
        raise InvalidInput("the report's signature is damaged") from None
    if found != proof.get("address"):
        raise InvalidInput(f"the report was changed after {proof.get('address')} had signed it")
    return found


def _signed_text(report: Mapping[str, Any]) -> bytes:
    unsigned = {name: value for name, value in report.items() if name != "signature"}
    return js_json.dumps(unsigned).encode("utf-8", "surrogatepass")


def markdown(report: Mapping[str, Any]) -> str:
    """A report for people to read, file and print."""
    machine, counts = report["machine"], report["counts"]
    lines = [
        "# Self-check of sandboxes",
        "",
        f"Started {report['started']}: **{'all contained' if report['good'] else 'NOT ALL CONTAINED'}** "
        f"({', '.join(f'{count} {verdict}' for verdict, count in counts.items() if count)}).",
        "",
        "| what was judged | |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in machine.items()),
    ]
    for area in Area:
        findings = [one for one in report["findings"] if one["area"] == area]
        if findings:
            lines += [
                "",
                f"## {area}",
                "",
                "| case | tries | wall | verdict | seen from outside |",
                "|---|---|---|---|---|",
            ]
            lines += [
                f"| {' | '.join(_cell(one[name]) for name in ('case', 'tries', 'wall', 'verdict', 'seen'))} |"
                for one in findings
            ]
    proof = report.get("signature")
    if proof:
        lines += ["", f"The JSON form of this report was signed by `{proof['address']}`."]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    text = " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
    return text if len(text) <= 160 else text[:159] + "…"
