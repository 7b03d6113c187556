"""Pure: are the programs below the Engine free of the known ways out of a container?

Upstream fixes a hole in a version; a distribution mends its older version and says so in its package's changelog.
A version below the upstream floor is therefore only called vulnerable when no changelog contradicts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.worker.doctor import check
from orchestrator.worker.doctor.check import Check

_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-~]?(alpha|beta|rc)\.?(\d+))?")
_FINAL: Final = ("z", 0)  # after every alpha, beta and rc

Version = tuple[int, int, int, str, int]


@dataclass(frozen=True)
class Advisory:
    """`fixed` are the first good versions, one per release line. `grave`: a container may get out."""

    cves: tuple[str, ...]
    fixed: tuple[str, ...]
    what: str
    grave: bool


ADVISORIES: Final[dict[str, tuple[Advisory, ...]]] = {
    "runc": (
        Advisory(("CVE-2024-21626",), ("1.1.12",), "an open descriptor of the host leaks into containers", True),
        Advisory(
            ("CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"),
            ("1.2.8", "1.3.3", "1.4.0-rc.3"),
            "masked and read-only paths can be turned into writes to the host",
            True,
        ),
    ),
    "containerd": (
        Advisory(("CVE-2022-23648",), ("1.4.13", "1.5.10", "1.6.1"), "an image's volumes can read host files", True),
        Advisory(("CVE-2024-40635",), ("1.6.38", "1.7.27", "2.0.4"), "a very large user id becomes root", False),
        Advisory(
            ("CVE-2024-25621",),
            ("1.7.29", "2.0.7", "2.1.5", "2.2.0"),
            "folders of containerd are open to local users",
            False,
        ),
    ),
}


@dataclass(frozen=True)
class Package:
    """A distribution's package that owns the program on this machine. `mended` are the CVEs that its changelog names;
    None when there is no changelog to read."""

    name: str
    version: str
    mended: frozenset[str] | None


def parse_version(text: str) -> Version | None:
    """None when it does not begin like a version. What a distribution appends is not part of it."""
    match = _VERSION.match(text)
    if match is None:
        return None
    word, number = (match[4], int(match[5])) if match[4] else _FINAL
    return int(match[1]), int(match[2]), int(match[3] or 0), word, number


def upstream_fixed(version: Version, fixed: Sequence[str]) -> bool:
    """Whether a version holds the fix: at least its own line's floor, or of a line later than all that needed one."""
    floors = [floor for text in fixed if (floor := parse_version(text)) is not None]
    for floor in floors:
        if floor[:2] == version[:2]:
            return version >= floor
    return version > max(floors)


def judge_component(program: str, version_text: str, commit: str, package: Package | None) -> Check:
    """`version_text` and `commit` are what the Engine says; `package` is the one on this machine, if the Engine is."""
    advisories = ADVISORIES[program]
    wanted = "at least " + " or ".join(advisories[-1].fixed) + ", or a distribution's package with the fixes"
    version = parse_version(version_text)
    if version is None:
        return check.warn(
            program, f"the Engine does not say which {program} it runs ({version_text or 'nothing'})", wanted,
            f"Look at `{program} --version` on the Engine's machine, and keep it at the version above.",
        )  # fmt: skip
    missing = [advisory for advisory in advisories if not upstream_fixed(version, advisory.fixed)]
    if not missing:
        return check.ok(program, version_text, wanted)
    patched = _is_distribution(version_text, commit) or package is not None
    mended = package.mended if package is not None else None
    if mended is not None:
        missing = [advisory for advisory in missing if not mended.issuperset(advisory.cves)]
        if not missing:
            return check.ok(program, f"{version_text}, mended by its package {_named(package)}", wanted)
    holes = "; ".join(f"{', '.join(one.cves)} ({one.what})" for one in missing)
    label = _named(package) if package is not None else (commit or version_text)
    remedy = (
        f"Upgrade {program} (`apt-get install --only-upgrade {package.name if package else program}`, or Docker's own "
        "packages of https://docs.docker.com/engine/install/), or set a stronger runtime or user namespaces: "
        "docs/isolation.md."
    )
    if patched and mended is None:
        found = f"{label} is older than the fix of {holes}; whether the distribution mended it cannot be seen from here"
        return check.warn(program, found, wanted, remedy)
    if patched and not any(one is advisories[0] for one in missing):
        return check.warn(program, f"{label}: its changelog does not name {holes}", wanted, remedy)
    found = f"{label} has {holes}"
    return (check.fail if any(one.grave for one in missing) else check.warn)(program, found, wanted, remedy)


def _named(package: Package | None) -> str:
    return "" if package is None else f"{package.name} {package.version}"


def _is_distribution(version_text: str, commit: str) -> bool:
    """Distributions append to the version (`1.1.5+ds1`, `1.1.7-0ubuntu1`), or put a version where a commit belongs."""
    return bool(re.search(r"[+~]|-\d", version_text)) or bool(re.search(r"[.+~]", commit))
