"""One simulation from a seed: who takes part, which faults, and whether all rules held."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
import time
from collections.abc import Sequence
from typing import Any

from orchestrator.scheduler.redundancy import Offer
from orchestrator.settings import SchedulerSettings
from tests.simulation import virtual_loop
from tests.simulation.audit import Audit
from tests.simulation.clients import Client, JobPlan, Saver
from tests.simulation.network import Network
from tests.simulation.process import SchedulerProcess
from tests.simulation.rows import Rows
from tests.simulation.sql_database import SqlDatabase, template
from tests.simulation.workers import Shared, Traits, Worker
from tests.simulation.world import Faults, Violation, World

LONGEST_REST_S = 600.0
"""once the faults are over, every job must have ended after this much virtual time, and thrice the time that its slices
take on the workers that stay"""
CREDIT = 8 * 10**18
"""what an account has at first, where jobs have fifty slices at most: enough for most of them"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that a seed decides beforehand."""

    seed: int
    faults: Faults
    workers: tuple[Traits, ...]
    jobs: tuple[JobPlan, ...]
    savers: int
    schedulers: int
    lease_s: float
    credit: int

    @property
    def deadline_s(self) -> float:
        """When every job must have ended."""
        work_s = sum(
            job.slices * job.slice_s * (1 if job.redundancy is None else job.redundancy["of"]) for job in self.jobs
        )
        # What several workers compute is done no sooner than the slowest of them is.
        rates = [one.cores * one.speed for one in self.workers if not one.leaves]
        rate = sum(rates) if all(job.redundancy is None for job in self.jobs) else min(rates)
        return self.faults.until + LONGEST_REST_S + 3 * work_s / rate


@dataclasses.dataclass(frozen=True)
class Limits:
    """How large a seed may turn out."""

    workers: int = 10
    jobs: int = 3
    slices: int = 50
    fault_minutes: float = 2.0


@dataclasses.dataclass
class Report:
    seed: int
    violation: str | None
    log: list[str]
    figures: dict[str, float]

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.log).encode()).hexdigest()


def plan_of(seed: int, limits: Limits = Limits()) -> Plan:
    chance = random.Random(f"plan {seed}")
    wild = chance.choice([0.0, 0.3, 1.0, 1.0, 2.0])
    """how much goes wrong at all"""

    def rate(most: float) -> float:
        return wild * most * chance.random() if chance.random() < 0.7 else 0.0

    faults = Faults(
        until=60 * limits.fault_minutes * (0.5 + chance.random()),
        lose_request=rate(0.1),
        lose_answer=rate(0.1),
        repeat=rate(0.2),
        longest_delay_s=chance.choice([0.0, 0.02, 0.5, 3.0]),
        stray_delay=rate(0.05),
        worker_crash=rate(0.05),
        worker_stall=rate(0.03),
        worker_lie=rate(0.8),
        worker_forget=rate(0.05),
        slice_fails=rate(0.1),
        client_crash=rate(0.05),
        scheduler_kill_every_s=chance.choice([0.0, 0.0, 15.0, 60.0]) if wild else 0.0,
    )
    workers = tuple(
        Traits(
            cores=chance.choice([1, 1, 2, 4, 8]),
            speed=chance.choice([0.2, 1.0, 1.0, 3.0]),
            liar=chance.random() < 0.3,
            leaves=index > 0 and chance.random() < 0.3,
        )
        for index in range(chance.randint(1, limits.workers))
    )
    jobs = tuple(
        JobPlan(
            slices=max(1, round(limits.slices * chance.random() ** 2)),
            slice_s=10 ** chance.uniform(-3, 1.2),
            price=chance.choice([0, 1, 7, 100, 400]),
            listed=chance.random() < 0.3,
            cancels=chance.random() < 0.15,
            starts_at=chance.random() * 30,
        )
        for _ in range(chance.randint(1, limits.jobs))
    )
    return Plan(
        seed=seed,
        faults=faults,
        workers=workers,
        jobs=_compared(seed, jobs, workers),
        savers=chance.randint(0, 2),
        schedulers=chance.choice([1, 1, 1, 2, 3]),
        lease_s=chance.choice([20.0, 60.0]),
        credit=CREDIT * max(1, limits.slices // 50),
    )


def _compared(seed: int, jobs: Sequence[JobPlan], workers: Sequence[Traits]) -> tuple[JobPlan, ...]:
    """Most jobs let workers agree if there are more honest workers that stay than may be asked, and fewer liars
    than must agree, and a Scheduler lets them ask for so many. A chance of its own: the rest of a plan does not depend
    on it."""
    chance = random.Random(f"compared {seed}")
    agree = max(2, sum(one.liar for one in workers) + 1)
    honest = sum(not one.liar and not one.leaves for one in workers)
    found = []
    for job in jobs:
        of = agree + chance.randrange(3)
        rule = {"agree": agree, "of": of, "trusting": chance.random() < 0.3}
        may = min(honest, Offer().most) >= of
        found.append(dataclasses.replace(job, redundancy=rule) if may and chance.random() < 0.8 else job)
    return tuple(found)


def simulate(plan: Plan) -> Report:
    """Run it to its end or to the first broken rule."""
    template()
    return virtual_loop.run(_Simulation(plan).run())


class _Simulation:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def run(self) -> Report:
        started = time.process_time()
        plan = self._plan
        self._world = world = World(plan.seed, plan.faults)
        self._database = SqlDatabase(world, lambda: self._audit.step(), is_shared=plan.schedulers > 1)
        self._audit = Audit(world, Rows(self._database.raw))
        self._network = Network(world)
        self._shared = Shared()
        self._broken: str | None = None
        await self._start_schedulers()
        self._clients = [
            Client(world, self._network, self._shared, f"client {i}", job) for i, job in enumerate(plan.jobs)
        ]
        addresses = [client.address for client in self._clients]
        self._savers = [Saver(world, self._network, f"saver {i}", addresses, 10) for i in range(plan.savers)]
        workers = [
            Worker(world, self._network, self._shared, f"worker {i}", traits, plan.lease_s)
            for i, traits in enumerate(plan.workers)
        ]
        actors: list[Any] = [
            *(one.run() for one in workers),
            *(one.stay() for one in self._clients),
            *(one.fund() for one in self._clients),
            *(self._kill_now_and_then(one) for one in self._network.schedulers),
        ]
        figures: dict[str, float] = {}
        background = [asyncio.create_task(one) for one in actors]
        work = [asyncio.create_task(one.run()) for one in (*self._clients, *self._savers)]
        try:
            await self._until_done(work, background)
            figures.update(self._audit.end(self._acknowledged(), expect_ended=True))
            self._check_clients()
        except Violation as violation:
            self._broken = str(violation)
            world.note("audit", self._broken)
        finally:
            self._shared.over = True
            for task in (*background, *work):
                task.cancel()
            await asyncio.gather(*background, *work, return_exceptions=True)
            for process in self._network.schedulers:
                await process.kill(over=True)
            self._database.close()
        figures |= {"requests": world.steps, "virtual s": world.elapsed, "cpu s": time.process_time() - started}
        return Report(plan.seed, self._broken, world.log, figures)

    async def _start_schedulers(self) -> None:
        settings = SchedulerSettings(
            initial_credit=self._plan.credit,
            lease_s=self._plan.lease_s,
            alive_s=30.0,
            long_poll_s=8.0,
            other_worker_s=20.0,
            trusted_after=3,
        )
        for index in range(self._plan.schedulers):
            process = SchedulerProcess(self._world, self._database, settings, f"scheduler {index}", self._witness)
            self._network.schedulers.append(process)
            await process.start()

    def _witness(self, request: Any, answer: Any) -> None:
        if isinstance(answer, dict) and "verdict" in answer:
            text = f"{answer['verdict']} {answer['slicePaymentAmount']}"
        elif isinstance(answer, dict) and "body" in answer:
            task = answer["body"].get("task", {})
            text = f"lease {answer['auth'].get('lease', {}).get('id')} " + " ".join(
                f"{job[:6]}:{','.join(str(one['sliceNumber']) for one in slices)}" for job, slices in task.items()
            )
        else:
            text = f"{answer}" if isinstance(answer, Exception) else "answered"
        of = (
            f"{request.data.get('job', '')[:6]} {request.data.get('slice', '')}"
            if isinstance(request.data, dict)
            else ""
        )
        self._world.note(request.connection.peer[:8], f"{request.operation} {of}: {text}")
        self._audit.answered(request, answer)

    async def _kill_now_and_then(self, process: SchedulerProcess) -> None:
        mean = self._plan.faults.scheduler_kill_every_s
        while mean > 0:
            await asyncio.sleep(self._world.random.expovariate(1 / mean))
            if self._world.calm:
                return
            await process.kill()
            await asyncio.sleep(self._world.random.random() * 20)
            await process.start()

    async def _until_done(self, work: list[Any], background: list[Any]) -> None:
        while not all(task.done() for task in work):
            for process in self._network.schedulers:
                _raise(process.failure, "a scheduler failed")
            for task in (*work, *background):
                _raise(task.exception() if task.done() else None, "an actor failed")
            if self._world.elapsed > self._plan.deadline_s:
                self._audit.end({}, expect_ended=True)
                actors = zip((*self._clients, *self._savers), work, strict=True)
                waiting = [one.name for one, task in actors if not task.done()]
                raise Violation(f"every job has ended, but {', '.join(waiting)} did not hear of it")
            await asyncio.sleep(1.0)

    def _acknowledged(self) -> dict[str, int]:
        return {name: units for saver in self._savers for name, units in saver.acknowledged.items()}

    def _check_clients(self) -> None:
        """A client that was told of the end of its job has heard every result before."""
        results = self._audit.results()
        for client in self._clients:
            if client.refused is None:
                missing = results[client.job] - client.heard
                if missing:
                    raise Violation(f"{client.name} never heard of results {sorted(missing)[:20]}")


def _raise(error: BaseException | None, what: str) -> None:
    if isinstance(error, Violation):
        raise error
    if error is not None:
        raise Violation(f"{what}: {error!r}") from error
