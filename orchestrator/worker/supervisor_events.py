"""Pure: what the supervisor is told, one small class per happening; made by the shell, taken by `Supervisor.handle`.

`sandbox` is the supervisor's own number of a sandbox (given in `OpenSandbox`), `key` its own number of a held slice
(unique for the life of the process, so a late message about a slice that left and came again cannot be mistaken).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker.desk import Policy
from orchestrator.worker.pausing import GiveBack
from orchestrator.worker.task import Task


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. Due at `Supervisor.wake_at`, and at least about once a second.

    `crowding`: how many tasks want a core of this machine, per core, at least 1; None is no news.
    """

    crowding: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class RuntimeReady:
    """Sandboxes can be had (at start, or again after `RuntimeLost`), and this is what they can do."""

    capabilities: int
    pipeline_depth: int
    worktimes: frozenset[str] = frozenset({"map-basic"})


@dataclasses.dataclass(frozen=True, slots=True)
class RuntimeLost:
    """No sandbox can be had until `RuntimeReady`; those that were open are reported by `SandboxEnded` or are gone."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class TaskReceived:
    task: Task


@dataclasses.dataclass(frozen=True, slots=True)
class TaskCameLate:
    """The answer to a request that had been given up (`TaskFailed`): its slices are leased to us all the same."""

    task: Task


@dataclasses.dataclass(frozen=True, slots=True)
class TaskFailed:
    """The request for work failed. `retry_after_s` is the Scheduler's wish, if it has one.

    `owes_word`: it is to hear soon, even of a worker that wants nothing, that answers of its were lost.
    """

    code: str
    message: str
    retry_after_s: float | None = None
    owes_word: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class JobFetched:
    """Code, arguments and modules are there. `datum_of(n)` gives the datum URI of slice n when the job has a range."""

    job_id: str
    datum_of: Callable[[int], str] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class JobFetchFailed:
    """`final`: this worker can never do the job (forbidden origin, missing module); if not, it may come again."""

    job_id: str
    code: str
    message: str
    final: bool
    retry_after_s: float = 0.0
    cause: str = ""  # finer than the code: status, dns, too-large, …


@dataclasses.dataclass(frozen=True, slots=True)
class DatumFetched:
    key: int
    uri: str


@dataclasses.dataclass(frozen=True, slots=True)
class DatumFailed:
    key: int
    code: str
    message: str
    cause: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class SandboxOpened:
    """Started, and the job is assigned to it."""

    sandbox: int


@dataclasses.dataclass(frozen=True, slots=True)
class SandboxRefusedJob:
    """The sandbox could not take the job on (syntax error, crash while assigning…); it is gone."""

    sandbox: int
    error: Mapping[str, Any]  # {name, message, stack?, code?}


class Death(enum.StrEnum):
    """Why a sandbox ended, as far as the supervisor treats it differently."""

    OUT_OF_MEMORY = "ENOMEMORY"
    NO_PROGRESS = "ENOPROGRESS"
    TOO_SLOW = "ESLICETOOSLOW"
    FLOOD = "EFLOOD"
    EXIT = "ESANDBOXEXIT"
    PROTOCOL = "ESANDBOXPROTOCOL"
    KILLED = "ESANDBOXKILLED"  # by somebody outside: not the slice's fault
    RUNTIME_LOST = "ENOSANDBOX"  # the container engine went away: not the slice's fault


INNOCENT = frozenset({Death.KILLED, Death.RUNTIME_LOST})


@dataclasses.dataclass(frozen=True, slots=True)
class SandboxEnded:
    sandbox: int
    death: Death
    detail: str
    metrics: SliceMetrics | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class SliceCompleted:
    """`result` is opaque to the supervisor; `size` is its length in characters."""

    sandbox: int
    key: int
    result: Any
    size: int
    metrics: SliceMetrics
    progressed: bool


@dataclasses.dataclass(frozen=True, slots=True)
class SliceFailed:
    """The work function threw; or, with `bad_datum`, it was not called, since its datum cannot be decoded."""

    sandbox: int
    key: int
    error: Mapping[str, Any]
    metrics: SliceMetrics
    bad_datum: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class SliceRejected:
    """The work function called `work.reject(reason, retries)`."""

    sandbox: int
    key: int
    reason: str
    retries: int
    metrics: SliceMetrics


@dataclasses.dataclass(frozen=True, slots=True)
class Progressed:
    sandbox: int
    key: int
    fraction: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class SliceSpoke:
    """A console line or a custom event of a running slice. `payload` is passed on as it is."""

    sandbox: int
    key: int
    name: str  # "console" | "custom"
    payload: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class ResultAccepted:
    key: int
    answer: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class ResultRefused:
    """The Scheduler will not take the result. `lost`: the lease is not ours any more, so there is nothing to return."""

    key: int
    code: str
    message: str
    lost: bool


@dataclasses.dataclass(frozen=True, slots=True)
class RoomChanged:
    """How much may wait unacknowledged from now on, bytes: the disk takes results, or only memory is left."""

    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class JobRemoved:
    """The Scheduler says that the job is over or cancelled."""

    job_id: str
    reason: str = "SchedMsg"


@dataclasses.dataclass(frozen=True, slots=True)
class StopRequested:
    """Soft: finish what sandboxes hold, return the rest. Hard: return everything that is not finished."""

    hard: bool


@dataclasses.dataclass(frozen=True, slots=True)
class DrainRequested:
    """Take no new work; finish what is held, all of it; then `Finish`."""


@dataclasses.dataclass(frozen=True, slots=True)
class PauseRequested:
    """Ask for no work until every source that said so has said `ResumeRequested`."""

    source: str
    reason: str
    give_back: GiveBack = GiveBack.NOTHING


@dataclasses.dataclass(frozen=True, slots=True)
class ResumeRequested:
    source: str


@dataclasses.dataclass(frozen=True, slots=True)
class PriorityChanged:
    """The Scheduler wants the job computed before others, or no longer so. `immediate`: ask for its slices now."""

    job_id: str
    first: bool
    immediate: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyChanged:
    """Other settings. Numbers of sandboxes stay as they were at the start."""

    policy: Policy


Event = (
    Tick
    | RuntimeReady
    | RuntimeLost
    | TaskReceived
    | TaskCameLate
    | TaskFailed
    | JobFetched
    | JobFetchFailed
    | DatumFetched
    | DatumFailed
    | SandboxOpened
    | SandboxRefusedJob
    | SandboxEnded
    | SliceCompleted
    | SliceFailed
    | SliceRejected
    | Progressed
    | SliceSpoke
    | ResultAccepted
    | ResultRefused
    | RoomChanged
    | JobRemoved
    | StopRequested
    | DrainRequested
    | PauseRequested
    | PriorityChanged
    | PolicyChanged
    | ResumeRequested
)
