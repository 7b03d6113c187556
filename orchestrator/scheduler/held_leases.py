"""What workers say of the leases that they hold: they live on, are overdue, or are given back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.database import Transaction
from orchestrator.errors import NotPermitted, OrchestratorError
from orchestrator.protocol import js_json
from orchestrator.protocol.server import Request
from orchestrator.protocol.signing import recover_signer
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.late import Watchman
from orchestrator.scheduler.lifecycle import Ending, SliceState
from orchestrator.scheduler.open_requests import OpenRequests
from orchestrator.scheduler.presence import Presence, is_there, lives_elsewhere
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.settlement import Outcome
from orchestrator.scheduler.settling import Report
from orchestrator.scheduler.store import leases, slices
from orchestrator.scheduler.task_request import TaskRequest

log = logging.getLogger(__name__)

NEWEST = 20
"""leases that are looked at to see whether a worker has something to compute"""
MOST_ASKED = 300
"""leases of one worker that other processes are asked about"""


class HeldLeases:
    def __init__(
        self, core: Core, roster: Roster, presence: Presence, open_requests: OpenRequests, watchman: Watchman
    ) -> None:
        self._core = core
        self._roster = roster
        self._presence = presence
        self._open = open_requests
        self._watchman = watchman
        if core.cluster is not None:
            core.cluster.hear("abandoned", self._abandoned_elsewhere)
            core.cluster.answer("held", lambda item: sorted(presence.held_by_the_living(map(int, item))))

    async def heard(self, wanted: TaskRequest, request: Request) -> None:
        """Do what a request says of leases, before any slices are leased in answer to it. Raises `NotPermitted`."""
        if wanted.returns_all or wanted.return_all_message is not None:
            await self._take_back(_returning_worker(wanted, request.peer), request)
        elif wanted.holds_nothing:
            await self._take_back(wanted.profile.worker, request)
        if wanted.held or wanted.overdue:
            await self._renew(wanted, request.peer)
        if wanted.lost:
            await self._take_back_lost(wanted, request.peer)

    async def has_slices(self, worker: str, peer: str) -> bool:
        """Whether slices are out that went to this worker lately."""
        async with self._core.database.snapshot() as tx:
            held = await leases.held_by(tx, worker, peer, NEWEST)
            return bool(held) and bool(await slices.leased_under(tx, held))

    async def _take_back(self, worker: str, request: Request) -> None:
        """A worker that starts or stops holds nothing any more: its slices are ready for others at once. Only what was
        leased to the sender itself is concerned, and nothing that another living session of its has."""
        session = request.connection
        self._roster.gone(worker)
        self._open.abandon(worker, request.peer, unless=lambda one: lives_elsewhere(one.session, session))
        if self._core.cluster is not None:
            self._core.cluster.tell("abandoned", worker, request.peer)
        at_others = await self._held_at_others(worker, request.peer)
        async with self._core.database.transaction() as tx:
            held = await leases.held_by(tx, worker, request.peer)
            elsewhere = self._presence.held_elsewhere(held, session) | at_others
            held = {lease: of for lease, of in held.items() if lease not in elsewhere}
            if not held:
                return
            outcome = await self._end_leases(tx, held, worker, "returnAllSlices")
        self._core.publish(outcome)

    async def _held_at_others(self, worker: str, peer: str) -> set[int]:
        """Leases that a living session of this worker has at another process: it may be there twice under one name."""
        if self._core.cluster is None:
            return set()
        async with self._core.database.snapshot() as tx:
            unknown = self._presence.unknown(await leases.held_by(tx, worker, peer))
        if not unknown:
            return set()
        answers = await self._core.cluster.ask("held", *sorted(unknown)[:MOST_ASKED])
        return {int(lease) for answer in answers for lease in answer}

    def _abandoned_elsewhere(self, items: Sequence[Any]) -> None:
        for worker, peer, *ids in items:
            if ids:
                self._open.abandon(worker, peer, ids)
            else:
                self._open.abandon(worker, peer, unless=lambda one: is_there(one.session))

    async def _take_back_lost(self, wanted: TaskRequest, peer: str) -> None:
        """Slices that were leased in answers which their worker could not read are ready for others at once."""
        worker = wanted.profile.worker
        self._open.abandon(worker, peer, wanted.lost)
        if self._core.cluster is not None:
            self._core.cluster.tell("abandoned", worker, peer, *wanted.lost)
        async with self._core.database.snapshot() as tx:
            if not await leases.answering(tx, worker, peer, wanted.lost):
                return
        async with self._core.database.transaction() as tx:
            lost = await leases.answering(tx, worker, peer, wanted.lost)
            outcome = await self._end_leases(tx, lost, worker, "the answer was lost")
        log.info("leases_returned", extra={"worker": worker, "count": len(lost)})
        self._core.publish(outcome)

    async def _end_leases(
        self, tx: Transaction, ended: Mapping[int, Iterable[int]], worker: str, reason: str
    ) -> Outcome:
        """What is out under these leases is nobody's fault."""
        out = await slices.leased_under(tx, ended)
        known = await self._core.catalog.by_keys(tx, {job for job, _, _ in out})
        reports = [
            Report(known[job], number, lease, Ending.RETURNED, worker=worker, reason=reason)
            for job, number, lease in out
        ]
        outcome = await self._core.settlement.settle(tx, reports, self._core.clock())
        await leases.end(tx, ended)
        return outcome

    async def _renew(self, wanted: TaskRequest, peer: str) -> None:
        """The worker lists what it still holds: those leases live on, and it is alive. What it calls overdue may go to
        idle workers, too, with the rest of its lease."""
        now = self._core.clock()
        self._roster.heard(wanted.profile.worker, now)
        async with self._core.database.transaction() as tx:
            held = await leases.held_by(tx, wanted.profile.worker, peer)
            mine = set(held)
            alive = mine & await self._leases_of(tx, wanted.held)
            await leases.renew(tx, alive, now + self._core.settings.lease_s)
            overdue = mine & await self._leases_of(tx, wanted.overdue)
            if overdue:
                await leases.make_due(tx, overdue, now)
        for lease in overdue:
            for job in held[lease]:
                self._watchman.leased(job, now)
        if overdue and self._core.dispatcher is not None:
            self._core.dispatcher.replan()

    async def _leases_of(self, tx: Transaction, named: Mapping[str, Any]) -> set[int]:
        """The leases of slices that a worker names: {jobId: [number…]}."""
        found: set[int] = set()
        for job_id, numbers in list(named.items())[:1000]:
            job = await self._core.catalog.find(tx, job_id)
            if job is None or not isinstance(numbers, list):
                continue
            wanted_numbers = [n for n in numbers[:100_000] if isinstance(n, int) and not isinstance(n, bool)]
            for row in (await slices.load(tx, job.key, wanted_numbers, lock=False)).values():
                if row.state is SliceState.LEASED:
                    found |= {row.lease, row.rival}
        return found


def _returning_worker(wanted: TaskRequest, peer: str) -> str:
    """The id in the statement, which the worker's identity has signed. The sender of the request must be that
    identity, so a copied statement is of no use to others. Raises `NotPermitted`."""
    try:
        statement = js_json.loads(wanted.return_all_message)
        body = statement["body"]
        signer = recover_signer(statement["signature"], js_json.dumps(body))
        worker = body["id"]
    except (OrchestratorError, KeyError, TypeError):
        signer, worker = None, None
    if signer != peer or not isinstance(worker, str):
        raise NotPermitted("returnAllSlices is not a statement {owner, signature, body: {id}} signed by its sender")
    return worker
