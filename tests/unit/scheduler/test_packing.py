from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.scheduler.packing import Candidate, PackingRules, Portion, is_long, pack

RULES = PackingRules()


def job(key: int = 1, **fields: object) -> Candidate:
    base: dict[str, object] = {"key": key, "waiting": 5000, "leased": 0, "slice_s": 0.001}
    return Candidate(**{**base, **fields})  # type: ignore[arg-type]


def test_empty_slices_go_out_by_the_hundreds() -> None:
    assert pack([job()], 2.0, 2.0, RULES) == [Portion(1, 500)]


def test_long_slices_go_one_per_core() -> None:
    assert pack([job(slice_s=600.0)], 4.0, 4.0, RULES) == [Portion(1, 4)]
    assert is_long(600.0, RULES)
    assert not is_long(None, RULES)


def test_a_task_lasts_about_as_long_as_wanted() -> None:
    assert pack([job(slice_s=0.5)], 1.0, 1.0, RULES) == [Portion(1, 20)]


def test_estimation_goes_slice_by_slice() -> None:
    assert pack([job(slice_s=None, estimation_left=3)], 2.0, 2.0, RULES) == [Portion(1, 2)]
    assert pack([job(slice_s=None, estimation_left=1)], 8.0, 8.0, RULES) == [Portion(1, 1)]
    assert pack([job(slice_s=None, estimation_left=0)], 8.0, 8.0, RULES) == []
    greedy = job(slice_s=None, estimation_left=3, greedy_estimation=True)
    assert pack([greedy], 1.0, 1.0, RULES) == [Portion(1, 3)]


def test_the_end_of_a_job_is_shared() -> None:
    # 40 slices of 1 s are left and ten cores are there: one core does not take ten of them.
    (portion,) = pack([job(waiting=40, slice_s=1.0)], 1.0, 10.0, RULES)
    assert portion.slices == 2


def test_very_many_workers_do_not_all_ask_for_single_slices() -> None:
    """10,000 core-seconds in tasks of one are 10,000 answers, in tasks of five 2,000 that take no longer than 4 s."""
    of_thousands = pack([job(waiting=10_000, slice_s=1.0)], 1.0, 100_000.0, RULES)
    assert of_thousands == [Portion(1, 5)]
    # The less is left, the finer it is shared, down to what is worth a message.
    assert pack([job(waiting=1_000, slice_s=1.0)], 1.0, 100_000.0, RULES) == [Portion(1, 2)]
    assert pack([job(waiting=100, slice_s=1.0)], 1.0, 100_000.0, RULES) == [Portion(1, 1)]
    # Where few share, their parts are larger than that in any case.
    assert pack([job(waiting=10_000, slice_s=1.0)], 1.0, 1_000.0, RULES) == [Portion(1, 5)]
    assert pack([job(waiting=1_000, slice_s=1.0)], 1.0, 100.0, RULES) == [Portion(1, 5)]


def test_a_discrete_job_gives_one_slice_per_task() -> None:
    assert pack([job(discrete=True)], 8.0, 8.0, RULES) == [Portion(1, 1)]


def test_jobs_get_equal_parts() -> None:
    portions = pack([job(1, slice_s=0.1), job(2, slice_s=0.1)], 2.0, 2.0, RULES)
    assert [portion.slices for portion in portions] == [100, 100]


def test_the_job_with_less_work_out_comes_first() -> None:
    assert pack([job(1, leased=10), job(2)], 1.0, 1.0, RULES)[0].key == 2
    assert pack([job(1, served_at=5.0), job(2, served_at=4.0)], 1.0, 1.0, RULES)[0].key == 2


def test_no_load_no_slices() -> None:
    assert pack([job()], 0.0, 1.0, RULES) == []
    assert pack([], 4.0, 4.0, RULES) == []


candidates = st.lists(
    st.builds(
        Candidate,
        key=st.integers(1, 10**6),
        waiting=st.integers(0, 10**7),
        leased=st.integers(0, 1000),
        slice_s=st.none() | st.floats(0, 1e6),
        estimation_left=st.none() | st.integers(-5, 100),
        greedy_estimation=st.booleans(),
        discrete=st.booleans(),
    ),
    unique_by=lambda one: one.key,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(candidates, st.floats(0.01, 64), st.floats(0.01, 10_000))
def test_never_more_than_there_is_or_fits(jobs: list[Candidate], load: float, cluster: float) -> None:
    portions = pack(jobs, load, cluster, RULES)
    by_key = {one.key: one for one in jobs}
    assert sum(portion.slices for portion in portions) <= RULES.max_slices
    assert len({portion.key for portion in portions}) == len(portions)
    for portion in portions:
        one = by_key[portion.key]
        assert 0 < portion.slices <= one.waiting
        if one.estimation_left is not None:
            assert portion.slices <= one.estimation_left
        if one.discrete:
            assert portion.slices == 1
    if any(one.waiting > 0 and (one.estimation_left is None or one.estimation_left > 0) for one in jobs):
        assert portions, "a worker with room never goes away empty while slices wait"


def test_a_worker_that_is_alone_shares_the_end_of_a_job_with_nobody() -> None:
    job = Candidate(key=1, waiting=40, leased=0, slice_s=0.1)
    assert pack([job], 2.0, 2.0, RULES, alone=True) == [Portion(1, 40)]
    assert sum(portion.slices for portion in pack([job], 2.0, 2.0, RULES)) < 40
