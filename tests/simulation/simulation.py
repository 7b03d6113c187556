"""One simulation from a seed: who takes part, which faults, and whether all rules held."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import random
import time
from collections.abc import Sequence
from typing import Any

from orchestrator.bank.amounts import parse_amount
from orchestrator.scheduler.redundancy import Offer
from orchestrator.settings import SchedulerSettings
from tests.simulation import virtual_loop
from tests.simulation.audit import Audit, Private
from tests.simulation.clients import Client, GroupOwner, GroupPlan, JobPlan, Saver
from tests.simulation.memory.database import MemoryDatabase, exchanged
from tests.simulation.network import Network
from tests.simulation.process import SchedulerProcess
from tests.simulation.sql_database import SqlDatabase, template
from tests.simulation.workers import Shared, Traits, Worker
from tests.simulation.world import Faults, Violation, World

LONGEST_REST_S = 600.0
"""once the faults are over, every job must have ended after this much virtual time, and thrice the time that its slices
take on the workers that stay"""
MOST_DECEIVERS = 3
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
    group: GroupPlan | None = None
    """some jobs are in it, and some workers"""
    in_memory: bool = False
    """without SQL"""
    opinion_wait_s: float = 86_400.0

    @property
    def deadline_s(self) -> float:
        """When every job must have ended."""
        work_s = sum(
            job.slices * job.slice_s * (1 if job.redundancy is None else job.redundancy["of"]) for job in self.jobs
        )
        # What several workers compute is done no sooner than the slowest of them is.
        closed = any("public" not in job.groups for job in self.jobs)
        rates = [one.cores * one.speed for one in self.workers if not one.leaves and (one.group or not closed)]
        rate = sum(rates) if all(job.redundancy is None for job in self.jobs) else min(rates)
        return self.faults.until + LONGEST_REST_S + 3 * work_s / rate


@dataclasses.dataclass(frozen=True)
class Limits:
    """How large a seed may turn out."""

    workers: int = 10
    jobs: int = 3
    slices: int = 50
    fault_minutes: float = 2.0
    in_memory: bool = False
    """rows without SQL: for thousands of workers"""
    least: float = 0.0
    """part of these numbers that every seed has at least"""


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
        for index in range(chance.randint(max(1, round(limits.least * limits.workers)), limits.workers))
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
        for _ in range(chance.randint(max(1, round(limits.least * limits.jobs)), limits.jobs))
    )
    faults = dataclasses.replace(faults, database_restart=_restarts(seed) if wild and not limits.in_memory else 0.0)
    group = _group(seed)
    workers = _deceiving(workers)
    if group is not None:
        workers, jobs = _in_group(seed, group, workers, jobs)
    return Plan(
        seed=seed,
        faults=faults,
        workers=workers,
        jobs=_compared(seed, jobs, workers),
        savers=chance.randint(0, 2),
        schedulers=1 if limits.in_memory else chance.choice([1, 1, 1, 2, 3]),
        lease_s=chance.choice([20.0, 60.0]),
        credit=CREDIT * max(1, limits.slices // 50),
        group=group,
        in_memory=limits.in_memory,
    )


# Each with a chance of its own: what else a plan has does not depend on it.


def _deceiving(workers: Sequence[Traits]) -> tuple[Traits, ...]:
    """Liars that also give wrong results where workers must agree: no more than can be outvoted."""
    chosen = [index for index, one in enumerate(workers) if one.liar][:MOST_DECEIVERS]
    return tuple(dataclasses.replace(one, deceives=index in chosen) for index, one in enumerate(workers))


def _restarts(seed: int) -> float:
    return random.Random(f"database {seed}").choice([0.0, 0.0, 0.0, 0.005, 0.02])


def without_sql(plan: Plan) -> Plan:
    """The same with rows in memory: they are one process's, and never away."""
    faults = dataclasses.replace(plan.faults, database_restart=0.0)
    return dataclasses.replace(plan, faults=faults, schedulers=1, in_memory=True)


def _group(seed: int) -> GroupPlan | None:
    chance = random.Random(f"group {seed}")
    if chance.random() < 0.6:
        return None
    return GroupPlan(
        "lab", chance.choice(["0", "0.05", "0.25"]), chance.choice(["0", "0.01"]), chance.choice([None, 1])
    )


def _in_group(
    seed: int, group: GroupPlan, workers: Sequence[Traits], jobs: Sequence[JobPlan]
) -> tuple[tuple[Traits, ...], tuple[JobPlan, ...]]:
    chance = random.Random(f"in group {seed}")
    members = tuple(
        dataclasses.replace(one, group=group.key) if index == 0 or chance.random() < 0.4 else one
        for index, one in enumerate(workers)
    )
    kinds = [("public",), (group.key,), ("public", group.key)]
    return members, tuple(dataclasses.replace(job, groups=chance.choice(kinds)) for job in jobs)


def _compared(seed: int, jobs: Sequence[JobPlan], workers: Sequence[Traits]) -> tuple[JobPlan, ...]:
    """Most jobs let workers agree if there are more honest workers that stay than may be asked, and fewer liars
    than must agree, and a Scheduler lets them ask for so many. A chance of its own: the rest of a plan does not depend
    on it."""
    chance = random.Random(f"compared {seed}")
    agree = max(2, sum(one.deceives for one in workers) + 1)
    honest = sum(not one.deceives and not one.leaves for one in workers)
    found = []
    for job in jobs:
        of = agree + chance.randrange(3)
        rule = {"agree": agree, "of": of, "trusting": chance.random() < 0.3}
        may = min(honest, Offer().most) >= of and "public" in job.groups
        found.append(dataclasses.replace(job, redundancy=rule) if may and chance.random() < 0.8 else job)
    return tuple(found)


def simulate(plan: Plan) -> Report:
    """Run it to its end or to the first broken rule."""
    if not plan.in_memory:
        template()
    with exchanged() if plan.in_memory else contextlib.nullcontext():
        return virtual_loop.run(_Simulation(plan).run())


class _Simulation:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def run(self) -> Report:
        started = time.process_time()
        plan = self._plan
        self._world = world = World(plan.seed, plan.faults)
        self._database = self._open_database()
        self._audit = Audit(world, self._database.rows)
        self._network = Network(world)
        self._shared = Shared()
        self._broken: str | None = None
        await self._start_schedulers()
        self._clients = [
            Client(world, self._network, self._shared, f"client {i}", job) for i, job in enumerate(plan.jobs)
        ]
        owner = None if plan.group is None else GroupOwner(world, self._network, plan.group)
        addresses = [client.address for client in self._clients]
        self._savers = [Saver(world, self._network, f"saver {i}", addresses, 10) for i in range(plan.savers)]
        workers = [
            Worker(world, self._network, self._shared, f"worker {i}", traits, plan.lease_s)
            for i, traits in enumerate(plan.workers)
        ]
        if owner is not None:
            self._know_group(owner)
        actors: list[Any] = [
            *([] if owner is None else [owner.run()]),
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

    def _open_database(self) -> SqlDatabase | MemoryDatabase:
        def committed() -> None:
            self._audit.step()

        if self._plan.in_memory:
            return MemoryDatabase(self._world, committed)
        # A database that goes away is a server, and others may be at work on it too.
        is_shared = self._plan.schedulers > 1 or self._plan.faults.database_restart > 0
        return SqlDatabase(self._world, committed, is_shared=is_shared)

    def _know_group(self, owner: GroupOwner) -> None:
        key, rate = owner.plan.key, parse_amount(owner.plan.commission)
        private = Private(owner.account, rate, self._shared.members.get(key, set()))
        self._audit.private = {one.job: private for one in self._clients if one.plan.groups == (key,)}

    async def _start_schedulers(self) -> None:
        settings = SchedulerSettings(
            initial_credit=self._plan.credit,
            lease_s=self._plan.lease_s,
            alive_s=30.0,
            long_poll_s=8.0,
            other_worker_s=20.0,
            trusted_after=3,
            opinion_wait_s=self._plan.opinion_wait_s,
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
