"""What a sandbox reports, and why it ended. Pure values."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import Fault, OrchestratorError
from orchestrator.jobs.words import SliceMetrics


class DeathKind(enum.StrEnum):
    OOM = "oom"
    """The kernel killed it at its memory limit, or V8 ended it at the limit of its heap."""
    DEADLINE = "deadline"
    """A slice, its progress, the start or the assignment took too long; `code` says which."""
    FLOOD = "flood"
    """It wrote more than it may."""
    EXIT = "exit"
    """It ended by itself: an exit, a crash."""
    KILLED = "killed"
    """We ended it because it was no longer needed, or somebody outside did."""
    PROTOCOL = "protocol"
    """It broke the line protocol, or faked its own exit."""
    DAEMON_LOST = "daemon-lost"
    """The Docker Engine went away."""


@dataclass(frozen=True, slots=True)
class DeathCause:
    """`detail` is a sentence with the figures; `code` a stable word; `exit_code` None when nobody could tell."""

    kind: DeathKind
    detail: str
    exit_code: int | None = None
    oom_killed: bool = False
    code: str = ""

    def __str__(self) -> str:
        exit_part = "" if self.exit_code is None else f", exit code {self.exit_code}"
        return f"{self.kind}: {self.detail}{exit_part}"


class SandboxDied(OrchestratorError):
    """The sandbox ended while something was asked of it."""

    code = "ESANDBOX"
    fault = Fault.WORKER
    retryable = True

    def __init__(self, cause: DeathCause) -> None:
        super().__init__(f"the sandbox ended ({cause})", info={"kind": str(cause.kind), "exitCode": cause.exit_code})
        self.cause = cause


class SandboxRefused(OrchestratorError):
    """The sandbox could not take the job on; `error` is the job's own {name, message, stack?, code?}."""

    code = "EASSIGN"
    fault = Fault.JOB

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"the work function was refused: {error.get('name')}: {error.get('message')}")
        self.error = dict(error)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A job for one sandbox for life. URIs are decoded inside the sandbox."""

    job_id: str
    work_function: str
    argument_uris: tuple[str, ...] = ()
    use_strict: bool = True
    public: Mapping[str, Any] = field(default_factory=dict)
    require_path: tuple[str, ...] = ()
    module_path: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    worktime_name: str = "map-basic"
    worktime_version: str = "1.0.0"
    sandbox_config: Mapping[str, Any] = field(default_factory=dict)
    requirements: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResultText:
    """A result as the sandbox encoded it: never decoded by the worker."""

    string: str
    method: str
    mime: str


@dataclass(frozen=True, slots=True)
class SliceCompleted:
    key: int
    result: ResultText
    metrics: SliceMetrics
    progressed: bool


@dataclass(frozen=True, slots=True)
class SliceFailed:
    """The work function threw; or, with `bad_datum`, it was not called, since its datum cannot be decoded."""

    key: int
    error: Mapping[str, Any]
    metrics: SliceMetrics
    progressed: bool
    bad_datum: bool = False


@dataclass(frozen=True, slots=True)
class SliceRejected:
    """The work function called `work.reject`."""

    key: int
    reason: Any
    retries: Any
    metrics: SliceMetrics


@dataclass(frozen=True, slots=True)
class Progress:
    """`fraction` is 0…1, or None for indeterminate."""

    key: int
    fraction: float | None


@dataclass(frozen=True, slots=True)
class Console:
    """`message` is the KVIN-marshalled array of arguments, passed on as it came; None stands for the one before it,

    which was said `same` times in all.
    """

    key: int
    level: str
    message: Any
    same: int


@dataclass(frozen=True, slots=True)
class CustomEvent:
    """`work.emit(name, …)`; `data` is passed on as it came: plain JSON, or KVIN-marshalled where JSON cannot say it."""

    key: int
    name: str
    data: Any


@dataclass(frozen=True, slots=True)
class FetchRequested:
    """Answer with `Sandbox.answer_fetch`. `data` is {url, method, headersEntries, bodyBuffer…}."""

    key: int
    request_id: Any
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModulesRequested:
    """During `assign`. Answer with `Sandbox.answer_modules`."""

    request_id: Any
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SandboxEnded:
    """The last event. `unfinished` are the keys that got no answer, in order.

    The first of them was running, as far as could be heard: an evaluator may hold back the results of a few
    milliseconds to write them at once, and when a later slice then ends it, some that had finished are among these.
    `running_metrics` is what the running one used until the end (None when none was running).
    """

    cause: DeathCause
    unfinished: tuple[int, ...]
    running_metrics: SliceMetrics | None = None


SandboxEvent = (
    SliceCompleted
    | SliceFailed
    | SliceRejected
    | Progress
    | Console
    | CustomEvent
    | FetchRequested
    | ModulesRequested
    | SandboxEnded
)
