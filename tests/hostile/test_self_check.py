"""`dcp-orchestrator self-check` as a command, and a control: with the lock-down loosened it must cry out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from orchestrator.worker import self_check
from orchestrator.worker.battery import Ground
from orchestrator.worker.docker_runtime import DockerRuntime
from orchestrator.worker.limits import SandboxLimits
from orchestrator.worker.lockdown import Lockdown

pytestmark = pytest.mark.docker

COMMAND = pathlib.Path(sys.executable).parent / "dcp-orchestrator"


class _Loosened(Lockdown):
    """What a careless operator might run: root, a writable root, Docker's own profile, the host's namespaces."""

    def create_body(self, **options: Any) -> dict[str, Any]:
        body = super().create_body(**options)
        body["User"] = "0:0"
        host = body["HostConfig"]
        host.update(ReadonlyRootfs=False, CapDrop=[], SecurityOpt=[], MaskedPaths=[], UTSMode="host", OomScoreAdj=0)
        host["Memory"] = host["MemorySwap"] = 2 * host["Memory"]
        host["Ulimits"] = []
        host["PidsLimit"] = 500
        return body


class _LooseGround(Ground):
    @contextlib.asynccontextmanager
    async def runtime(self, limits: SandboxLimits | None = None) -> AsyncIterator[DockerRuntime]:
        async with super().runtime() as runtime:
            runtime.lockdown = _Loosened(runtime.lockdown.body, runtime.lockdown.seccomp)
            yield runtime


NOTICED = [
    "walls: user", "walls: capabilities", "walls: no new privileges", "walls: namespaces", "walls: resource limits",
    "walls: memory limit", "walls: process limit", "walls: out-of-memory score", "kernel: writing anywhere",
    "kernel: host information", "kernel: a child process",
    "kernel: listening on an abstract socket", "kernel: becoming root", "kernel: fork bomb", "kernel: descriptors",
]  # fmt: skip


@pytest.mark.parametrize("name", NOTICED)
async def test_a_loosened_lock_down_is_noticed(name: str) -> None:
    [case] = [case for case in self_check.select() if case.id.replace("network: ", "") == name]
    finding = await self_check.judge(case, _LooseGround())
    assert finding.verdict is self_check.Verdict.NOT_CONTAINED, finding


async def _run(*arguments: str, command: Sequence[str] = ("self-check",)) -> subprocess.CompletedProcess[str]:
    words = [str(COMMAND), *command, *arguments]
    return await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, timeout=100)


async def test_the_command_writes_a_signed_report_that_can_be_verified(tmp_path: pathlib.Path) -> None:
    keystore, report = tmp_path / "auditor.keystore", tmp_path / "report.json"
    made = await _run(str(keystore), "--empty-passphrase", command=["keystore", "new"])
    assert made.returncode == 0, made.stderr
    done = await _run("--area", "walls", "--report", str(report), "--sign", str(keystore))
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(report.read_text())
    assert document["good"] is True
    assert document["machine"]["image_id"].startswith("sha256:")
    assert {finding["area"] for finding in document["findings"]} == {"walls"}
    said = await _run("--verify", str(report), "--output", "json")
    assert json.loads(said.stdout)["signer"] == document["signature"]["address"]

    report.write_text(report.read_text().replace('"contained"', '"not contained"', 1))
    said = await _run("--verify", str(report))
    assert said.returncode == 1
    assert "was changed after" in said.stderr


async def test_the_report_for_people(tmp_path: pathlib.Path) -> None:
    report = tmp_path / "report.md"
    done = await _run("--case", "conformance: URLs", "--report", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| URLs |" in report.read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--case", "nonsense"], "no case is called like"),
        (["--image", "no-such-image:1", "--case", "walls: user"], "no-such-image:1"),
        (["--oci-runtime", "no-such-runtime", "--case", "walls: user"], "has no runtime no-such-runtime"),
        (["--docker-host", "unix:///nowhere.sock", "--case", "walls: user"], "nowhere.sock"),
        (["--verify", "/nowhere.json"], "is not a JSON report"),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_line(arguments: list[str], complaint: str) -> None:
    done = await _run(*arguments)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
