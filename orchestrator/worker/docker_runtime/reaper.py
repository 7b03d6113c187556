"""Who owns a container, and which containers nobody owns any more.

Every container carries its owner in labels from the request that creates it, so a crash at any moment leaves nothing
unaccounted for. The decision is pure (`judge`); `Owner` and `process_is_alive` read the machine.

A container is removed when
- this very process made it, but no sandbox of ours has its name (a create that was cancelled half-way), or
- its maker has provably ended (same boot, same process-id namespace, no such process any more), or
- its maker cannot be seen from here (another machine, another boot, another container) and its lease is over.
A container whose maker provably lives is never touched, whatever its lease says, and what lacks our labels is not ours.

Labels cannot be changed, so a lease is renewed by the container's name: the expiry in it counts when it is later than
the label's. A living owner renews long before the end; a lease counts as over only after it has been seen so for a
while, so that an owner who was cut off, or whose clock was set, can renew first.
"""

from __future__ import annotations

import enum
import os
import pathlib
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

PREFIX: Final = "dcp-orchestrator."
LABEL_WORKER: Final = PREFIX + "worker"
LABEL_SANDBOX: Final = PREFIX + "sandbox"
LABEL_INSTANCE: Final = PREFIX + "instance"
LABEL_PROCESS: Final = PREFIX + "process"
LABEL_EXPIRES: Final = PREFIX + "expires"

_NAME: Final = re.compile(r"/?dcp-sandbox-[0-9a-f]+-until-([0-9]{1,15})")

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


def container_name(sandbox: str, expires: float | None = None) -> str:
    """The name of a sandbox's container, at first, and from each renewal of its lease."""
    return f"dcp-sandbox-{sandbox}" if expires is None else f"dcp-sandbox-{sandbox}-until-{int(expires)}"


@dataclass(frozen=True)
class Labelled:
    """A container as the Engine lists it."""

    container_id: str
    labels: Mapping[str, str]
    names: Sequence[str] = ()

    @classmethod
    def listed(cls, item: Mapping[str, Any]) -> Labelled:
        return cls(str(item["Id"]), item.get("Labels") or {}, tuple(item.get("Names") or ()))

    @property
    def sandbox(self) -> str:
        return self.labels.get(LABEL_SANDBOX, "")

    @property
    def worker(self) -> str:
        return self.labels.get(LABEL_WORKER, "")

    @property
    def expires(self) -> int | None:
        """When its lease is over, Unix time; None when it says nothing that can be understood."""
        texts = [self.labels.get(LABEL_EXPIRES, ""), *(match[1] for match in map(_NAME.fullmatch, self.names) if match)]
        return max((int(text) for text in texts if text.isascii() and text.isdigit()), default=None)


class Verdict(enum.Enum):
    OWNED = "owned"
    LEASE_OVER = "its lease is over, and its owner cannot be seen from here"
    OWNER_GONE = "its owner has ended"


Alive = Callable[[str, str], bool | None]
"""(process, instance) → whether it lives; None when that cannot be known."""


def judge(container: Labelled, owner: Owner | None, live: Set[str], now: float, alive: Alive) -> Verdict:
    """Whether anybody owns the container. `now` is Unix time, `live` the sandboxes of `owner`, who is asking."""
    instance = container.labels.get(LABEL_INSTANCE)
    if LABEL_WORKER not in container.labels or instance is None:
        return Verdict.OWNED  # not ours: some label of the same prefix
    if owner is not None and instance == owner.instance:
        return Verdict.OWNED if container.sandbox in live else Verdict.OWNER_GONE
    state = alive(container.labels.get(LABEL_PROCESS, ""), instance)
    if state is not None:
        return Verdict.OWNED if state else Verdict.OWNER_GONE
    over = container.expires is not None and container.expires < now
    return Verdict.LEASE_OVER if over else Verdict.OWNED


def orphans(
    containers: Iterable[Labelled], owner: Owner | None, live: Set[str], now: float, alive: Alive
) -> dict[Verdict, list[Labelled]]:
    """The containers that nobody owns, by why."""
    found: dict[Verdict, list[Labelled]] = {Verdict.OWNER_GONE: [], Verdict.LEASE_OVER: []}
    for container in containers:
        verdict = judge(container, owner, live, now, alive)
        if verdict is not Verdict.OWNED:
            found[verdict].append(container)
    return found


class Doubts:
    """Leases that were over when we looked, and since when we know: pure."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[tuple[str, int | None], float] = {}

    def settled(self, suspects: Iterable[Labelled], now: float) -> list[Labelled]:
        """Those that nobody has renewed for long enough. Call it with all suspects of a look; `now` is monotonic."""
        looked_at = {(container.container_id, container.expires): container for container in suspects}
        self._since = {key: self._since.get(key, now) for key in looked_at}
        return [looked_at[key] for key, since in self._since.items() if now - since >= self._patience_s]


def describe_process(pid: int, proc: pathlib.Path = pathlib.Path("/proc")) -> str:
    """A name for a process that no later process has: boot, process-id namespace, pid, start time in clock ticks."""
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{_namespace(proc)}/{pid}/{_stat(pid, proc)[19]}"
    except (OSError, IndexError):
        return ""


def _stat(pid: int, proc: pathlib.Path) -> list[str]:
    """The fields of /proc/<pid>/stat from the third on: the command name may hold spaces and brackets."""
    return (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()


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
    return _lives(int(parts[2]), parts[3])


def _lives(pid: int, started: str, proc: pathlib.Path = pathlib.Path("/proc")) -> bool | None:
    """Whether that process of our own namespace still runs; one that nobody has waited for does not."""
    try:
        fields = _stat(pid, proc)
        return fields[19] == started and fields[0] not in ("Z", "X")
    except FileNotFoundError:
        pass
    except (OSError, IndexError):
        return None
    try:  # where /proc hides the processes of other users, it may be there all the same
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return None
    return None


def _namespace(proc: pathlib.Path) -> str:
    return (proc / "self/ns/pid").readlink().name.strip("pid:[]")
