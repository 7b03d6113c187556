"""What a worker answers when it is asked: a snapshot of its parts, and why it has no work. Nothing is changed here."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

from orchestrator import __version__
from orchestrator.bank.amounts import format_amount
from orchestrator.own_memory import own_memory
from orchestrator.settings import WorkerSettings
from orchestrator.worker import health, machine, status
from orchestrator.worker.account import WorkerAccount
from orchestrator.worker.audit import Statistics
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeUnavailable
from orchestrator.worker.explain import Circumstances, explain
from orchestrator.worker.fetching.fetcher import Fetcher
from orchestrator.worker.health import Health
from orchestrator.worker.metering import Usage
from orchestrator.worker.notary import Notary
from orchestrator.worker.pool import SandboxPool
from orchestrator.worker.scheduler_link.link import SchedulerLink
from orchestrator.worker.seats import Seats
from orchestrator.worker.supervisor import Supervisor
from orchestrator.worker.trusting import KeyChange


class Answers:
    """The worker sets the parts as they start: None are those that have not, or never will."""

    def __init__(self, settings: WorkerSettings, supervisor: Supervisor, clock: Callable[[], float]) -> None:
        self.account: WorkerAccount | None = None
        self.runtime: DockerRuntime | None = None
        self.pool: SandboxPool | None = None
        self.fetcher: Fetcher | None = None
        self.seats: Seats | None = None
        self.link: SchedulerLink | None = None
        """None before there is a Scheduler to talk to."""
        self.notary: Notary | None = None
        """None when no receipts are wanted."""
        self.ready = False
        """Whether a first sandbox has described itself."""
        self.delivered = False
        """Whether, at the end, every report was acknowledged."""
        self.looked_at: float | None = None
        """When the supervisor last looked after its work; None while it does not run."""
        self._settings = settings
        self._supervisor = supervisor
        self._clock = clock
        self._started_at = time.time()
        self._began = clock()

    def reconfigure(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def statistics(self) -> dict[str, Any]:
        """Everything about this worker, by part. Empty parts have not started."""
        parts = {
            "runtime": self.runtime,
            "pool": self.pool,
            "link": self.link,
            "fetcher": self.fetcher,
            "receipts": self.notary,
        }
        return {
            "worker": None if self.account is None else self.account.worker_id,
            "supervisor": self._supervisor.statistics(),
            **{name: {} if part is None else part.statistics() for name, part in parts.items()},
        }

    def status(self) -> dict[str, Any]:
        """A snapshot for people and programs: who the worker is, what it is at, and `statistics`."""
        books = self._supervisor.statistics()
        return {
            "state": self._state(books),
            "version": __version__,
            "pid": os.getpid(),
            "scheduler": self._settings.scheduler_url,
            "payment_address": None if self.account is None else self.account.payment_address,
            "started_at": self._started_at,
            "now": time.time(),
            "clock": self._clock(),
            "earned_dcc": format_amount(books.earned),
            "slots": self._slots(books),
            "usage": self.usage(),  # after the slots: what these used is within it
            **self.statistics(),
        }

    def _state(self, books: Statistics) -> str:
        return status.state_of(books, connected=self.link is not None, ready=self.ready)

    def readiness(self) -> Health:
        """Whether it gets and does work; the reason, if it does not."""
        books = self._supervisor.statistics()
        return health.readiness(
            books,
            self._state(books),
            connected=self.link is not None,
            docker=books.runtime,
            now=self._clock(),
            most_s=self._settings.ready_max_age_s,
            began=self._began,
            key_change=self._key_change(),
            outbox=None if self.link is None else self.link.outbox.trouble,
        )

    def _key_change(self) -> KeyChange | None:
        return None if self.link is None else self.link.key_change

    def liveness(self) -> Health:
        """Whether it looks after its work at all."""
        return health.liveness(self.looked_at, self._clock())

    def usage(self) -> dict[str, Any]:
        """What sandboxes and the worker itself take of the machine. CPU times are totals, in seconds."""
        sandboxes = Usage(0, 0) if self.pool is None else self.pool.usage()
        memory, own = machine.memory(), os.times()
        return {
            "sandboxes_cpu_s": sandboxes.cpu_ns / 1e9,
            "sandboxes_memory_bytes": sandboxes.peak_bytes,
            "worker_cpu_s": own.user + own.system,
            "worker_memory_bytes": own_memory(),
            "cores": os.cpu_count() or 1,
            "load": os.getloadavg()[0],
            "memory_bytes": None if memory is None else memory.total,
            "memory_available_bytes": None if memory is None else memory.available,
        }

    def _slots(self, books: Statistics) -> list[dict[str, Any]]:
        """Each place for a sandbox: what it does, since how many seconds, and what its sandbox has used."""
        usage, now = {} if self.seats is None else self.seats.usage(), self._clock()
        slots = []
        for slot in books.slots:
            used = usage.get(slot.sandbox) if slot.sandbox is not None else None
            told = {name: value for name, value in dataclasses.asdict(slot).items() if name != "since"}
            told["for_s"] = None if slot.since is None else max(now - slot.since, 0.0)
            told["cpu_s"] = None if used is None else used.cpu_ns / 1e9
            told["memory_bytes"] = None if used is None else used.peak_bytes
            slots.append(told)
        return slots

    # -- why ---------------------------------------------------------------------------------------------------------

    def explain(
        self, *, job: str | None = None, slice_number: int | None = None, sandbox: int | None = None
    ) -> dict[str, Any]:
        """Findings, the most decisive first, the records behind them, and the stories that were asked for."""
        books, now = self._supervisor.statistics(), self._clock()
        findings = explain(books, self._circumstances(now))
        wanted: dict[str, str | int | tuple[str, int] | None] = {"job": job, "sandbox": sandbox}
        if job is not None and slice_number is not None:
            wanted["slice"] = (job, slice_number)
        stories = {name: self._supervisor.story(key) for name, key in wanted.items() if key is not None}
        return {
            "state": self._state(books),
            "why": findings[0].what,
            "change": findings[0].remedy,
            "findings": findings,
            "refusals": [status.refusal_of(record, now) for record in books.refusals],
            "stories": {
                name: [{"ago_s": now - at, "what": what} for at, what in told] for name, told in stories.items()
            },
        }

    def _circumstances(self, now: float) -> Circumstances:
        settings, memory = self._settings, machine.memory()
        failure = None if self.pool is None else self.pool.failure
        docker = None
        if isinstance(failure, RuntimeUnavailable):
            what = failure.message.removesuffix(failure.remedy).rstrip(". ")
            docker = {"reason": failure.reason, "message": what, "remedy": failure.remedy}
        return Circumstances(
            clock=now,
            scheduler_url=settings.scheduler_url,
            image=settings.image,
            memory_mib=settings.memory_mib,
            memory_reserve_mib=settings.memory_reserve_mib,
            memory_bytes=None if memory is None else memory.total,
            memory_available=None if memory is None else memory.available,
            cores=os.cpu_count() or 1,
            sandboxes_by_rule=settings.sandboxes is None and settings.max_sandboxes is None,
            warm=settings.warm,
            job_ids=settings.job_ids,
            groups=tuple(text.partition(",")[0] for text in settings.compute_groups),
            public_group=settings.public_group,
            connected=self.link is not None,
            ready=self.ready,
            trouble="" if self.link is None else self.link.trouble,
            key_change=self._key_change(),
            outbox={} if self.link is None else self.link.outbox.statistics(),
            state_dir=str(settings.state_dir),
            pool={} if self.pool is None else self.pool.statistics(),
            docker=docker,
        )

    # -- the end -----------------------------------------------------------------------------------------------------

    def drain_progress(self) -> dict[str, Any]:
        """What is left to do before a draining worker ends."""
        return status.drain_progress(self._supervisor.statistics(), self._outstanding())

    def outcome(self) -> dict[str, Any]:
        """How it ended; `delivered` says whether every report was acknowledged."""
        return status.outcome(self._supervisor.statistics(), self._outstanding(), delivered=self.delivered)

    def _outstanding(self) -> int:
        return 0 if self.link is None else self.link.outstanding
