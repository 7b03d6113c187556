"""Pure: reading a `submit@5`. Every refusal names the field, the value and what would be right."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.jobs.ranges import parse_input_set
from orchestrator.jobs.values import uris_of_arguments
from orchestrator.jobs.words import Isolation, parse_job_id
from orchestrator.scheduler import redundancy
from orchestrator.scheduler.pricing import Offer, parse_offer
from orchestrator.scheduler.redundancy import USUAL_OFFER, Rule
from orchestrator.wallet.addresses import checksum

MAX_SLICES = 2**53 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Submission:
    job_id: str
    payment_account: str
    offer: Offer
    spec: Mapping[str, Any]
    input_set: Mapping[str, Any] | None
    total: int
    closed: bool
    local_exec: bool
    estimation_slices: int | None
    rule: Rule | None
    """how many workers must agree on a slice; a field of ours"""


def parse_submission(
    data: Mapping[str, Any], default_estimation_slices: int, offer: redundancy.Offer = USUAL_OFFER
) -> Submission:
    """Raises `InvalidInput`."""
    job_id = parse_job_id(data.get("job"))
    local_exec = data.get("localExec") is True
    input_set = _input_set(data, local_exec)
    total = 0 if input_set is None else parse_input_set(input_set, seed=job_id).length
    if total > MAX_SLICES:
        raise InvalidInput(f"the input set has {total} elements; at most {MAX_SLICES} are possible")
    estimation = data.get("estimationSlices", default_estimation_slices)
    if estimation is not None:
        estimation = _whole("estimationSlices", estimation)
    rule = _rule(data, offer, local_exec=local_exec)
    return Submission(
        job_id=job_id,
        payment_account=checksum(_text(data, "paymentAccount", None)),
        offer=parse_offer(data.get("mvMultSlicePayment"), data.get("absoluteSlicePayment")),
        spec=_spec(data, local_exec) | ({} if rule is None else {"redundancy": rule.to_json()}),
        input_set=input_set,
        total=total,
        # Slices of a listed-input job come after the submit, whatever isOpen says; a local job is never closed later.
        closed=local_exec or (input_set is not None and data.get("isOpen") is not True),
        local_exec=local_exec,
        estimation_slices=0 if local_exec else estimation,
        rule=rule,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Enquiry:
    """What decides about the price of a job that may be deployed."""

    offer: Offer
    known: int
    """slices that are there at the deploy"""
    slices: int
    """in the end"""
    closed: bool
    rule: Rule | None


def parse_enquiry(data: Mapping[str, Any], offer: redundancy.Offer = USUAL_OFFER) -> Enquiry:
    """The fields of a submit that decide about the price; `slices` says how many will be listed. Raises
    `InvalidInput`."""
    input_set = _input_set(data, local_exec=False)
    known = 0 if input_set is None else parse_input_set(input_set).length
    slices = known if input_set is not None else _whole("slices", data.get("slices", 0))
    if slices > MAX_SLICES:
        raise InvalidInput(f"the input set has {slices} elements; at most {MAX_SLICES} are possible")
    return Enquiry(
        offer=parse_offer(data.get("mvMultSlicePayment"), data.get("absoluteSlicePayment")),
        known=known,
        slices=slices,
        closed=input_set is not None and data.get("isOpen") is not True,
        rule=_rule(data, offer, local_exec=False),
    )


_INPUT_FIELDS = ("dataRange", "rangeLength", "dataPattern", "sliceCount", "marshaledDataValues")


def _input_set(data: Mapping[str, Any], local_exec: bool) -> dict[str, Any] | None:
    """The fields that describe the input set; None when inputs will be listed with addSliceData."""
    described = {name: data[name] for name in _INPUT_FIELDS if data.get(name) is not None}
    if not local_exec:
        # Only the deployer's own worker can open files that these name.
        described.pop("marshaledDataValues", None)
        described.pop("rangeLength", None)
    return described if described.keys() & {"dataRange", "dataPattern", "marshaledDataValues"} else None


def _spec(data: Mapping[str, Any], local_exec: bool) -> dict[str, Any]:
    worktime = data.get("worktime") or {}
    if not isinstance(worktime, Mapping):
        raise InvalidInput("worktime must be an object {name, version}")
    code = data.get("workFunctionURI")
    if not isinstance(code, str) or ":" not in code:
        raise InvalidInput("workFunctionURI must be a data:, http: or https: URI")
    return {
        "public": {
            "name": _text(data, "name", "Ad-Hoc Job"),
            "description": _text(data, "description", ""),
            "link": _text(data, "link", ""),
        },
        "codeLocation": code,
        "argumentUris": uris_of_arguments(data.get("marshaledArguments"), allow_files=local_exec),
        "requirePath": _texts(data, "requirePath"),
        "dependencies": _texts(data, "dependencies"),
        "requirements": _whole("requirements", data.get("requirements", 0)),
        "worktime": {
            "name": _text(worktime, "name", "map-basic"),
            "version": _text(worktime, "version", "*"),
        },
        "discrete": data.get("discrete") is True,
        "useStrict": data.get("useStrict") is True,
        "workerConsole": data.get("workerConsole") is True,
        "greedyEstimation": data.get("greedyEstimation") is True,
        "localExec": local_exec,
        "isolation": _isolation(data.get("isolation")),
        "marketMultiple": data.get("mvMultSlicePayment"),
        "resultStorageType": data.get("resultStorageType") if data.get("resultStorageType") == "pattern" else "values",
        "resultStorageDetails": data.get("resultStorageDetails"),
        "resultStorageParams": data.get("resultStorageParams"),
    }


def _rule(data: Mapping[str, Any], offer: redundancy.Offer, *, local_exec: bool) -> Rule | None:
    rule = redundancy.parse_rule(data.get("redundancy"), offer)
    if rule is not None and local_exec:
        raise InvalidInput("redundancy needs several workers; a job with localExec has one")
    if rule is not None and data.get("resultStorageType") == "pattern":
        raise InvalidInput(
            "redundancy compares results, and with resultStorageType 'pattern' they do not come here; use 'values'"
        )
    return rule


def _isolation(level: Any) -> str | None:
    """The weakest wall that the job will run behind; a field of ours."""
    if level is None:
        return None
    if not isinstance(level, str) or level not in list(Isolation):
        raise InvalidInput(f"isolation is {level!r:.40}; it must be one of {', '.join(Isolation)}")
    return level


def _text(data: Mapping[str, Any], name: str, default: str | None) -> str:
    value = data.get(name, default)
    if value is None and default is not None:
        value = default
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is {value!r}; it must be text")
    return value


def _texts(data: Mapping[str, Any], name: str) -> list[str]:
    value = data.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidInput(f"{name} must be a list of texts")
    return value


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or not 0 <= value < 2**53:
        raise InvalidInput(f"{name} is {value!r}; it must be a whole number ≥ 0")
    return int(value)
