"""Several workers on one slice: liars, colluders, kin, spot checks, trust, and what all of that costs."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.errors import InvalidInput
from orchestrator.scheduler import confidence
from orchestrator.scheduler.confidence import Experience, price_of
from orchestrator.scheduler.redundancy import (
    Asked,
    Decision,
    Offer,
    Opinion,
    Outcome,
    Panel,
    RedundancyBroken,
    Rule,
    SpotChecks,
    State,
    parse_rule,
    read_rule,
)
from orchestrator.scheduler.trust import DEEPEST, HIGHEST, Trust, TrustRules

RULES = TrustRules()
rules_of_jobs = st.integers(2, 4).flatmap(lambda agree: st.builds(Rule, st.just(agree), st.integers(agree, agree + 4)))


def opinion(number: int, digest: str) -> Opinion:
    return Opinion(number, Asked(f"worker {number}", f"identity {number}", f"payee {number}"), digest)


def heard(rule: Rule, digests: str, trust: Mapping[str, Trust] | None = None) -> tuple[Panel, Decision]:
    """The opinions one after the other, until somebody decides."""
    panel = Panel(rule)
    decision = panel.decide()
    for number, digest in enumerate(digests, 1):
        assert decision.outcome is Outcome.MORE, f"{digest} of {digests} is one too many"
        panel = panel.hear(opinion(number, digest))
        decision = panel.decide(trust or {}, RULES)
    return panel.settled(decision), decision


# --- what is agreed


@pytest.mark.parametrize(
    ("agree", "of", "digests", "outcome"),
    [
        (2, 3, "A", None),
        (2, 3, "AA", "A"),
        (2, 3, "AB", None),
        (2, 3, "ABA", "A"),
        (2, 3, "ABB", "B"),
        (2, 3, "ABC", ""),
        (2, 2, "AB", ""),  # the one that is left cannot bring two together
        (3, 5, "ABC", None),
        (3, 5, "ABCD", ""),
        (3, 5, "AABA", None),  # a suspicious result: one more must agree
        (3, 5, "AABAA", "A"),
        (3, 5, "AABAB", "A"),
        (2, 4, "ABA", None),
        (2, 4, "ABAA", "A"),
        (2, 4, "ABAB", ""),
        (2, 4, "ABAC", "A"),  # nobody is left to ask, and enough agree
        (2, 6, "ABACA", None),
    ],
)
def test_opinions(agree: int, of: int, digests: str, outcome: str | None) -> None:
    """`outcome`: what is agreed, "" when it cannot be decided, None when more are wanted."""
    panel, decision = heard(Rule(agree, of), digests)
    panel.validate()
    expected = {None: Outcome.MORE, "": Outcome.UNDECIDED}.get(outcome, Outcome.AGREED)
    assert decision.outcome is expected
    if expected is Outcome.AGREED:
        assert decision.digest == outcome
        wrong = {State.WRONG if digest != outcome else State.AGREED for digest in digests}
        assert {one.state for one in panel.opinions} == wrong
    else:
        state = State.PENDING if expected is Outcome.MORE else State.UNDECIDED
        assert {one.state for one in panel.opinions} == {state}


def test_the_story_tells_who_said_what() -> None:
    panel, _ = heard(Rule(2, 3), "ABA")
    assert panel.story() == (
        "3 of at most 3 opinions, 2 must agree: worker 1 result 1 (agreed), worker 2 result 2 (wrong), "
        "worker 3 result 1 (agreed)"
    )


def test_a_suspect_counts_only_beside_one_more() -> None:
    suspect = {"identity 1": Trust().refuted()}
    _, decision = heard(Rule(2, 3), "AA", suspect)
    assert decision == Decision(Outcome.MORE, 3, "A", 1)
    _, decision = heard(Rule(2, 3), "AAA", suspect)
    assert decision.outcome is Outcome.AGREED
    # Where the job pays for no more, two must do.
    assert heard(Rule(2, 2), "AA", suspect)[1].outcome is Outcome.AGREED


@given(rules_of_jobs, st.data())
def test_every_slice_ends_and_liars_below_the_quorum_never_win(rule: Rule, data: st.DataObject) -> None:
    """Fewer liars than must agree, colluding as they like, in any order: what is accepted is right."""
    liars = data.draw(st.integers(0, rule.agree - 1))
    says = ["right"] * rule.of + data.draw(st.lists(st.sampled_from("abc"), min_size=liars, max_size=liars))
    order = data.draw(st.permutations(says))
    panel = Panel(rule)
    decision = panel.decide()
    for number, digest in enumerate(order, 1):
        if decision.outcome is not Outcome.MORE:
            break
        assert 1 <= decision.missing <= rule.of - len(panel.opinions)
        assert decision.quorum >= rule.agree
        panel = panel.hear(opinion(number, digest))
        decision = panel.decide()
    assert decision.outcome is not Outcome.MORE
    assert decision.digest == "right" or decision.outcome is Outcome.UNDECIDED
    settled = panel.settled(decision)
    settled.validate()
    for one in settled.opinions:
        assert one.digest != "right" or one.state is not State.WRONG


@pytest.mark.parametrize("agree", range(2, 8))
def test_by_default_there_is_room_to_raise_the_quorum(agree: int) -> None:
    """As many may lie as must not agree, and one more than usual must agree all the same."""
    rule = parse_rule({"agree": agree}, Offer())
    assert rule is not None
    for liars in range(1, agree):
        panel = Panel(rule)
        for number in range(1, liars + 1):
            panel = panel.hear(opinion(number, f"lie {number}"))
        for number in range(liars + 1, liars + agree + 1):
            assert panel.decide().outcome is Outcome.MORE
            panel = panel.hear(opinion(number, "right"))
        decision = panel.decide()
        assert (decision.outcome, decision.digest) == (Outcome.MORE, "right"), "enough for a quiet slice are too few"
        assert decision.quorum > agree
        assert panel.hear(opinion(99, "right")).decide().digest == "right"
    suspects = {f"identity {number}": Trust().refuted() for number in range(1, 2 * agree + 1)}
    assert Panel(rule, tuple(opinion(number, "A") for number in range(1, agree + 1))).decide(suspects).quorum > agree


@given(rules_of_jobs, st.integers(0, 10), st.data())
def test_no_honest_worker_loses_its_pay_by_a_lone_liar(rule: Rule, place: int, data: st.DataObject) -> None:
    says = ["right"] * rule.of
    says.insert(min(place, rule.of), "wrong")
    trust = {f"identity {number}": Trust(data.draw(st.sampled_from([0, 15]))) for number in range(len(says) + 1)}
    panel, decision = Panel(rule), Decision(Outcome.MORE, rule.agree)
    for number, digest in enumerate(says, 1):
        if decision.outcome is not Outcome.MORE:
            break
        panel = panel.hear(opinion(number, digest))
        decision = panel.decide(trust, RULES)
    states = {one.state for one in panel.settled(decision).opinions if one.digest == "right"}
    assert State.WRONG not in states


@given(rules_of_jobs, st.text("ABC", max_size=9), st.booleans())
def test_decisions_do_not_change_with_the_order_of_earlier_opinions(rule: Rule, digests: str, suspect: bool) -> None:
    opinions = [opinion(number, digest) for number, digest in enumerate(digests[: rule.of], 1)]
    trust = {"identity 1": Trust().refuted()} if suspect else {}
    one, other = (Panel(rule, tuple(some)).decide(trust) for some in (opinions, opinions[::-1]))
    if one.digest is not None:  # among equals anybody's suspects count
        assert one == other


# --- who may be asked


def test_nobody_is_asked_twice_under_another_name() -> None:
    panel = Panel(Rule(2, 3)).hear(opinion(1, "A"))
    assert panel.may_ask(Asked("worker 2", "identity 2", "payee 2"))
    assert panel.may_ask(Asked("worker 2", "identity 2"))
    for who in (
        Asked("worker 1", "identity 2", "payee 2"),
        Asked("worker 2", "identity 1", "payee 2"),
        Asked("worker 2", "identity 2", "payee 1"),
    ):
        assert not panel.may_ask(who)
        with pytest.raises(RedundancyBroken):
            panel.hear(Opinion(9, who, "A"))


def test_workers_without_a_payment_address_are_no_kin_for_that() -> None:
    assert not Asked("a", "x").is_kin(Asked("b", "y"))


def test_a_settled_panel_hears_nobody() -> None:
    panel, _ = heard(Rule(2, 3), "AA")
    with pytest.raises(RedundancyBroken):
        panel.hear(opinion(3, "A"))


def test_a_slice_that_failed_otherwise_shows_nobody_wrong() -> None:
    panel = Panel(Rule(2, 3)).hear(opinion(1, "A")).given_up()
    assert [one.state for one in panel.opinions] == [State.UNDECIDED]
    assert panel.given_up() is panel


def test_a_broken_panel_is_told() -> None:
    wrong = dataclasses.replace(opinion(1, "A"), state=State.WRONG)
    with pytest.raises(RedundancyBroken, match="who is wrong is outnumbered by who is right"):
        Panel(Rule(2, 3), (wrong,)).validate()
    with pytest.raises(RedundancyBroken, match="nobody is heard twice"):
        Panel(Rule(2, 3), (opinion(1, "A"), dataclasses.replace(opinion(1, "A"), lease=2))).validate()


# --- trust and spot checks


def test_trust_grows_slowly_and_falls_hard() -> None:
    trust = Trust()
    for _ in range(9):
        trust = trust.confirmed()
    assert not RULES.is_trusted(trust)
    trust = trust.confirmed()
    assert RULES.is_trusted(trust)
    assert RULES.check_rate(trust) == 0.5
    rates = [RULES.check_rate(Trust(points)) for points in (10, 20, 50, 100, HIGHEST)]
    assert rates == [0.5, 0.25, 0.1, 0.05, 0.05]
    once = dataclasses.replace(trust, points=HIGHEST).refuted()
    assert (once.points, once.wrong) == (-10, 1)
    assert RULES.is_suspect(once)
    assert RULES.check_rate(once) == 1.0
    again = once
    for _ in range(20):
        again = again.refuted()
    assert again.points == DEEPEST


@given(st.lists(st.booleans(), max_size=300))
def test_trust_has_bounds(history: list[bool]) -> None:
    trust = Trust()
    for good in history:
        before = trust
        trust = trust.confirmed() if good else trust.refuted()
        assert DEEPEST <= trust.points <= HIGHEST
        assert good or trust.points <= -10
        assert not good or trust.points in (before.points + 1, HIGHEST)
    assert trust.agreed == sum(history)
    assert trust.wrong == len(history) - sum(history)


def test_a_trusted_worker_is_believed_alone_where_the_job_says_so() -> None:
    trust = {"identity 1": Trust(10)}
    first = Panel(Rule(2, 3, trusting=True)).hear(opinion(1, "A"))
    unchecked = first.decide(trust, RULES, lambda _opinion, _rate: False)
    assert unchecked == Decision(Outcome.AGREED, 1, "A")
    first.settled(unchecked).validate()
    assert first.decide(trust, RULES, lambda _opinion, _rate: True).outcome is Outcome.MORE
    assert first.decide({}, RULES, lambda _opinion, _rate: False).outcome is Outcome.MORE
    strict = Panel(Rule(2, 3), first.opinions)
    assert strict.decide(trust, RULES, lambda _opinion, _rate: False).outcome is Outcome.MORE


def test_a_trusted_worker_is_not_believed_against_another() -> None:
    trust = {"identity 2": Trust(HIGHEST)}
    panel = Panel(Rule(2, 3, trusting=True), (opinion(1, "A"), opinion(2, "B")))
    assert panel.decide(trust, RULES, lambda _opinion, _rate: False).outcome is Outcome.MORE


def test_spot_checks_are_the_same_everywhere_and_nowhere_to_be_guessed() -> None:
    one, same, other = SpotChecks(b"secret"), SpotChecks(b"secret"), SpotChecks(b"another")
    chosen = [number for number in range(2000) if one.chosen("job", number, 0.1)]
    assert chosen == [number for number in range(2000) if same.chosen("job", number, 0.1)]
    assert 120 < len(chosen) < 280
    assert chosen != [number for number in range(2000) if other.chosen("job", number, 0.1)]
    assert all(one.chosen("job", number, 1.0) for number in range(100))
    assert not any(one.chosen("job", number, 0.0) for number in range(100))


class Court(RuleBasedStateMachine):
    """Slices of a job that trusts, heard in any order by workers of which some lie at times."""

    @initialize(agree=st.integers(2, 3), more=st.integers(0, 3), trusting=st.booleans())
    def begin(self, agree: int, more: int, trusting: bool) -> None:
        self.rule = Rule(agree, agree + more, trusting)
        self.panels: dict[int, Panel] = {number: Panel(self.rule) for number in range(1, 5)}
        self.trust: dict[str, Trust] = {}
        self.leases = 0
        self.checks = SpotChecks(b"court")

    @rule(number=st.integers(1, 4), worker=st.integers(1, 8), says=st.sampled_from("RRRRab"))
    def report(self, number: int, worker: int, says: str) -> None:
        panel, who = self.panels[number], Asked(f"w{worker}", f"i{worker}", f"p{worker // 2}")
        if panel.is_settled or not panel.may_ask(who):
            return
        self.leases += 1
        panel = panel.hear(Opinion(self.leases, who, says))
        decision = panel.decide(self.trust, RULES, lambda _, rate: self.checks.chosen("job", number, rate))
        self.panels[number] = after = panel.settled(decision)
        assert (decision.outcome is Outcome.MORE) == (not after.is_settled)
        agreeing = [one for one in after.opinions if one.state is State.AGREED]
        for one in after.opinions if len(agreeing) > 1 else ():
            trust = self.trust.get(one.by.identity, Trust())
            self.trust[one.by.identity] = trust.confirmed() if one.state is State.AGREED else trust.refuted()

    @precondition(lambda self: any(not one.is_settled for one in self.panels.values()))
    @rule(number=st.integers(1, 4))
    def give_up(self, number: int) -> None:
        self.panels[number] = self.panels[number].given_up()

    @invariant()
    def all_is_well(self) -> None:
        for panel in getattr(self, "panels", {}).values():
            panel.validate()
            assert panel.story()
        for trust in getattr(self, "trust", {}).values():
            assert RULES.story(trust)


TestCourt = Court.TestCase
TestCourt.settings = hypothesis_settings(max_examples=40, stateful_step_count=30, deadline=None)


# --- what a job may ask for


def test_what_is_not_said_is_the_operators_choice() -> None:
    assert parse_rule(None, Offer()) is parse_rule(False, Offer()) is None
    assert parse_rule(True, Offer()) == Rule(2, 4)
    assert parse_rule(True, Offer(agree=3)) == Rule(3, 6)
    assert parse_rule({"agree": 5}, Offer(most=7)) == Rule(5, 7)
    assert parse_rule({"of": 4.0, "trusting": True}, Offer()) == Rule(2, 4, trusting=True)
    rule = Rule(2, 4, trusting=True)
    assert read_rule(rule.to_json()) == rule
    assert read_rule(None) is None


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ("yes", "redundancy is 'yes'; it must be true or"),
        ({"k": 2}, "no field 'k'; it has agree, of and trusting"),
        ({"agree": 1}, r"redundancy\.agree is 1; it must be from 2 to 15 here"),
        ({"agree": "2"}, r"redundancy\.agree is '2'; it must be a whole number"),
        ({"agree": 3, "of": 2}, r"redundancy\.of is 2; it must be from 3 to 15 here"),
        ({"of": 16}, r"redundancy\.of is 16; it must be from 2 to 15 here"),
        ({"agree": float("nan")}, "must be a whole number"),
        ({"trusting": 1}, r"redundancy\.trusting is 1; it must be true or false"),
    ],
)
def test_nonsense_is_refused_with_the_field_and_the_remedy(told: Any, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        parse_rule(told, Offer())


# --- what it costs


def test_the_price_of_agreement() -> None:
    price = price_of(Rule(2, 3), Experience())
    assert (price.least, price.most) == (2, 3)
    assert 2 < price.expected < 2.1
    told = confidence.told(Rule(2, 3), price, 10**18, 100)
    assert told["perSlice"] == {"least": "2", "expected": told["perSlice"]["expected"], "most": "3"}
    assert told["total"]["most"] == "300"
    assert float(told["total"]["expected"]) == pytest.approx(100 * price.expected, abs=0.1)
    assert told["opinions"]["expected"] == round(price.expected, 3)


def test_trust_makes_it_cheaper_and_doubt_dearer() -> None:
    rule = Rule(2, 3, trusting=True)
    known = price_of(rule, Experience(1000, 0, trusted=1.0, check_rate=0.05))
    assert (known.least, known.most) == (1, 3)
    assert known.expected == pytest.approx(1.05, abs=0.01)
    dear = price_of(Rule(2, 6), Experience(agreed=50, wrong=50))
    assert dear.expected > price_of(Rule(2, 6), Experience()).expected


@given(rules_of_jobs, st.floats(0, 1), st.integers(0, 1000), st.integers(0, 1000))
def test_the_expectation_is_between_the_bounds(rule: Rule, trusted: float, agreed: int, wrong: int) -> None:
    for one in (rule, dataclasses.replace(rule, trusting=True)):
        price = price_of(one, Experience(agreed, wrong, trusted, 0.1))
        assert price.least - 1e-9 <= price.expected <= price.most + 1e-9


def test_the_expectation_is_what_comes_of_trying() -> None:
    rule, chance = Rule(2, 5), random.Random(1)
    experience = Experience(agreed=700, wrong=200)
    paid, tries = 0, 4000
    for _ in range(tries):
        panel, decision = Panel(rule), Decision(Outcome.MORE, 2)
        while decision.outcome is Outcome.MORE:
            number = len(panel.opinions) + 1
            says = f"wrong {number}" if chance.random() < experience.error_rate else "right"
            panel = panel.hear(opinion(number, says))
            decision = panel.decide()
        paid += sum(one.state is not State.WRONG for one in panel.settled(decision).opinions)
    assert paid / tries == pytest.approx(price_of(rule, experience).expected, abs=0.05)
