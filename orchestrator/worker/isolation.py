"""Pure: how strong the wall around a sandbox is, as one word that a Scheduler and an operator can compare.

The lock-down (`lockdown.json`, `seccomp.json`) holds at every level; what differs is whose kernel a program talks to,
and who it would be if it got out.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Final

from orchestrator.jobs.words import Isolation

__all__ = ["Isolation", "has_user_namespace", "isolation_of", "option_names"]

#: What the names of runtimes, and of their programs, begin with. `runsc-systrap` and `io.containerd.runsc.v1` count.
_FAMILIES: Final[Mapping[str, Isolation]] = {"runsc": Isolation.GVISOR, "kata": Isolation.KATA}


def isolation_of(runtime: str, path: str, security: Sequence[str]) -> Isolation:
    """The level of an OCI runtime: `runtime` is its name in the Engine, `path` its program, `security` the Engine's
    security options. A runtime that we do not know counts as the weakest."""
    program = pathlib.PurePosixPath(path).name or runtime.removeprefix("io.containerd.")
    for word, level in _FAMILIES.items():
        if program.startswith(word):
            return level
    return Isolation.USERNS if has_user_namespace(security) else Isolation.HARDENED


def option_names(security: Sequence[str]) -> set[str]:
    """`name=seccomp,profile=default` → seccomp."""
    return {option.split(",", 1)[0].removeprefix("name=") for option in security}


def has_user_namespace(security: Sequence[str]) -> bool:
    return bool({"userns", "rootless"} & option_names(security))
