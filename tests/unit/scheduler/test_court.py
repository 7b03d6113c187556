"""Jobs whose workers must agree, as a whole: slices, opinions, hold and wages under anything that may happen."""

from __future__ import annotations

import dataclasses

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler import escrow, lifecycle, settling
from orchestrator.scheduler.catalog import Job, build
from orchestrator.scheduler.court import Court
from orchestrator.scheduler.estimates import Estimate
from orchestrator.scheduler.lifecycle import Budget, Counts, Ending, ErrorLimit, Slice, SliceState, Verdict
from orchestrator.scheduler.redundancy import Asked, Opinion, Panel, Rule, SpotChecks, State
from orchestrator.scheduler.settling import Report
from orchestrator.scheduler.store.jobs import JobRecord, JobState
from orchestrator.scheduler.trust import USUAL_RULES, Trust

PRICE = 7
BUDGET = Budget(failures=2, losses=3)
LIMIT = ErrorLimit(failed=50)
WORKERS = 8


def job_of(rule: Rule) -> Job:
    return build(
        JobRecord(
            key=1,
            id="j" * 22,
            owner="owner",
            payment_account="payer",
            spec={"redundancy": rule.to_json()},
            input_set=None,
            local_exec=False,
            slice_price=PRICE,
            estimation_slices=0,
            created_at=0.0,
        )
    )


class Agreement(RuleBasedStateMachine):
    """Workers below `liars` tell the same lie, the others the truth. The hold is one number, as the Bank keeps it."""

    @initialize(agree=st.integers(2, 3), more=st.integers(0, 2), liars=st.integers(0, 2), funded=st.integers(1, 3))
    def a_job_is_deployed(self, agree: int, more: int, liars: int, funded: int) -> None:
        self.rule = Rule(agree, agree + more)
        self.liars = min(liars, agree - 1)
        self.job = job_of(self.rule)
        self.held = funded * self.job.slice_cost
        counts = Counts(total=4, copies=self.rule.of)
        self.state = JobState(
            key=1,
            status=RunStatus.RUNNING,
            admitted=True,
            counts=counts,
            estimate=Estimate(),
            estimation_slices=0,
            funded=funded,
            closed=False,
        )
        self.rows: dict[int, Slice] = {}
        self.opinions: dict[int, list[Opinion]] = {}
        self.trust: dict[str, Trust] = {}
        self.accepted: dict[int, str] = {}
        self.paid: set[tuple[int, int]] = set()
        self.leases = 0
        self.past: list[tuple[int, int, int]] = []

    def advance(self) -> None:
        self.state = settling.next_state(self.state, LIMIT, 1.0)

    def who(self, worker: int) -> Asked:
        return Asked(f"w{worker}", f"i{worker}", f"p{worker}")

    @rule(slices=st.integers(1, 2))
    def money_comes(self, slices: int) -> None:
        self.held += slices * self.job.slice_cost
        self.state = dataclasses.replace(self.state, funded=(self.state.funded or 0) + slices)
        self.advance()

    @precondition(lambda self: self.state.status in lifecycle.DISTRIBUTABLE)
    @rule(worker=st.integers(0, WORKERS - 1), wanted=st.integers(1, 3))
    def lease(self, worker: int, wanted: int) -> None:
        """As the shell does: first what is in doubt and may be for this worker, then as far as the hold covers it."""
        counts = self.state.counts
        ready = [one for one in self.rows.values() if one.state is SliceState.READY]
        doubted = [one for one in ready if one.opinions and self.panel(one.number).may_ask(self.who(worker))][:wanted]
        covered = escrow.leasable(self.state.funded, counts) or 0
        plain = [one for one in ready if not one.opinions][: min(wanted - len(doubted), covered)]
        left = min(wanted - len(doubted), covered) - len(plain)
        self.leases += 1
        for piece in doubted + plain:
            self.rows[piece.number] = lifecycle.lease(piece, self.leases)
            self.past.append((piece.number, self.leases, worker))
        if doubted or plain:
            counts = counts.moved(SliceState.READY, SliceState.LEASED, len(doubted) + len(plain))
        fresh = range(counts.cursor + 1, min(counts.total, counts.cursor + max(left, 0)) + 1)
        for number in fresh:
            self.rows[number] = lifecycle.lease(Slice(number), self.leases)
            self.past.append((number, self.leases, worker))
        counts = dataclasses.replace(counts.leased_fresh(len(fresh)), doubted=counts.doubted - len(doubted))
        self.state = dataclasses.replace(self.state, counts=counts)
        self.advance()

    @rule(worker=st.integers(0, WORKERS - 1))
    def lease_beside(self, worker: int) -> None:
        for piece in self.rows.values():
            holders = [one for number, lease, one in self.past if (number, lease) == (piece.number, piece.lease)]
            may = self.panel(piece.number).may_ask(self.who(worker)) and worker not in holders
            if lifecycle.may_have_rival(piece) and may:
                self.leases += 1
                self.rows[piece.number] = lifecycle.lease_beside(piece, self.leases)
                self.past.append((piece.number, self.leases, worker))
                return

    @precondition(lambda self: self.past)
    @rule(
        which=st.lists(st.tuples(st.integers(0, 30), st.sampled_from([*Ending, *[Ending.COMPLETED] * 4])), max_size=4)
    )
    def reports_come(self, which: list[tuple[int, Ending]]) -> None:
        reports = []
        for place, ending in which:
            number, lease, worker = self.past[-1 - place % len(self.past)]
            says = "lie" if worker < self.liars else "truth"
            who = self.who(worker)
            reports.append(
                Report(
                    self.job,
                    number,
                    lease,
                    ending,
                    worker=who.worker,
                    identity=who.identity,
                    payee=who.payee,
                    digest=says,
                    uri=f"data:,{says}",
                    expired=ending is Ending.LOST,
                    reason="E",
                )
            )
        self.settle(reports)

    @rule(number=st.integers(1, 4))
    def nobody_else_comes(self, number: int) -> None:
        piece = self.rows.get(number, Slice(number))
        given_up = lifecycle.is_doubted(piece) and self.state.status not in lifecycle.ENDED
        self.settle([Report(self.job, number, 0, Ending.LOST, reason="nobody came", unanswered=True)])
        assert number not in self.rows or (self.rows[number].state is SliceState.FAILED) >= given_up

    def panel(self, number: int) -> Panel:
        return Panel(self.rule, tuple(self.opinions.get(number, ())))

    def settle(self, reports: list[Report]) -> None:
        court = Court(
            self.job.id, self.rule, self.opinions, trust=self.trust, rules=USUAL_RULES, checks=SpotChecks(b"")
        )
        batch = settling.settle(self.job, self.state, self.rows, reports, BUDGET, court=court)
        self.rows.update(batch.changed | batch.raced)
        self.state = batch.state
        for number, opinion in court.added:
            self.opinions.setdefault(number, []).append(opinion)
        changed = {(number, one.lease): one for number, one in court.changed}
        for number, those in self.opinions.items():
            self.opinions[number] = [changed.get((number, one.lease), one) for one in those]
        for identity, verdicts in court.verdicts.items():
            for right in verdicts:
                before = self.trust.get(identity, Trust())
                self.trust[identity] = before.confirmed() if right else before.refuted()
        for number, accepted in batch.accepted.items():
            assert number not in self.accepted, "a slice has one result"
            self.accepted[number] = accepted.uri
            assert any(one.lease == accepted.lease and one.state is State.AGREED for one in self.opinions[number])
        for wage in batch.wages:
            assert (wage.number, wage.lease) not in self.paid, "an opinion is paid once"
            self.paid.add((wage.number, wage.lease))
            self.held -= wage.amount + wage.fee
        for report in reports:
            assert not report.paid or report.verdict in (Verdict.ACCEPTED, Verdict.UNDECIDED)
        self.advance()

    @invariant()
    def the_hold_covers_what_may_be_due(self) -> None:
        if hasattr(self, "state"):
            counts = self.state.counts
            counts.validate()
            escrow.validate(self.state.funded, counts)
            assert self.held == self.job.slice_cost * (self.state.funded or 0) - PRICE * counts.paid
            assert self.held >= self.job.slice_cost * (counts.leased + counts.doubted)
            assert counts.doubted == sum(
                one.state is SliceState.READY and one.opinions > 0 for one in self.rows.values()
            )

    @invariant()
    def the_truth_wins_or_nobody(self) -> None:
        for number, uri in getattr(self, "accepted", {}).items():
            assert uri == "data:,truth", f"slice {number}: {self.panel(number).story()}"

    @invariant()
    def opinions_and_wages_go_together(self) -> None:
        for number, those in getattr(self, "opinions", {}).items():
            self.panel(number).validate()
            piece = self.rows[number]
            piece.validate(BUDGET)
            assert piece.opinions == len(those)
            settled = piece.state in (SliceState.ACCEPTED, SliceState.FAILED)
            for one in those:
                assert (one.state is State.PENDING) != settled
                assert ((number, one.lease) in self.paid) == (one.state in (State.AGREED, State.UNDECIDED))
                assert one.state is not State.WRONG or one.digest == "lie", "no honest worker loses its pay"


def test_time_relaxes_nothing() -> None:
    """Two agree, but a result was suspicious: three must. The third never comes."""
    rule = Rule(2, 4)
    job = job_of(rule)
    heard = [
        Opinion(lease, Asked(f"w{lease}", f"i{lease}", f"p{lease}"), digest, place=lease - 1, uri="data:,x")
        for lease, digest in enumerate("ABA", 1)
    ]
    piece = Slice(1, SliceState.READY, opinions=3)
    counts = Counts(total=1, cursor=1, ready=1, doubted=1, copies=4)
    state = JobState(
        key=1, status=RunStatus.RUNNING, admitted=True, counts=counts, estimate=Estimate(), estimation_slices=0,
        funded=1, closed=True,
    )  # fmt: skip
    court = Court(job.id, rule, {1: heard}, trust={}, rules=USUAL_RULES, checks=SpotChecks(b""))
    report = Report(job, 1, 0, Ending.LOST, reason="nobody else came", unanswered=True)
    batch = settling.settle(job, state, {1: piece}, [report], BUDGET, court=court)
    assert batch.accepted == {}
    assert batch.changed[1].state is SliceState.FAILED
    assert report.reason == "ENOAGREEMENT: 3 workers computed it, 3 must agree, and nobody else came"
    assert {one.state for _, one in court.changed} == {State.UNDECIDED}
    assert len(batch.wages) == batch.state.counts.paid == 3
    assert "ENOAGREEMENT" in (batch.events[0].body or "")
    again = settling.settle(job, batch.state, batch.changed, [report], BUDGET, court=court)
    assert (again.changed, again.wages) == ({}, []), "it is given up once"


Agreement.TestCase.settings = hypothesis_settings(max_examples=50, stateful_step_count=40, deadline=None)
TestAgreement = Agreement.TestCase
