from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler import refusals
from orchestrator.scheduler.explaining import Facts, GroupFacts, Holding, as_json, explain
from orchestrator.scheduler.lifecycle import Counts
from orchestrator.scheduler.matching import WhyNot
from orchestrator.scheduler.refusals import RefusalBook

DCC = 10**18
WAITING = Facts(
    job_id="j" * 22, status=RunStatus.RUNNING, counts=Counts(total=10), closed=True, admitted=True, local_exec=False,
    estimating=None, price=DCC, account="0xA", available=5 * DCC, groups=(GroupFacts("lab", 1),), present=3, able=1,
)  # fmt: skip
REFUSED = dataclasses.replace(WAITING, able=0)


@pytest.mark.parametrize(
    ("facts", "code", "what", "remedy"),
    [
        ({"status": RunStatus.FINISHED, "counts": Counts(10, 10, accepted=9, failed=1)}, "EFINISHED", "9 of 10",
         "over"),
        ({"status": RunStatus.CANCELLED, "stop_code": "ETOOMANYERRORS", "stop_reason": "all failed"}, "ETOOMANYERRORS",
         "all failed", "again"),
        ({"admitted": False, "groups": ()}, "ENOGROUP", "not put into", "put it into one"),
        ({"groups": ()}, "ENOGROUP", "any more", "another group"),
        ({"status": RunStatus.PAUSED, "required": 7 * DCC}, "ENOFUNDS",
         "5 DCC, a slice costs 1 DCC, and it lacks 7", "bring 2 DCC"),
        ({"status": RunStatus.PAUSED, "required": 7 * DCC, "available": DCC // 2}, "ENOFUNDS", "0.5 DCC",
         "bring 6.5 DCC to the account, 0.5 DCC for the next slice"),
        ({"status": RunStatus.PAUSED, "required": DCC}, "ENOFUNDS", "5 DCC", "goes on by itself"),
        ({"closed": False, "counts": Counts(10, 10, accepted=10)}, "EOPEN", "10 slices are done", "close"),
        ({"closed": False, "counts": Counts()}, "EOPEN", "no slices yet", "add slices"),
        ({"present": 0, "able": 0}, "ENOWORKER", "no worker is present", "start a worker"),
        ({"competitors": 4, "paying_more": 2}, "ECOMPETING",
         "4 other jobs wait for the same workers, 2 of them pay more", "offer more"),
        ({}, "EBUSY", "1 worker may have them", "wait"),
        ({"lately": {WhyNot.FAILED_HERE: 1}, "other_worker_s": 60}, "EFAILEDHERE", "1 worker is kept", "60 s"),
        ({"lately": {WhyNot.BANNED: 1}}, "EBANNED", "kept from it after several failures", "another worker"),
        ({"lately": {WhyNot.DISCRETE: 1}}, "EDISCRETE", "had a slice of this discrete job", "start more workers"),
        ({"lately": {WhyNot.GPU: 1}}, "EGPUBUSY", "1 worker is without a free GPU", "a worker with a GPU"),
        ({"lately": {WhyNot.ESTIMATING: 2}, "estimating": 3}, "EESTIMATING", "3 that are measured first", "wait"),
        ({"counts": Counts(10, 10, leased=2, accepted=8),
              "holdings": (Holding("w1", 2, 30, 40), Holding("w2", 1, 1, 90))},
         "ELEASED", "2 slices are with 2 workers; the first lease (worker w1, 2 slices for 30 s) ends in 40 s",
         "silent"),
    ],
)  # fmt: skip
def test_what_decides(facts: dict[str, Any], code: str, what: str, remedy: str) -> None:
    first = explain(dataclasses.replace(WAITING, **facts))[0]
    assert (first.code, what in first.what, remedy in first.remedy) == (code, True, True), first


@pytest.mark.parametrize(
    ("code", "facts", "what", "remedy"),
    [
        (WhyNot.CAPABILITY, {"lacking": {"webgpu": 3}}, "webgpu (3 workers)", "require less"),
        (WhyNot.WORKTIME, {"worktime": "pyodide ^0.28.0"}, "without worktime pyodide ^0.28.0", "start a worker"),
        (WhyNot.ISOLATION, {"isolation": "gvisor"}, "less than gvisor", "that level"),
        (WhyNot.WAGE, {"wage": 3 * DCC // 2}, "more than it pays", "at least 1.5 DCC per slice"),
        (WhyNot.REJECTED, {"rejected_job_s": 10}, "refusing it", "stopped after 10 s"),
        (WhyNot.GROUP, {}, "outside of its compute groups", "join lab"),
        (WhyNot.OTHER_JOBS, {}, "other jobs only", "restriction"),
        (WhyNot.LOCAL, {"local_exec": True}, "localExec", "where it was deployed"),
        (WhyNot.UNRESOLVED, {}, "fetching its code", "wait"),
    ],
)
def test_workers_that_may_not_have_it(code: WhyNot, facts: dict[str, Any], what: str, remedy: str) -> None:
    found = explain(dataclasses.replace(REFUSED, reasons={code: 3}, **facts))
    assert [one.code for one in found] == [code]
    assert "10 slices wait; of 3 workers present 3 are " in found[0].what
    assert what in found[0].what and remedy in found[0].remedy
    assert found[0].count == 3


def test_the_reason_nearest_to_a_fit_comes_first() -> None:
    reasons = {WhyNot.GROUP: 1, WhyNot.WAGE: 1, WhyNot.CAPABILITY: 1}
    found = explain(dataclasses.replace(REFUSED, reasons=reasons, lacking={"webgpu": 1}))
    assert [one.code for one in found] == ["EWAGE", "ECAPABILITY", "ECOMPUTEGROUP"]


def test_limits_of_groups() -> None:
    groups = (GroupFacts("big", 0, outgrown=True), GroupFacts("full", 2, full=True))
    found = explain(dataclasses.replace(REFUSED, groups=groups, reasons={WhyNot.GROUP: 3}))
    assert [one.code for one in found] == ["EGROUPLIMIT", "EGROUPLIMIT", "ECOMPUTEGROUP"]
    assert "maxTotalPayment" in found[0].remedy and "the 2 it has" in found[1].what


def test_failures_are_told_beside_everything_else() -> None:
    counts = Counts(10, 3, failed=1, leased=2)
    facts = dataclasses.replace(WAITING, counts=counts, failures=(("boom", 4), ("bang", 1)))
    found = explain(facts)
    assert [one.code for one in found] == ["ELEASED", "EFAILING"]
    assert "1 slice is given up; 4 times: boom; 1 times: bang" in found[-1].what


@given(
    st.sampled_from(RunStatus), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.booleans(), st.booleans(),
    st.integers(0, 3), st.dictionaries(st.sampled_from(WhyNot), st.integers(1, 9)),
    st.dictionaries(st.sampled_from(WhyNot), st.integers(1, 9)), st.integers(0, 2),
)  # fmt: skip
def test_there_is_always_an_answer(
    status: RunStatus, waiting: int, leased: int, done: int, closed: bool, admitted: bool, able: int,
    reasons: dict[WhyNot, int], lately: dict[WhyNot, int], competitors: int,
) -> None:  # fmt: skip
    counts = Counts(waiting + leased + done, leased + done, leased=leased, accepted=done)
    found = explain(
        dataclasses.replace(
            WAITING, status=status, counts=counts, closed=closed, admitted=admitted, able=able,
            reasons=reasons if not able else {}, lately=lately, competitors=competitors,
            present=able + (sum(reasons.values()) if not able else 0),
        )
    )  # fmt: skip
    assert found
    assert all(one["what"] and one["remedy"] and one["code"].startswith("E") for one in as_json(found))
    assert not any("{" in one.what + one.remedy for one in found)


def test_refusals_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MOST_JOBS", 3)
    monkeypatch.setattr(refusals, "MOST_WORKERS", 2)
    book = RefusalBook()
    for job in range(5):
        for now in range(10):
            book.note(job, WhyNot.BANNED, f"worker {now}", now)
    assert book.statistics() == {"jobs": 3, "reasons": 3}
    assert book.of(0) == book.of(1) == []
    refusal = book.of(4)[0]
    assert (refusal.count, refusal.last, len(refusal.workers)) == (10, 9, 2)
    assert (refusal.since(9), refusal.since(0)) == (1, 2)
    book.note(4, WhyNot.GPU, "worker 1", 11)
    assert [one.code for one in book.of(4)] == [WhyNot.GPU, WhyNot.BANNED]
