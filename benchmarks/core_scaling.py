"""What the pure core spends on a slice, and on a request, by the number of workers, slices and jobs. It must stay flat.

Leases and settles slices as the services do, with everything but the database: who is there (`Roster`), what a request
says, whose turn it is (`Board`), matching, packing, reports, settlement, the job's next status, the market, wages and
the postings of the Bank. In virtual time each worker reports what it holds and asks for more, so that each one's entry
is as old as it can be and every worker has slices out; whoever finds none waits in the line of those who wait
(`WaitingLine`), and is called when slices come back. What a job's slices leave in the database is not kept here, so a
job of ten million is as large as its counters say; `python -m tests.simulation` has the database, too.

By jobs, it is the board that counts: jobs of a thousand owners at most, with four kinds of requirements and two groups,
of which a worker gets some slices, and returns what it got a while before.

    python -m benchmarks.core_scaling [--quick] [--output json]
    python -m benchmarks.core_scaling --world 100000 10000000     one job, from the first slice to the last
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import gc
import heapq
import json
import resource
import time
from typing import Any

from orchestrator.bank.ledger import Account, AccountKind, Book, Hold, Payment, escrow_account
from orchestrator.jobs.words import PUBLIC_GROUP, RunStatus
from orchestrator.scheduler import escrow, lifecycle
from orchestrator.scheduler.board import Board, BoardRules, Entry
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.estimates import Estimate, Measured
from orchestrator.scheduler.groups import PUBLIC_GROUP_ID
from orchestrator.scheduler.lifecycle import Budget, Counts, Ending, ErrorLimit, Slice, SliceState, Verdict
from orchestrator.scheduler.market import Market, MarketRules
from orchestrator.scheduler.matching import JobProfile, WhyNot, WorkerProfile, why_not
from orchestrator.scheduler.offers import candidate_for
from orchestrator.scheduler.packing import PackingRules, pack
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.settling import Report, Settled, next_state, settle
from orchestrator.scheduler.store.jobs import JobRecord, JobState
from orchestrator.scheduler.task_request import TaskRequest, parse_task_request
from orchestrator.scheduler.waiting_line import Waiter, WaitingLine, left_over

PRICE = 10**13
JOBS = 5
"""jobs that wait at the same time; all but one for a worker with other capabilities"""
ALLOWED = 1.3
SLICE_S = 1.0
LONG_POLL_S, PAUSE_S = 5.0, 0.5
"""how long a request usually waits for work, and a worker until it asks again"""
GIVEN_BACK = 100
"""of every so many tasks one slice comes back unfinished"""
SPEC = {"greedyEstimation": False, "discrete": False, "requirements": 64}
BUDGET, LIMIT, RULES = Budget(), ErrorLimit(), PackingRules()
TASK_S = RULES.target_task_s
MEASURED = Measured(cpu_ms=1000.0, wall_ms=1000.0, gpu_ms=0.0, in_bytes=10.0, out_bytes=10.0)
_GROUP = frozenset({PUBLIC_GROUP_ID})


class World:
    """A job of `slices` and `workers` who share it, in virtual time: a worker reports when its task is done and asks
    for more. When there is nothing it waits in the line, until it is called or its request has waited for long enough;
    then it asks again. Now and then slices come back, and workers that wait are called for them."""

    def __init__(self, workers: int, slices: int) -> None:
        self.now = 1_000_000.0
        self.roster = Roster(alive_s=10 * TASK_S)
        self.market = Market(MarketRules(PRICE))
        self.board = Board(BoardRules())
        self.line = WaitingLine()
        self.wishes = [_wish(f"worker {i}") for i in range(workers)]
        self.held: list[list[Slice]] = [[] for _ in range(workers)]
        self.resting: list[Waiter | None] = [None] * workers
        self.called: collections.deque[int] = collections.deque()
        for wish in self.wishes:
            wanted = parse_task_request(wish)
            self.roster.saw(wanted.profile, wanted.load, self.now)
        self.agenda = [(self.now + TASK_S * i / workers, 0, i) for i in range(workers)]
        """when which worker is done or loses patience; the number tells requests of one worker apart"""
        self.requests = [0] * workers
        record = JobRecord(1, "j" * 22, "owner", "account", SPEC, None, False, PRICE, 0, self.now)
        self.job = Job(record, None)
        estimate = Estimate().fold([MEASURED])
        self.state = JobState(
            1, RunStatus.RUNNING, True, True, Counts(total=slices), estimate, 0, funded=slices, served_at=self.now
        )
        for key in range(1, JOBS + 1):
            mine = key == self.state.key
            name, needs = (self.job.id, 64) if mine else (f"other {key}", 64 | 32)
            profile = JobProfile(name, needs, _GROUP, False, ("map-basic", "^1.0.0"), slice_price=PRICE)
            state = dataclasses.replace(self.state, key=key)
            self.board.post(key, "owner" if mine else f"owner {key}", profile, state, weight=self._weight(state))
        self.escrow = escrow_account("job:1")
        self.balances = {self.escrow: slices * PRICE}
        self.ready: collections.deque[Slice] = collections.deque()
        """slices that came back"""
        self.leases = self.reported = self.in_vain = self.calls = 0

    def turn(self) -> int:
        """What happens next: somebody who was called looks, or a task ends, or somebody has waited for long enough. How
        many slices were accepted."""
        if self.called:
            self._look(self.called.popleft())
            return 0
        self.now, request, index = heapq.heappop(self.agenda)
        if request != self.requests[index]:
            return 0  # it was called meanwhile
        waiter = self.resting[index]
        if waiter is not None:  # it is told that there is nothing, and asks again
            self._answered(index, waiter)
            self._at(self.now + PAUSE_S, index)
            return 0
        pieces, self.held[index] = self.held[index], []
        accepted = self._report(f"worker {index}", pieces) if pieces else 0
        self._enter(index)
        return accepted

    def _at(self, when: float, index: int) -> None:
        self.requests[index] += 1
        heapq.heappush(self.agenda, (when, self.requests[index], index))

    def _enter(self, index: int) -> None:
        wanted = parse_task_request(self.wishes[index])
        self.resting[index] = waiter = self.line.enter(wanted, lambda: self.called.append(index))
        self._look(index)
        if self.resting[index] is waiter:
            self.in_vain += 1

    def _look(self, index: int) -> None:
        """As a request does: it looks at the board, and rests or is answered."""
        waiter = self.resting[index]
        if waiter is None:
            return
        calls = self.line.look(waiter)
        pieces = self._request(waiter.wanted)
        for call in left_over(calls, {self.job.id: len(pieces)}):
            self._call(call.slices, call.tried, waiter)
        if pieces:
            self._answered(index, waiter)
            self.held[index] = pieces
            self._at(self.now + len(pieces) * SLICE_S, index)
        elif self.line.rest(waiter):
            if not calls:  # its patience goes on where it was called in vain
                self._at(self.now + self.line.patience_s(LONG_POLL_S), index)
        else:
            self.called.append(index)

    def _answered(self, index: int, waiter: Waiter) -> None:
        self.resting[index] = None
        for call in left_over(self.line.leave(waiter), {}):
            self._call(call.slices, call.tried, waiter)

    def _call(self, slices: int, tried: frozenset[int] = frozenset(), by: Waiter | None = None) -> None:
        """Slices wait: as the dispatcher does."""
        entry = self.board.get(self.state.key)
        left = min(slices, escrow.may_lease(self.state.funded, self.state.counts))
        if entry is not None and left > 0:
            self.calls += self.line.call(
                entry.key, entry.profile, entry.state.estimate, left, lambda _waiter, _given: 1, tried=tried, by=by
            )

    def _weight(self, state: JobState) -> float:
        return self.market.weight(PRICE, state.estimate.work_s)

    def _request(self, wanted: TaskRequest) -> list[Slice]:
        worker = wanted.profile
        self.roster.saw(worker, wanted.load, self.now, wanted.size)

        def look(entry: Entry) -> WhyNot | None:
            refusal = why_not(entry.profile, worker, entry.state.estimate)
            return None if refusal is None else refusal[0]

        choices, refused, _ = self.board.window(worker, look)
        assert refused[WhyNot.CAPABILITY] == JOBS - 1
        if not choices:
            return []
        ratio = worker.speed.ratio({one.entry.profile.job_id: one.entry.state.estimate for one in choices})
        candidates = [candidate_for(one, self.job, wanted, ratio) for one in choices]
        load, alone = self.roster.load(self.now), self.roster.alone(worker.worker, self.now)
        plan = pack(candidates, wanted.load, load, RULES, alone=alone)
        if not plan:
            return []
        self.leases += 1
        counts = self.state.counts
        number = min(plan[0].slices, escrow.may_lease(self.state.funded, counts))
        again = [lifecycle.lease(self.ready.popleft(), self.leases) for _ in range(min(number, len(self.ready)))]
        if again:
            counts = counts.moved(SliceState.READY, SliceState.LEASED, len(again))
        fresh = number - len(again)
        first = counts.cursor + 1
        counts = counts.leased_fresh(fresh)
        self._change(dataclasses.replace(self.state, counts=counts, served_at=self.now))
        escrow.validate(self.state.funded, self.state.counts)
        return again + [Slice(first + i, SliceState.LEASED, self.leases) for i in range(fresh)]

    def _report(self, worker: str, pieces: list[Slice]) -> int:
        """Its results come, and it is paid; one of them it gives back now and then."""
        self.reported += 1
        gives_back = self.reported % GIVEN_BACK == 0
        reports = [
            Report(
                self.job, one.number, one.lease,
                Ending.RETURNED if gives_back and one is pieces[-1] else Ending.COMPLETED,
                worker=worker, payee=worker, uri="data:,1", measured=MEASURED,
            )
            for one in pieces
        ]  # fmt: skip
        settled = settle(self.job, self.state, {one.number: one for one in pieces}, reports, BUDGET)
        accepted = sum(one.verdict is Verdict.ACCEPTED for one in reports)
        assert accepted + gives_back == len(pieces)
        self._change(next_state(settled.state, LIMIT, self.now))
        self.ready.extend(settled.changed.values())
        if settled.slices_wait:
            self._call(len(settled.changed))
        self.roster.heard(worker, self.now)
        if accepted:
            self.market.paid(PRICE, accepted, self.now)
            self._pay(worker, settled)
        assert len(settled.events) == accepted
        return accepted

    def _pay(self, worker: str, settled: Settled) -> None:
        book = Book(
            [
                Account(self.escrow, AccountKind.ESCROW, self.balances[self.escrow]),
                Account(worker, AccountKind.ADDRESS, self.balances.get(worker, 0)),
            ],
            [Hold("job:1", "account")],
        )
        amount = sum(wage.amount for wage in settled.wages)
        book.pay("job:1", [Payment(f"wage:{self.job.id}:{settled.wages[0].number}", worker, amount)])
        for name in (self.escrow, worker):
            self.balances[name] = book.balance(name)

    def _change(self, state: JobState) -> None:
        self.state = state
        self.board.update(state, self._weight(state))

    def check_end(self) -> None:
        """Every slice is accepted and paid, and nothing is left."""
        counts = self.state.counts
        assert self.state.status is RunStatus.FINISHED
        assert (counts.accepted, counts.leased, counts.waiting) == (counts.total, 0, 0)
        assert self.balances[self.escrow] == 0
        assert sum(self.balances.values()) == counts.total * PRICE
        assert self.state.key not in self.board


def _wish(worker: str) -> dict[str, Any]:
    return {
        "targetLoad": {"cpu": 1, "gpu": 0, "longSlices": 1},
        "coreStats": {"worker": worker, "lCores": 1, "pCores": 1},
        "capabilities": 80,
        "paymentAddress": worker,
        "jobIds": [],
        "workerComputeGroups": [PUBLIC_GROUP],
        "worktimes": [{"name": "map-basic", "version": "1.0.0"}],
        "fetchState": 1,
        "soteriaJobs": {},
    }


def cost(workers: int, slices: int, sample: int) -> float:
    """CPU microseconds per slice, the least of three rounds over at least `sample` slices or the whole job."""
    best = float("inf")
    for _ in range(3):
        done, spent = 0, 0.0
        while done < sample:  # a small job is run as often as it takes
            world = World(workers, slices)
            filling = min(workers, slices // 20)  # the first turns only lease
            for _ in range(filling if slices > sample else 0):
                world.turn()
            left = min(slices, sample - done)
            gc.collect()
            gc.disable()
            started = time.process_time()
            while left > 0:
                accepted = world.turn()
                left -= accepted
                done += accepted
            spent += time.process_time() - started
            gc.enable()
            if world.state.counts.accepted == slices:
                world.check_end()
        best = min(best, spent / done)
    return best * 1e6


def run_world(workers: int, slices: int, parts: int = 10) -> dict[str, Any]:
    """One job to its end: CPU microseconds per slice in each part of it, in the order of time, and what was kept."""
    world = World(workers, slices)
    started, spent, tasks, vain = time.monotonic(), [], [], []
    done = 0
    for part in range(1, parts + 1):
        before, begun, leased, in_vain = done, time.process_time(), world.leases, world.in_vain
        # Half of a slice is to lease it, and half to settle it: the first tasks are leased before any result comes.
        while done < 2 * slices * part // parts:
            world.turn()
            done = world.state.counts.cursor + world.state.counts.accepted
        number = max(1, done - before) / 2
        spent.append((time.process_time() - begun) / number * 1e6)
        tasks.append(number / max(1, world.leases - leased))
        vain.append((world.in_vain - in_vain) / number)
    world.check_end()
    return {
        "workers": workers,
        "slices": slices,
        "tasks": world.leases,
        "CPU µs per slice, by tenths of the job": [round(one, 1) for one in spent],
        "slices per task": [round(one, 1) for one in tasks],
        "requests in vain per slice": [round(one, 3) for one in vain],
        "workers called": world.calls,
        "virtual seconds": round(world.now - 1_000_000.0, 1),
        "seconds": round(time.monotonic() - started, 1),
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


class Jobs:
    """A board with so many jobs, and workers who ask for them in turn."""

    def __init__(self, jobs: int) -> None:
        self.board = Board()
        self.now = 1_000_000.0
        self.out: collections.deque[list[tuple[int, int]]] = collections.deque()
        owners = min(1000, max(1, jobs // 10))
        estimate = Estimate().fold([MEASURED])
        for key in range(1, jobs + 1):
            kind = key % 4
            profile = JobProfile(
                f"job {key}", 64 | (kind << 8), frozenset({"public", "other"} if key % 2 else {"public"}), False,
                ("map-basic", "^1.0.0"), slice_price=PRICE,
            )  # fmt: skip
            counts = Counts(total=10**9)
            state = JobState(key, RunStatus.RUNNING, True, True, counts, estimate, 0, funded=10**9, served_at=self.now)
            self.board.post(key, f"owner {key % owners}", profile, state, weight=1.0 + key % 3, since=float(key))
        self.worker = WorkerProfile(
            "worker", 64 | (3 << 8), frozenset({"public", "other"}), frozenset(), (("map-basic", "1.0.0"),)
        )

    def request(self) -> None:
        """A worker gets slices, and another one returns those it got a hundred requests before."""
        self.now += 0.01
        choices, _, _ = self.board.window(self.worker, lambda _: None, most=8)
        taken = []
        for choice in choices[:2]:
            entry = choice.entry
            counts = entry.state.counts.leased_fresh(5)
            self.board.update(dataclasses.replace(entry.state, counts=counts, served_at=self.now), entry.weight)
            taken.append((entry.key, 5))
        self.out.append(taken)
        if len(self.out) > 100:
            for key, number in self.out.popleft():
                done = self.board.get(key)
                assert done is not None
                counts = done.state.counts.moved(SliceState.LEASED, SliceState.ACCEPTED, number)
                self.board.update(dataclasses.replace(done.state, counts=counts), done.weight)


def board_cost(jobs: int, requests: int) -> float:
    """CPU microseconds per request, the least of five rounds."""
    board = Jobs(jobs)
    for _ in range(min(requests, 2000)):
        board.request()
    best = float("inf")
    gc.collect()
    gc.disable()
    for _ in range(5):
        started = time.process_time()
        for _ in range(requests):
            board.request()
        best = min(best, (time.process_time() - started) / requests)
    gc.enable()
    return best * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    parser.add_argument("--quick", action="store_true", help="a tenth of the slices")
    parser.add_argument(
        "--world", nargs=2, type=int, metavar=("WORKERS", "SLICES"), help="only this: one job to its end (minutes)"
    )
    options = parser.parse_args()
    report = run_world(*options.world) if options.world else _growth(20_000 if options.quick else 200_000)
    if options.output == "json":
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    for title, value in report.items():
        told = ", ".join(f"{int(n):,}: {one}" for n, one in value.items()) if isinstance(value, dict) else value
        print(f"{title}: {told}")


def _growth(sample: int) -> dict[str, Any]:
    by_workers = {n: cost(n, 10**7, sample) for n in (10, 100, 1_000, 10_000, 100_000)}
    by_slices = {n: cost(10, n, sample) for n in (10**3, 10**4, 10**5, 10**6, 10**7)}
    by_jobs = {n: board_cost(n, sample // 100) for n in (100, 1_000, 10_000, 100_000)}
    return {
        "unit": "CPU µs per slice",
        "by workers (10^7 slices)": {str(n): round(value, 2) for n, value in by_workers.items()},
        "by slices (10 workers)": {str(n): round(value, 2) for n, value in by_slices.items()},
        "board, µs per request, by jobs": {str(n): round(value, 2) for n, value in by_jobs.items()},
        "growth by workers": round(max(by_workers.values()) / by_workers[10], 3),
        "growth by slices": round(max(by_slices.values()) / by_slices[10**3], 3),
        "growth by jobs": round(max(by_jobs.values()) / by_jobs[100], 3),
        "allowed": ALLOWED,
    }


if __name__ == "__main__":
    main()
