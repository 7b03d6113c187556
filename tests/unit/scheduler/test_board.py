"""Who is served: fair among owners, by price, and nobody starves. The real board and packing, in simulated time."""

from __future__ import annotations

import collections
import dataclasses
import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler.board import Board, BoardRules, Entry
from orchestrator.scheduler.estimates import Estimate, Measured
from orchestrator.scheduler.lifecycle import Counts, SliceState
from orchestrator.scheduler.matching import JobProfile, WhyNot, WorkerProfile
from orchestrator.scheduler.packing import Candidate, PackingRules, pack
from orchestrator.scheduler.ranking import Queue
from orchestrator.scheduler.store.jobs import JobState

RULES = PackingRules()
WORKER = WorkerProfile("w", 64, frozenset({"public"}), frozenset(), ())


def cost(work_s: float) -> Estimate:
    return Estimate().fold([Measured(work_s * 1000, work_s * 1000, 0, 0, 0)])


def state(key: int, total: int, *, work_s: float = 1.0, **fields: object) -> JobState:
    base = JobState(key, RunStatus.RUNNING, True, True, Counts(total=total), cost(work_s), 3)
    return dataclasses.replace(base, **fields)  # type: ignore[arg-type]


def profile(key: int, **fields: object) -> JobProfile:
    base = JobProfile(f"job{key}", 64, frozenset({"public"}), False, ("map-basic", "*"))
    return dataclasses.replace(base, **fields)  # type: ignore[arg-type]


def anything(_: Entry) -> None:
    return None


class Cluster:
    """Workers that take tasks from the real board as the task distributor does, and compute them in virtual time."""

    def __init__(self, cores: list[int], rules: BoardRules | None = None) -> None:
        self.board = Board(rules or BoardRules())
        self.cores = cores
        self.now = 0.0
        self.got: collections.Counter[str] = collections.Counter()
        self.portions: list[int] = []
        self._ends: list[tuple[float, int, list[tuple[int, int]]]] = [(0.0, worker, []) for worker in range(len(cores))]

    def deploy(self, key: int, owner: str, *, total: int = 10**7, work_s: float = 1.0, weight: float = 1.0) -> None:
        self.board.post(key, owner, profile(key), state(key, total, work_s=work_s), weight=weight, since=self.now)

    def run(self, until: float) -> None:
        while self._ends and self._ends[0][0] <= until:
            self.now, worker, done = heapq.heappop(self._ends)
            for key, number in done:
                self._settle(key, number)
            task = self._take(worker)
            took = sum(self._work(key) * number for key, number in task) / self.cores[worker]
            heapq.heappush(self._ends, (self.now + max(took, 0.5), worker, task))

    def _take(self, worker: int) -> list[tuple[int, int]]:
        choices, *_ = self.board.window(WORKER, anything)
        offered = [
            Candidate(
                one.entry.key, one.entry.state.counts.waiting, one.entry.state.counts.leased, one.entry.work_s,
                served_at=one.entry.state.served_at, owner=one.entry.owner, owner_account=one.owner_account,
                account=one.entry.account, weight=one.entry.weight, first=one.first,
            )
            for one in choices
        ]  # fmt: skip
        task = [(one.key, one.slices) for one in pack(offered, self.cores[worker], sum(self.cores), RULES)]
        for key, number in task:
            entry = self._entry(key)
            counts = entry.state.counts.leased_fresh(number)
            self.board.update(dataclasses.replace(entry.state, counts=counts, served_at=self.now), entry.weight)
            self.got[entry.owner] += number * self._work(key)
            self.portions.append(key)
        return task

    def _settle(self, key: int, number: int) -> None:
        entry = self._entry(key)
        counts = entry.state.counts.moved(SliceState.LEASED, SliceState.ACCEPTED, number)
        self.board.update(dataclasses.replace(entry.state, counts=counts), entry.weight)

    def _entry(self, key: int) -> Entry:
        entry = self.board.get(key)
        assert entry is not None
        return entry

    def _work(self, key: int) -> float:
        return self._entry(key).work_s


def jain(shares: list[float]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(one * one for one in shares))


def test_owners_share_equally_whatever_their_jobs_look_like() -> None:
    cluster = Cluster([1, 2, 4, 8, 8, 1])
    cluster.deploy(1, "one long job", work_s=45.0)
    cluster.deploy(2, "one job of empty slices", work_s=0.002)
    for key in range(10, 60):
        cluster.deploy(key, "fifty jobs", work_s=0.5 + key % 7)
    cluster.deploy(3, "two jobs", work_s=2.0)
    cluster.deploy(4, "two jobs", work_s=30.0)
    cluster.deploy(5, "one job of seconds", work_s=3.0)
    cluster.run(until=2000.0)
    cluster.board.validate()
    assert len(cluster.got) == 5
    assert jain([float(one) for one in cluster.got.values()]) >= 0.95


def test_many_owners_share_equally_over_a_short_time() -> None:
    cluster = Cluster([4] * 25)
    for key in range(100):
        cluster.deploy(key, f"owner {key}", work_s=[0.01, 1.0, 7.0, 20.0][key % 4])
    cluster.run(until=600.0)
    assert len(cluster.got) == 100
    assert jain([float(one) for one in cluster.got.values()]) >= 0.95


def test_twice_the_price_gets_twice_the_work() -> None:
    cluster = Cluster([2] * 8)
    for key, weight in ((1, 1.0), (2, 2.0), (3, 4.0)):
        cluster.deploy(key, f"pays {weight}", work_s=2.0, weight=weight)
    cluster.run(until=3000.0)
    parts = [cluster.got[f"pays {weight}"] / cluster.got["pays 1.0"] for weight in (2.0, 4.0)]
    assert parts == [pytest.approx(2.0, rel=0.15), pytest.approx(4.0, rel=0.2)]


def test_of_one_owner_the_job_that_pays_more_gets_more() -> None:
    cluster = Cluster([2] * 8)
    cluster.deploy(1, "owner", weight=1.0)
    cluster.deploy(2, "owner", weight=3.0)
    cluster.run(until=1000.0)
    first, second = (cluster.board.get(key) for key in (1, 2))
    assert first is not None and second is not None
    assert second.state.counts.cursor / first.state.counts.cursor == pytest.approx(3.0, rel=0.25)


def test_a_newcomer_neither_starves_the_others_nor_waits_for_them() -> None:
    cluster = Cluster([4] * 4)
    cluster.deploy(1, "old")
    cluster.run(until=5000.0)
    before = cluster.got["old"]
    cluster.deploy(2, "new")
    cluster.run(until=6000.0)
    assert cluster.got["new"] == pytest.approx(cluster.got["old"] - before, rel=0.1)


def test_whoever_was_away_saved_nothing_up() -> None:
    cluster = Cluster([4] * 4)
    cluster.deploy(1, "stays")
    cluster.deploy(2, "goes", total=200)
    cluster.run(until=3000.0)
    before = cluster.got["stays"], cluster.got["goes"]
    cluster.deploy(3, "goes")
    cluster.run(until=3400.0)
    assert cluster.got["goes"] - before[1] == pytest.approx(cluster.got["stays"] - before[0], rel=0.1)


@pytest.mark.parametrize("patience", [3, 8])
def test_no_job_waits_longer_than_the_bound_whatever_others_pay(patience: int) -> None:
    cluster = Cluster([1], BoardRules(patience=patience))
    for key in range(1, 21):
        cluster.deploy(key, f"rich {key}", weight=16.0)
    poor = list(range(101, 106))
    for key in poor:
        cluster.deploy(key, "poor", weight=1 / 16)
    cluster.run(until=4000.0)
    gaps = dict.fromkeys(poor, 0)
    longest = dict(gaps)
    for served in cluster.portions:
        for key in poor:
            gaps[key] = 0 if key == served else gaps[key] + 1
            longest[key] = max(longest[key], gaps[key])
    assert len(cluster.portions) > 25 * patience
    # One in `patience` goes to the longest waiting of 25 jobs.
    assert max(longest.values()) <= patience * 25
    assert all(key in cluster.portions for key in poor)


def test_a_worker_is_refused_what_its_machine_or_groups_do_not_allow() -> None:
    board = Board()
    board.post(1, "a", profile(1, needs=64 | 32), state(1, 5), weight=1)
    board.post(2, "a", profile(2, groups=frozenset({"private"})), state(2, 5), weight=1)
    board.post(3, "a", profile(3), state(3, 5), weight=1)
    board.post(4, "a", profile(4, local_exec=True), state(4, 5), weight=1)
    choices, refused, _ = board.window(WORKER, lambda one: WhyNot.REJECTED if one.key == 3 else None)
    assert choices == []
    assert refused == {WhyNot.CAPABILITY: 1, WhyNot.REJECTED: 1}
    assert board.waiting_elsewhere(frozenset({"public"})) == 1
    assert board.waiting_elsewhere(frozenset(), within=frozenset({"public"})) == 2
    named = dataclasses.replace(WORKER, job_ids=frozenset({"job4", "job9"}))
    assert [one.entry.key for one in board.window(named, anything)[0]] == [4]


def test_a_job_that_is_being_measured_holds_the_rest_back() -> None:
    board = Board()
    new = state(1, 10, status=RunStatus.ESTIMATION, estimate=Estimate(), counts=Counts(total=10, cursor=3, leased=3))
    board.post(1, "a", profile(1), new, weight=1)
    choices, refused, _ = board.window(WORKER, anything)
    assert (choices, refused) == ([], {WhyNot.ESTIMATING: 1})
    assert [one.key for one in board.ending(WORKER, 5)] == [1]
    counts = Counts(total=10, cursor=3, leased=2, accepted=1)
    assert board.update(dataclasses.replace(new, counts=counts), 1.0) == 1
    assert [one.entry.key for one in board.window(WORKER, anything)[0]] == [1]


def test_jobs_that_fit_are_found_behind_many_that_do_not() -> None:
    board = Board()
    for key in range(200):
        board.post(key, f"owner {key}", profile(key), state(key, 5, served_at=float(key)), weight=1)
    choices, refused, _ = board.window(WORKER, lambda one: None if one.key == 177 else WhyNot.REJECTED)
    assert [one.entry.key for one in choices] == [177]
    assert refused[WhyNot.REJECTED] >= 100


changes = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.sampled_from(["lease", "accept", "return", "end", "pause", "group", "add"]),
        st.integers(1, 5),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(changes)
def test_accounts_and_queues_follow_every_change(steps: list[tuple[int, str, int]]) -> None:
    board = Board(BoardRules(patience=3))
    for key, what, number in steps:
        entry = board.get(key)
        if entry is None:
            groups = frozenset({"public"} if key % 2 else {"public", "private"})
            board.post(key, f"owner {key % 3}", profile(key, groups=groups), state(key, number), weight=float(number))
            board.validate()
            continue
        now, counts = entry.state, entry.state.counts
        if what == "lease":
            many = min(number, counts.total - counts.cursor)
            now = dataclasses.replace(now, counts=counts.leased_fresh(many), served_at=now.served_at + 1)
        elif what in ("accept", "return") and counts.leased:
            after = SliceState.ACCEPTED if what == "accept" else SliceState.READY
            now = dataclasses.replace(now, counts=counts.moved(SliceState.LEASED, after, min(number, counts.leased)))
        elif what == "end":
            now = dataclasses.replace(now, status=RunStatus.FINISHED, ended_at=1.0)
        elif what == "pause":
            other = RunStatus.PAUSED if now.status is RunStatus.RUNNING else RunStatus.RUNNING
            now = dataclasses.replace(now, status=other)
        elif what == "add":
            now = dataclasses.replace(now, counts=dataclasses.replace(counts, total=counts.total + number))
        elif what == "group":
            board.post(key, entry.owner, profile(key, groups=frozenset({"private"})), now, weight=1.0)
            board.validate()
            continue
        board.update(now, float(number))
        board.validate()
        choices, *_ = board.window(WORKER, anything)
        assert all(one.entry.has_slices for one in choices)


@given(st.lists(st.tuples(st.integers(0, 8), st.none() | st.integers(0, 20)), max_size=80), st.integers(1, 9))
def test_a_queue_is_in_order(steps: list[tuple[int, int | None]], many: int) -> None:
    queue: Queue[int] = Queue()
    ranks: dict[int, int] = {}
    for item, rank in steps:
        if rank is None:
            queue.remove(item)
            ranks.pop(item, None)
        else:
            queue.put(item, rank)
            ranks[item] = rank
        first = queue.first(many)
        assert [ranks[one] for one in first] == sorted(ranks.values())[:many]
        assert len(set(first)) == len(first) == min(many, len(queue))


def test_a_request_looks_at_few_of_many_jobs() -> None:
    """Not a matter of speed: how much is looked at is counted."""
    looked = []
    for number in (3_000, 12_000):
        board = Board()
        for key in range(number):
            board.post(key, f"owner {key % 997}", profile(key), state(key, 10**7), weight=1)
        seen: list[int] = []

        def look(entry: Entry, seen: list[int] = seen) -> None:
            seen.append(entry.key)

        for _ in range(10):
            choices, *_ = board.window(WORKER, look)
            entry = choices[0].entry
            counts = entry.state.counts.leased_fresh(3)
            board.update(dataclasses.replace(entry.state, counts=counts), 1.0)
        looked.append(len(seen))
    assert max(looked) <= 10 * 40


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 20)), max_size=200))
def test_a_queue_is_in_order_after_any_changes(steps: list[tuple[int, int | None]]) -> None:
    queue: Queue[int] = Queue()
    ranks: dict[int, float] = {}
    for item, rank in steps:
        if rank is None:
            queue.remove(item)
            ranks.pop(item, None)
        else:
            queue.put(item, rank)
            ranks[item] = rank
        told = list(queue.ordered())
        assert sorted(told) == sorted(ranks)
        assert [ranks[one] for one in told] == sorted(ranks.values())
        assert (queue.lowest() is None) == (not ranks)
        assert queue.lowest() is None or ranks[queue.lowest()] == min(ranks.values())  # type: ignore[index]
        assert queue.first(3) == told[:3]
