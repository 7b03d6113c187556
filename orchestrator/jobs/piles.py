"""Pure: many results in one request: `results`, an operation of ours beside the protocol's `result`.

A `result` of a short slice is two thousand characters, and most of them are the same in all of its task: who computed
it, under which lease, and half of its receipt. A pile says once what its members share: `{"shared": fields, "each":
[fields, …]}`, where `receipt` is taken apart in the same way. What comes out is what went in.

The answer says in order how many members met with the same: `{"answers": [{"for": 7, "payload": …}, {"for": 1, "error":
{"message": …, "code": …}}]}`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.errors import InvalidInput, OrchestratorError

OPERATION: Final = "results"
MOST: Final = 500
"""members of a pile"""

_SHARED: Final = ("job", "worker", "paymentAddress", "authorizationMessage")
_SHARED_BY_RECEIPTS: Final = (
    "format",
    "image",
    "isolation",
    "job",
    "limits",
    "paymentAddress",
    "worker",
    "workerId",
)
_NOTHING: Final = object()


def fold(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Data of `results` from those of `result`, of which there is one at least. Those of one lease share most."""
    first = results[0]
    shared = _only(first, _SHARED)
    receipt = first.get("receipt")
    sealed = _only(receipt, _SHARED_BY_RECEIPTS) if isinstance(receipt, dict) else None
    each = []
    for one in results:
        rest = _without(one, shared)
        if sealed is not None and _is_object(rest.get("receipt")):
            rest["receipt"] = _without(rest["receipt"], sealed)
        each.append(rest)
    return {"shared": shared if sealed is None else {**shared, "receipt": sealed}, "each": each}


def unfold(data: Any) -> list[dict[str, Any]]:
    """Data of each `result`. Raises `InvalidInput`."""
    shared = data.get("shared") if isinstance(data, dict) else None
    each = data.get("each") if isinstance(data, dict) else None
    if not isinstance(shared, dict) or not isinstance(each, list) or not all(map(_is_object, each)):
        raise InvalidInput("results needs {shared: {…}, each: [{…}, …]} as data")
    if not 0 < len(each) <= MOST:
        raise InvalidInput(f"results has {len(each)} members; a pile has 1 to {MOST}")
    sealed = shared.get("receipt")
    results = []
    for rest in each:
        result = {**shared, **rest}
        if isinstance(sealed, dict):
            receipt = rest.get("receipt", _NOTHING)
            if receipt is _NOTHING:
                del result["receipt"]
            elif isinstance(receipt, dict):
                result["receipt"] = {**sealed, **receipt}
        results.append(result)
    return results


def count(data: Any) -> int:
    """How many members it seems to have; never less than one, whatever it is."""
    each = data.get("each") if _is_object(data) else None
    return max(len(each), 1) if isinstance(each, list) else 1


def fold_answers(answers: Sequence[Any | OrchestratorError]) -> dict[str, Any]:
    """The answer to a pile from those to its members."""
    runs = []
    for said, group in itertools.groupby(map(_said, answers)):
        runs.append({"for": sum(1 for _ in group), **said})
    return {"answers": runs}


def unfold_answers(answer: Any, count: int) -> list[Any | OrchestratorError]:
    """One payload or error for each of `count` members. Raises `InvalidInput`."""
    runs = answer.get("answers") if _is_object(answer) else None
    if not isinstance(runs, list):
        raise InvalidInput("a pile of results was not answered with {answers: […]}")
    answers: list[Any | OrchestratorError] = []
    for times, said in _read(runs):
        answers += [said] * min(times, count + 1)
        if len(answers) > count:
            break
    if len(answers) != count:
        raise InvalidInput(f"a pile of {count} results got answers for another number")
    return answers


def _read(runs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    for run in runs:
        times = run.get("for") if _is_object(run) else None
        if not isinstance(times, int) or isinstance(times, bool) or times < 1:
            raise InvalidInput("an answer to a pile of results does not say for how many it is")
        error = run.get("error")
        if not _is_object(error):
            yield times, run.get("payload")
            continue
        code = error.get("code")
        yield times, OrchestratorError(str(error.get("message")), code=code if isinstance(code, str) else None)


def _said(answer: Any | OrchestratorError) -> dict[str, Any]:
    if isinstance(answer, OrchestratorError):
        return {"error": {"message": answer.message, "code": answer.code}}
    return {"payload": answer}


def _only(fields: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: fields[name] for name in names if name in fields}


def _without(fields: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not said already."""
    return {
        name: value
        for name, value in fields.items()
        if (said := known.get(name, _NOTHING)) is not value and said != value
    }


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)
