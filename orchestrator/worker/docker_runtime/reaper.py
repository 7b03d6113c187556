"""Who owns a container, and which containers nobody owns any more.

Every container carries its owner in labels from the request that creates it, so a crash at any moment leaves nothing
unaccounted for. The decision is pure (`orphans`); `Owner` and `process_is_alive` read the machine.

A container is an orphan when
- this very process made it, but no sandbox of ours has its name (a create that was cancelled half-way), or
- a process of the same worker made it and has provably ended (same boot, same process-id namespace, no such process),
or
- its lease has expired and its maker is not provably alive, whichever worker that was.
Containers of other workers that may be alive are never touched.
"""

from __future__ import annotations

import os
import pathlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

PREFIX: Final = "dcp-orchestrator."
LABEL_WORKER: Final = PREFIX + "worker"
LABEL_SANDBOX: Final = PREFIX + "sandbox"
LABEL_INSTANCE: Final = PREFIX + "instance"
LABEL_PROCESS: Final = PREFIX + "process"
LABEL_EXPIRES: Final = PREFIX + "expires"

#: Instances in this process whose runtime is open: two runtimes of one process must not reap each other.
_open_instances: set[str] = set()


@dataclass(frozen=True)
class Owner:
    """One run of one worker."""

    worker: str
    process: str
    instance: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def this_process(cls, worker: str) -> Owner:
        return cls(worker, describe_process(os.getpid()))

    def labels(self, sandbox: str, expires: float) -> dict[str, str]:
        return {
            LABEL_WORKER: self.worker,
            LABEL_SANDBOX: sandbox,
            LABEL_INSTANCE: self.instance,
            LABEL_PROCESS: self.process,
            LABEL_EXPIRES: str(int(expires)),
        }

    def open(self) -> None:
        _open_instances.add(self.instance)

    def close(self) -> None:
        _open_instances.discard(self.instance)


@dataclass(frozen=True)
class Labelled:
    """A container as the Engine lists it."""

    container_id: str
    labels: Mapping[str, str]

    @property
    def sandbox(self) -> str:
        return self.labels.get(LABEL_SANDBOX, "")


def orphans(
    containers: Iterable[Labelled],
    owner: Owner,
    live: Set[str],
    now: float,
    alive: Callable[[str, str], bool | None],
) -> list[Labelled]:
    """The containers to remove. `now` is Unix time; `alive(process, instance)` is None when it cannot be known."""
    return [container for container in containers if _is_orphan(container.labels, owner, live, now, alive)]


def abandoned(containers: Iterable[Labelled], now: float, alive: Callable[[str, str], bool | None]) -> list[Labelled]:
    """Of all workers' containers those whose maker has ended, or may have ended and let the lease expire."""
    return [container for container in containers if _is_abandoned(container.labels, now, alive)]


def _is_abandoned(labels: Mapping[str, str], now: float, alive: Callable[[str, str], bool | None]) -> bool:
    instance = labels.get(LABEL_INSTANCE)
    if LABEL_WORKER not in labels or instance is None:
        return False
    state = alive(labels.get(LABEL_PROCESS, ""), instance)
    return _expired(labels, now) if state is None else not state


def _is_orphan(
    labels: Mapping[str, str],
    owner: Owner,
    live: Set[str],
    now: float,
    alive: Callable[[str, str], bool | None],
) -> bool:
    worker, instance = labels.get(LABEL_WORKER), labels.get(LABEL_INSTANCE)
    if worker is None or instance is None:
        return False  # not ours: some label of the same prefix
    if instance == owner.instance:
        return labels.get(LABEL_SANDBOX) not in live
    state = alive(labels.get(LABEL_PROCESS, ""), instance)
    if state is not None:
        return not state and (worker == owner.worker or _expired(labels, now))
    return _expired(labels, now)


def _expired(labels: Mapping[str, str], now: float) -> bool:
    text = labels.get(LABEL_EXPIRES, "")
    return text.isdigit() and int(text) < now


def describe_process(pid: int, proc: pathlib.Path = pathlib.Path("/proc")) -> str:
    """A name for a process that no later process has: boot, process-id namespace, pid, start time in clock ticks."""
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        # The command name may hold spaces and brackets; the fields after it are counted from the last bracket.
        started = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
        return f"{boot}/{_namespace(proc)}/{pid}/{started}"
    except (OSError, IndexError):
        return ""


def process_is_alive(process: str, instance: str) -> bool | None:
    """Whether the process of that name still runs with that runtime open; None when it cannot be known from here."""
    parts = process.split("/")
    if len(parts) != 4 or not parts[2].isdigit():
        return None
    here = describe_process(os.getpid()).split("/")
    if here[:1] != parts[:1]:
        # Another boot of this machine, or another machine at the same Engine: only the lease can tell.
        return None
    if here[:2] != parts[:2]:
        return None
    if here == parts:
        return instance in _open_instances
    return describe_process(int(parts[2])) == process


def _namespace(proc: pathlib.Path) -> str:
    return (proc / "self/ns/pid").readlink().name.strip("pid:[]")
