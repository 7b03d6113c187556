"""The jobSubmit service: jobs come in, get more inputs, and are cancelled."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from orchestrator.bank.amounts import parse_amount
from orchestrator.database import Transaction
from orchestrator.errors import InvalidInput, NotPermitted, OrchestratorError
from orchestrator.jobs.values import uris_of_pile
from orchestrator.jobs.words import RunStatus
from orchestrator.protocol.errors import ClosedByPeer, ConnectionClosed
from orchestrator.protocol.guard import TooMany
from orchestrator.protocol.server import Request, ServerConnection
from orchestrator.scheduler import escrow, lifecycle, messages, redundancy
from orchestrator.scheduler.catalog import Job, build
from orchestrator.scheduler.core import Core, Operations, fields, owns, require_owner
from orchestrator.scheduler.dialects import job_address
from orchestrator.scheduler.estimates import Estimate
from orchestrator.scheduler.lifecycle import Counts
from orchestrator.scheduler.money import not_enough
from orchestrator.scheduler.pricing import hold_for, to_dcc
from orchestrator.scheduler.quotes import Quotes
from orchestrator.scheduler.settling import cancelled
from orchestrator.scheduler.store import blob_intents, jobs, slices
from orchestrator.scheduler.store.jobs import JobRecord, JobState
from orchestrator.scheduler.submission import Submission, parse_submission
from orchestrator.wallet.addresses import checksum

_PARTED_KEPT = 10_000


class JobSubmit:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._quotes = Quotes(core)
        if core.cluster is not None:
            core.cluster.hear("parted", self._part)
        self._uploading: set[ServerConnection] = set()
        self._parted: dict[str, None] = {}
        """sessions, oldest first, that their clients have ended in order: they had all their answers"""
        self._operations = Operations(
            {
                "submit@5": self.submit,
                "quoteJob": self._quotes.quote,
                "addSliceData": self.add_slice_data,
                "cancelJob": self.cancel_job,
                "cancelAllJobs": self.cancel_all_jobs,
                "addFunds": self.add_funds,
                "resumeJob": self.resume_job,
            }
        )

    async def handle(self, request: Request) -> Any:
        return await self._operations.handle(request)

    async def submit(self, request: Request) -> dict[str, Any]:
        """Take a job; the same job from the same owner again is answered as the first time, and resumed if it was
        paused and its account has funds now.

        Errors: EINVAL, EPERM (no signature of the payment account, or somebody else's job id), ENOFUNDS, EBUSY (too
        many jobs).
        """
        settings = self._core.settings
        offer = redundancy.Offer(settings.agree, settings.max_opinions)
        submission = parse_submission(fields(request), settings.estimation_slices, offer)
        if submission.payment_account not in request.authorized:
            raise NotPermitted(
                f"the submit carries no valid signature of payment account {submission.payment_account} for scheduler "
                f"{self._core.identity.address} and client {request.peer}"
            )
        async with self._set_aside(submission, request.peer) as spec, self._core.database.transaction() as tx:
            job = await self._core.catalog.find(tx, submission.job_id)
            if job is None:
                size = len(json.dumps([submission.spec, submission.input_set]))
                await self._check_quota(tx, request.peer)
                await self._check_size(tx, request.peer, size)
                job, state = await self._create(tx, dataclasses.replace(submission, spec=spec), request.peer)
                await jobs.add_input_characters(tx, job.key, size)
                if spec is not submission.spec:
                    await blob_intents.end(tx, job.id)
            elif job.owner != request.peer:
                raise NotPermitted(f"job id {job.id} is taken by another owner; make a new one")
            else:
                state = (await jobs.states(tx, [job.key], lock=True))[job.key]
                if state.status is RunStatus.PAUSED:
                    state = await self._advance(tx, job, state)
            told = await self._quotes.confidence(tx, job.owner, job.rule, job.slice_price, state.counts.total)
        self._core.catalog.add(job.record)
        self._core.publish_state(state)
        return ({"redundancy": told} if told else {}) | {
            # What clients show as `job.address`, and what v4 workers call the job.
            "escrow": job_address(job.id),
            "status": str(state.status),
            "lastSliceNumber": state.counts.total,
        }

    @contextlib.asynccontextmanager
    async def _set_aside(self, submission: Submission, owner: str) -> AsyncIterator[Mapping[str, Any]]:
        """The spec with marks instead of big code and arguments, which are put aside. They are dropped again unless the
        block gives the job a row; those of a process that dies meanwhile, by `Retention`."""
        core, job_id, token = self._core, submission.job_id, secrets.token_hex(8)
        spec = submission.spec
        if not core.programs.is_big(spec) or not core.may_set_programs_aside:
            yield spec
            return
        async with core.database.snapshot() as tx:
            is_known = await core.catalog.find(tx, job_id) is not None
            if not is_known:
                await self._check_quota(tx, owner)
        if is_known:
            yield spec
            return
        async with core.database.transaction() as tx:
            await blob_intents.begin(tx, job_id, token, core.clock())
        try:
            yield await core.programs.stash(job_id, spec)
        except OrchestratorError:
            await self._drop_refused(job_id, token)
            raise

    async def _drop_refused(self, job_id: str, token: str) -> None:
        with contextlib.suppress(OSError):  # later, then
            async with self._core.database.transaction() as tx:
                if await blob_intents.take(tx, job_id, token=token):
                    await self._core.blobs.drop(job_id)
                    await blob_intents.end(tx, job_id)

    async def _check_quota(self, tx: Transaction, owner: str) -> None:
        most = self._core.settings.max_jobs_per_owner
        if await jobs.live_of_owner(tx, owner) >= most:
            raise TooMany(
                f"{owner} has {most} jobs that have not ended, as many as one identity may have here; close or cancel "
                "some (cancelAllJobs ends all of a payment account)"
            )

    async def _check_size(self, tx: Transaction, owner: str, more: int) -> None:
        most = self._core.settings.max_inputs_mib_per_owner * 1024 * 1024
        held = await jobs.input_characters_of_owner(tx, owner)
        if held + more > most:
            raise TooMany(
                f"{owner} has sent {held} characters of code and inputs for jobs that have not ended; with these "
                f"{more} that would be more than the {most} that one identity may have here; wait for jobs to end, or "
                "cancel some"
            )

    async def _create(self, tx: Transaction, submission: Submission, owner: str) -> tuple[Job, JobState]:
        now = self._core.clock()
        record = JobRecord(
            key=0,
            id=submission.job_id,
            owner=owner,
            payment_account=submission.payment_account,
            spec=submission.spec,
            input_set=submission.input_set,
            local_exec=submission.local_exec,
            slice_price=submission.offer.slice_price(self._core.listing.market.slice_value(now)),
            estimation_slices=submission.estimation_slices,
            created_at=now,
        )
        state = JobState(
            key=0,
            status=RunStatus.NEW,
            closed=submission.closed,
            admitted=submission.local_exec,
            counts=Counts(total=submission.total, copies=1 if submission.rule is None else submission.rule.of),
            estimate=Estimate(),
            estimation_slices=submission.estimation_slices,
        )
        estimate = self._core.settings.open_job_slices
        least, wanted = escrow.to_fund(total=submission.total, closed=submission.closed, estimate=estimate)
        funded = await self._core.money.open(tx, build(record), least=least, wanted=wanted)
        state = dataclasses.replace(state, funded=funded)
        key = await jobs.insert(tx, record, state)
        job = build(dataclasses.replace(record, key=key))
        return job, await self._advance(tx, job, dataclasses.replace(state, key=key))

    async def _advance(self, tx: Transaction, job: Job, state: JobState) -> JobState:
        """What follows from something that the owner did."""
        now = self._core.clock()
        state = (await self._core.settlement.advance(tx, [(job, dataclasses.replace(state, heard_at=now))], now))[
            job.key
        ]
        await jobs.save(tx, [state])
        return state

    async def add_slice_data(self, request: Request) -> dict[str, Any]:
        """Append a pile of listed inputs. A pile that is sent again by a client that lost its session before the
        answer is recognised and not stored twice. The hold grows with the job as far as the payment account goes; what
        it does not cover waits for funds.

        Errors: EINVAL, EPERM, ENOENT, ECLOSED, EBUSY (too many inputs).
        """
        data = fields(request)
        uris = uris_of_pile(data.get("dataValues"))
        self._watch_end(request.connection)
        # The same values may well follow each other. They are a repetition only over another session, and only if the
        # client did not end the one before itself.
        content = hashlib.sha256(json.dumps(uris).encode()).hexdigest()
        size = sum(map(len, uris))
        if any(map(self._core.blobs.is_big, uris)):
            async with self._core.database.snapshot() as tx:
                job = await self._core.catalog.get(tx, data.get("job"))
            require_owner(request, job)
            uris = await self._core.blobs.stash(job.id, uris)
        async with self._core.database.transaction() as tx:
            job = await self._core.catalog.get(tx, data.get("job"))
            require_owner(request, job)
            state = (await jobs.states(tx, [job.key], lock=True))[job.key]
            session, _, known = (state.pile_digest or "").partition(":")
            if known != content or session == request.connection.dcpsid or session in self._parted:
                await self._check_size(tx, job.owner, size)
                await jobs.add_input_characters(tx, job.key, size)
                state = await self._append(tx, job, state, uris, f"{request.connection.dcpsid}:{content}")
        self._core.answered(job)
        self._core.publish_state(state)
        return {"success": True, "lastSliceNumber": state.counts.total}

    def _watch_end(self, connection: ServerConnection) -> None:
        if connection in self._uploading:
            return
        self._uploading.add(connection)

        def ended(error: ConnectionClosed) -> None:
            self._uploading.discard(connection)
            if isinstance(error, ClosedByPeer):
                self._part([[connection.dcpsid]])
                if self._core.cluster is not None:
                    self._core.cluster.tell("parted", connection.dcpsid)

        connection.on_close(ended)

    def _part(self, items: Sequence[Sequence[str]]) -> None:
        for (dcpsid,) in items:
            self._parted[dcpsid] = None
            if len(self._parted) > _PARTED_KEPT:
                del self._parted[next(iter(self._parted))]

    async def _append(self, tx: Transaction, job: Job, state: JobState, uris: Sequence[str], digest: str) -> JobState:
        if state.closed or state.status in lifecycle.ENDED:
            raise OrchestratorError(f"job {job.id} is {state.status} and takes no more slices", code="ECLOSED")
        await slices.add_inputs(tx, job.key, state.counts.total + 1, uris)
        counts = dataclasses.replace(state.counts, total=state.counts.total + len(uris))
        funded = state.funded
        if funded is not None:
            funded += await self._core.money.add(tx, job, escrow.missing(funded, counts))
        return await self._advance(
            tx, job, dataclasses.replace(state, counts=counts, funded=funded, pile_digest=digest)
        )

    async def add_funds(self, request: Request) -> dict[str, Any]:
        """An operation of ours: put money into a job's hold; a job that waits for funds goes on.

        `{job, amount?, account?, transferId?}`: `amount` in DCC (whole slices of it are taken; what the job lacks when
        it is missing), out of `account` (the job's payment account when it is missing), whose key has signed the
        request. The same `transferId` again moves nothing; with an `amount` it must be there, so that no repeat pays
        twice. (What a job lacks is not lacking the second time.)

        Errors: EINVAL, EPERM, ENOENT, ENOFUNDS, ECLOSED.
        """
        data = fields(request)
        transfer_id = _top_up_id(data)
        async with self._core.database.transaction() as tx:
            job = await self._core.catalog.get(tx, data.get("job"))
            source = checksum(data.get("account", job.payment_account))
            if source not in request.authorized and source != request.peer:
                raise NotPermitted(f"the request is not signed by account {source}, which is to pay")
            state = (await jobs.states(tx, [job.key], lock=True))[job.key]
            if state.status in lifecycle.ENDED:
                raise OrchestratorError(f"job {job.id} is {state.status} and takes no more funds", code="ECLOSED")
            wanted = _slices_to_add(job, state, data)
            added = 0
            if wanted > 0:
                added = await self._core.money.top_up(tx, job, wanted, source=source, transfer_id=transfer_id)
            if added and state.funded is not None:
                state = dataclasses.replace(state, funded=state.funded + added)
            state = await self._advance(tx, job, state)
            told = await self._funds(tx, job, state)
        self._core.publish_state(state)
        return {"added": to_dcc(hold_for(added, job.slice_cost)), "transferId": transfer_id, **told}

    async def resume_job(self, request: Request) -> dict[str, Any]:
        """Let a paused job go on, with what its payment account has now. A job that is not paused is left alone.

        Errors: EPERM, ENOENT, ENOFUNDS.
        """
        async with self._core.database.transaction() as tx:
            job = await self._core.catalog.get(tx, fields(request).get("job"))
            if not owns(request, job):
                raise NotPermitted(f"only the owner or the payment account of job {job.id} can resume it")
            state = (await jobs.states(tx, [job.key], lock=True))[job.key]
            if state.status is RunStatus.PAUSED:
                state = await self._advance(tx, job, state)
                if state.status is RunStatus.PAUSED:
                    available = (await self._core.money.balances(tx, [job.payment_account]))[job.payment_account]
                    short = escrow.missing(state.funded, state.counts)
                    raise not_enough(job.payment_account, available, short, job.slice_cost)
            told = await self._funds(tx, job, state)
        self._core.publish_state(state)
        return told

    async def _funds(self, tx: Transaction, job: Job, state: JobState) -> dict[str, Any]:
        held = (await self._core.money.held(tx, [job])).get(job.key, 0)
        return {"success": True, "job": job.id, "status": str(state.status), **messages.money_of(job, state, held)}

    async def cancel_job(self, request: Request) -> dict[str, Any]:
        """Stop a job for good. Either of its keys may: clients whose deploy connection has idled out come back with
        the payment account as their identity."""
        data = fields(request)
        async with self._core.database.snapshot() as tx:
            job = await self._core.catalog.get(tx, data.get("job"))
        if not owns(request, job):
            raise NotPermitted(f"only the owner or the payment account of job {job.id} can cancel it")
        reason = data.get("reason")
        return await self._cancel(job, reason if isinstance(reason, str) else "")

    async def _cancel(self, job: Job, reason: str) -> dict[str, Any]:
        async with self._core.database.transaction() as tx:
            state = (await jobs.states(tx, [job.key], lock=True))[job.key]
            holders: set[str] = set()
            if state.status not in lifecycle.ENDED:
                state = cancelled(state, self._core.clock(), "ECANCELLED", reason or "The job was cancelled")
                holders = await slices.to_call_off(tx, job.key)
                state = await self._core.settlement.release(tx, job, state)
                await jobs.save(tx, [state])
        if holders and self._core.audience is not None:
            self._core.audience.command(holders, "remove", {"jobId": job.id})
        self._core.publish_state(state)
        return {"job": job.id, "status": str(state.status), "computed": state.counts.accepted, "success": True}

    async def cancel_all_jobs(self, request: Request) -> dict[str, Any]:
        """Cancel every running job of a payment account: all of them when the account has signed, else those of the
        sender. `dcp-util` signs with the sender's identity only."""
        data = fields(request)
        account = data.get("paymentAccount")
        if not isinstance(account, str):
            raise InvalidInput("paymentAccount must be an address")
        account = checksum(account)
        owner = None if account in request.authorized | {request.peer} else request.peer
        async with self._core.database.snapshot() as tx:
            ids = await jobs.of_account(tx, account, owner=owner)
            affected = [await self._core.catalog.get(tx, job_id) for job_id in ids]
        reason = data.get("reason")
        for job in affected:
            await self._cancel(job, reason if isinstance(reason, str) else "")
        return {"success": True, "cancelled": [job.id for job in affected]}


def _top_up_id(data: Mapping[str, Any]) -> str:
    """What a request to add funds calls its transfer. Raises `InvalidInput`."""
    transfer_id = data.get("transferId")
    if transfer_id is None and data.get("amount") is None:
        return secrets.token_hex(16)  # what is lacking is not lacking the second time
    if transfer_id is None:
        raise InvalidInput(
            "transferId is missing: with an amount, give one of your own (1 to 100 characters), and the same one"
            " when you repeat the request, so that nothing is paid twice"
        )
    if not isinstance(transfer_id, str) or not 0 < len(transfer_id) <= 100:
        raise InvalidInput("transferId must be a text of 1 to 100 characters")
    return transfer_id


def _slices_to_add(job: Job, state: JobState, data: Mapping[str, Any]) -> int:
    """For how many slices a request adds funds. Raises `InvalidInput`."""
    if data.get("amount") is None:
        return escrow.missing(state.funded, state.counts)
    amount = parse_amount(data["amount"])
    if state.funded is None:
        raise InvalidInput(f"job {job.id} needs no funds: its slices are free, or paid already")
    wanted = amount // job.slice_cost
    if wanted == 0:
        price = to_dcc(job.slice_cost)
        raise InvalidInput(f"amount {to_dcc(amount)} is less than one slice of job {job.id}, {price} DCC")
    return wanted
