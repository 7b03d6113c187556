"""What comes out of a pile of results is what went in, and nonsense is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.jobs import piles

names = st.sampled_from(["job", "worker", "paymentAddress", "authorizationMessage", "slice", "metrics", "result"])
values = st.none() | st.integers(0, 3) | st.sampled_from(["a", "b"]) | st.dictionaries(st.text(max_size=2), st.text())
receipts = st.dictionaries(st.sampled_from(["format", "image", "job", "limits", "slice", "signature"]), values)
results = st.builds(
    lambda fields, receipt: fields if receipt is None else {**fields, "receipt": receipt},
    st.dictionaries(names, values),
    st.none() | receipts | st.just("none"),
)


def shared_by_all(pile: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of one lease have all fields that the first of them has."""
    known = {name for name in ("job", "worker", "paymentAddress", "authorizationMessage") if name in pile[0]}
    sealed = pile[0].get("receipt")
    sealed = (
        {} if not isinstance(sealed, dict) else {n: v for n, v in sealed.items() if n not in ("slice", "signature")}
    )
    return [
        {
            **{name: pile[0][name] for name in known},
            **one,
            **({"receipt": {**sealed, **one["receipt"]}} if isinstance(one.get("receipt"), dict) else {}),
        }
        for one in pile
    ]


@given(st.lists(results, min_size=1, max_size=6).map(shared_by_all))
@settings(max_examples=60)
def test_what_comes_out_is_what_went_in(pile: list[dict[str, Any]]) -> None:
    wire = json.loads(json.dumps(piles.fold(pile)))
    assert piles.unfold(wire) == pile
    assert piles.count(wire) == len(pile)


def test_what_all_members_say_is_said_once() -> None:
    lease = {"owner": "0x12", "auth": {"lease": {"id": 7}}}
    receipt = {"format": "1", "image": "sha256:0", "job": "j", "workerId": "w", "worker": "0x34", "limits": {"pids": 9}}
    pile = [
        {"slice": n, "job": "j", "worker": "w", "authorizationMessage": lease, "receipt": {**receipt, "slice": n}}
        for n in (1, 2)
    ]
    folded = piles.fold(pile)
    assert folded["each"] == [{"slice": 1, "receipt": {"slice": 1}}, {"slice": 2, "receipt": {"slice": 2}}]
    assert folded["shared"]["authorizationMessage"] == lease


answers = st.one_of(
    st.sampled_from(
        [{"accepted": True, "slicePaymentAmount": "1"}, {"accepted": False, "verdict": "late"}, None, "ok"]
    ),
    st.sampled_from(["ENOENT", "EPERM"]).map(lambda code: OrchestratorError("no", code=code)),
)


def plain(said: Any) -> Any:
    return (said.code, said.message) if isinstance(said, OrchestratorError) else said


@given(st.lists(answers, min_size=1, max_size=20))
def test_answers_come_back_in_order(said: list[Any]) -> None:
    wire = json.loads(json.dumps(piles.fold_answers(said)))
    assert [plain(one) for one in piles.unfold_answers(wire, len(said))] == [plain(one) for one in said]


def test_equal_answers_are_said_once() -> None:
    assert piles.fold_answers([{"accepted": True}] * 400) == {"answers": [{"for": 400, "payload": {"accepted": True}}]}


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"shared": {}}, {"shared": [], "each": [{}]}, {"shared": {}, "each": {}},
     {"shared": {}, "each": [1]}, {"shared": {}, "each": []}, {"shared": {}, "each": [{}] * (piles.MOST + 1)}],
)  # fmt: skip
def test_what_is_no_pile_is_refused(data: Any) -> None:
    with pytest.raises(InvalidInput, match="results"):
        piles.unfold(data)
    assert piles.count(data) >= 1


@pytest.mark.parametrize(
    "answer",
    [None, {}, {"answers": {}}, {"answers": []}, {"answers": [{"payload": 1}]}, {"answers": [{"for": 0, "payload": 1}]},
     {"answers": [{"for": 1, "payload": 1}]}, {"answers": [{"for": 3, "payload": 1}]}, {"answers": [1]},
     {"answers": [{"for": 10**18, "payload": 1}]}, {"answers": [{"for": True, "payload": 1}]}],
)  # fmt: skip
def test_what_is_no_answer_to_two_is_refused(answer: Any) -> None:
    with pytest.raises(InvalidInput):
        piles.unfold_answers(answer, 2)
