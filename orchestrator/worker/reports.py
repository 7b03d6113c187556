"""Pure: the worker's words to the Scheduler: the data of `requestTask@3`, `status`, `result` and `workEmit`.

Shapes observed with dcp-client 5.6.1's worker. What a sandbox said is passed on as it is; the one thing changed is the
KVIN version mark, for jobs that did not ask for KVIN v9 (their owners' clients read v8 at most; the two forms differ
in nothing else that occurs here).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.jobs import words
from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker.receipts import Delivery
from orchestrator.worker.task import Authorization

_MARK_9 = '{"_serializeVerId":"v9"'
_MARK_8 = '{"_serializeVerId":"v8"'

_RESULT_FRAME = 1000  # a `result` without its text: mostly the authorizationMessage

NORMAL, BEACON, START_UP, RETURN_ALL = 1, 2, 4, 16
"""Bits of `fetchState`."""


# -- versions ------------------------------------------------------------------------------------------------------


def text_for_job(text: str, modern: bool) -> str:
    """KVIN text as the job may have it."""
    return text if modern or not text.startswith(_MARK_9) else _MARK_8 + text[len(_MARK_9) :]


def value_for_job(value: Any, modern: bool) -> Any:
    """A KVIN-marshalled value as the job may have it; anything else unchanged."""
    if modern or not isinstance(value, dict) or value.get("_serializeVerId") != "v9":
        return value
    return {**value, "_serializeVerId": "v8"}


# -- results -------------------------------------------------------------------------------------------------------


def result_v2(string: str, method: str, mime: str, modern: bool) -> dict[str, Any]:
    """`resultV2`: the sandbox's result text in its wrapping, marshalled without being decoded."""
    return {
        "_serializeVerId": "v9" if modern else "v8",
        "what": {"raw": {"string": text_for_job(string, modern), "method": method, "MIMEType": mime}},
    }


def thrown_result(error: Mapping[str, Any], modern: bool) -> dict[str, Any]:
    """`resultV2` of a slice whose work function threw."""
    return result_v2(thrown_text(error), "kvin", "application/x-kvin", modern)


def thrown_text(error: Mapping[str, Any]) -> str:
    """KVIN text of what a work function threw: an Error object that carries `errorCode: 'EUNCAUGHT'`."""
    properties = {"name": _text(error.get("name")) or "Error", "stack": _text(error.get("stack"))}
    if error.get("code") is not None:
        properties["code"] = _text(error.get("code"))
    what = {"ctr": "Error", "ps": {**properties, "errorCode": "EUNCAUGHT"}, "arg": _text(error.get("message"))}
    return json.dumps({"_serializeVerId": "v9", "what": what}, separators=(",", ":"))


def metrics(measured: SliceMetrics) -> dict[str, float]:
    """Times in ms, sizes in bytes; densities are time over wall time."""
    wall_s = max(measured.wall_time_s, 1e-6)
    return {
        "CPUTime": measured.cpu_time_s * 1000,
        "GPUTime": measured.gpu_time_s * 1000,
        "CPUDensity": measured.cpu_time_s / wall_s,
        "GPUDensity": measured.gpu_time_s / wall_s,
        "InDataSize": measured.bytes_in,
        "OutDataSize": measured.bytes_out,
    }


def result(
    action: act.SendResult, worker_id: str, payment_address: str, body: Mapping[str, Any] | str
) -> dict[str, Any]:
    """Data of `result`. `body` is a `resultV2`, or the URI of a result that lies elsewhere."""
    return {
        "slice": action.number,
        "job": action.job_id,
        "worker": worker_id,
        "paymentAddress": payment_address,
        "metrics": metrics(action.metrics),
        "authorizationMessage": action.authorization,
        ("result" if isinstance(body, str) else "resultV2"): body,
    }


def output_text(action: act.SendResult) -> str:
    """What a slice gave, as text in the form in which the job may have it: its result, or what it threw."""
    if action.error is not None:
        return text_for_job(thrown_text(action.error), action.modern)
    return text_for_job(action.result.string, action.modern)


def delivery(action: act.SendResult) -> Delivery:
    """What a receipt says of a result."""
    return Delivery(
        job=action.job_id,
        slice=action.number,
        input=action.datum_uri,
        output=output_text(action),
        threw=action.error is not None,
        metrics=action.metrics,
    )


def size_of(body: Mapping[str, Any] | str) -> int:
    """About how many bytes a `result` of it has."""
    if not isinstance(body, str):
        body = body["what"]["raw"]["string"]
    return len(body) + _RESULT_FRAME


# -- status and events -----------------------------------------------------------------------------------------------


def status_entry(
    job_id: str,
    numbers: Sequence[int],
    authorization: Authorization,
    status: str,
    reason: str | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One of the `slices` of a `status` request: slices of one job with the same authorization and reason."""
    entry = {
        "sliceNumbers": list(numbers),
        "job": job_id,
        "authorizationMessage": authorization,
        "status": status,
    }
    return entry if reason is None else {**entry, "reason": reason}


def work_emit(action: act.Emit, worker_id: str, now_ms: int) -> dict[str, Any]:
    """Data of `workEmit`. Errors get the time at which they are told."""
    payload = {key: value_for_job(value, action.modern) for key, value in action.payload.items() if value is not None}
    if action.name == "error":
        payload.setdefault("timestamp", now_ms)
    return {
        "eventName": action.name,
        "payload": payload,
        "job": action.job_id,
        "slice": action.number,
        "worker": worker_id,
        "authorizationMessage": action.authorization,
    }


# -- requests for work -----------------------------------------------------------------------------------------------


def compute_groups(groups: Iterable[tuple[str, str]], public: bool, dcpsid: str) -> list[dict[str, str]]:
    """Proofs of membership, bound to this connection. `groups` are (joinKey, join hash)."""
    hashes = [*groups, *([("public", words.PUBLIC_JOIN_HASH)] if public else [])]
    return [{"joinKey": key, "joinHashHash": words.join_hash_hash(dcpsid, join_hash)} for key, join_hash in hashes]


def task_request(
    action: act.RequestTask,
    *,
    worker_id: str,
    payment_address: str,
    cores: int,
    capabilities: int,
    worktimes: Sequence[Mapping[str, str]],
    job_ids: Sequence[str],
    minimum_wage: Mapping[str, float],
    groups: Sequence[Mapping[str, str]],
    sequence: int,
    return_all: str | None,
    isolation: Mapping[str, str] | None = None,
    request_id: str | None = None,
    lost: Sequence[str] = (),
) -> dict[str, Any]:
    """Data of `requestTask@3`. `return_all` is the signed message that gives everything back, at start-up.

    Some fields are ours, and a Scheduler that does not know them ignores them: `isolation`, {level, runtime, image};
    `deferredJobs`, those of `unresolvedJobs` that this worker does not want for long, rather than fetching them now:
    the request may wait for other jobs; `requestId`, a name for this request; `lostRequests`, the names of earlier ones
    whose answers will never be read: what was leased in them may go to others.
    """
    ours: dict[str, Any] = {"lostRequests": list(lost)} if lost else {}
    state = (BEACON if action.held is not None else 0) | (START_UP if action.first else 0)
    if action.beacon_only:
        return {
            "coreStats": {"worker": worker_id},
            "paymentAddress": payment_address,
            "soteriaJobs": action.held,
            "overdueSlices": action.overdue,
            "fetchState": state | BEACON,
            **ours,
        }
    data: dict[str, Any] = {
        "targetLoad": {"cpu": action.space, "gpu": 0, "longSlices": int(action.space)},
        "coreStats": {"worker": worker_id, "lCores": cores, "pCores": cores, "sandbox": cores},
        "jobQuanta": {"CPU": {**action.quanta_ms, "0": 1}, "GPU": {"0": 1}},
        "capabilities": capabilities,
        "gpuSpeed": -1,
        "paymentAddress": payment_address,
        "jobIds": list(job_ids),
        "workerComputeGroups": list(groups),
        "minimumWage": dict(minimum_wage),
        "soteriaJobs": action.held,
        "overdueSlices": action.overdue,
        "previouslyWorkedJobs": list(action.previous_jobs),
        "rejectedJobs": list(action.rejected_jobs),
        "unresolvedJobs": list(action.unresolved_jobs),
        "fetchState": state | NORMAL,
        "worktimes": list(worktimes),
        "seq": sequence,
        **ours,
    }
    if request_id is not None:
        data["requestId"] = request_id
    if action.deferred_jobs:
        data["deferredJobs"] = list(action.deferred_jobs)
    if isolation is not None:
        data["isolation"] = dict(isolation)
    if return_all is not None:
        data["returnAllSlices"] = return_all
    return data


def capabilities_of(described: Mapping[str, Any]) -> int:
    """The bit mask for what a sandbox says of itself. The evaluator is Node: V8, and all parts speak KVIN v9."""
    mask = words.Capability.V8 | words.Capability.KVIN_V9
    environment = described.get("environment")
    if isinstance(environment, Mapping):
        for name, bit in (
            ("fdlibm", words.Capability.FDLIBM),
            ("offscreenCanvas", words.Capability.OFFSCREEN_CANVAS),
            ("webgpu", words.Capability.WEBGPU),
        ):
            if environment.get(name) is True:
                mask |= bit
    return int(mask)


def worktimes_of(described: Any) -> list[dict[str, str]]:
    """[{name, version}] out of the worktimes that a sandbox says it has; entries that make no sense are left out.

    A sandbox may list one version per entry or several under `versions`.
    """
    found: list[dict[str, str]] = []
    for entry in described if isinstance(described, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
            versions = entry.get("versions")
            listed = versions if isinstance(versions, list) else [entry.get("version")]
            found.extend({"name": entry["name"], "version": one} for one in listed if isinstance(one, str))
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value)
