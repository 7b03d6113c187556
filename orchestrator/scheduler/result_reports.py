"""Pure: reading what workers say about slices (`result`, `status`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator import kvin
from orchestrator.errors import InvalidInput
from orchestrator.jobs.values import is_emittable_result, result_uri
from orchestrator.scheduler.estimates import Measured, read_metrics
from orchestrator.scheduler.lease_book import Claim, read_claim
from orchestrator.scheduler.lifecycle import Ending, ending_of_return

UNCAUGHT = "EUNCAUGHT"
BAD_RESULT = "EBADRESULT"


@dataclasses.dataclass(slots=True)  # not frozen: freezing costs four times as much, and there is one for every result
class ResultReport:
    job_id: str
    number: int
    worker: str
    claim: Claim
    payee: str | None
    measured: Measured
    uri: str
    ending: Ending
    reason: str


def parse_result(data: Any) -> ResultReport:
    """A `result` message. Raises `InvalidInput` when it does not say which slice it is about.

    The result of a work function that threw is an Error with errorCode EUNCAUGHT: a failure, not a result. One that
    would end the client's process is a failure too.
    """
    if not isinstance(data, Mapping):
        raise InvalidInput("result needs an object as data")
    uri, ending, reason = _judge(data)
    payee = data.get("paymentAddress")
    return ResultReport(
        job_id=_text(data, "job"),
        number=_number(data.get("slice")),
        worker=_text(data, "worker"),
        claim=read_claim(data.get("authorizationMessage")),
        payee=payee if isinstance(payee, str) else None,
        measured=read_metrics(data.get("metrics")),
        uri=uri,
        ending=ending,
        reason=reason,
    )


def _judge(data: Mapping[str, Any]) -> tuple[str, Ending, str]:
    result = data.get("resultV2")
    if result is None:
        uri = data.get("result")
    else:
        thrown = _thrown(result)
        if thrown is not None:
            return "", Ending.FAILED, thrown
        try:
            uri = result_uri(result)
        except InvalidInput as error:
            return "", Ending.FAILED, f"{BAD_RESULT}: {error.message}"
    if not is_emittable_result(uri):
        return "", Ending.FAILED, f"{BAD_RESULT}: the result cannot be decoded by clients"
    return str(uri), Ending.COMPLETED, ""


def _thrown(result: Any) -> str | None:
    """What a work function threw, None for an ordinary result."""
    what = result.get("what") if isinstance(result, Mapping) else None
    raw = what.get("raw") if isinstance(what, Mapping) else None
    text = raw.get("string") if isinstance(raw, Mapping) else None
    if text is None:
        try:
            inner = kvin.unmarshal(result)
        except kvin.KvinError:
            return None
        text = inner.get("string") if isinstance(inner, Mapping) else None
    # A cheap look first: this runs for every result.
    if not isinstance(text, str) or UNCAUGHT not in text:
        return None
    try:
        value = kvin.parse(text)
    except kvin.KvinError:
        return None
    properties = _properties(value)
    if properties.get("errorCode") != UNCAUGHT and properties.get("code") != UNCAUGHT:
        return None
    return f"{UNCAUGHT}: {properties.get('name', 'Error')}: {properties.get('message', '')}"[:500]


def _properties(value: Any) -> Mapping[str, Any]:
    if isinstance(value, kvin.JsError):
        return {"name": value.name, "message": value.message, **value.properties}
    if isinstance(value, kvin.UserInstance):
        return value.properties
    return {}


@dataclasses.dataclass(frozen=True, slots=True)
class StatusReport:
    """Slices of one job that a worker begins or gives back."""

    job_id: str
    numbers: list[int]
    claim: Claim
    begins: bool
    ending: Ending
    reason: str


def parse_status(data: Any) -> tuple[str, list[StatusReport]]:
    """(worker id, reports) of a `status` message. Raises `InvalidInput`."""
    if not isinstance(data, Mapping) or not isinstance(data.get("slices"), list):
        raise InvalidInput("status needs {worker, slices: […]} as data")
    return _text(data, "worker"), [_status(entry) for entry in data["slices"]]


def _status(entry: Any) -> StatusReport:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("sliceNumbers"), list):
        raise InvalidInput("each of status.slices needs sliceNumbers, job, status and authorizationMessage")
    status = entry.get("status")
    if status not in ("begin", "return", "scheduled", "progress"):
        raise InvalidInput(f"status is {status!r}; it must be begin or return")
    reason = entry.get("reason")
    if isinstance(reason, Mapping):
        # work.reject(): {message, retries, errorCode}. The slice itself was refused by its own work function.
        ending = Ending.FAILED
        reason = f"{reason.get('errorCode', 'EWORKREJECT')}: {reason.get('message', '')}"
    else:
        reason = reason if isinstance(reason, str) else ""
        ending = ending_of_return(reason)
    return StatusReport(
        job_id=_text(entry, "job"),
        numbers=[_number(number) for number in entry["sliceNumbers"]],
        claim=read_claim(entry.get("authorizationMessage")),
        begins=status != "return",
        ending=ending,
        reason=reason[:500],
    )


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or len(value) > 200:
        raise InvalidInput(f"{name} must be text of at most 200 characters")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**53:
        raise InvalidInput(f"{value!r:.40} is not a slice number")
    return value
