"""The minimum wage against what slices cost and bring: integers, exact, and a new chance after a while."""

from __future__ import annotations

import fractions

import hypothesis
import pytest
from hypothesis import strategies as st

from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker.wages import MOST_JOBS, Cost, Rules, Wage, WageBook

DCC = 10**18
HOUR = Cost(cpu_ns=3600 * 10**9)
SECOND = Cost(cpu_ns=10**9)


def book(cpu: int = DCC, **more) -> WageBook:
    return WageBook(Rules(Wage(cpu=cpu, **more), slices=3, retry_s=600.0))


def test_what_work_must_bring():
    wage = Wage.of_dcc(0.5, 2, 0.1, 0.001)
    assert wage == Wage(DCC // 2, 2 * DCC, DCC // 10, DCC // 1000)
    assert wage.of(HOUR) == DCC // 2
    assert wage.of(Cost(gpu_ns=1800 * 10**9, bytes_in=10**6, bytes_out=10**7)) == DCC + DCC // 10 + DCC // 100


def test_a_slice_costs_what_was_measured():
    metrics = SliceMetrics(
        cpu_time_s=0.25, wall_time_s=9.0, bytes_in=3, bytes_out=4, peak_memory_bytes=5, gpu_time_s=1.0
    )
    assert Cost.of_slice(metrics) == Cost(250_000_000, 10**9, 3, 4)


def test_without_a_wage_everything_is_taken():
    free = WageBook(Rules())
    assert free.refusal("job", 0, HOUR, 0.0) is None


def test_a_job_that_pays_nothing_is_refused_at_once():
    assert book().refusal("job", 0, None, 0.0) == "it pays nothing"


def test_the_price_is_weighed_against_the_schedulers_figures_first():
    b = book()
    assert b.refusal("good", DCC, HOUR, 0.0) is None
    why = b.refusal("bad", DCC // 2, HOUR, 0.0)
    assert why == "a slice brings 0.5 DCC where the minimum wage is 1 DCC"


def test_our_own_figures_are_worth_more_than_the_schedulers():
    b = book()
    for _ in range(3):
        b.measured("job", HOUR)
    assert "3 slices here would bring 1.5 DCC" in b.refusal("job", DCC // 2, SECOND, 0.0)
    for _ in range(3):
        b.measured("other", SECOND)
    assert b.refusal("other", DCC // 2, HOUR, 0.0) is None


def test_without_a_price_payments_tell():
    b = book()
    for _ in range(2):
        b.paid("job", HOUR, DCC // 2)
        assert b.refusal("job", None, HOUR, 0.0) is None
    b.paid("job", HOUR, DCC // 2)
    assert "3 slices brought 1.5 DCC" in b.refusal("job", None, None, 0.0)


def test_payments_tell_more_than_promises():
    b = book()
    for _ in range(3):
        b.paid("liar", HOUR, 0)
        b.paid("modest", HOUR, 2 * DCC)
    assert b.refusal("liar", 100 * DCC, SECOND, 0.0)
    assert b.refusal("modest", 1, HOUR, 0.0) is None


def test_a_refused_job_gets_a_new_chance():
    b = book()
    for _ in range(3):
        b.paid("job", HOUR, 0)
    assert b.refusal("job", None, None, 100.0) and b.refused_until("job") == 700.0
    assert b.refusal("job", None, None, 699.0)
    assert b.refusal("job", None, None, 700.0) is None and b.refused_until("job") is None


def test_another_wage_is_another_judgement():
    b = book()
    for _ in range(3):
        b.paid("job", HOUR, DCC // 2)
    assert b.refusal("job", None, None, 0.0)
    b.reconfigure(Rules(Wage(cpu=DCC // 2), slices=3))
    assert b.refusal("job", None, None, 1.0) is None


def test_the_book_is_bounded():
    b = book()
    for number in range(MOST_JOBS + 10):
        b.measured(str(number), SECOND)
    assert len(b._accounts) == MOST_JOBS


costs = st.builds(Cost, *[st.integers(0, 10**18)] * 4)
wages = st.builds(Wage, *[st.integers(0, 10**24)] * 4)


@hypothesis.given(wages, costs)
def test_it_is_exact(wage, cost):
    hours = fractions.Fraction(1, 3600 * 10**9)
    exact = (
        (wage.cpu * cost.cpu_ns + wage.gpu * cost.gpu_ns) * hours
        + fractions.Fraction(wage.bytes_in * cost.bytes_in + wage.bytes_out * cost.bytes_out, 10**6)
    )  # fmt: skip
    assert wage.of(cost) == exact.__floor__()


@hypothesis.given(wages, st.lists(costs, min_size=3, max_size=6))
def test_whoever_pays_the_wage_is_never_refused(wage, several):
    b = WageBook(Rules(wage, slices=3))
    for cost in several:
        b.measured("job", cost)
        b.paid("job", cost, wage.of(cost) + 1)
        assert b.refusal("job", max(wage.of(one) + 1 for one in several), cost, 0.0) is None


@pytest.mark.parametrize("price", [0, 1, DCC])
@hypothesis.given(several=st.lists(costs, min_size=3, max_size=6))
def test_whoever_pays_less_is_refused_once_enough_was_seen(price, several):
    b = WageBook(Rules(Wage(cpu=1), slices=3))
    needed = Wage(cpu=1).of(sum(several, Cost()))
    for cost in several:
        b.paid("job", cost, 0)
    assert (b.refusal("job", price, None, 0.0) is not None) is (needed > 0)
