"""Pure: which jobs have slices for whom, and in which order they are served.

Owners share what workers give. Each has an account per compute group: the work that it got there, each core-second
divided by the weight of its price (see `market.weight`). The owner with the lowest account is served first, and of
its jobs the one with the lowest account of its own: at equal price owners get equal parts, at twice the price twice as
much.
Work in workers' hands counts as got, so what comes back unfinished is given back. Whoever was away saves nothing up:
an account begins where the one served last stands.

Price cannot starve anybody: among jobs with the same requirements, of every `patience` portions that their group
hands out one goes to the job that has waited longest.

Accounts only grow, and every process that hears of all work comes to the same: what several keep, or one has kept
before it ended, is brought together by taking the higher value (`grown`, `load`).

Jobs are kept in heaps as they change, and a request looks at a bounded number of them: its cost grows neither with the
number of jobs nor with that of slices.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler.escrow import may_lease
from orchestrator.scheduler.lifecycle import DISTRIBUTABLE
from orchestrator.scheduler.matching import JobProfile, Requirement, WhyNot, WorkerProfile, lacks
from orchestrator.scheduler.ranking import Queue
from orchestrator.scheduler.store.jobs import JobState

UNKNOWN_WORK_S = 1.0
"""taken for the work of a slice before any was measured"""
MOST_LOOKED_AT = 256
"""jobs that one request may look at"""
MOST_ACCOUNTS = 20_000
"""per group; those of owners without jobs are dropped then, what they were ahead is forgotten"""
MOST_LANES = 64
"""kinds of requirements that one request looks at, per group"""
_FIRST_OWNERS, _FIRST_JOBS = 8, 4

AccountName = tuple[str, str]
"""compute group, owner"""


@dataclasses.dataclass(frozen=True, slots=True)
class BoardRules:
    patience: int = 8
    """every so many portions the job that has waited longest is served, whatever others pay"""
    credit_s: float = 10.0
    """the most work that an owner can be behind, and catch up"""


@dataclasses.dataclass(slots=True, eq=False)
class Entry:
    """A job that has not ended."""

    key: int
    owner: str
    profile: JobProfile
    state: JobState
    since: float
    """when it came"""
    weight: float = 1.0
    market_multiple: float = 0.0
    """offered; 0 for jobs that offer an amount"""
    changed: int = 0
    """number of the board's last change of it"""
    counted: bool = False
    start: float = 0.0
    """where its account began"""
    done: float = 0.0
    out: float = 0.0
    requirement: Requirement = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.requirement = self.profile.requirement

    @property
    def account(self) -> float:
        return self.start + self.done + self.out

    @property
    def waits_since(self) -> float:
        return max(self.since, self.state.served_at)

    @property
    def work_s(self) -> float:
        work = self.state.estimate.work_s
        return UNKNOWN_WORK_S if work is None else max(work, 1e-6)

    @property
    def has_slices(self) -> bool:
        """Slices wait, and not only for the first ones to be measured."""
        counts, state = self.state.counts, self.state
        if state.status not in DISTRIBUTABLE or may_lease(state.funded, counts) <= 0:
            return False
        estimating = state.status is RunStatus.ESTIMATION and counts.settled == 0
        return not estimating or state.estimation_slices is None or counts.leased < state.estimation_slices

    @property
    def is_ending(self) -> bool:
        """Workers have slices of it, and there are none for others, or none before these are measured."""
        state = self.state
        nothing_else = may_lease(state.funded, state.counts) == 0 or state.status is RunStatus.ESTIMATION
        return state.status in DISTRIBUTABLE and state.counts.leased > 0 and nothing_else


@dataclasses.dataclass(slots=True)
class _Account:
    done: float = 0.0
    out: float = 0.0
    jobs: int = 0
    lanes: list[_Lane] = dataclasses.field(default_factory=list)
    """where its owner has slices waiting"""

    @property
    def total(self) -> float:
        return self.done + self.out


class _Lane:
    """Jobs of one group with the same requirements."""

    def __init__(self) -> None:
        self.owners: Queue[str] = Queue()
        self.jobs: dict[str, Queue[int]] = {}
        self.longest: Queue[int] = Queue()
        self.ending: Queue[int] = Queue()
        self.longest_served_at = 0
        """portions of the group when the job that had waited longest was served"""
        self.measuring: set[int] = set()

    def __bool__(self) -> bool:
        return bool(len(self.longest) or len(self.ending) or self.measuring)


class _Pool:
    """One compute group."""

    def __init__(self) -> None:
        self.lanes: dict[Requirement, _Lane] = {}
        self.accounts: dict[str, _Account] = {}
        self.stands_at = 0.0
        """the highest account that was served as the lowest"""
        self.portions = 0
        self.turn = 0

    def some_lanes(self) -> list[tuple[Requirement, _Lane]]:
        lanes = list(self.lanes.items()) if len(self.lanes) <= MOST_LANES else None
        if lanes is None:
            # More kinds than can be looked at: others each time.
            self.turn = (self.turn + MOST_LANES) % len(self.lanes)
            names = list(self.lanes)
            names = (names + names)[self.turn : self.turn + MOST_LANES]
            lanes = [(name, self.lanes[name]) for name in names]
        return lanes


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """A job that may give slices to the asking worker, and where it stands."""

    entry: Entry
    owner_account: float
    """how far its owner is ahead of the group, in weighted core-seconds"""
    first: bool = False
    """it has waited longest, and is served before all others"""


class Board:
    def __init__(self, rules: BoardRules = BoardRules()) -> None:
        self._rules = rules
        self._entries: dict[int, Entry] = {}
        self._by_id: dict[str, int] = {}
        self._pools: dict[str, _Pool] = {}
        self._owner_stands_at: dict[str, float] = {}
        self._waiting: collections.Counter[frozenset[str]] = collections.Counter()
        """jobs that wait, by the groups that they are in"""
        self._written: dict[AccountName, float] = {}
        """accounts as they were given to `load`"""
        self.changes = 0
        """how often a job was put on it or changed"""
        self._jobs_of: collections.Counter[str] = collections.Counter()

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: int) -> Entry | None:
        return self._entries.get(key)

    def post(
        self,
        key: int,
        owner: str,
        profile: JobProfile,
        state: JobState,
        *,
        weight: float,
        since: float = 0.0,
        market_multiple: float = 0.0,
    ) -> None:
        """A job has come, or has joined other groups."""
        before = self._entries.get(key)
        if before is not None:
            done = before.account - before.out
            self._drop(before)
        else:
            done = self._owner_stands_at.get(owner, 0.0)
        if state.ended_at is not None:
            return
        entry = Entry(key, owner, profile, state, since, weight, market_multiple, start=done)
        self._entries[key] = entry
        self._by_id[profile.job_id] = key
        self._jobs_of[owner] += 1
        for pool in self._pools_of(entry):
            account = pool.accounts.setdefault(owner, _Account())
            if account.jobs == 0:
                account.done = max(account.done, pool.stands_at - account.out)
            account.jobs += 1
        self._place(entry)
        self._charge(entry, 0.0, state.counts.leased * entry.work_s / weight)
        self._place(entry)

    def update(self, state: JobState, weight: float) -> int:
        """A job has changed; the answer is how many results were accepted since. The job must be on the board."""
        entry = self._entries[state.key]
        before = entry.state
        if state.ended_at is not None:
            self._drop(entry)
            return max(0, state.counts.earning - before.counts.earning)
        if state.counts.leased > before.counts.leased:
            self._served(entry)
        entry.state, entry.weight = state, weight
        computed = max(0, state.computed - before.computed)
        self._charge(entry, computed * entry.work_s / weight, state.counts.leased * entry.work_s / weight)
        self._place(entry)
        return max(0, state.counts.earning - before.counts.earning)

    def forget(self, key: int) -> None:
        entry = self._entries.get(key)
        if entry is not None:
            self._drop(entry)

    def grown(self) -> dict[AccountName, float]:
        """Accounts above what `load` was given, and where groups stand (under no owner)."""
        fresh = {}
        for group, pool in self._pools.items():
            if pool.stands_at > self._written.get((group, ""), 0.0):
                fresh[group, ""] = pool.stands_at
            for owner, account in pool.accounts.items():
                if account.done > self._written.get((group, owner), 0.0):
                    fresh[group, owner] = account.done
        return fresh

    def load(self, known: Mapping[AccountName, float]) -> None:
        """What other processes, or earlier ones, have counted; and what was written."""
        if len(self._written) > 4 * MOST_ACCOUNTS:
            self._written.clear()  # some is written once more
        for (group, owner), done in known.items():
            pool = self._pools.setdefault(group, _Pool())
            if not owner:
                pool.stands_at = max(pool.stands_at, done)
        for (group, owner), done in known.items():
            pool = self._pools[group]
            if owner and (owner in pool.accounts or (done > pool.stands_at and len(pool.accounts) < MOST_ACCOUNTS)):
                account = pool.accounts.setdefault(owner, _Account())
                account.done = max(account.done, done)
                for lane in account.lanes:
                    lane.owners.put(owner, account.total)
            self._written[group, owner] = max(done, self._written.get((group, owner), 0.0))

    def window(
        self, worker: WorkerProfile, look: Callable[[Entry], WhyNot | None], most: int = 32
    ) -> tuple[list[Choice], collections.Counter[WhyNot], list[tuple[int, WhyNot]]]:
        """Jobs that `look` finds fit for the worker, in the order in which they should be served; how many others
        wait, by what is in the way; and some of these. Only the first few hundred are looked at."""
        refused: collections.Counter[WhyNot] = collections.Counter()
        unfit: list[tuple[int, WhyNot]] = []
        if worker.job_ids:
            named = [self._entries[key] for job in worker.job_ids if (key := self._by_id.get(job)) is not None]
            chosen: list[Choice] = []
            for entry in sorted(named, key=lambda one: (one.account, one.key)):
                if entry.has_slices:
                    self._try(entry, Choice(entry, 0.0), look, chosen, refused)
                elif entry.state.counts.waiting > 0:
                    refused[WhyNot.ESTIMATING] += 1
            return chosen, refused, unfit
        lanes = list(self._lanes_for(worker, refused, unfit))
        choices: list[Choice] = []
        seen: set[int] = set()
        for _, lane in lanes:
            refused[WhyNot.ESTIMATING] += len(lane.measuring)
            unfit += [(key, WhyNot.ESTIMATING) for key in itertools.islice(lane.measuring, _FIRST_JOBS)]
        lanes = [(pool, lane) for pool, lane in lanes if len(lane.longest)]
        if not lanes:  # as at the end of a job, for everybody who asks
            return choices, +refused, unfit
        for entry, pool in self._due(lanes):
            if look(entry) is None:
                seen.add(entry.key)
                choices.append(Choice(entry, self._ahead(pool, entry.owner), first=True))
                break
        owners, per_owner = _FIRST_OWNERS, _FIRST_JOBS
        while True:
            found_any = False
            for choice in self._front(lanes, owners, per_owner):
                if choice.entry.key in seen:
                    continue
                if len(choices) >= most or len(seen) >= MOST_LOOKED_AT:
                    return choices, +refused, unfit
                found_any = True
                seen.add(choice.entry.key)
                self._try(choice.entry, choice, look, choices, refused)
            if choices or not found_any:
                return choices, +refused, unfit
            owners, per_owner = owners * 4, per_owner * 4

    @staticmethod
    def _try(
        entry: Entry,
        choice: Choice,
        look: Callable[[Entry], WhyNot | None],
        choices: list[Choice],
        refused: collections.Counter[WhyNot],
    ) -> None:
        reason = look(entry)
        if reason is None:
            choices.append(choice)
        else:
            refused[reason] += 1

    def _lanes_for(
        self, worker: WorkerProfile, refused: collections.Counter[WhyNot], unfit: list[tuple[int, WhyNot]]
    ) -> Iterator[tuple[_Pool, _Lane]]:
        for group in worker.groups:
            pool = self._pools.get(group)
            if pool is None:
                continue
            for requirement, lane in pool.some_lanes():
                missing = lacks(requirement, worker)
                if missing is None:
                    yield pool, lane
                else:
                    refused[missing[0]] += len(lane.longest) + len(lane.measuring)
                    unfit += [(key, missing[0]) for key in lane.longest.first(_FIRST_JOBS)]

    def _due(self, lanes: Iterable[tuple[_Pool, _Lane]]) -> Iterator[tuple[Entry, _Pool]]:
        """Jobs that have waited longest in lanes whose turn it is, the longest first."""

        def of_lane(pool: _Pool, lane: _Lane) -> Iterator[tuple[Entry, _Pool]]:
            for key in itertools.islice(lane.longest.ordered(), _FIRST_JOBS):
                yield self._entries[key], pool

        streams = [
            of_lane(pool, lane)
            for pool, lane in lanes
            if pool.portions - lane.longest_served_at >= self._rules.patience - 1
        ]
        return heapq.merge(*streams, key=lambda one: (one[0].waits_since, one[0].key))

    def _front(self, lanes: Iterable[tuple[_Pool, _Lane]], owners: int, per_owner: int) -> Iterator[Choice]:
        """The first jobs of the first owners of each lane, in the order in which they should be served. Only as many
        are looked up as are asked for."""

        def of_lane(pool: _Pool, lane: _Lane) -> Iterator[tuple[float, Choice]]:
            for owner in itertools.islice(lane.owners.ordered(), owners):
                total, ahead = pool.accounts[owner].total, self._ahead(pool, owner)
                for key in itertools.islice(lane.jobs[owner].ordered(), per_owner):
                    yield total, Choice(self._entries[key], ahead)

        streams = [of_lane(pool, lane) for pool, lane in lanes]
        merged = heapq.merge(
            *streams, key=lambda one: (one[1].owner_account, one[0], one[1].entry.account, one[1].entry.key)
        )
        for _, choice in merged:
            yield choice

    def ending(self, worker: WorkerProfile, most: int) -> list[Entry]:
        """Jobs of the worker's groups whose last slices are out, the longest unserved first."""
        if worker.job_ids:
            named = [self._entries[key] for job in worker.job_ids if (key := self._by_id.get(job)) is not None]
            return [entry for entry in named if entry.is_ending][:most]
        found: dict[int, Entry] = {}
        for _, lane in self._lanes_for(worker, collections.Counter(), []):
            for key in lane.ending.first(most):
                found[key] = self._entries[key]
        return sorted(found.values(), key=lambda one: one.state.served_at)[:most]

    def _ahead(self, pool: _Pool, owner: str) -> float:
        return max(pool.accounts[owner].total - pool.stands_at, -self._rules.credit_s)

    def _pools_of(self, entry: Entry) -> Iterator[_Pool]:
        if not entry.profile.local_exec:
            for group in entry.profile.groups:
                pool = self._pools.get(group)
                if pool is None:
                    pool = self._pools[group] = _Pool()
                yield pool

    def _served(self, entry: Entry) -> None:
        """It is about to get a portion."""
        for pool in self._pools_of(entry):
            account = pool.accounts[entry.owner]
            account.done = max(account.done, pool.stands_at - self._rules.credit_s - account.out)
            lane = self._lane(pool, entry)
            first = lane.owners.lowest()
            lowest = account.total if first is None else pool.accounts[first].total
            pool.stands_at = max(pool.stands_at, min(account.total, lowest))
            pool.portions += 1
            if entry.key == lane.longest.lowest():
                lane.longest_served_at = pool.portions
        before = self._owner_stands_at.get(entry.owner, 0.0)
        self._owner_stands_at[entry.owner] = max(before, entry.account)

    def _charge(self, entry: Entry, done: float, out: float) -> None:
        for pool in self._pools_of(entry):
            account = pool.accounts[entry.owner]
            account.done += done
            account.out += out - entry.out
            for lane in account.lanes:
                lane.owners.put(entry.owner, account.total)
        entry.done += done
        entry.out = out

    @staticmethod
    def _lane(pool: _Pool, entry: Entry) -> _Lane:
        lane = pool.lanes.get(entry.requirement)
        if lane is None:
            lane = pool.lanes[entry.requirement] = _Lane()
        return lane

    def _place(self, entry: Entry) -> None:
        """Put a job where it belongs after a change."""
        self.changes += 1
        entry.changed = self.changes
        key, owner, state = entry.key, entry.owner, entry.state
        waits = state.status in DISTRIBUTABLE and state.counts.waiting > 0
        self._count_waiting(entry, waits)
        has_slices, is_ending = entry.has_slices, entry.is_ending
        for pool in self._pools_of(entry):
            lane = self._lane(pool, entry)
            if has_slices:
                lane.jobs.setdefault(owner, Queue()).put(key, entry.account)
                account = pool.accounts[owner]
                if owner not in lane.owners:
                    account.lanes.append(lane)
                lane.owners.put(owner, account.total)
                lane.longest.put(key, entry.waits_since)
            else:
                self._leave(pool, lane, entry)
            if is_ending:
                lane.ending.put(key, state.served_at)
            else:
                lane.ending.remove(key)
            (lane.measuring.add if waits and not has_slices else lane.measuring.discard)(key)

    @staticmethod
    def _leave(pool: _Pool, lane: _Lane, entry: Entry) -> None:
        lane.longest.remove(entry.key)
        mine = lane.jobs.get(entry.owner)
        if mine is not None:
            mine.remove(entry.key)
            if not len(mine):
                del lane.jobs[entry.owner]
                lane.owners.remove(entry.owner)
                pool.accounts[entry.owner].lanes.remove(lane)

    def _drop(self, entry: Entry) -> None:
        self._charge(entry, 0.0, 0.0)
        self._count_waiting(entry, False)
        for pool in self._pools_of(entry):
            lane = self._lane(pool, entry)
            self._leave(pool, lane, entry)
            lane.ending.remove(entry.key)
            lane.measuring.discard(entry.key)
            if not lane:
                del pool.lanes[entry.requirement]
            account = pool.accounts[entry.owner]
            account.jobs -= 1
            if account.jobs == 0 and account.total <= pool.stands_at:
                del pool.accounts[entry.owner]
            if len(pool.accounts) > MOST_ACCOUNTS:
                pool.accounts = {owner: one for owner, one in pool.accounts.items() if one.jobs}
        del self._entries[entry.key]
        self._by_id.pop(entry.profile.job_id, None)
        self._jobs_of[entry.owner] -= 1
        if not self._jobs_of[entry.owner]:
            del self._jobs_of[entry.owner]
            self._owner_stands_at.pop(entry.owner, None)

    def _count_waiting(self, entry: Entry, waits: bool) -> None:
        if waits is not entry.counted and not entry.profile.local_exec:
            entry.counted = waits
            self._waiting[entry.profile.groups] += 1 if waits else -1
            if not self._waiting[entry.profile.groups]:
                del self._waiting[entry.profile.groups]

    def waiting_elsewhere(self, groups: frozenset[str], *, within: frozenset[str] | None = None) -> int:
        """How many jobs wait that are in none of these groups; with `within`, of those that are in some of those."""
        return sum(
            count
            for theirs, count in self._waiting.items()
            if not theirs & groups and (within is None or theirs & within)
        )

    def place_of(self, key: int) -> dict[str, float | int] | None:
        """Where a job stands, for whoever asks why it waits: how far its owner is ahead of each group (weighted
        core-seconds), the weight of its price, and since when it waits."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        ahead = {
            f"ahead in {group}": self._ahead(self._pools[group], entry.owner)
            for group in entry.profile.groups
            if group in self._pools and not entry.profile.local_exec
        }
        return {"weight": entry.weight, "waitsSince": entry.waits_since, **ahead}

    def validate(self) -> None:
        """Raise `AssertionError` unless accounts and queues agree with the jobs. Looks at everything: for tests."""
        for pool in self._pools.values():
            mine = [one for one in self._entries.values() if any(one_pool is pool for one_pool in self._pools_of(one))]
            out: dict[str, float] = {}
            for entry in mine:
                out[entry.owner] = out.get(entry.owner, 0.0) + entry.out
            for owner, account in pool.accounts.items():
                assert abs(account.out - out.get(owner, 0.0)) <= 1e-6 * (1 + abs(account.out)), "work that is out"
                assert account.jobs == sum(entry.owner == owner for entry in mine), "jobs of an owner"
            queued = {key for lane in pool.lanes.values() for queue in lane.jobs.values() for key in queue}
            assert queued == {entry.key for entry in mine if entry.has_slices}, "jobs that wait"
            assert queued == {key for lane in pool.lanes.values() for key in lane.longest}, "jobs that wait in turn"
            for lane in pool.lanes.values():
                assert set(lane.owners) == set(lane.jobs), "owners that wait"

    def statistics(self) -> dict[str, int]:
        waiting = sum(len(lane.longest) for pool in self._pools.values() for lane in pool.lanes.values())
        return {"jobs": len(self._entries), "waiting": waiting, "groups": len(self._pools)}
