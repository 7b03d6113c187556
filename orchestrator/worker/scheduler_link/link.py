"""Everything that a worker and its Scheduler say to each other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from orchestrator.protocol.client import ClientConnection, DcpClient
from orchestrator.protocol.errors import ConnectionClosed, PeerChanged
from orchestrator.worker import published
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.account import WorkerAccount
from orchestrator.worker.notary import Notary
from orchestrator.worker.offers import Offer
from orchestrator.worker.outbox import Outbox
from orchestrator.worker.owned_tasks import OwnedTasks
from orchestrator.worker.scheduler_link.deliveries import Deliveries
from orchestrator.worker.scheduler_link.emissions import Emissions
from orchestrator.worker.scheduler_link.orders import Orders
from orchestrator.worker.scheduler_link.package_manager import PackageManager
from orchestrator.worker.scheduler_link.services import scheduler_service, service_url
from orchestrator.worker.scheduler_link.statuses import Statuses
from orchestrator.worker.scheduler_link.task_requests import TaskRequests
from orchestrator.worker.scheduler_link.traffic import Traffic
from orchestrator.worker.trusting import KeyChange

log = logging.getLogger(__name__)


class SchedulerLink:
    """`async with` it, inside its `DcpClient`; its parts do the talking. Events for the supervisor go to `tell`, from
    the event loop.

    Leaving does not wait for answers (`flush` does): results that are unacknowledged then stay in the `outbox`, which
    must live longer; returns are lost with the process.
    """

    def __init__(
        self,
        client: DcpClient,
        config: Mapping[str, Any],
        account: WorkerAccount,
        offer: Offer,
        tell: Callable[[ev.Event], None],
        *,
        outbox: Outbox,
        notary: Notary | None = None,
        request_timeout_s: float = 180.0,
    ) -> None:
        """With a `notary`, every result carries a receipt of its. Raises `InvalidInput` when `config` lacks a service
        (`check_services` tells before)."""
        self._client = client
        self.outbox = outbox
        """To be asked, not to be used."""
        self._complained: KeyChange | None = None
        self._settled = asyncio.Event()
        self._tasks = OwnedTasks()
        self._traffic = traffic = Traffic(self._tasks, self._check_settled)
        self._distributor = client.connect(scheduler_service(config, "taskDistributor"))
        self._submitter = submitter = client.connect(scheduler_service(config, "resultSubmitter"))
        worker_id, router_url = account.worker_id, scheduler_service(config, "eventRouter")
        self.orders = Orders(client, router_url, worker_id, tell, traffic.counts)
        self.emissions = emissions = Emissions(self.orders.router, worker_id, traffic)
        self.statuses = Statuses(submitter, worker_id, emissions, traffic)
        self.deliveries = Deliveries(
            submitter, account, emissions, traffic,
            outbox=outbox, notary=notary, tell=tell, in_pile=published.results_in_pile(config),
        )  # fmt: skip
        self.requests = TaskRequests(
            self._distributor,
            account,
            offer,
            self.deliveries.leftovers_settled,
            self._tasks,
            timeout_s=request_timeout_s,
        )
        self.packages = PackageManager(client, service_url(config, "packageManager"))
        self.reoffer(offer)

    async def __aenter__(self) -> SchedulerLink:
        await self._tasks.__aenter__()
        for connection in self._connections():
            connection.on_session_end(self._look_at_key)
        self._tasks.create_task(self.statuses.run(), name="report-statuses")
        self._tasks.create_task(self.orders.run(), name="listen-to-scheduler")
        self._tasks.create_task(self.deliveries.run(), name="deliver-leftovers")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(kind, exc, traceback)

    def reoffer(self, offer: Offer) -> None:
        """Tell this from now on."""
        self.requests.offer = offer
        self.statuses.send_begin = offer.send_begin

    # -- the end -------------------------------------------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Results, returns and events that are not acknowledged yet."""
        return self.deliveries.outstanding + self.statuses.outstanding + self.emissions.outstanding

    def _check_settled(self) -> None:
        if not self.outstanding:
            self._settled.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything is acknowledged; False when that took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.outstanding:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            return False
        return True

    async def goodbye(self, timeout_s: float) -> None:
        """Tell the Scheduler that nothing is held any more, unless results are kept for the next start: it would make
        them late."""
        if self.outbox.kept:
            log.warning("results_kept", extra={"count": self.outbox.kept})
        else:
            await self.requests.goodbye(timeout_s)

    # -- the Scheduler's key -------------------------------------------------------------------------------------------

    def _connections(self) -> tuple[ClientConnection, ...]:
        return (self._distributor, self._submitter, self.orders.router)

    @property
    def key_change(self) -> KeyChange | None:
        """That another key answers than did before, which nobody has accepted."""
        for connection in self._connections():
            if connection.peer_changed is not None:
                return KeyChange(url=connection.url, **connection.peer_changed.info)
        return None

    def _look_at_key(self, error: ConnectionClosed) -> None:
        change = self.key_change
        if not isinstance(error, PeerChanged) or change is None:
            return
        known, self._complained = self._complained, change
        if known is None or (known.before, known.now) != (change.before, change.now):
            log.error(
                "scheduler_key_changed",
                extra={
                    "url": change.url,
                    "before": change.before,
                    "now": change.now,
                    "error": change.what,
                    "remedy": change.remedy,
                },
            )

    def accept_keys(self, keys: frozenset[str]) -> None:
        """A Scheduler that has one of these addresses is believed, whichever it had before."""
        self._client.accepted = keys
        for connection in self._connections():
            connection.wake()

    # -- asking it -----------------------------------------------------------------------------------------------------

    @property
    def trouble(self) -> str:
        """Why the Scheduler cannot be reached at the moment; "" when it can, or when nothing failed yet."""
        each = (one.statistics()["trouble"] for one in (self._distributor, self._submitter))
        return next((trouble for trouble in each if trouble), "")

    def statistics(self) -> dict[str, Any]:
        return {
            "outstanding": self.outstanding,
            "results": self.deliveries.results,
            "returns": self.statuses.returns,
            "events": self.emissions.outstanding,
            "requested_at": self.requests.answered_at,
            "counts": dict(self._traffic.counts),
            "outbox": self.outbox.statistics(),
            "connections": [one.statistics() for one in self._connections()],
        }
