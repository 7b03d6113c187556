"""What the pure core spends on a slice, and on a request, by the number of workers, slices and jobs. It must stay flat.

Leases and settles slices as the services do, with everything but the database: who is there (`Roster`), matching,
packing, leases, reports, settlement, the job's next status, wages and the postings of the Bank. Workers take turns, so
that each one's entry is as old as it can be; what a job's slices leave in the database is not kept here either, so a
job of ten million is as large as its counters say.

By jobs, it is the board that counts: jobs of a thousand owners at most, with four kinds of requirements and two groups,
of which a worker gets some slices, and returns what it got a while before.

    python -m benchmarks.core_scaling [--quick] [--whole] [--output json]
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import gc
import json
import time
from typing import Any

from orchestrator.bank.ledger import Account, AccountKind, Book, Hold, Payment, escrow_account
from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler.board import Board, Choice, Entry
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.estimates import Estimate, Measured
from orchestrator.scheduler.groups import Use
from orchestrator.scheduler.lifecycle import Budget, Counts, Ending, ErrorLimit, Slice, SliceState, Verdict
from orchestrator.scheduler.matching import JobProfile, WorkerProfile, why_not
from orchestrator.scheduler.offers import candidate_for
from orchestrator.scheduler.packing import PackingRules, pack
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.settling import Report, next_state, settle
from orchestrator.scheduler.store.jobs import JobRecord, JobState
from orchestrator.scheduler.task_request import TaskRequest

PRICE = 10**13
JOBS = 5
"""jobs that wait at the same time; all but one for a worker with other capabilities"""
ALLOWED = 1.3
SPEC = {"greedyEstimation": False, "discrete": False, "requirements": 64}
BUDGET, LIMIT, RULES = Budget(), ErrorLimit(), PackingRules()
MEASURED = Measured(cpu_ms=1000.0, wall_ms=1000.0, gpu_ms=0.0, in_bytes=10.0, out_bytes=10.0)


class Core:
    """A job of `slices` and `workers` who share it."""

    def __init__(self, workers: int, slices: int) -> None:
        self.roster = Roster(alive_s=90.0)
        self.profiles = [
            WorkerProfile(f"worker {i}", 80, frozenset({"public"}), frozenset(), (("map-basic", "1.0.0"),))
            for i in range(workers)
        ]
        self.now = 1_000_000.0
        for profile in self.profiles:
            self.roster.saw(profile, 1.0, self.now)
        self.step_s = 45.0 / workers
        record = JobRecord(1, "j" * 22, "owner", "account", SPEC, None, False, PRICE, 0, self.now)
        self.job = Job(record, None)
        estimate = Estimate().fold([MEASURED])
        self.state = JobState(
            1, RunStatus.RUNNING, True, True, Counts(total=slices), estimate, 0, funded=slices, served_at=self.now
        )
        self.others = [
            JobProfile(f"other {i}", 64 | 32, frozenset({"public"}), False, ("map-basic", "^1.0.0"))
            for i in range(JOBS - 1)
        ]
        self.profile = JobProfile(
            self.job.id, 64, frozenset({"public"}), False, ("map-basic", "^1.0.0"), slice_price=PRICE
        )
        self.entry = Entry(1, "owner", self.profile, self.state, 0.0)
        self.wanted = TaskRequest(self.profiles[0], (), Use(), 1.0, None, True, False, None, {})
        self.escrow = escrow_account("job:1")
        self.balances = {self.escrow: slices * PRICE}
        self.leases = 0
        self.turn = 0

    def request(self) -> tuple[WorkerProfile, list[Slice]]:
        """One worker asks for work: the slices that it gets."""
        worker = self.profiles[self.turn % len(self.profiles)]
        self.turn += 1
        self.now += self.step_s
        self.roster.saw(worker, 1.0, self.now)
        for other in self.others:
            assert why_not(other, worker) is not None
        assert why_not(self.profile, worker) is None
        candidate = candidate_for(Choice(self.entry, 0.0), self.job, self.wanted, 1.0)
        load, alone = self.roster.load(self.now), self.roster.alone(worker.worker, self.now)
        plan = pack([candidate], 1.0, load, RULES, alone=alone)
        self.leases += 1
        counts = self.state.counts
        number = plan[0].slices
        first = counts.cursor + 1
        self.state = dataclasses.replace(self.state, counts=counts.leased_fresh(number), served_at=self.now)
        self.entry.state = self.state
        return worker, [Slice(first + i, SliceState.LEASED, self.leases) for i in range(number)]

    def report(self, worker: WorkerProfile, pieces: list[Slice]) -> None:
        """Its results come, and it is paid."""
        lease = pieces[0].lease
        reports = [
            Report(
                self.job,
                one.number,
                lease,
                Ending.COMPLETED,
                worker=worker.worker,
                payee=worker.worker,
                uri="data:,1",
                measured=MEASURED,
            )
            for one in pieces
        ]
        settled = settle(self.job, self.state, {one.number: one for one in pieces}, reports, BUDGET)
        assert all(one.verdict is Verdict.ACCEPTED for one in reports)
        self.state = self.entry.state = next_state(settled.state, LIMIT, self.now)
        self.roster.heard(worker.worker, self.now)
        payee = worker.worker
        book = Book(
            [
                Account(self.escrow, AccountKind.ESCROW, self.balances[self.escrow]),
                Account(payee, AccountKind.ADDRESS, self.balances.get(payee, 0)),
            ],
            [Hold("job:1", "account")],
        )
        amount = sum(wage.amount for wage in settled.wages)
        book.pay("job:1", [Payment(f"wage:{self.job.id}:{pieces[0].number}", payee, amount)])
        for name in (self.escrow, payee):
            self.balances[name] = book.balance(name)
        assert len(settled.events) == len(pieces)


def cost(workers: int, slices: int, sample: int) -> float:
    """CPU microseconds per slice, the least of three rounds over at least `sample` slices or the whole job."""
    best = float("inf")
    for _ in range(3):
        done, spent = 0, 0.0
        while done < sample:  # a small job is run as often as it takes
            core = Core(workers, slices)
            left = min(slices, sample - done)
            gc.collect()
            gc.disable()
            started = time.process_time()
            while left > 0:
                worker, pieces = core.request()
                core.report(worker, pieces)
                left -= len(pieces)
                done += len(pieces)
            spent += time.process_time() - started
            gc.enable()
            if core.state.counts.accepted == slices:
                assert core.state.status is RunStatus.FINISHED
                assert core.balances[core.escrow] == 0
        best = min(best, spent / done)
    return best * 1e6


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
    parser.add_argument("--whole", action="store_true", help="all slices of every job, ten million too (minutes)")
    options = parser.parse_args()
    sample = 20_000 if options.quick else 200_000
    by_workers = {n: cost(n, 10**7, sample) for n in (10, 100, 1_000, 10_000, 100_000)}
    by_slices = {n: cost(10, n, n if options.whole else sample) for n in (10**3, 10**4, 10**5, 10**6, 10**7)}
    by_jobs = {n: board_cost(n, sample // 100) for n in (100, 1_000, 10_000, 100_000)}
    report: dict[str, Any] = {
        "unit": "CPU µs per slice",
        "by workers (10^7 slices)": {str(n): round(value, 2) for n, value in by_workers.items()},
        "by slices (10 workers)": {str(n): round(value, 2) for n, value in by_slices.items()},
        "board, µs per request, by jobs": {str(n): round(value, 2) for n, value in by_jobs.items()},
        "growth by workers": round(max(by_workers.values()) / by_workers[10], 3),
        "growth by slices": round(max(by_slices.values()) / by_slices[10**3], 3),
        "growth by jobs": round(max(by_jobs.values()) / by_jobs[100], 3),
        "allowed": ALLOWED,
    }
    if options.output == "json":
        print(json.dumps(report, indent=2))
        return
    for title in ("by workers (10^7 slices)", "by slices (10 workers)", "board, µs per request, by jobs"):
        print(f"{title}: " + ", ".join(f"{int(n):,}: {value} µs" for n, value in report[title].items()))
    print(
        f"growth: ×{report['growth by workers']} by workers, ×{report['growth by slices']} by slices, "
        f"×{report['growth by jobs']} by jobs; goal ≤ ×{ALLOWED}"
    )


if __name__ == "__main__":
    main()
