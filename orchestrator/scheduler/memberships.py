"""Which compute groups a worker is in: what it proved, as far as there is room."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from orchestrator.protocol.server import Request
from orchestrator.scheduler import groups as rules
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.groups import Commission, Group, Knock
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.store import groups
from orchestrator.scheduler.task_request import TaskRequest


@dataclasses.dataclass(frozen=True, slots=True)
class Membership:
    known: Mapping[str, Group]
    """the private groups that the worker is in, by id"""
    full: frozenset[str]
    """groups that it proved, and that have no room for it"""

    def open_to(self, job_groups: frozenset[str], payment: int) -> frozenset[str]:
        """A job's groups without those of the worker that take no job which may pay so much."""
        outgrown = {one for one in job_groups if one in self.known and rules.pays_too_much(self.known[one], payment)}
        return job_groups - outgrown

    def pay(self, job_groups: frozenset[str], worker_groups: frozenset[str], price: int) -> int:
        """What a worker gets of the price of a slice, when its group has taken its part."""
        group = rules.route(job_groups, worker_groups, self.known)
        taken = None if group is None else self.commission(group)
        return price if taken is None else price - taken.of(price)

    def commission(self, group_id: str) -> Commission | None:
        return rules.commission(self.known.get(group_id))


_PUBLIC_ONLY = Membership({}, frozenset())


class Memberships:
    """Read anew for each request: whoever is taken off a list, or whose group has a new secret, is out at once."""

    def __init__(self, core: Core, roster: Roster) -> None:
        self._core = core
        self._roster = roster

    async def resolve(self, wanted: TaskRequest, request: Request) -> tuple[TaskRequest, Membership]:
        """The request with the groups that the worker is in, and these groups."""
        if not wanted.groups:
            return wanted, _PUBLIC_ONLY
        async with self._core.database.snapshot() as tx:
            found = await groups.named(tx, wanted.groups)
        addresses = request.authorized | {request.peer}
        proved = [
            group
            for group in found
            if any(rules.may_work(group, Knock(one, addresses, request.connection.dcpsid)) for one in wanted.groups)
        ]
        full = frozenset(group.id for group in proved if not self._has_room(group, wanted))
        known = {group.id: group for group in proved if group.id not in full}
        profile = dataclasses.replace(wanted.profile, groups=wanted.profile.groups | frozenset(known))
        return dataclasses.replace(wanted, profile=profile), Membership(known, full)

    def _has_room(self, group: Group, wanted: TaskRequest) -> bool:
        if not group.terms.limits_workers:
            return True
        others = self._roster.use_of(group.id, self._core.clock(), besides=wanted.profile.worker)
        return rules.has_room_for(group, wanted.size, others)
