"""Pure: the v4 dialect, as dcp-worker 3.3.19 with dcp-client 4.4.29 speaks it, to and from the words of the services.

What is left out or spelled oddly passes through: the services judge it. Values for v4 workers are KVIN v8, which
differs from v9 only in its name (and in symbols, which v8 cannot say); so a job that asks for KVIN v9 is fit for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator.errors import InvalidInput
from orchestrator.jobs import data_uris
from orchestrator.jobs.words import Capability
from orchestrator.scheduler.dialects.addresses import job_address, job_id
from orchestrator.scheduler.matching import satisfies

START_UP: Final = 4
"""bit of `fetchState`: the worker has just started, so it holds nothing of what was leased to it before"""

# 4.x knows its capabilities by name, inside these parts of the object.
_ENVIRONMENT: Final = {
    "offscreenCanvas": Capability.OFFSCREEN_CANVAS,
    "fdlibm": Capability.FDLIBM,
    "webgpu": Capability.WEBGPU,
}
_ENGINE: Final = {"spidermonkey": Capability.SPIDERMONKEY}


def read(operation: str, data: Any) -> Any:
    """The data of a request in the words of the services."""
    reader = _READERS.get(operation.partition("@")[0])
    return reader(data) if reader is not None and isinstance(data, Mapping) else data


def write(operation: str, asked: Any, answer: Any) -> Any:
    """The answer to a request, in the worker's words. `asked` is the request's data as it came."""
    if operation.partition("@")[0] == "requestTask" and isinstance(answer, Mapping):
        return _task(answer, asked if isinstance(asked, Mapping) else {})
    return answer


def command(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What is said beside a command (`remove`, `addPriorityJob`…)."""
    said = dict(payload)
    if isinstance(said.get("jobId"), str):
        said["jobAddress"] = job_address(said.pop("jobId"))
    return said


# --- what workers say


def _read_task_request(data: Mapping[str, Any]) -> dict[str, Any]:
    said = dict(data)
    said["jobIds"] = _ids(said.pop("jobAddresses", None))
    for name in ("rejectedJobs", "unresolvedJobs", "previouslyWorkedJobs"):
        said[name] = _ids(said.get(name))
    for name in ("soteriaJobs", "overdueSlices"):
        said[name] = _by_id(said.get(name))
    quanta = said.get("jobQuanta")
    if isinstance(quanta, Mapping):
        said["jobQuanta"] = {kind: _by_id(by_job) for kind, by_job in quanta.items()}
    said["capabilities"] = int(_capabilities(said.get("capabilities")))
    said["worktimes"] = [{"name": name, "version": version} for name, version in _worktimes(said.get("worktimes"))]
    state = said.get("fetchState")
    # v4 has no signed statement for it; only the leases of the sender's own identity are concerned.
    said["holdsNothing"] = isinstance(state, int) and bool(state & START_UP)
    return said


def _read_report(data: Mapping[str, Any]) -> dict[str, Any]:
    """`result` and `workEmit`: about one slice of one job."""
    return {**data, "job": _id(data.get("job"))}


def _read_status(data: Mapping[str, Any]) -> dict[str, Any]:
    entries = data.get("slices")
    if not isinstance(entries, list):
        return dict(data)
    return {**data, "slices": [_read_report(one) if isinstance(one, Mapping) else one for one in entries]}


def _read_subscription(data: Mapping[str, Any]) -> dict[str, Any]:
    options = data.get("options")
    wanted = options.get("filter") if isinstance(options, Mapping) else None
    if not isinstance(options, Mapping) or not isinstance(wanted, Mapping) or "job" not in wanted:
        return dict(data)
    return {**data, "options": {**options, "filter": {**wanted, "job": _id(wanted["job"])}}}


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "requestTask": _read_task_request,
    "result": _read_report,
    "workEmit": _read_report,
    "status": _read_status,
    "subscribe": _read_subscription,
}


def _id(name: Any) -> Any:
    return job_id(name) if isinstance(name, str) else name


def _ids(names: Any) -> list[Any]:
    return [_id(name) for name in names] if isinstance(names, list) else []


def _by_id(by_name: Any) -> Any:
    if not isinstance(by_name, Mapping):
        return by_name
    return {_id(name): value for name, value in by_name.items()}


def _capabilities(described: Any) -> Capability:
    """The bit mask of what a sandbox said of itself. KVIN v9 is always among it: we translate."""
    found = Capability.KVIN_V9
    if isinstance(described, Mapping):
        for part, names in (("environment", _ENVIRONMENT), ("engine", _ENGINE)):
            members = described.get(part)
            for name, bit in names.items():
                if isinstance(members, Mapping) and members.get(name) is True:
                    found |= bit
    return found


def _worktimes(listed: Any) -> list[tuple[str, str]]:
    """(name, version) for each version of each worktime in `[{name, versions: […]}]`."""
    found = []
    for one in listed if isinstance(listed, list) else []:
        versions = one.get("versions") if isinstance(one, Mapping) else None
        if isinstance(versions, list):
            found += [(str(one.get("name")), str(version)) for version in versions]
    return found


# --- what workers hear


def _task(answer: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """An answer to `requestTask`. Its signature does not cover the changed names; the caller signs again."""
    body = answer.get("body")
    if not isinstance(body, Mapping) or "newJobs" not in body:
        return dict(answer)
    # A worker that is bound to jobs stops when it hears of one under another spelling than it was given.
    bound = asked.get("jobAddresses")
    names = {job_id(name): name for name in bound if isinstance(name, str)} if isinstance(bound, list) else {}
    worktimes = _worktimes(asked.get("worktimes"))
    jobs = {_name(key, names): _job(message, _name(key, names), worktimes) for key, message in body["newJobs"].items()}
    task = {
        _name(key, names): [_slice(one, _name(key, names)) for one in portion] for key, portion in body["task"].items()
    }
    auth = dict(answer["auth"])
    auth["authSlices"] = {_name(key, names): numbers for key, numbers in auth["authSlices"].items()}
    return {**answer, "auth": auth, "body": {**body, "newJobs": jobs, "task": task}}


def _name(key: str, names: Mapping[str, str]) -> str:
    return names.get(key) or job_address(key)


def _job(message: Mapping[str, Any], name: str, worktimes: list[tuple[str, str]]) -> dict[str, Any]:
    said = dict(message)
    job = said.pop("jobId")
    said.pop("jobCgId", None)
    needs = Capability(said.pop("needCapabilities", 0))
    return {
        **said,
        "address": name,
        "opaqueId": job,
        "argumentsLocation": [{**one, "value": v8_uri(one["value"])} for one in said.get("argumentsLocation", [])],
        "requirements": {
            "environment": {key: bit in needs for key, bit in _ENVIRONMENT.items()},
            "engine": {"es7": False} | {key: bit in needs for key, bit in _ENGINE.items()},
            "discrete": said.get("discrete") is True,
            "useStrict": said.get("useStrict") is True,
        },
        "worktime": _worktime(said["worktime"], worktimes),
    }


def _worktime(wanted: Mapping[str, Any], offered: list[tuple[str, str]]) -> dict[str, Any]:
    """v4 workers do not know ranges: the highest of their own versions that is meant."""
    fitting = [
        version for name, version in offered if name == wanted["name"] and satisfies(version, str(wanted["version"]))
    ]
    if not fitting:
        return dict(wanted)
    return {**wanted, "version": max(fitting, key=_order)}


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _slice(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    said = dict(message)
    said.pop("jobId", None)
    said["jobAddress"] = name
    if "datumUri" in said:
        said["datumUri"] = v8_uri(said["datumUri"])
    return said


_KVIN_HEAD: Final = f"data:{data_uris.KVIN}"
_V9: Final = '{"_serializeVerId":"v9"'
_V8: Final = '{"_serializeVerId":"v8"'
_V9_URI: Final = f"{_KVIN_HEAD},{data_uris.escape_uri(_V9)}"
_V8_URI: Final = f"{_KVIN_HEAD},{data_uris.escape_uri(_V8)}"


def v8_uri(uri: str) -> str:
    """The same value for a reader of KVIN v8."""
    if uri.startswith(_V9_URI):
        return _V8_URI + uri[len(_V9_URI) :]
    if not uri.startswith(_KVIN_HEAD):
        return uri
    try:
        mime, text = data_uris.decode_data_uri(uri, len(uri))
    except InvalidInput:
        return uri
    if mime != data_uris.KVIN or not isinstance(text, str) or not text.startswith(_V9):
        return uri
    return data_uris.encode_data_uri(_V8 + text[len(_V9) :], data_uris.KVIN)
