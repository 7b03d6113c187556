"""The parts of one Scheduler process, put together: services, and the side tasks that keep them going.

Sockets, files and TLS are not among them: the simulator puts the same together over a database of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from orchestrator.bank import Bank
from orchestrator.bank.ethereum.running import Chain
from orchestrator.bank.sweep import Sweep
from orchestrator.bank.teller import Teller
from orchestrator.database import Database
from orchestrator.errors import InvalidInput
from orchestrator.scheduler.account_keeper import AccountKeeper
from orchestrator.scheduler.blobs import Blobs
from orchestrator.scheduler.cluster import Cluster
from orchestrator.scheduler.compute_groups import ComputeGroups
from orchestrator.scheduler.core import Clock, Core
from orchestrator.scheduler.event_router import EventRouter
from orchestrator.scheduler.job_keeper import JobKeeper
from orchestrator.scheduler.job_submit import JobSubmit
from orchestrator.scheduler.pheme import Pheme
from orchestrator.scheduler.piled_results import PiledResults
from orchestrator.scheduler.reconcile import Reconciler
from orchestrator.scheduler.result_submitter import ResultSubmitter
from orchestrator.scheduler.retention import Retention
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.task_distributor import TaskDistributor
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.addresses import checksum
from orchestrator.wallet.keys import PrivateKey


class Side(Protocol):
    """Something that goes on as long as the process does; its failure ends the process."""

    async def run(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Assembly:
    core: Core
    roster: Roster
    router: EventRouter
    results: ResultSubmitter
    distributor: TaskDistributor
    reconciler: Reconciler
    keeper: JobKeeper
    services: dict[str, Any]
    sides: Sequence[Side]
    """to be run from now on, and longer than the services are asked"""


async def assemble(
    settings: SchedulerSettings,
    database: Database,
    bank: Bank,
    identity: PrivateKey,
    clock: Clock,
    *,
    place: str,
    blobs: Blobs | None = None,
    chain: Chain | None = None,
) -> Assembly:
    """`place` tells this process from others on the same database. Raises `InvalidInput`, e.g. when these have another
    key."""
    core = Core(settings=settings, database=database, bank=bank, identity=identity, clock=clock)
    if blobs is not None:
        core.keep_values_in(blobs)
    roster = Roster(settings.alive_s)
    company = 0
    if database.is_shared:
        core.cluster = Cluster(database, roster, clock, place)
        company = await core.cluster.join(identity.address, settings.database_wait_s)
        core.cluster.hear("work", core.work_elsewhere)
        core.cluster.hear("bans", core.changed_elsewhere)
        core.cluster.on_missed(core.look_again)
    core.audience = router = EventRouter(core)
    results, keeper = ResultSubmitter(core, roster), JobKeeper(core)
    reconciler = Reconciler(core, pardon=company == 0)
    distributor = TaskDistributor(core, roster)
    services = {
        "jobSubmit": JobSubmit(core),
        "taskDistributor": distributor,
        "resultSubmitter": PiledResults(results),
        "eventRouter": router,
        "computeGroups": ComputeGroups(core),
        "pheme": Pheme(core, roster),
        "bankTeller": Teller(
            bank,
            database,
            initial_credit=settings.initial_credit,
            on_transfer=core.money_came.notify,
            operators=_operators(settings, identity.address),
            withdrawals=chain.withdrawals if chain is not None else None,
            on_withdrawal=chain.wake if chain is not None else lambda: None,
        ),
    }
    sides: list[Side] = [
        results,
        distributor,
        router,
        reconciler,
        keeper,
        AccountKeeper(core),
        Retention(core),
        Sweep(bank, database, clock),
    ]
    if core.cluster is not None:
        sides.insert(0, core.cluster)
    if chain is not None:
        sides.append(chain)
    return Assembly(core, roster, router, results, distributor, reconciler, keeper, services, sides)


def _operators(settings: SchedulerSettings, own: str) -> list[str]:
    """Who may make money. Raises `InvalidInput`."""
    try:
        return [checksum(address) for address in settings.bank_operator] or [own]
    except InvalidInput as error:
        raise InvalidInput(f"bank_operator: {error.message}") from error
