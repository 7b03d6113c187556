"""Metering: what slices are charged never exceeds what the kernel counted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.worker.evaluator_messages import NO_MEASUREMENT, Measurement
from orchestrator.worker.metering import Accounts, Answer, Phase, Reconciliation, SliceMeter, Usage, reconcile, share


def answer(cpu: float = 0.0, total: float = 0.0, bytes_in: int = 1, bytes_out: int = 2) -> Answer:
    return Answer(bytes_in, bytes_out, Measurement(total, cpu))


def test_one_slice_is_charged_the_growth_since_it_began() -> None:
    meter = SliceMeter()
    meter.mark(Usage(50_000_000, 9_000_000), 10.0)
    [metrics] = meter.answered([answer(bytes_in=11, bytes_out=22)], Usage(1_050_000_000, 12_000_000), 11.5)
    assert metrics.cpu_time_s == 1.0
    assert metrics.wall_time_s == 1.5
    assert (metrics.bytes_in, metrics.bytes_out, metrics.peak_memory_bytes) == (11, 22, 12_000_000)
    totals = meter.totals()
    assert (totals.cpu_ns, totals.slices_cpu_ns, totals.overhead_cpu_ns) == (1_050_000_000, 1_000_000_000, 50_000_000)
    assert totals.slices == 1


def test_idle_time_between_slices_is_nobodys() -> None:
    meter = SliceMeter()
    meter.mark(Usage(0, 0), 0.0)
    meter.answered([answer()], Usage(10, 0), 1.0)
    meter.mark(Usage(100, 0), 50.0)
    [metrics] = meter.answered([answer()], Usage(130, 0), 51.0)
    assert metrics.cpu_time_s == 30e-9
    assert metrics.wall_time_s == 1.0
    assert meter.totals().overhead_cpu_ns == 90


def test_a_slice_that_follows_at_once_takes_over_what_the_one_before_left() -> None:
    meter = SliceMeter()
    meter.mark(Usage(0, 0), 0.0)
    meter.answered([answer()], Usage(10, 0), 1.0)
    meter.begin(1.5)
    [metrics] = meter.answered([answer()], Usage(30, 0), 2.0)
    assert (metrics.cpu_time_s, metrics.wall_time_s) == (20e-9, 0.5)
    assert meter.totals().overhead_cpu_ns == 0


def test_answers_that_come_together_share_by_their_own_figures() -> None:
    meter = SliceMeter()
    meter.mark(Usage(0, 0), 0.0)
    first, second = meter.answered([answer(1.0, 3.0), answer(3.0, 1.0)], Usage(400, 0), 4.0)
    assert (first.cpu_time_s, second.cpu_time_s) == (100e-9, 300e-9)
    assert (first.wall_time_s, second.wall_time_s) == (3.0, 1.0)


def test_a_forger_can_only_move_time_between_its_own_slices() -> None:
    meter = SliceMeter()
    meter.mark(Usage(0, 0), 0.0)
    liar, honest = meter.answered([answer(9e14, 9e14), answer(1.0, 1.0)], Usage(1_000_000, 0), 1.0)
    assert liar.cpu_time_s + honest.cpu_time_s <= 0.001


def test_a_counter_that_runs_backwards_charges_nothing() -> None:
    meter = SliceMeter()
    meter.mark(Usage(1000, 0), 5.0)
    [metrics] = meter.answered([answer()], Usage(10, 0), 4.0)
    assert (metrics.cpu_time_s, metrics.wall_time_s) == (0.0, 0.0)


weights = st.lists(st.floats(0, 1e15, exclude_max=True), min_size=1, max_size=40)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**18), weights)
def test_parts_sum_to_the_whole(amount: int, parts: list[float]) -> None:
    shared = share(amount, parts)
    assert sum(shared) == amount
    assert len(shared) == len(parts)
    assert min(shared) >= 0


def test_equal_parts_without_weights() -> None:
    assert share(10, [0.0, 0.0, 0.0]) == [3, 3, 4]


steps = st.lists(
    st.tuples(
        st.integers(-5, 10**9),
        st.floats(-1, 10),
        st.lists(st.floats(0, 1e6), max_size=5),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_slices_never_cost_more_than_the_container(history: list[tuple[int, float, list[float]]]) -> None:
    meter, counter, highest, now, latest, cpu, wall = SliceMeter(), 0, 0, 0.0, 0.0, 0.0, 0.0
    for grown, passed, answers in history:
        counter = max(counter + grown, 0)
        highest = max(highest, counter)
        now += passed
        latest = max(latest, now)
        if answers:
            metered = meter.answered([answer(figure, figure) for figure in answers], Usage(counter, 0), now)
            cpu += sum(metrics.cpu_time_s for metrics in metered)
            wall += sum(metrics.wall_time_s for metrics in metered)
        else:
            meter.mark(Usage(counter, 0), now)
    totals = meter.totals()
    assert totals.cpu_ns == highest
    assert totals.slices_cpu_ns + totals.overhead_cpu_ns == totals.cpu_ns
    assert 0 <= totals.slices_cpu_ns <= highest
    assert cpu == pytest.approx(totals.slices_cpu_ns / 1e9)
    assert wall <= latest + 1e-6


def test_no_measurement_is_no_weight() -> None:
    meter = SliceMeter()
    metered = meter.answered([Answer(0, 0, NO_MEASUREMENT)] * 4, Usage(400, 7), 0.0)
    assert [metrics.cpu_time_s for metrics in metered] == [100e-9] * 4
    assert {metrics.peak_memory_bytes for metrics in metered} == {7}


# -- overhead and reconciliation


def test_overhead_is_told_by_phase() -> None:
    meter = SliceMeter()
    meter.mark(Usage(100, 0), 1.0, Phase.START)
    meter.mark(Usage(107, 0), 2.0)
    meter.mark(Usage(150, 0), 3.0, Phase.ASSIGN)
    meter.answered([answer()], Usage(1150, 0), 4.0)
    metrics = meter.unanswered(5, 6, Usage(1450, 9), 6.0)
    totals = meter.totals()
    assert totals.overhead_by_phase == {Phase.START: 100, Phase.IDLE: 7, Phase.ASSIGN: 43, Phase.UNANSWERED: 300}
    assert (totals.overhead_cpu_ns, totals.slices_cpu_ns, totals.slices) == (450, 1000, 1)
    assert (metrics.cpu_time_s, metrics.wall_time_s, metrics.peak_memory_bytes) == (300e-9, 2.0, 9)
    assert (metrics.bytes_in, metrics.bytes_out) == (5, 6)


def books(kernel: int, paid: int, *, checked: bool = True) -> Reconciliation:
    meter = SliceMeter()
    meter.mark(Usage(400, 0), 0.0, Phase.START)
    meter.answered([answer(), answer()], Usage(1000, 0), 1.0)
    return reconcile(meter.totals(), paid, kernel, checked=checked)


def test_books_balance() -> None:
    assert books(1000, 600).balanced
    assert books(1000, 600).difference_ns == 0
    assert books(1000, 602).balanced, "each figure may be a nanosecond off by its rounding"
    assert books(1000 + 100_000_000, 600).balanced, "the kernel's own work of ending it"


@pytest.mark.parametrize(("kernel", "paid"), [(1000, 603), (997, 600), (1001 + 100_000_000, 600), (0, 600)])
def test_books_that_do_not_balance(kernel: int, paid: int) -> None:
    assert not books(kernel, paid).balanced
    assert books(kernel, paid, checked=False).balanced, "there is nothing to compare with"
    accounts = Accounts()
    assert not accounts.close(books(kernel, paid))
    assert accounts.close(books(1000, 600))
    told = accounts.statistics()
    assert (told["sandboxes"], told["mismatches"], told["slices"]) == (2, 1, 4)
    assert told["largest_mismatch_s"] == pytest.approx(abs(kernel - paid - 400) / 1e9)


life = st.lists(
    st.tuples(st.sampled_from([*Phase, None]), st.integers(-5, 10**10), st.lists(st.floats(0, 1e6), max_size=5)),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(life)
def test_every_life_can_be_reconciled(history: list[tuple[Phase | None, int, list[float]]]) -> None:
    """Whatever happens in whatever order, paid and overhead sum to the counter, to the rounding of a float."""
    meter, counter, now, paid = SliceMeter(), 0, 0.0, 0
    for phase, grown, answers in history:
        counter += max(grown, 0)
        now += 1.0
        if phase is Phase.UNANSWERED:
            meter.unanswered(0, 0, Usage(counter, 0), now)
        elif phase is not None:
            meter.mark(Usage(counter, 0), now, phase)
        elif answers:
            metered = meter.answered([answer(one, one) for one in answers], Usage(counter, 0), now)
            paid += sum(round(metrics.cpu_time_s * 1e9) for metrics in metered)
        else:
            meter.mark(Usage(counter, 0), now)
    now += 1.0
    meter.mark(Usage(counter, 0), now)
    books = reconcile(meter.totals(), paid, counter, checked=True)
    assert books.balanced
    assert books.paid_ns <= books.kernel_ns + books.slices
    assert sum(books.overhead.values()) == meter.totals().overhead_cpu_ns
    accounts = Accounts()
    assert accounts.close(books)
    told = accounts.statistics()
    assert told["cpu_s"] == pytest.approx(told["slices_cpu_s"] + sum(told["overhead_s"].values()), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(3, 10**9))
def test_handing_out_more_than_was_used_never_balances(overhead: int, used: int, more: int) -> None:
    meter = SliceMeter()
    meter.mark(Usage(overhead, 0), 0.0, Phase.START)
    meter.answered([answer(), answer()], Usage(overhead + used, 0), 1.0)
    assert not reconcile(meter.totals(), used + more, overhead + used, checked=True).balanced


def test_time_in_the_run_queue_is_told_as_a_part_of_the_wall_time() -> None:
    meter = SliceMeter()
    assert _queued(meter, 900, 1.0) is None, "the first reading has nothing before it"
    meter.mark(Usage(0, 0, 1_000), 1.0)
    assert _queued(meter, 500_001_000, 2.0) == 0.5
    assert _queued(meter, 500_001_000, 3.0) == 0.0
    assert _queued(meter, None, 4.0) is None
    assert _queued(meter, 600_000_000, 5.0) is None
    assert _queued(meter, 9_000_000_000, 6.0) == 1.0, "never more than all of it"


def _queued(meter: SliceMeter, queued_ns: int | None, now: float) -> float | None:
    return meter.answered([answer()], Usage(0, 0, queued_ns), now)[0].queued_share
