"""What work is worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scheduler.market import FARTHEST, HEAVIEST, LIGHTEST, STEP, Market, MarketRules

REFERENCE = 10**13
RULES = MarketRules(REFERENCE, half_life_s=1000.0, inertia_s=100.0)


def test_without_payments_the_operator_decides() -> None:
    market = Market(RULES)
    assert market.slice_value(0.0) == REFERENCE
    assert market.rate(0.0) == REFERENCE
    assert market.slice_value(0.0, work_s=60.0) == 60 * REFERENCE


def test_the_value_is_what_half_of_the_work_was_paid_less_than() -> None:
    market = Market(RULES)
    market.paid(4 * REFERENCE, 99.0, now=1.0)
    assert market.slice_value(2.0) == REFERENCE
    market.paid(4 * REFERENCE, 10.0, now=2.0)
    assert market.rate(3.0) == pytest.approx(4 * REFERENCE, rel=STEP - 1)


def test_a_little_work_at_an_absurd_price_moves_nothing() -> None:
    market = Market(RULES)
    market.paid(10**6 * REFERENCE, 50.0, now=1.0)
    assert market.slice_value(2.0) == REFERENCE


def test_old_payments_are_forgotten() -> None:
    market = Market(RULES)
    market.paid(4 * REFERENCE, 150.0, now=1.0)
    assert market.rate(2.0) > 3 * REFERENCE
    assert market.rate(2000.0) == REFERENCE


def test_jobs_that_follow_the_market_do_not_move_it() -> None:
    market = Market(RULES)
    market.paid(4 * REFERENCE, 1000.0, now=1.0)
    for step in range(50):
        market.paid(1.0 * market.rate(2.0 + step), 1000.0, now=2.0 + step)
    assert market.rate(60.0) == pytest.approx(4 * REFERENCE, rel=STEP - 1)


def test_the_market_has_ends() -> None:
    market = Market(RULES)
    for step in range(400):
        market.paid(2.0 * market.rate(float(step)), 10_000.0, now=float(step))
    assert market.rate(400.0) <= REFERENCE * STEP**FARTHEST * 1.001


def test_a_weight_is_the_price_over_the_market_value_within_bounds() -> None:
    market = Market(RULES)
    assert market.weight(REFERENCE, 1.0) == 1.0
    assert market.weight(REFERENCE, 2.0) == 0.5
    assert market.weight(REFERENCE, None) == 1.0
    assert market.weight(0, 1.0) == LIGHTEST
    assert market.weight(10**6 * REFERENCE, 1.0) == HEAVIEST
    assert Market(MarketRules(0)).weight(5, 1.0) == 1.0


def test_what_was_written_down_counts_on() -> None:
    market, other = Market(RULES), Market(RULES)
    market.paid(4 * REFERENCE, 150.0, now=1.0)
    fresh = market.take_fresh()
    assert sum(fresh.values()) == 150.0
    assert market.take_fresh() == {}
    other.load(fresh, 1.0)
    assert other.rate(1.0) == market.rate(1.0)


@given(st.lists(st.tuples(st.floats(0, 1e30), st.floats(0, 1e9), st.floats(0, 1e6)), max_size=30))
def test_any_payments_leave_a_price(payments: list[tuple[float, float, float]]) -> None:
    market = Market(RULES)
    now = 0.0
    for rate, work_s, later in payments:
        now += later
        market.paid(rate, work_s, now)
        assert REFERENCE * STEP**-FARTHEST * 0.999 <= market.rate(now) <= REFERENCE * STEP**FARTHEST * 1.001
