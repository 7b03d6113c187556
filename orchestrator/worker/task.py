"""Pure: what a Scheduler's answer to `requestTask@3` says, checked field by field.

The answer's shape (observed with dcp-client 5.6.1's worker)::

    {owner, signature, auth: {...}, body: {newJobs: {jobId: job}, task: {jobId: [slice…]}, schedulerConfig?, …}}

Everything but `body` is the *authorization*: opaque to us, echoed in every report about these slices.
A malformed job or slice does not spoil its neighbours: it is listed in `Task.malformed`, so that it can be returned.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from orchestrator.bank.amounts import parse_amount
from orchestrator.errors import Fault, InvalidInput, OrchestratorError
from orchestrator.worker import published
from orchestrator.worker.published import Lifetimes, number
from orchestrator.worker.wages import Cost

Authorization = Mapping[str, Any]

_MAX_ID = 128
_MAX_LIST = 10_000
_MAX_REASONS = 20
_MAX_GROUPS = 1000


class MalformedTask(OrchestratorError):
    """The Scheduler's answer does not have the shape that the protocol asks for."""

    code = "EBADTASK"
    fault = Fault.SCHEDULER


@dataclasses.dataclass(frozen=True, slots=True)
class JobOffer:
    """A job as the Scheduler describes it to workers. URIs are not fetched yet; times are seconds."""

    job_id: str
    group_id: str  # compute group through which the job came; "" when not told
    public: Mapping[str, Any]  # {name, description, link}: shown to the work function as work.job.public
    code_location: str
    argument_locations: tuple[str, ...]
    arguments: Any  # inline KVIN-marshalled array, when there are no locations
    range_location: str | None  # URI of a serialised range: the n-th slice's datum is its n-th element
    dependencies: tuple[str, ...]
    require_path: tuple[str, ...]
    module_path: tuple[str, ...]
    worktime: tuple[str, str]  # name, semver range
    need_capabilities: int
    use_strict: bool
    discrete: bool
    local_exec: bool  # it runs on its deployer's own machine, and may read files there
    known_slice_s: float | None  # mean wall time per slice that the Scheduler has measured
    slice_price: int | None = None  # units of 10^-18 DCC, if the Scheduler says what a slice pays
    slice_cost: Cost | None = None  # mean cost of a slice that the Scheduler has measured

    @property
    def name(self) -> str:
        name = self.public.get("name")
        return name if isinstance(name, str) else ""


@dataclasses.dataclass(frozen=True, slots=True)
class SliceOffer:
    """One slice. `datum_uri` is None when the job's range gives the datum."""

    number: int
    datum_uri: str | None
    estimation: bool
    long: bool
    storage: ResultStorage | None
    cotasks: int = 0  # slices that the Scheduler lets run beside it


@dataclasses.dataclass(frozen=True, slots=True)
class ResultStorage:
    """Where the worker has to POST the result itself (`resultStorageType: 'pattern'`)."""

    url: str
    params: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Malformed:
    job_id: str
    numbers: tuple[int, ...]
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A whole answer. `retry_after_s` is the Scheduler's own wish for the pause before the next request.

    `group_origins` is {compute group: {purpose: [origin]}}: from where the Scheduler would let jobs fetch.
    """

    authorization: Authorization
    jobs: Mapping[str, JobOffer]
    slices: Mapping[str, tuple[SliceOffer, ...]]
    malformed: tuple[Malformed, ...] = ()
    lifetimes: Lifetimes | None = None
    retry_after_s: float | None = None
    no_work: Mapping[str, int] = dataclasses.field(default_factory=dict)  # jobs that wait, by why we get none of them
    group_origins: Mapping[str, Mapping[str, list[str]]] = dataclasses.field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(map(len, self.slices.values()))


def parse(answer: Any) -> Task:
    """Read the payload of a `requestTask@3` response; raises `MalformedTask` when nothing of it can be used."""
    if not isinstance(answer, Mapping):
        raise MalformedTask(f"requestTask was answered with {type(answer).__name__}, not with an object")
    body = answer.get("body")
    if body is None:
        body = {}
    if not isinstance(body, Mapping):
        raise MalformedTask(f"requestTask: body is {type(body).__name__}, not an object")
    authorization = {key: value for key, value in answer.items() if key != "body"}
    new_jobs, task = body.get("newJobs") or {}, body.get("task") or {}
    if not isinstance(new_jobs, Mapping) or not isinstance(task, Mapping):
        raise MalformedTask("requestTask: body.newJobs and body.task must be objects")
    jobs: dict[str, JobOffer] = {}
    slices: dict[str, tuple[SliceOffer, ...]] = {}
    malformed: list[Malformed] = []
    for job_id, entries in task.items():
        numbers = _numbers(entries)
        try:
            if job_id not in new_jobs:
                raise MalformedTask("the task names a job that newJobs does not describe")
            jobs[job_id] = parse_job(job_id, new_jobs[job_id])
            slices[job_id] = tuple(parse_slice(entry) for entry in entries)
        except MalformedTask as error:
            jobs.pop(job_id, None)
            malformed.append(Malformed(str(job_id)[:_MAX_ID], numbers, error.message))
    return Task(
        authorization,
        jobs,
        slices,
        tuple(malformed),
        lifetimes=published.lifetimes(body.get("schedulerConfig")),
        retry_after_s=number(body.get("retryAfter")),
        no_work=_no_work(body.get("noWork")),
        group_origins=_group_origins(body.get("computeGroupOrigins")),
    )


def _no_work(value: Any) -> dict[str, int]:
    """Reason → number of jobs; for people to read, so nothing here is worth an error."""
    entries = list(value.items())[:_MAX_REASONS] if isinstance(value, Mapping) else []
    return {str(code)[:40]: _integer(jobs) for code, jobs in entries if _integer(jobs)}


def parse_job(job_id: Any, job: Any) -> JobOffer:
    """Raises `MalformedTask`."""
    if not isinstance(job_id, str) or not 0 < len(job_id) <= _MAX_ID:
        raise MalformedTask(f"job id {job_id!r} is not a short text")
    if not isinstance(job, Mapping):
        raise MalformedTask(f"job {job_id} is not an object")
    code = job.get("codeLocation")
    if not isinstance(code, str) or not code:
        raise MalformedTask(f"job {job_id} has no codeLocation")
    public = job.get("public")
    group = job.get("jobCgId")
    range_location = job.get("MROLocation")
    return JobOffer(
        job_id=job_id,
        group_id=group.rpartition("-")[2] if isinstance(group, str) else "",
        public=public if isinstance(public, Mapping) else {},
        code_location=code,
        argument_locations=_argument_locations(job_id, job.get("argumentsLocation")),
        arguments=job.get("arguments"),
        range_location=range_location if isinstance(range_location, str) and range_location else None,
        dependencies=_texts(job_id, "dependencies", job.get("dependencies")),
        require_path=_texts(job_id, "requirePath", job.get("requirePath")),
        module_path=_texts(job_id, "modulePath", job.get("modulePath")),
        worktime=_worktime(job.get("worktime")),
        need_capabilities=_integer(job.get("needCapabilities")),
        use_strict=bool(job.get("useStrict")),
        discrete=bool(job.get("discrete")),
        local_exec=job.get("localExec") is True,
        known_slice_s=_known_slice_time(job.get("metrics")),
        slice_price=_price(job.get("slicePaymentAmount")),
        slice_cost=_known_slice_cost(job.get("metrics")),
    )


def parse_slice(entry: Any) -> SliceOffer:
    """Raises `MalformedTask`."""
    index = entry.get("sliceNumber") if isinstance(entry, Mapping) else None
    if not isinstance(index, int) or isinstance(index, bool) or index < 1:
        raise MalformedTask(f"a slice has the number {index!r}")
    datum = entry.get("datumUri")
    if datum is not None and not isinstance(datum, str):
        raise MalformedTask(f"slice {index}: datumUri is {type(datum).__name__}, not a text")
    storage: ResultStorage | None = None
    if entry.get("resultStorageType") == "pattern":
        url, params = entry.get("resultStorageDetails"), entry.get("resultStorageParams")
        if not isinstance(url, str):
            raise MalformedTask(f"slice {index}: resultStorageDetails is not a URL")
        storage = ResultStorage(url, params if isinstance(params, Mapping) else {})
    return SliceOffer(
        index,
        datum,
        bool(entry.get("isEstimationSlice")),
        bool(entry.get("isLongSlice")),
        storage,
        _integer(entry.get("cotaskCount")),
    )


def _numbers(entries: Any) -> tuple[int, ...]:
    """The slice numbers that can be made out, so that even a malformed job's slices go back."""
    if not isinstance(entries, list | tuple):
        return ()
    found = (entry.get("sliceNumber") for entry in entries if isinstance(entry, Mapping))
    return tuple(n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0)


def _argument_locations(job_id: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MAX_LIST:
        raise MalformedTask(f"job {job_id}: argumentsLocation is not a list")
    located: list[tuple[int, str]] = []
    for index, entry in enumerate(value):
        uri = entry.get("value") if isinstance(entry, Mapping) else entry
        if not isinstance(uri, str):
            raise MalformedTask(f"job {job_id}: argumentsLocation[{index}] has no URI")
        place = entry.get("argIndex") if isinstance(entry, Mapping) else index
        located.append((place if isinstance(place, int) else index, uri))
    return tuple(uri for _place, uri in sorted(located, key=lambda pair: pair[0]))


def _group_origins(value: Any) -> dict[str, dict[str, list[str]]]:
    """What of it makes sense; nobody depends on it being complete."""
    groups = value.items() if isinstance(value, Mapping) else ()
    return {
        group: {
            purpose: [origin for origin in origins[:_MAX_LIST] if isinstance(origin, str)]
            for purpose, origins in purposes.items()
            if isinstance(purpose, str) and isinstance(origins, list)
        }
        for group, purposes in itertools.islice(groups, _MAX_GROUPS)
        if isinstance(group, str) and isinstance(purposes, Mapping)
    }


def _texts(job_id: str, field: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MAX_LIST or not all(isinstance(item, str) for item in value):
        raise MalformedTask(f"job {job_id}: {field} is not a list of texts")
    return tuple(value)


def _worktime(value: Any) -> tuple[str, str]:
    if not isinstance(value, Mapping):
        return ("map-basic", "^1.0.0")
    return (str(value.get("name") or "map-basic"), str(value.get("version") or "*"))


def _known_slice_time(metrics: Any) -> float | None:
    """Mean wall seconds per slice: CPU time over CPU density, once the Scheduler has measured any slice."""
    if not isinstance(metrics, Mapping) or not (number(metrics.get("measuredSlices")) or 0) > 0:
        return None
    cpu_ms, density = number(metrics.get("sliceCPUTime")), number(metrics.get("sliceCPUDensity"))
    if cpu_ms is None or cpu_ms < 0:
        return None
    return cpu_ms / 1000 / min(1.0, max(density or 1.0, 0.01))


def _known_slice_cost(metrics: Any) -> Cost | None:
    if not isinstance(metrics, Mapping) or not (number(metrics.get("measuredSlices")) or 0) > 0:
        return None
    names = ("sliceCPUTime", "sliceGPUTime", "sliceInDataSize", "sliceOutDataSize")
    cpu_ms, gpu_ms, size_in, size_out = (min(max(number(metrics.get(name)) or 0.0, 0.0), 1e15) for name in names)
    return Cost(round(cpu_ms * 1e6), round(gpu_ms * 1e6), round(size_in), round(size_out))


def _price(amount: Any) -> int | None:
    """Units of 10^-18 DCC; what is no amount was not told."""
    try:
        return None if amount is None else parse_amount(amount, round_down=True)
    except InvalidInput:
        return None


def _integer(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
