from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.scheduler.estimates import (
    ALPHA,
    GRANTED_S,
    MIN_WALL_MS,
    MOST_CORES,
    Estimate,
    Measured,
    Speed,
    is_believable,
    read_metrics,
    read_quanta,
)
from orchestrator.scheduler.pricing import UNITS_PER_DCC, hold_for, parse_offer, to_dcc


@pytest.mark.parametrize(
    ("multiple", "absolute", "price"),
    [
        (1, 0, 10**13),
        (1.5, 0, 15 * 10**12),
        (0, 0.1, UNITS_PER_DCC // 10),
        (0, "0.0015", 15 * 10**14),
        (0, 1e-20, 0),
        (0, 0, 0),
        (None, None, 0),
    ],
)
def test_slice_price(multiple: Any, absolute: Any, price: int) -> None:
    assert parse_offer(multiple, absolute).slice_price(10**13) == price


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, "many", True, [1]])
def test_offers_that_make_no_sense(bad: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_offer(bad, 0)
    with pytest.raises(InvalidInput):
        parse_offer(0, bad)


def test_both_offers_at_once_are_refused() -> None:
    with pytest.raises(InvalidInput, match="not both"):
        parse_offer(1, 1)


@given(st.floats(0, 1e300), st.integers(0, 10**9))
def test_prices_are_whole_and_never_above_the_offer(absolute: float, slices: int) -> None:
    price = parse_offer(0, absolute).slice_price(10**13)
    assert price >= 0
    assert price <= absolute * UNITS_PER_DCC * (1 + 1e-15)
    assert hold_for(slices, price) == slices * price


def test_dcc_as_text() -> None:
    assert [to_dcc(units) for units in (0, 1, 15 * 10**17, -(10**18), 10**19)] == [
        "0",
        "0.000000000000000001",
        "1.5",
        "-1",
        "10",
    ]


def measured(wall: float) -> Measured:
    return Measured(cpu_ms=wall / 2, wall_ms=wall, gpu_ms=0, in_bytes=1, out_bytes=2)


def test_the_average_is_a_mean_at_first_and_then_forgets() -> None:
    assert Estimate().fold([measured(10), measured(20)]).wall_ms == 15
    long = Estimate().fold([measured(10)] * 100)
    assert long.wall_ms == pytest.approx(10)
    assert long.density == pytest.approx(0.5)
    assert long.fold([measured(26)]).wall_ms == pytest.approx(10 + 16 * ALPHA)
    assert long.fold([measured(26)] * 200).wall_ms == pytest.approx(26, rel=1e-3)
    assert long.measured == 100


@given(st.lists(st.floats(MIN_WALL_MS, 1e9), min_size=1, max_size=50))
def test_an_average_stays_between_its_extremes(walls: list[float]) -> None:
    estimate = Estimate().fold(map(measured, walls))
    assert min(walls) * 0.999 <= estimate.wall_ms <= max(walls) * 1.001


def test_variances_are_those_of_the_slices_at_first() -> None:
    walls = [10.0, 30.0, 20.0, 40.0]
    estimate = Estimate().fold(map(measured, walls))
    assert estimate.wall_var == pytest.approx(statistics.pvariance(walls))
    assert estimate.cpu_var == pytest.approx(statistics.pvariance(walls) / 4)
    assert (estimate.in_var, estimate.gpu_var) == (0, 0)
    assert estimate.longest_s(2) == pytest.approx((25 + 2 * math.sqrt(estimate.wall_var)) / 1000)
    assert Estimate().fold([measured(5)]).wall_var == 0
    assert (Estimate().wall_s, Estimate().work_s, Estimate().longest_s(2)) == (None, None, None)


@given(st.lists(st.floats(MIN_WALL_MS, 1e9), max_size=40), st.integers(0, 40))
def test_it_does_not_matter_in_how_many_parts_slices_are_measured(walls: list[float], cut: int) -> None:
    whole = Estimate().fold(map(measured, walls))
    assert Estimate().fold(map(measured, walls[:cut])).fold(map(measured, walls[cut:])) == whole
    assert min(whole.cpu_var, whole.wall_var, whole.in_var, whole.out_var) >= 0


def test_work_is_cpu_time_but_some_of_the_time_on_the_clock_at_least() -> None:
    waits = Estimate().fold([Measured(cpu_ms=1, wall_ms=1000, gpu_ms=0, in_bytes=0, out_bytes=0)])
    assert waits.work_s == pytest.approx(0.125)
    assert Estimate().fold([measured(1000)]).work_s == pytest.approx(0.5)


def test_how_fast_a_worker_is() -> None:
    known = {"a": Estimate().fold([measured(100)]), "b": Estimate().fold([measured(200)]), "new": Estimate()}
    speed = read_quanta({"CPU": {"a": 100, "b": 200, "new": 1, "elsewhere": 5, "0": 1.5}, "GPU": {}})
    assert speed.ratio(known) == pytest.approx(2.0)
    assert speed.ratio({}) == 1.5
    assert speed.slice_ratio("a", known["a"], 3.0) == pytest.approx(2.0)
    assert speed.slice_ratio("new", known["new"], 3.0) == 3.0
    assert read_quanta({"CPU": {"a": 1e9}}).ratio(known) == pytest.approx(8)


@pytest.mark.parametrize("quanta", [None, [], {}, {"CPU": 5}, {"CPU": {"0": "x", "a": -1, "b": math.inf, "c": True}}])
def test_quanta_that_make_no_sense_say_nothing(quanta: Any) -> None:
    assert read_quanta(quanta) == Speed()


def test_metrics_of_a_worker() -> None:
    read = read_metrics({"CPUTime": 30, "CPUDensity": 0.5, "InDataSize": 10, "OutDataSize": 20, "GPUTime": 1})
    assert (read.cpu_ms, read.wall_ms, read.gpu_ms, read.in_bytes, read.out_bytes) == (30, 60, 1, 10, 20)


@pytest.mark.parametrize("metrics", [None, [], {}, {"CPUTime": "x"}, {"CPUTime": math.nan}, {"CPUTime": -1}])
def test_metrics_never_make_a_result_fail(metrics: Any) -> None:
    assert read_metrics(metrics).wall_ms == MIN_WALL_MS


def test_no_slice_ran_for_longer_than_it_was_leased() -> None:
    ran = Measured(cpu_ms=0, wall_ms=5_000 + GRANTED_S * 1000, gpu_ms=0, in_bytes=0, out_bytes=0)
    assert is_believable(ran, 5.0)
    assert not is_believable(ran, 4.9)
    assert not is_believable(ran, -100.0)
    many_threads = Measured(cpu_ms=ran.wall_ms * MOST_CORES, wall_ms=1, gpu_ms=0, in_bytes=0, out_bytes=0)
    assert is_believable(many_threads, 5.0)
    assert not is_believable(many_threads, 4.9)
    assert not is_believable(read_metrics({"CPUTime": 1, "WallTime": 1e300}), 1e6)
