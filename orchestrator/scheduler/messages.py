"""Pure: what goes out to workers and clients about jobs and slices, in the words of the v5 dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.scheduler import escrow
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.estimates import Estimate
from orchestrator.scheduler.lifecycle import Counts
from orchestrator.scheduler.pricing import hold_for, to_dcc
from orchestrator.scheduler.programs import Program
from orchestrator.scheduler.store.jobs import JobState

DEV_NULL = "https://dcp/dev/null"
"""result URI that means: deliberately not stored; clients do not fetch it"""


def whole(number: float) -> float:
    """The same number, as an integer where it is one: JavaScript's text of it is then Python's, too (see `js_json`)."""
    return int(number) if number.is_integer() else number


def job_message(job: Job, program: Program, state: JobState, group: str) -> dict[str, Any]:
    """How a worker learns of a job (`body.newJobs[jobId]`) that it gets through a compute group."""
    spec = job.spec
    return {
        "jobId": job.id,
        "jobCgId": f"{job.id}-{group}",
        "public": spec["public"],
        "codeLocation": program.code,
        "argumentsLocation": [{"argIndex": index, "value": uri} for index, uri in enumerate(program.arguments)],
        **({"MROLocation": job.range_location} if job.range_location is not None else {}),
        "dependencies": spec["dependencies"],
        "requirePath": spec["requirePath"],
        "modulePath": [],
        "worktime": spec["worktime"],
        "needCapabilities": spec["requirements"],
        "discrete": spec["discrete"],
        "useStrict": spec["useStrict"],
        **({"workerConsole": True} if spec["workerConsole"] else {}),
        "localExec": spec["localExec"],
        # Never said: an official worker with several such jobs looks for them in the wrong places of a list and runs
        # nothing any more (observed with dcp-worker 3.3.19; the same lines are in dcp-client 5.6.1).
        "almostDone": False,
        "metrics": job_metrics(state.estimate, state.counts),
        # Not of the protocol: official workers overlook it, ours weighs it against its minimum wage.
        "slicePaymentAmount": to_dcc(job.slice_price),
    }


def job_metrics(estimate: Estimate, counts: Counts) -> dict[str, Any]:
    """Averages of a job as workers read them: ms, bytes, and densities from 0 to 1."""
    return {
        "sliceCPUTime": whole(estimate.cpu_ms),
        "sliceCPUDensity": whole(estimate.density),
        "sliceGPUTime": whole(estimate.gpu_ms),
        "sliceGPUDensity": 0,
        "sliceInDataSize": whole(estimate.in_bytes),
        "sliceOutDataSize": whole(estimate.out_bytes),
        "lastSliceNumber": counts.total,
        "measuredSlices": estimate.measured,
        "alpha": 0.5,
    }


def slice_message(
    job: Job, number: int, datum_uri: str | None, *, estimation: bool, long: bool, cotasks: int = 0
) -> dict[str, Any]:
    """One slice of a task; `cotasks` other workers have it, too. `datumUri` is left out when the worker takes it from
    the job's range."""
    message: dict[str, Any] = {
        "jobId": job.id,
        "sliceNumber": number,
        "isEstimationSlice": estimation,
        "isLongSlice": long,
        "cotaskCount": cotasks,
        "resultStorageType": job.spec["resultStorageType"],
    }
    if datum_uri is not None:
        message["datumUri"] = datum_uri
    if job.spec["resultStorageType"] == "pattern":
        message["resultStorageDetails"] = _storage_url(str(job.spec["resultStorageDetails"]), job.id, number)
        message["resultStorageParams"] = job.spec["resultStorageParams"]
    return message


def _storage_url(pattern: str, job_id: str, number: int) -> str:
    """Where the result of a slice goes. The client's URL class escapes the braces of the tokens in a path."""
    for left, right in (("{", "}"), ("%7B", "%7D")):
        pattern = pattern.replace(f"{left}slice{right}", str(number)).replace(f"{left}job{right}", job_id)
    return pattern


def status_event(job: Job, state: JobState) -> dict[str, Any]:
    counts = state.counts
    return {
        "eventName": "status",
        "job": job.id,
        "runStatus": str(state.status),
        "total": counts.total,
        "distributed": _distributed(state),
        "computed": counts.accepted,
    }


def _distributed(state: JobState) -> int:
    """Slices with a worker, or done. What workers still hold of a job that has ended is not computed any more."""
    return state.counts.distributed if state.ended_at is None else state.counts.settled


def stop_event(job: Job, state: JobState) -> dict[str, Any]:
    """Only for jobs that ended: any other runStatus makes the client's exec reject."""
    event: dict[str, Any] = {"eventName": "stop", "job": job.id, "runStatus": str(state.status)}
    if state.stop_code is None:
        return event | {"sliceCount": state.counts.total}
    event |= {"reason": state.stop_reason or "", "code": state.stop_code}
    if state.last_error:
        event["error"] = {"message": state.last_error}
    return event


def nofunds_event(job: Job, state: JobState) -> dict[str, Any]:
    """Told while a job is paused because its hold covers no more slices. Amounts are decimal text in DCC."""
    short = escrow.missing(state.funded, state.counts)
    return {
        "eventName": "nofunds",
        "job": job.id,
        "fundsRequired": to_dcc(hold_for(short, job.slice_cost)),
        "slices": short,
        "slicePrice": to_dcc(job.slice_price),
        "paymentAccount": job.payment_account,
    }


def money_of(job: Job, state: JobState, held: int) -> dict[str, Any]:
    """What a job costs and what is set aside for it, decimal text in DCC. `held` is what is in its hold, in units."""
    counts = state.counts
    short = escrow.missing(state.funded, counts) if state.ended_at is None else 0
    spent = counts.earning
    # What is not settled may cost all that it may.
    cost = spent + counts.copies * (counts.total - counts.settled)
    return {
        "slicePrice": to_dcc(job.slice_price),
        "spent": to_dcc(hold_for(spent, job.slice_price)),
        "escrow": to_dcc(held),
        "cost": to_dcc(hold_for(cost, job.slice_price)),
        "fundsRequired": to_dcc(hold_for(short, job.slice_cost)),
    }


def result_event(job_id: str, number: int, uri: str) -> dict[str, Any]:
    return {"eventName": "result", "job": job_id, "sliceNumber": number, "result": {"result": uri}}


def job_report(job: Job, state: JobState) -> dict[str, Any]:
    """One entry of listJobs."""
    counts, record, rule = state.counts, job.record, job.rule
    return ({} if rule is None else {"redundancy": rule.to_json() | {"inDoubt": counts.doubted}}) | {
        "job": job.id,
        "id": job.id,
        "owner": job.owner,
        "paymentAccount": job.payment_account,
        "name": _public(job.spec, "name"),
        "description": _public(job.spec, "description"),
        "status": str(state.status),
        "runStatus": str(state.status),
        "total": counts.total,
        "totalSlices": counts.total,
        "distributed": _distributed(state),
        "computed": counts.accepted,
        "completedSlices": counts.accepted,
        "failed": counts.failed,
        "isOpen": not state.closed,
        "deployTime": round(record.created_at * 1000),
        "endTime": None if state.ended_at is None else round(state.ended_at * 1000),
        "sliceCPUTime": state.estimate.cpu_ms,
        "reason": state.stop_reason,
        "code": state.stop_code,
    }


def job_in_group(job: Job, state: JobState) -> dict[str, Any]:
    """One entry of a compute group's listJobs: what its owner may know of other people's jobs."""
    report = job_report(job, state)
    return {
        name: report[name]
        for name in ("job", "owner", "name", "status", "total", "distributed", "computed", "failed", "deployTime")
    }


def _public(spec: Mapping[str, Any], name: str) -> str:
    text: str = spec["public"][name]
    return text
