"""What the Scheduler's services share: database, bank, job catalogue, leases, and the ways they wake each other."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.bank import Bank
from orchestrator.database import Database, retried
from orchestrator.errors import InvalidInput, NotPermitted, OrchestratorError
from orchestrator.protocol.server import Request
from orchestrator.scheduler.blobs import Blobs
from orchestrator.scheduler.catalog import Catalog, Job
from orchestrator.scheduler.cluster import PROGRAMS_ASIDE, Cluster
from orchestrator.scheduler.lease_book import LeaseBook
from orchestrator.scheduler.lifecycle import Budget, ErrorLimit
from orchestrator.scheduler.listing import Listing
from orchestrator.scheduler.money import Money
from orchestrator.scheduler.programs import Programs
from orchestrator.scheduler.redundancy import SpotChecks
from orchestrator.scheduler.refusals import RefusalBook
from orchestrator.scheduler.settlement import Outcome, Settlement
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.scheduler.trust import TrustRules
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey

CONNECTING_S = 10.0
"""how long a request waits for a database that is away"""

Clock = Callable[[], float]
"""Seconds since 1970: deadlines are kept in the database."""


class Audience(Protocol):
    """Who hears of committed changes: the event router."""

    def publish(self, outcome: Outcome) -> None: ...

    def answered(self, job: Job) -> None: ...

    def watched(self) -> frozenset[int]:
        """Keys of the jobs to which somebody listens here."""

    def command(self, workers: set[str], command: str, payload: Mapping[str, Any]) -> None: ...


class Calls(Protocol):
    """Who calls workers that wait: the dispatcher."""

    def work(self, keys: Iterable[int]) -> None: ...

    def changed(self, states: Iterable[JobState]) -> None: ...

    def read_again(self) -> None: ...

    def replan(self) -> None: ...

    def everybody(self) -> None: ...


class Signal:
    """Wakes everybody who waits. Take a ticket, look at the state, then wait on the ticket: nothing is missed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ticket(self) -> asyncio.Event:
        return self._event

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()


class Core:
    def __init__(
        self,
        *,
        settings: SchedulerSettings,
        database: Database,
        bank: Bank,
        identity: PrivateKey,
        clock: Clock = time.time,
    ) -> None:
        self.settings = settings
        self.database = database
        self.identity = identity
        self.clock = clock
        self.catalog = Catalog()
        self.leases = LeaseBook()
        self.money = Money(bank, settings.initial_credit)
        self.error_limit = ErrorLimit(settings.failed_slice_limit)
        self.trust = TrustRules(settings.trusted_after, settings.least_spot_checks)
        # Derived from the key, so that all processes choose alike, also after a restart.
        secret = hashlib.sha256(f"spot checks of {identity.to_hex()}".encode()).digest()
        self.settlement = Settlement(
            self.money, Budget(settings.max_slice_failures, settings.max_slice_losses), self.error_limit,
            self.trust, SpotChecks(secret),
        )  # fmt: skip
        self.refusals = RefusalBook()
        self.listing = Listing(settings, database, self.catalog)
        self.settlement.bans = self.listing.bans
        self.money_came = Signal()
        self.dispatcher: Calls | None = None
        self.audience: Audience | None = None
        self.keep_values_in(Blobs(None, 0))
        self.cluster: Cluster | None = None
        """the other processes; None when the database is ours alone"""

    def keep_values_in(self, blobs: Blobs) -> None:
        self.blobs = blobs
        """where big values are"""
        self.programs = Programs(blobs)

    @property
    def may_set_programs_aside(self) -> bool:
        """Every process that is alive knows code that is not in its row."""
        return self.cluster is None or self.cluster.all_are_at(PROGRAMS_ASIDE)

    def publish(self, outcome: Outcome) -> None:
        """Call after the commit."""
        self.listing.note(outcome, self.clock())
        if self.dispatcher is not None:
            self.dispatcher.changed(outcome.states.values())
            if outcome.waiting:
                self.dispatcher.work(outcome.states)
        if outcome.waiting and self.cluster is not None:
            for state in outcome.states.values():
                if state.counts.waiting > 0:
                    self.cluster.tell("work", state.key)
        if self.cluster is not None:
            for key in {key for key, _ in outcome.bans}:
                self.cluster.tell("bans", key)
        if self.audience is not None:
            self.audience.publish(outcome)
        for job, lease in outcome.overtaken:
            self._call_off(job, lease, outcome.states.get(job.key))

    def work_elsewhere(self, items: Iterable[Sequence[int | str]]) -> None:
        """Another process has made slices of these jobs ready."""
        self.changed_elsewhere(items)
        if self.dispatcher is not None:
            self.dispatcher.read_again()

    def changed_elsewhere(self, items: Iterable[Sequence[int | str]]) -> None:
        """Another process has changed these jobs."""
        self.listing.changed(key for item in items for key in item if isinstance(key, int))

    def look_again(self) -> None:
        """What other processes told was missed."""
        self.listing.reload()
        if self.dispatcher is not None:
            self.dispatcher.read_again()

    def _call_off(self, job: Job, lease_id: int, state: JobState | None) -> None:
        """A worker computes a slice that has its result. While the job goes on it hears so when it reports; a job
        that has ended need not take its cores any longer. Only ours hear of it: see `Lease.may_be_called_off`."""
        lease = self.leases.cached(lease_id)
        if lease is None or self.audience is None or state is None or state.ended_at is None:
            return
        if lease.may_be_called_off:
            self.audience.command({lease.worker}, "remove", {"jobId": job.id})

    def publish_state(self, state: JobState) -> None:
        """One job changed; call after the commit."""
        self.publish(Outcome(states={state.key: state}, waiting=state.counts.waiting > 0))

    def answered(self, job: Job) -> None:
        """A client is about to hear the answer to a step of deploying `job`: its `stop` is held back from here."""
        if self.audience is not None:
            self.audience.answered(job)


Operation = Callable[[Request], Awaitable[Any]]


class Operations:
    """Dispatch of one service's requests. A version suffix (`submit@5`) may be left out by the caller."""

    def __init__(self, table: Mapping[str, Operation]) -> None:
        self._table = dict(table)
        self._table.update({name.partition("@")[0]: operation for name, operation in table.items()})

    async def handle(self, request: Request) -> Any:
        operation = self._table.get(request.operation)
        if operation is None:
            raise OrchestratorError(
                f"this service has no operation {request.operation!r}; it has {', '.join(sorted(self._table))}",
                code="ENOSYS",
            )
        # Every operation is one that may arrive twice, and what met a conflict has not happened at all.
        return await retried(lambda: operation(request), connecting=CONNECTING_S)


def fields(request: Request) -> Mapping[str, Any]:
    """The request's data as an object. Raises `InvalidInput`."""
    if not isinstance(request.data, Mapping):
        raise InvalidInput(f"{request.operation} needs an object as data")
    return request.data


def owns(request: Request, job: Job) -> bool:
    """The peer acts for the job's owner or its payment account."""
    return bool({job.owner, job.payment_account} & ({request.peer} | request.authorized))


def require_owner(request: Request, job: Job) -> None:
    """Raises `NotPermitted` unless the peer is the job's owner or brings the owner's signature."""
    if request.peer != job.owner and job.owner not in request.authorized:
        raise NotPermitted(f"only the owner of job {job.id} may do this")
