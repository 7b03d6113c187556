"""What one slice costs the pure core, by the number of workers and of slices. It must stay flat.

Leases and settles slices as the services do, with everything but the database: who is there (`Roster`), matching,
packing, leases, reports, settlement, the job's next status, wages and the postings of the Bank. Workers take turns, so
that each one's entry is as old as it can be; what a job's slices leave in the database is not kept here either, so a
job of ten million is as large as its counters say.

    python -m benchmarks.core_scaling [--quick] [--whole] [--output json]
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import time
from typing import Any

from orchestrator.bank.ledger import Account, AccountKind, Book, Hold, Payment, escrow_account
from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.estimates import Estimate, Measured
from orchestrator.scheduler.lifecycle import Budget, Counts, Ending, ErrorLimit, Slice, SliceState, Verdict
from orchestrator.scheduler.matching import JobProfile, WorkerProfile, why_not
from orchestrator.scheduler.offers import candidate_for
from orchestrator.scheduler.packing import PackingRules, pack
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.settling import Report, next_state, settle
from orchestrator.scheduler.store.jobs import JobRecord, JobState

PRICE = 10**13
JOBS = 5
"""jobs that wait at the same time; all but one for a worker with other capabilities"""
ALLOWED = 1.3
SPEC = {"greedyEstimation": False, "discrete": False}
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
        candidate = candidate_for(self.job, self.state, 1.0)
        load, alone = self.roster.load(self.now), self.roster.alone(worker.worker, self.now)
        plan = pack([candidate], 1.0, load, RULES, alone=alone)
        self.leases += 1
        counts = self.state.counts
        number = plan[0].slices
        first = counts.cursor + 1
        self.state = dataclasses.replace(self.state, counts=counts.leased_fresh(number), served_at=self.now)
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
        self.state = next_state(settled.state, LIMIT, self.now)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    parser.add_argument("--quick", action="store_true", help="a tenth of the slices")
    parser.add_argument("--whole", action="store_true", help="all slices of every job, ten million too (minutes)")
    options = parser.parse_args()
    sample = 20_000 if options.quick else 200_000
    by_workers = {n: cost(n, 10**7, sample) for n in (10, 100, 1_000, 10_000, 100_000)}
    by_slices = {n: cost(10, n, n if options.whole else sample) for n in (10**3, 10**4, 10**5, 10**6, 10**7)}
    report: dict[str, Any] = {
        "unit": "CPU µs per slice",
        "by workers (10^7 slices)": {str(n): round(value, 2) for n, value in by_workers.items()},
        "by slices (10 workers)": {str(n): round(value, 2) for n, value in by_slices.items()},
        "growth by workers": round(max(by_workers.values()) / by_workers[10], 3),
        "growth by slices": round(max(by_slices.values()) / by_slices[10**3], 3),
        "allowed": ALLOWED,
    }
    if options.output == "json":
        print(json.dumps(report, indent=2))
        return
    for title in ("by workers (10^7 slices)", "by slices (10 workers)"):
        print(f"{title}: " + ", ".join(f"{int(n):,}: {value} µs" for n, value in report[title].items()))
    print(
        f"growth: ×{report['growth by workers']} by workers, ×{report['growth by slices']} by slices; goal ≤ ×{ALLOWED}"
    )


if __name__ == "__main__":
    main()
