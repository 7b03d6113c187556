"""The taskDistributor service: workers ask for slices and get them under a lease."""

from __future__ import annotations

import collections
from typing import Any

from orchestrator.protocol.server import Request
from orchestrator.scheduler.core import Core, Operations, fields
from orchestrator.scheduler.dispatcher import Dispatcher
from orchestrator.scheduler.held_leases import HeldLeases
from orchestrator.scheduler.late import Watchman
from orchestrator.scheduler.late_leasing import LateLeasing
from orchestrator.scheduler.leasing import Leasing
from orchestrator.scheduler.matching import WhyNot
from orchestrator.scheduler.memberships import Membership, Memberships
from orchestrator.scheduler.open_requests import OpenRequest, OpenRequests
from orchestrator.scheduler.packing import PackingRules
from orchestrator.scheduler.presence import Presence
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.task_answer import TaskAnswers
from orchestrator.scheduler.task_request import TaskRequest, parse_task_request
from orchestrator.task_groups import TaskGroup

RESOLVING_S = 0.1
"""longest wait for work of a worker that holds jobs whose code it has not got yet"""


class TaskDistributor:
    """`run()` must be running while requests are handled."""

    def __init__(self, core: Core, roster: Roster) -> None:
        self._core = core
        self._roster = roster
        settings = core.settings
        rules = PackingRules(
            target_task_s=settings.target_task_s, min_task_s=settings.min_task_s, max_slices=settings.max_task_slices
        )
        self._memberships = Memberships(core, roster)
        self._operations = Operations({"requestTask@3": self.request_task})
        self._open = OpenRequests()
        self._presence = roster.absent = Presence(roster.hung_up)
        self._answers = TaskAnswers(core, rules)
        watchman = Watchman()
        self._leasing = Leasing(core, roster, self._presence, watchman, rules=rules, answers=self._answers)
        self._late = LateLeasing(core, self._leasing, self._answers, watchman)
        self._dispatcher = Dispatcher(core, roster, rules, self._late, watchman)
        self._held = HeldLeases(core, roster, self._presence, self._open, watchman)

    async def run(self) -> None:
        async with TaskGroup() as group:
            group.create_task(self._dispatcher.run())
            group.create_task(self._leasing.run())

    async def handle(self, request: Request) -> Any:
        return await self._operations.handle(request)

    async def request_task(self, request: Request) -> dict[str, Any]:
        """Lease slices to the asking worker; without work for it, wait a little for some before saying so."""
        wanted = parse_task_request(fields(request))
        worker = wanted.profile.worker
        await self._held.heard(wanted, request)
        if not wanted.wants_slices or wanted.load <= 0:
            return self._answers.nothing()
        self._presence.asks(worker, request.connection)
        with self._open.answering(worker, request.connection, wanted.request_id) as opened:
            return await self._wait_for_work(request, wanted, opened)

    async def _wait_for_work(self, request: Request, wanted: TaskRequest, opened: OpenRequest) -> dict[str, Any]:
        patience_s = self._dispatcher.patience_s()
        if wanted.resolving:
            patience_s = min(patience_s, RESOLVING_S)
        wanted, groups = await self._memberships.resolve(wanted, request)
        deadline = self._core.clock() + patience_s
        reasons: collections.Counter[str] = collections.Counter()
        with self._dispatcher.waiting(wanted) as visit:
            # A worker that has left must not be entered among those that are there once more.
            while not (opened.abandoned or request.connection.closed.is_set()):
                visit.look()
                self._roster.saw(wanted.profile, wanted.load, self._core.clock(), wanted.size)
                answer = None
                # Nothing is leased to somebody who may never hear of it.
                if request.connection.is_connected:
                    reasons.clear()
                    answer = await self._leasing.lease(wanted, groups, opened, reasons)
                    answer = answer or await self._late.lease(wanted, groups, opened)
                if answer is not None:
                    self._presence.served.add(request.connection)
                    visit.found({job: len(given) for job, given in answer["body"]["task"].items()})
                    return answer
                patience = deadline - self._core.clock()
                if patience > 0 and await self._has_to_begin(wanted, request):
                    patience = 0.0
                if patience <= 0 or not await visit.rest(patience):
                    self._roster.heard(wanted.profile.worker, self._core.clock())
                    reasons.update(self._elsewhere(wanted, groups))
                    break
        return self._answers.nothing(reasons)

    async def _has_to_begin(self, wanted: TaskRequest, request: Request) -> bool:
        """An official worker, which gives its requests no names, begins none of the slices that it has while it waits
        for an answer."""
        if wanted.request_id is not None or request.connection not in self._presence.served:
            return False
        return await self._held.has_slices(wanted.profile.worker, request.peer)

    def _elsewhere(self, wanted: TaskRequest, groups: Membership) -> dict[str, int]:
        """Jobs that wait in groups of others, by why the worker is not in those."""
        board, mine = self._core.listing.board, wanted.profile.groups
        others = board.waiting_elsewhere(mine)
        full = board.waiting_elsewhere(mine, within=groups.full) if groups.full else 0
        counts = {WhyNot.GROUP: others - full, WhyNot.GROUP_FULL: full}
        return {str(code): count for code, count in counts.items() if count > 0}

    def statistics(self) -> dict[str, int]:
        return self._dispatcher.statistics()
