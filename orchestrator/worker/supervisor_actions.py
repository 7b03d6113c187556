"""Pure: what the supervisor wants done. The shell carries actions out in order and answers with events."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker.task import Authorization, JobOffer, ResultStorage


@dataclasses.dataclass(frozen=True, slots=True)
class RequestTask:
    """Ask for work; answered by `TaskReceived` or `TaskFailed`. Never two at a time.

    `space` is the number of cores that want work; `beacon_only` asks for none (a sign of life for what is held).
    `quanta_ms` maps job id → mean slice time in ms. Lists of slices are {job id: [numbers]}.
    `deferred_jobs` are those of `unresolved_jobs` that stay so for long.
    """

    space: float
    first: bool
    beacon_only: bool
    quanta_ms: Mapping[str, float]
    held: Mapping[str, list[int]] | None
    overdue: Mapping[str, list[int]] | None
    unresolved_jobs: tuple[str, ...]
    rejected_jobs: tuple[str, ...]
    previous_jobs: tuple[str, ...]
    deferred_jobs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class FetchJob:
    """Get code, arguments, modules and range; answered by `JobFetched` or `JobFetchFailed`."""

    offer: JobOffer


@dataclasses.dataclass(frozen=True, slots=True)
class ForgetJob:
    """Nothing of the job is held any more: drop what was fetched for it, stop fetching."""

    job_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class FetchDatum:
    """Answered by `DatumFetched` or `DatumFailed`."""

    key: int
    job_id: str
    uri: str


@dataclasses.dataclass(frozen=True, slots=True)
class OpenSandbox:
    """Take a sandbox and assign the job; answered by `SandboxOpened`, `SandboxRefusedJob` or `SandboxEnded`."""

    sandbox: int
    job_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class CloseSandbox:
    """Kill and remove it, or stop opening it. No answer is wanted: nothing of it is held any more.

    `limit` names the limit of its life that it had reached.
    """

    sandbox: int
    reason: str
    limit: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Submit:
    """Write these slices to the sandbox, in this order."""

    sandbox: int
    slices: tuple[tuple[int, str], ...]  # (key, datum URI)


@dataclasses.dataclass(frozen=True, slots=True)
class Begin:
    """Tell the Scheduler that these slices have begun; no answer is wanted."""

    job_id: str
    numbers: tuple[int, ...]
    authorization: Authorization


@dataclasses.dataclass(frozen=True, slots=True)
class ReturnSlices:
    """Give slices back. `reason` is a code, or {message, retries, errorCode} after `work.reject`."""

    job_id: str
    numbers: tuple[int, ...]
    authorization: Authorization
    reason: str | Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class SendResult:
    """Deliver a result until it is acknowledged; answered by `ResultAccepted` or `ResultRefused`.

    It may wait a moment for others to share its message, unless it is `awaited` by the job's owner, when nothing of the
    job is in hand any more, or is one of its `estimation`, before which the Scheduler gives no more of the job. `error`
    is set when the work function threw: then it is the result. `modern` tells that the job may get KVIN v9.
    """

    key: int
    job_id: str
    number: int
    authorization: Authorization
    result: Any
    error: Mapping[str, Any] | None
    metrics: SliceMetrics
    storage: ResultStorage | None
    modern: bool
    datum_uri: str = ""  # as it went into the sandbox
    awaited: bool = False
    estimation: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class RenewResult:
    """A slice whose result is on its way was leased again, to us: should the older lease not count any more, the result
    is to be reported under the newer one."""

    key: int
    authorization: Authorization


@dataclasses.dataclass(frozen=True, slots=True)
class Emit:
    """Send an event of a slice to the job's owner: console, custom, error or noProgress."""

    key: int
    job_id: str
    number: int
    authorization: Authorization
    name: str
    payload: Mapping[str, Any]
    modern: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """A slice of the traced part has left: this is what happened to it. `asked_at` is when it was asked for.

    `sandbox` is the last that had it, `metrics` those of its last run; times are on the supervisor's clock.
    """

    job_id: str
    job_name: str
    number: int
    sandbox: int | None
    asked_at: float | None
    story: tuple[tuple[float, str], ...]
    metrics: SliceMetrics | None


@dataclasses.dataclass(frozen=True, slots=True)
class Finish:
    """The supervisor has stopped: everything is delivered or returned. Send what is queued, say good-bye."""


Action = (
    RequestTask
    | FetchJob
    | ForgetJob
    | FetchDatum
    | OpenSandbox
    | CloseSandbox
    | Submit
    | Begin
    | ReturnSlices
    | SendResult
    | RenewResult
    | Emit
    | Trace
    | Finish
)
