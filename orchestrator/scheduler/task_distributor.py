"""The taskDistributor service: workers ask for slices and get them under a lease."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from orchestrator import telemetry
from orchestrator.database import Transaction
from orchestrator.errors import InvalidInput, NotPermitted, OrchestratorError
from orchestrator.jobs.words import Capability, RunStatus
from orchestrator.protocol import js_json
from orchestrator.protocol.server import Request
from orchestrator.protocol.signing import recover_signer
from orchestrator.scheduler import escrow, lifecycle, messages
from orchestrator.scheduler.board import Choice, Entry
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.core import Core, Operations, fields
from orchestrator.scheduler.groups import PUBLIC_GROUP_ID, Commission, route
from orchestrator.scheduler.late import COME_BACK_S, SOONEST_S, LateRules, Restart, Watchman, split
from orchestrator.scheduler.lease_book import auth_body, authorization
from orchestrator.scheduler.lifecycle import Ending, SliceState
from orchestrator.scheduler.listing import job_profile
from orchestrator.scheduler.matching import JobProfile, WhyNot, why_not
from orchestrator.scheduler.memberships import Membership, Memberships
from orchestrator.scheduler.open_requests import OpenRequest, OpenRequests
from orchestrator.scheduler.packing import Candidate, PackingRules, Portion, is_long, pack
from orchestrator.scheduler.presence import Presence, lives_elsewhere
from orchestrator.scheduler.pricing import hold_for
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.settlement import Outcome
from orchestrator.scheduler.settling import Report, cancelled, facts_of
from orchestrator.scheduler.store import jobs, leases, slices
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.scheduler.store.leases import Lease
from orchestrator.scheduler.task_request import TaskRequest, parse_task_request
from orchestrator.wallet.addresses import checksum

log = logging.getLogger(__name__)

MOST_ENDING = 20
"""jobs whose late slices are looked for in one request"""
MOST_LATE = 64
"""slices of such a job that are looked at, those with the oldest leases"""
MOST_PLANS = 3
"""how often a request looks again when others took what it had chosen"""
RESOLVING_S = 0.1
"""longest wait for work of a worker that holds jobs whose code it has not got yet"""


@dataclasses.dataclass(slots=True)
class Grant:
    """Slices of one job that were just leased."""

    job: Job
    state: JobState
    numbers: list[int]
    estimation: bool
    group: str
    """the compute group through which the worker gets them"""
    cotasks: int = 0
    """workers that have these slices, too"""


class TaskDistributor:
    def __init__(self, core: Core, roster: Roster) -> None:
        self._core = core
        self._roster = roster
        settings = core.settings
        self._rules = PackingRules(
            target_task_s=settings.target_task_s, min_task_s=settings.min_task_s, max_slices=settings.max_task_slices
        )
        self._memberships = Memberships(core, roster)
        self._operations = Operations({"requestTask@3": self.request_task})
        self._rejected_since: dict[int, float] = {}
        self._late_rules = LateRules(settings.late_factor, settings.late_bias_s, settings.late_unknown_s)
        self._watchman = Watchman()
        self._restart = Restart(core.clock(), min(COME_BACK_S, settings.lease_s))
        self._open = OpenRequests()
        self._presence = Presence(roster.gone)

    async def handle(self, request: Request) -> Any:
        return await self._operations.handle(request)

    async def request_task(self, request: Request) -> dict[str, Any]:
        """Lease slices to the asking worker; without work for it, wait a little for some before saying so."""
        wanted = parse_task_request(fields(request))
        worker = wanted.profile.worker
        if wanted.returns_all or wanted.return_all_message is not None:
            await self._take_back(self._returning_worker(wanted, request.peer), request)
        elif wanted.holds_nothing:
            await self._take_back(worker, request)
        if wanted.held or wanted.overdue:
            await self._renew(wanted, request.peer)
        if wanted.lost:
            await self._take_back_lost(wanted, request.peer)
        if not wanted.wants_slices or wanted.load <= 0:
            return self._answer(None, [], {})
        self._presence.asks(worker, request.connection)
        with self._open.answering(worker, request.connection, wanted.request_id) as opened:
            return await self._wait_for_work(request, wanted, opened)

    async def _wait_for_work(self, request: Request, wanted: TaskRequest, opened: OpenRequest) -> dict[str, Any]:
        patience_s = self._core.settings.long_poll_s
        if wanted.resolving:
            patience_s = min(patience_s, RESOLVING_S)
        wanted, groups = await self._memberships.resolve(wanted, request)
        deadline = self._core.clock() + patience_s
        reasons: collections.Counter[str] = collections.Counter()
        # A worker that has left must not be entered among those that are there once more.
        while not (opened.abandoned or request.connection.closed.is_set()):
            ticket = self._core.work.ticket()
            now = self._core.clock()
            self._roster.saw(wanted.profile, wanted.load, now, wanted.size)
            reasons.clear()
            # Nothing is leased to somebody who may never hear of it.
            reachable = request.connection.is_connected
            answer, look_at = None, math.inf
            if reachable:
                answer = await self._lease(wanted, groups, opened, reasons)
                if answer is None:
                    answer, look_at = await self._lease_late(wanted, groups, opened)
            if answer is not None:
                return answer
            patience = deadline - self._core.clock()
            if patience <= 0:
                self._roster.heard(wanted.profile.worker, self._core.clock())
                reasons.update(self._elsewhere(wanted, groups))
                return self._answer(None, [], {}, reasons)
            try:
                async with asyncio.timeout(min(patience, max(look_at - self._core.clock(), SOONEST_S))):
                    await ticket.wait()
            except TimeoutError:
                if look_at >= deadline:
                    deadline = 0
        return self._answer(None, [], {}, reasons)

    def _elsewhere(self, wanted: TaskRequest, groups: Membership) -> dict[str, int]:
        """Jobs that wait in groups of others, by why the worker is not in those."""
        board, mine = self._core.listing.board, wanted.profile.groups
        others = board.waiting_elsewhere(mine)
        full = board.waiting_elsewhere(mine, within=groups.full) if groups.full else 0
        counts = {WhyNot.GROUP: others - full, WhyNot.GROUP_FULL: full}
        return {str(code): count for code, count in counts.items() if count > 0}

    async def _lease(
        self, wanted: TaskRequest, groups: Membership, opened: OpenRequest, reasons: collections.Counter[str]
    ) -> dict[str, Any] | None:
        """One attempt: None when there is nothing for this worker; `reasons` then counts the jobs that wait, by why."""
        passed_over: set[int] = set()
        for _ in range(MOST_PLANS):
            reasons.clear()
            candidates = await self._candidates(wanted, groups, passed_over, reasons)
            await self._stop_rejected()
            if not candidates:
                return None
            now = self._core.clock()
            load, alone = self._roster.load(now), self._roster.alone(wanted.profile.worker, now)
            plan = pack(
                [candidate for _, _, candidate in candidates], wanted.load, load, self._rules,
                long_slices=wanted.long_slices, gpu_load=wanted.gpu_load, alone=alone,
            )  # fmt: skip
            known = {job.key: job for job, _, _ in candidates}
            held, lease, grants, data = await self._lease_planned(wanted, groups, opened, plan, known)
            if lease is not None and grants:
                self._core.leases.keep(lease)
                self._presence.took(lease.id, opened.session)
                telemetry.slices_leased.add(sum(len(grant.numbers) for grant in grants))
                self._core.publish(Outcome(states={grant.job.key: grant.state for grant in grants}))
                return self._answer(lease, grants, await self._resolved(grants, data))
            if not plan:
                break
            planned = {portion.key for portion in plan}
            if held:
                passed_over |= planned  # not taken by others meanwhile: nothing in it is for this worker
            else:
                self._core.listing.changed(planned)
        for key in passed_over:
            self._core.refusals.note(key, WhyNot.FAILED_HERE, wanted.profile.worker, self._core.clock())
        reasons[WhyNot.FAILED_HERE] = max(reasons[WhyNot.FAILED_HERE], len(passed_over))
        return None

    async def _lease_planned(
        self,
        wanted: TaskRequest,
        groups: Membership,
        opened: OpenRequest,
        plan: Sequence[Portion],
        known: Mapping[int, Job],
    ) -> tuple[bool, Lease | None, list[Grant], dict[int, dict[int, str]]]:
        """Lease what others have left of a plan; whether they left anything comes first in the answer."""
        grants: list[Grant] = []
        lease: Lease | None = None
        if not plan:
            return False, None, grants, {}
        async with self._core.database.transaction() as tx:
            if opened.abandoned:  # whoever abandons it ends its leases in a transaction before or after this one
                return True, None, grants, {}
            held = await self._locked(tx, plan, known, wanted.load)
            routes = await self._routes(tx, [known[portion.key] for portion, _ in held], wanted, groups)
            held = [(portion, state) for portion, state in held if portion.key in routes]
            if held:
                commissions = {key: taken for key, one in routes.items() if (taken := groups.commission(one))}
                lease = await self._open_lease(tx, wanted, opened.peer, held, known, commissions=commissions)
                for portion, state in held:
                    job = known[portion.key]
                    grant = await self._grant(tx, job, state, portion.slices, worker=wanted.profile.worker, lease=lease)
                    grant.group = routes[portion.key]
                    if grant.numbers:
                        grants.append(grant)
                await self._bind(tx, grants)
            return bool(held), lease, grants, await self._data(tx, grants)

    async def _lease_late(
        self, wanted: TaskRequest, groups: Membership, opened: OpenRequest
    ) -> tuple[dict[str, Any] | None, float]:
        """For a worker without anything else to do: slices that are late at other workers, and when to look again."""
        async with self._core.database.snapshot() as tx:
            known, found, look_at = await self._find_late(tx, wanted, groups)
        if not found:
            return None, look_at
        grants: list[Grant] = []
        async with self._core.database.transaction() as tx:
            states = await jobs.states(tx, found, lock=True)
            if opened.abandoned:
                return None, math.inf
            routes = await self._routes(tx, [known[key] for key in states], wanted, groups)
            for key, state in ((key, states[key]) for key in routes):
                rows = await slices.load(tx, key, found[key])
                numbers = [row.number for row in rows.values() if lifecycle.may_have_rival(row)]
                if numbers and state.status in lifecycle.DISTRIBUTABLE:
                    estimation = state.status is RunStatus.ESTIMATION
                    grants.append(Grant(known[key], state, numbers, estimation, routes[key], cotasks=1))
            if not grants:
                return None, look_at
            held = [(Portion(grant.job.key, len(grant.numbers)), grant.state) for grant in grants]
            commissions = {key: taken for key, one in routes.items() if (taken := groups.commission(one))}
            lease = await self._open_lease(tx, wanted, opened.peer, held, known, commissions=commissions)
            for grant in grants:
                await slices.lease_beside(tx, grant.job.key, grant.numbers, lease.id)
            data = await self._data(tx, grants)
        self._core.leases.keep(lease)
        number = sum(len(grant.numbers) for grant in grants)
        telemetry.slices_leased.add(number)
        log.info("late_slices_leased", extra={"worker": wanted.profile.worker, "count": number})
        return self._answer(lease, grants, await self._resolved(grants, data)), look_at

    async def _find_late(
        self, tx: Transaction, wanted: TaskRequest, membership: Membership
    ) -> tuple[dict[int, Job], dict[int, list[int]], float]:
        """Jobs, the numbers of their slices to lease, at most one per free core, and when to look again."""
        now, worker = self._core.clock(), wanted.profile.worker
        entries = self._core.listing.board.ending(wanted.profile, MOST_ENDING)
        left = max(1, math.floor(wanted.load))
        found: dict[int, list[int]] = {}
        fitting = []
        for entry in entries:
            key, state = entry.key, entry.state
            profile = _profile_for(entry.profile, state, membership) if membership.known else entry.profile
            if why_not(profile, wanted.profile, state.estimate) is not None:
                continue
            fitting.append(key)
            if left <= 0 or self._watchman.is_quiet(key, now):
                continue
            out = await slices.longest_out(tx, key, MOST_LATE, not_failed_by=worker)
            late, look_at = split(out, worker, now, self._restart)
            if late:
                found[key] = [one.piece.number for one in late[: 1 if entry.profile.discrete else left]]
                left -= len(found[key])
            else:
                self._watchman.look_again(key, look_at)
        known = await self._core.catalog.by_keys(tx, found)
        return known, found, self._watchman.next_look(fitting)

    async def _routes(
        self, tx: Transaction, asked: Sequence[Job], wanted: TaskRequest, groups: Membership
    ) -> dict[int, str]:
        """Through which compute group the worker gets each of these jobs; without those that are in none of its groups
        any more."""
        found = await jobs.groups(tx, [job.key for job in asked])
        mine = wanted.profile.groups
        routes = {}
        for job in asked:
            group = route(found.get(job.key, frozenset()), mine, groups.known)
            if group is not None or job.record.local_exec:
                routes[job.key] = group or PUBLIC_GROUP_ID
        return routes

    async def _bind(self, tx: Transaction, grants: Sequence[Grant]) -> None:
        """What was leased may have used up what is held for a job."""
        changed = [(grant.job, grant.state) for grant in grants]
        states = await self._core.settlement.advance(tx, changed, self._core.clock())
        for grant in grants:
            grant.state = states[grant.job.key]
            escrow.validate(grant.state.funded, grant.state.counts)
        await jobs.save(tx, list(states.values()))

    async def _candidates(
        self,
        wanted: TaskRequest,
        membership: Membership,
        passed_over: Container[int],
        reasons: collections.Counter[str],
    ) -> list[tuple[Job, JobState, Candidate]]:
        """What the board offers this worker; no more of it is looked at than a request may cost."""
        now = self._core.clock()
        listing = self._core.listing
        await listing.fresh(now)

        def look(entry: Entry) -> WhyNot | None:
            reason = WhyNot.FAILED_HERE if entry.key in passed_over else None
            reason = reason or self._why_not(entry, wanted, membership, now)
            if reason is not None:
                self._core.refusals.note(entry.key, reason, wanted.profile.worker, now)
            return reason

        choices, refused, unfit = listing.board.window(wanted.profile, look, min(32, 4 + 2 * math.ceil(wanted.load)))
        for key, code in unfit:
            self._core.refusals.note(key, code, wanted.profile.worker, now)
        reasons.update({str(code): count for code, count in refused.items()})
        if not choices:
            return []
        async with self._core.database.snapshot() as tx:
            known = await self._core.catalog.by_keys(tx, [choice.entry.key for choice in choices])
        ratio = wanted.profile.speed.ratio({one.entry.profile.job_id: one.entry.state.estimate for one in choices})
        return [
            (known[one.entry.key], one.entry.state, _candidate(one, known[one.entry.key], wanted, ratio))
            for one in choices
        ]

    def _why_not(self, entry: Entry, wanted: TaskRequest, membership: Membership, now: float) -> WhyNot | None:
        """What keeps this worker from this job at the moment."""
        profile, state, worker = entry.profile, entry.state, wanted.profile
        if membership.known:
            profile = _profile_for(profile, state, membership)
        refusal = why_not(profile, worker, state.estimate)
        if refusal is not None:
            self._note_rejection(profile, state, wanted)
            return refusal[0]
        self._rejected_since.pop(entry.key, None)
        left = _estimation_left(state, wanted.load)
        if left is not None and left <= 0:
            return WhyNot.ESTIMATING
        if profile.needs & Capability.WEBGPU and wanted.gpu_load < 1:
            return WhyNot.GPU
        banned = self._core.listing.bans.of(entry.key, now)
        had_it = profile.discrete and profile.job_id in worker.worked_discrete
        if (had_it or worker.worker in banned) and self._roster.others_could(profile, worker.worker, now, banned):
            return WhyNot.DISCRETE if had_it else WhyNot.BANNED
        return None

    async def _locked(
        self, tx: Transaction, plan: Sequence[Portion], known: Mapping[int, Job], load: float
    ) -> list[tuple[Portion, JobState]]:
        """What is left of a plan once its jobs are locked: others lease and settle at the same time."""
        states = await jobs.states(tx, [portion.key for portion in plan], lock=True) if plan else {}
        held = []
        for portion in plan:
            state = states.get(portion.key)
            if state is None or state.status not in lifecycle.DISTRIBUTABLE:
                continue
            left = _estimation_left(state, load)
            left = escrow.may_lease(state.funded, state.counts) if left is None else left
            if left > 0:
                held.append((dataclasses.replace(portion, slices=min(portion.slices, left)), state))
        return held

    def _note_rejection(self, profile: JobProfile, state: JobState, wanted: TaskRequest) -> None:
        """A job whose slices wait, of which nothing is out, and which every live worker has rejected, would wait for
        ever; see `_stop_rejected`."""
        now = self._core.clock()
        rejected = profile.job_id in wanted.profile.rejected
        others = self._roster.others_could(profile, wanted.profile.worker, now, self._presence)
        if rejected and state.counts.leased == 0 and not others:
            self._rejected_since.setdefault(state.key, now)

    async def _stop_rejected(self) -> None:
        now = self._core.clock()
        patience = self._core.settings.rejected_job_s
        stuck = [key for key, since in self._rejected_since.items() if now - since >= patience]
        if not stuck:
            return
        async with self._core.database.transaction() as tx:
            known = await self._core.catalog.by_keys(tx, stuck)
            stopped = {}
            for key, state in (await jobs.states(tx, stuck, lock=True)).items():
                del self._rejected_since[key]
                if state.status in lifecycle.ENDED or state.counts.leased:
                    continue
                stopped[key] = cancelled(state, now, "ETOOMANYERRORS", "Every worker that is here has rejected the job")
                await self._core.money.release(tx, known[key])
            await jobs.save(tx, list(stopped.values()))
        self._core.publish(Outcome(states=stopped))

    async def _open_lease(
        self,
        tx: Transaction,
        wanted: TaskRequest,
        peer: str,
        held: Sequence[tuple[Portion, JobState]],
        known: Mapping[int, Job],
        *,
        commissions: Mapping[int, Commission],
    ) -> Lease:
        work_s = sum(portion.slices * state.estimate.wall_ms / 1000 for portion, state in held) / max(wanted.load, 1.0)
        now = self._core.clock()
        payee = wanted.payment_address
        try:
            payee = None if payee is None else checksum(payee)
        except InvalidInput:
            payee = None
        return await self._core.leases.open(
            tx,
            worker=wanted.profile.worker,
            peer=peer,
            payment_address=payee,
            jobs=frozenset(known[portion.key].key for portion, _ in held),
            opened_at=now,
            expires_at=now + self._core.settings.lease_s + 2 * work_s,
            due_at=now
            + self._late_rules.due_in([(portion.slices, state.estimate) for portion, state in held], wanted.load),
            commissions=commissions,
            request=wanted.request_id,
        )

    async def _grant(
        self, tx: Transaction, job: Job, state: JobState, wanted: int, *, worker: str, lease: Lease
    ) -> Grant:
        """Lease slices of one job: first those that came back, then those never touched."""
        now = self._core.clock()
        counts = state.counts
        estimation = state.status is RunStatus.ESTIMATION
        again: list[int] = []
        if counts.ready > 0:
            groups = (await jobs.groups(tx, [job.key])).get(job.key, frozenset())
            others = self._roster.others_could(job_profile(job, groups), worker, now, self._presence)
            patience = self._core.settings.other_worker_s if others else 0.0
            rows = await slices.take_ready(
                tx, job.key, min(wanted, counts.ready), worker=worker, failed_elsewhere_before=now - patience
            )
            again = [lifecycle.lease(row, lease.id).number for row in rows]
            await slices.lease_again(tx, job.key, again, lease.id)
            counts = counts.moved(SliceState.READY, SliceState.LEASED, len(again)) if again else counts
        fresh = min(wanted - len(again), counts.total - counts.cursor)
        if fresh > 0:
            await slices.lease_fresh(tx, job.key, counts.cursor + 1, fresh, lease.id)
            again.extend(range(counts.cursor + 1, counts.cursor + fresh + 1))
            counts = counts.leased_fresh(fresh)
        state = dataclasses.replace(state, counts=counts, served_at=now)
        return Grant(job, state, again, estimation, PUBLIC_GROUP_ID)

    async def _data(self, tx: Transaction, grants: Sequence[Grant]) -> dict[int, dict[int, str]]:
        """Input URIs by job and slice, where they are listed."""
        return {
            grant.job.key: await slices.inputs(tx, grant.job.key, listed)
            for grant in grants
            if (listed := [number for number in grant.numbers if not _in_range(grant.job, number)])
        }

    async def _resolved(
        self, grants: Sequence[Grant], data: Mapping[int, Mapping[int, str]]
    ) -> Mapping[int, Mapping[int, str]]:
        """Listed inputs themselves, wherever they are kept."""
        blobs = self._core.blobs
        found = {}
        for grant in grants:
            listed = data.get(grant.job.key, {})
            values = await asyncio.gather(*(blobs.resolve(grant.job.id, uri) for uri in listed.values()))
            found[grant.job.key] = dict(zip(listed, values, strict=True))
        return found

    def _answer(
        self,
        lease: Lease | None,
        grants: Sequence[Grant],
        data: Mapping[int, Mapping[int, str]],
        no_work: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """`no_work` says how many jobs wait, by the reason for which this worker gets none of them. It is a field of
        ours that official workers pass over."""
        settings = self._core.settings
        body: dict[str, Any] = {
            "computeGroupOrigins": {},
            "pendingNotifications": False,
            "schedulerConfig": {
                "targetTaskDuration": settings.target_task_s,
                "shared": {
                    "frequencyMs": round(settings.beacon_s * 1000),
                    "debuggingFactor": 1,
                    "useLifetimeAnalysis": True,
                    "lifetimeFactor": 1,
                    "slice": {"multiplier": 1.5, "sigmas": 2, "biasMs": 120_000, "factor": 1, "maxCotasking": 2},
                },
            },
        }
        if no_work:
            body["noWork"] = dict(no_work)
        auth: dict[str, Any] = {"workerId": "", "authSlices": {}, "schedulerId": self._core.identity.address}
        if lease is not None:
            taken = {
                grant.job.id: lease.commissions[grant.job.key] for grant in grants if grant.job.key in lease.commissions
            }
            numbers = {grant.job.id: grant.numbers for grant in grants}
            auth = auth_body(lease, numbers, taken, self._core.identity.address)
            body["newJobs"] = {
                grant.job.id: messages.job_message(grant.job, grant.state, grant.group) for grant in grants
            }
            body["task"] = {grant.job.id: self._slices(grant, data.get(grant.job.key, {})) for grant in grants}
        return {**authorization(self._core.identity, auth), "body": body}

    def _slices(self, grant: Grant, listed: Mapping[int, str]) -> list[dict[str, Any]]:
        long = is_long(_slice_seconds(grant.state), self._rules)
        return [
            messages.slice_message(
                grant.job,
                number,
                _datum(grant.job, number, listed),
                estimation=grant.estimation,
                long=long,
                cotasks=grant.cotasks,
            )
            for number in grant.numbers
        ]

    async def _take_back(self, worker: str, request: Request) -> None:
        """A worker that starts or stops holds nothing any more: its slices are ready for others at once. Only what was
        leased to the sender itself is concerned, and nothing that another living session of its has."""
        session = request.connection
        self._roster.gone(worker)
        self._open.abandon(worker, request.peer, unless=lambda one: lives_elsewhere(one.session, session))
        async with self._core.database.transaction() as tx:
            held = await leases.held_by(tx, worker, request.peer)
            elsewhere = self._presence.held_elsewhere(held, session)
            held = {lease: of for lease, of in held.items() if lease not in elsewhere}
            if not held:
                return
            outcome = await self._end_leases(tx, held, worker, "returnAllSlices")
        self._core.publish(outcome)

    async def _take_back_lost(self, wanted: TaskRequest, peer: str) -> None:
        """Slices that were leased in answers which their worker could not read are ready for others at once."""
        worker = wanted.profile.worker
        self._open.abandon(worker, peer, wanted.lost)
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

    def _returning_worker(self, wanted: TaskRequest, peer: str) -> str:
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
                self._watchman.look_again(job, now)
        if overdue:
            self._core.work.notify()

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


def _profile_for(profile: JobProfile, state: JobState, membership: Membership) -> JobProfile:
    """As a worker sees it that is in groups which may take no job that pays so much."""
    payment = hold_for(state.counts.total, profile.slice_price)
    return dataclasses.replace(profile, groups=membership.open_to(profile.groups, payment))


def _estimation_left(state: JobState, load: float) -> int | None:
    """Slices that may go out to measure the job; None when it is not being estimated. `load` is what the asking worker
    wants, in cores."""
    if state.status is not RunStatus.ESTIMATION:
        return None
    counts = state.counts
    wanted = counts.total if state.estimation_slices is None else state.estimation_slices
    measured = facts_of(state).measured
    # Once a first slice has ended, cores need not stand idle while others compute the rest of the estimation.
    out = max(wanted - measured, math.ceil(load) if measured else 0)
    return min(escrow.may_lease(state.funded, counts), out - counts.leased)


def _candidate(choice: Choice, job: Job, wanted: TaskRequest, speed: float) -> Candidate:
    """`speed` is the worker's time for a slice over everybody's."""
    entry, state = choice.entry, choice.entry.state
    work_s, slice_s = state.estimate.work_s, _slice_seconds(state)
    if work_s is not None and slice_s is not None:
        ratio = wanted.profile.speed.slice_ratio(job.id, state.estimate, speed)
        work_s, slice_s = work_s * ratio, slice_s * ratio
    return Candidate(
        key=job.key,
        waiting=escrow.may_lease(state.funded, state.counts),
        leased=state.counts.leased,
        slice_s=slice_s,
        work_s=work_s,
        estimation_left=_estimation_left(state, wanted.load),
        greedy_estimation=job.spec["greedyEstimation"],
        discrete=job.spec["discrete"],
        served_at=state.served_at,
        owner=job.owner,
        owner_account=choice.owner_account,
        account=entry.account,
        weight=entry.weight,
        first=choice.first,
        gpu=bool(job.spec["requirements"] & Capability.WEBGPU),
    )


def _slice_seconds(state: JobState) -> float | None:
    return state.estimate.wall_ms / 1000 if state.estimate.measured else None


def _in_range(job: Job, number: int) -> bool:
    """Slices beyond the range of an open job are listed ones."""
    return job.inputs is not None and number <= job.inputs.length


def _datum(job: Job, number: int, listed: Mapping[int, str]) -> str | None:
    if job.inputs is None or not _in_range(job, number):
        return listed.get(number)
    return None if job.range_location is not None else job.inputs.uri(number - 1)
