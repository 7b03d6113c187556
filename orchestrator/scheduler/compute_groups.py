"""The computeGroups service: groups are made, changed and given up, and jobs go in and out.

It refuses in its own way: a successful response whose payload says `success: false`, with `message` and `code`.
"""

from __future__ import annotations

import dataclasses
import secrets
import string
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from orchestrator.bank.amounts import format_amount
from orchestrator.database import Transaction
from orchestrator.errors import InvalidInput, NotFound, NotPermitted, OrchestratorError
from orchestrator.jobs.words import PUBLIC_GROUP, GroupDescriptor, parse_group
from orchestrator.protocol.server import Request
from orchestrator.scheduler import groups as rules
from orchestrator.scheduler import joining, lifecycle, messages
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.core import Core, Operations, fields, require_owner
from orchestrator.scheduler.groups import PUBLIC_GROUP_ID, Group, Knock
from orchestrator.scheduler.pricing import hold_for
from orchestrator.scheduler.store import groups, jobs
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.wallet.addresses import checksum

MOST_LISTED = 1000
"""jobs in an answer, the newest"""
_ALPHABET = string.ascii_letters + string.digits


class ComputeGroups:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._operations = Operations(
            {
                "addJobToGroups": self.add_job_to_groups,
                "createGroup": _in_payload(self.create_group),
                "changeGroup": _in_payload(self.change_group),
                "deleteGroup": _in_payload(self.delete_group),
                "listJobs": _in_payload(self.list_jobs),
                "removeJob": _in_payload(self.remove_job),
                "removeAllJobs": _in_payload(self.remove_all_jobs),
                "listGroups": _in_payload(self.list_groups),
            }
        )

    async def handle(self, request: Request) -> Any:
        return await self._operations.handle(request)

    # --- jobs go in

    async def add_job_to_groups(self, request: Request) -> dict[str, Any]:
        """Put a job into groups; from then on it is distributed. Repeating it is harmless, and costs nothing.

        `success` says whether it is in at least one of them now; `failed` tells of the others.
        """
        data = fields(request)
        descriptors = data.get("cgArray")
        if not isinstance(descriptors, list) or not 0 < len(descriptors) <= rules.MOST_JOINED:
            raise InvalidInput(f"cgArray must be a list of 1 to {rules.MOST_JOINED} compute groups")
        wanted = [parse_group(one, f"cgArray[{index}]") for index, one in enumerate(descriptors)]
        try:
            joined, failed = await self._add(request, data.get("job"), wanted)
        except OrchestratorError as error:
            return _refusal(error)
        if not joined:
            return _refusal(failed[0][1])
        told = [{"group": one.name, "code": error.code, "message": error.message} for one, error in failed]
        return {"success": True, "joined": joined, **({"failed": told} if told else {})}

    async def _add(
        self, request: Request, job_id: Any, wanted: list[GroupDescriptor]
    ) -> tuple[list[str], list[tuple[GroupDescriptor, OrchestratorError]]]:
        joined: list[str] = []
        failed: list[tuple[GroupDescriptor, OrchestratorError]] = []
        async with self._core.database.transaction() as tx:
            job = await self._core.catalog.get(tx, job_id)
            require_owner(request, job)
            # Groups before jobs, everywhere: two requests never wait for each other.
            known = await groups.named(tx, [one for one in wanted if not one.is_public], lock=True)
            state = (await jobs.states(tx, [job.key], lock=True))[job.key]
            members = set((await jobs.groups(tx, [job.key])).get(job.key, frozenset()))
            for descriptor in wanted:
                try:
                    group = None if descriptor.is_public else self._let_in(request, known, descriptor)
                    group_id = PUBLIC_GROUP_ID if group is None else group.id
                    if group is not None and group_id not in members and state.status not in lifecycle.ENDED:
                        await self._enter(tx, request, job, state, group)
                except OrchestratorError as error:
                    failed.append((descriptor, error))
                    continue
                members.add(group_id)
                joined.append(group_id)
            await jobs.join_groups(tx, job.key, joined)
            if joined and not state.admitted:
                state = dataclasses.replace(state, admitted=True)
                state = (await self._core.settlement.advance(tx, [(job, state)], self._core.clock()))[job.key]
                await jobs.save(tx, [state])
        self._core.answered(job)
        self._core.listing.changed([job.key])  # it is in other groups now; before workers are called for it
        self._core.publish_state(state)
        return joined, failed

    def _let_in(self, request: Request, known: list[Group], descriptor: GroupDescriptor) -> Group:
        """Raises `NotFound`."""
        return joining.find(known, Knock(descriptor, _addresses(request), request.connection.dcpsid))

    async def _enter(self, tx: Transaction, request: Request, job: Job, state: JobState, group: Group) -> None:
        """Check the group's limits and pay its fees. Raises `Full`, `NotEnoughFunds`, `NotPermitted`."""
        left = state.counts.total - state.counts.settled
        payment = hold_for(left, job.slice_cost)
        rules.check_job(group, payment=payment, before=await groups.use(tx, group.id))
        payer = job.payment_account
        fee = joining.fee(group, payer, is_first=not state.admitted)
        if fee == 0:
            return
        limit, is_signed = self._core.settings.max_group_fee, payer in _addresses(request)
        joining.check_fee(group, fee, payer, limit=limit, is_signed=is_signed)
        name = f"group-fee:{job.id}:{group.id}:{secrets.token_hex(8)}"
        await self._core.money.fee(tx, job, transfer_id=name, to=group.account, amount=fee)

    # --- groups come and go

    async def create_group(self, request: Request) -> dict[str, Any]:
        """Make a group that belongs to the sender. The same again is answered as the first time."""
        settings = self._core.settings
        creators = {checksum(one) for one in settings.group_creators}
        if creators and request.peer not in creators:
            raise NotPermitted("the operator of this scheduler decides who may make compute groups; ask to be let in")
        group = rules.new_group(fields(request), owner=request.peer, new_id=_new_id())
        async with self._core.database.transaction() as tx:
            by_key = await groups.named(tx, [GroupDescriptor(join_key=group.join_key)])
            by_id = await groups.named(tx, [GroupDescriptor(opaque_id=group.id)])
            for other in by_key + by_id:
                if dataclasses.replace(group, id=other.id) == other:
                    return {"payload": other.id}
            if by_key:
                raise OrchestratorError(f"joinKey {group.join_key} is taken; choose another", code="EEXIST")
            if by_id:
                raise OrchestratorError(f"id {group.id} is taken; make a new one", code="EEXIST")
            if await groups.count_of_owner(tx, group.owner) >= settings.max_groups_per_owner:
                raise OrchestratorError(
                    f"you have {settings.max_groups_per_owner} compute groups, the most that one owner may have here; "
                    "delete one",
                    code="EQUOTA",
                )
            await groups.insert(tx, group, self._core.clock())
        return {"payload": group.id}

    async def change_group(self, request: Request) -> dict[str, Any]:
        data = fields(request)
        async with self._core.database.transaction() as tx:
            group = await self._mine(tx, request, data.get("descriptor"))
            group = rules.changed_group(group, data.get("newDescriptor"))
            await groups.save(tx, group)
        # Workers may fit in now that did not.
        if self._core.dispatcher is not None:
            self._core.dispatcher.everybody()
        return {"payload": group.describe()}

    async def delete_group(self, request: Request) -> dict[str, Any]:
        """Its jobs go on with the slices that are out, and get no more workers through it."""
        async with self._core.database.transaction() as tx:
            group = await self._mine(tx, request, fields(request).get("descriptor"))
            await groups.delete(tx, group.id)
        return {"payload": group.id}

    async def list_groups(self, request: Request) -> dict[str, Any]:
        """An operation of ours: the sender's groups, and what is in them."""
        answer = []
        async with self._core.database.snapshot() as tx:
            for group in await groups.of_owner(tx, request.peer):
                use = await groups.use(tx, group.id)
                answer.append({**group.describe(), "jobs": use.jobs, "escrow": format_amount(use.escrow)})
        return {"payload": answer}

    # --- jobs in a group, for its owner

    async def list_jobs(self, request: Request) -> dict[str, Any]:
        """The newest 1000 jobs of the group."""
        async with self._core.database.snapshot() as tx:
            group = await self._mine(tx, request, fields(request).get("descriptor"))
            keys = await groups.jobs_in(tx, group.id, MOST_LISTED)
            known = await self._core.catalog.by_keys(tx, keys)
            states = await jobs.states(tx, keys)
        return {"payload": [messages.job_in_group(known[key], states[key]) for key in keys]}

    async def remove_job(self, request: Request) -> dict[str, Any]:
        """Take a job out of a group: the group's owner may, and the job's."""
        data = fields(request)
        async with self._core.database.transaction() as tx:
            job = await self._core.catalog.get(tx, data.get("job"))
            group = await self._named(tx, data.get("descriptor"), lock=True)
            if group is None or job.owner not in _addresses(request):
                group = await self._mine(tx, request, data.get("descriptor"))
            if not await groups.remove_jobs(tx, group.id, [job.key]):
                raise NotFound(f"job {job.id} is not in compute group {group.label}")
        self._core.listing.changed([job.key])
        return {"payload": job.id}

    async def remove_all_jobs(self, request: Request) -> dict[str, Any]:
        """`payload` is how many there were."""
        async with self._core.database.transaction() as tx:
            group = await self._mine(tx, request, fields(request).get("descriptor"))
            return {"payload": await groups.remove_jobs(tx, group.id, None)}

    async def _mine(self, tx: Transaction, request: Request, descriptor: Any) -> Group:
        """A group of the sender's. Raises `NotFound`, `NotPermitted`."""
        group = await self._named(tx, descriptor, lock=True)
        if group is None:
            raise NotFound(f"there is no compute group {parse_group(descriptor, 'descriptor').name}")
        rules.require_owner(group, _addresses(request))
        return group

    async def _named(self, tx: Transaction, descriptor: Any, *, lock: bool) -> Group | None:
        wanted = parse_group(descriptor, "descriptor")
        if wanted.is_public:
            raise NotPermitted(f"{PUBLIC_GROUP['name']} belongs to the operator of this scheduler")
        found = await groups.named(tx, [wanted], lock=lock)
        return found[0] if found else None


def _addresses(request: Request) -> frozenset[str]:
    return request.authorized | {request.peer}


def _new_id() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(22))


def _refusal(error: OrchestratorError) -> dict[str, Any]:
    return {"success": False, "code": error.code, "message": error.message}


def _in_payload(
    operation: Callable[[Request], Awaitable[Mapping[str, Any]]],
) -> Callable[[Request], Awaitable[dict[str, Any]]]:
    """Success and failure as the clients of this service expect them."""

    async def answer(request: Request) -> dict[str, Any]:
        try:
            return {"success": True, **await operation(request)}
        except OrchestratorError as error:
            return _refusal(error)

    return answer
