"""The pheme service: reports about jobs, to their owners."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from orchestrator.database import Transaction
from orchestrator.errors import InvalidInput, NotPermitted
from orchestrator.jobs.words import RunStatus
from orchestrator.protocol.server import Request
from orchestrator.scheduler import messages
from orchestrator.scheduler.catalog import Job, build
from orchestrator.scheduler.core import Core, Operations, fields, owns
from orchestrator.scheduler.court import PAID
from orchestrator.scheduler.explainer import Explainer
from orchestrator.scheduler.lifecycle import job_story
from orchestrator.scheduler.redundancy import Panel, Rule
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.settling import facts_of
from orchestrator.scheduler.store import groups, jobs, opinions, slices
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.scheduler.trust import Trust
from orchestrator.wallet.addresses import checksum

_LATEST_MS = 8.64e15  # as for a Date of JavaScript
MOST_SLICES = 1000
"""slices in an answer"""
MOST_REASONS = 20
"""reasons of failures in an answer, the most frequent"""


class Pheme:
    def __init__(self, core: Core, roster: Roster) -> None:
        self._core = core
        self._explainer = Explainer(core, roster)
        self._operations = Operations(
            {
                "listJobs": self.list_jobs,
                "countJobs": self.count_jobs,
                "countSlices": self.count_slices,
                "fetchJobReport": self.fetch_job_report,
                "fetchSliceReport": self.fetch_slice_report,
                "explainJob": self.explain_job,
            }
        )

    async def handle(self, request: Request) -> Any:
        return await self._operations.handle(request)

    async def list_jobs(self, request: Request) -> list[dict[str, Any]]:
        """Jobs of the peer: one by id, or all that were deployed in a time and are in one of some statuses."""
        data = fields(request) if request.data else {}
        statuses = data.get("statuses")
        if statuses is not None:
            known = {str(status) for status in RunStatus}
            if not isinstance(statuses, list) or not all(isinstance(one, str) and one in known for one in statuses):
                raise InvalidInput(f"statuses must be a list of {', '.join(sorted(known))}")
        job_id = data.get("job")
        async with self._core.database.snapshot() as tx:
            found = await jobs.listing(
                tx,
                owner=None if job_id is not None else request.peer,
                job_id=job_id if isinstance(job_id, str) else None,
                statuses=statuses or None,
                created_from=_time("startDeployTime", data.get("startDeployTime")),
                created_to=_time("endDeployTime", data.get("endDeployTime")),
            )
            pairs = [(job, state) for record, state in found if owns(request, job := build(record))]
            held = await self._core.money.held(tx, [job for job, _ in pairs])
        return [_report(job, state, held) for job, state in pairs]

    async def count_jobs(self, request: Request) -> dict[str, int]:
        """Number of an owner's jobs by status. Others are not counted, whatever is asked for (`isSelectingAll`)."""
        data = fields(request) if request.data else {}
        owner = request.peer if data.get("jobOwner") is None else _address("jobOwner", data["jobOwner"])
        if owner not in request.authorized | {request.peer}:
            raise NotPermitted(f"the jobs of {owner} are counted for their owner only")
        async with self._core.database.snapshot() as tx:
            return await jobs.count_by_status(tx, owner)

    async def count_slices(self, request: Request) -> dict[str, Any]:
        job, state = await self._one(request)
        counts = state.counts
        return {
            "job": job.id,
            "total": counts.total,
            "waiting": counts.waiting,
            "distributed": counts.leased,
            "computed": counts.accepted,
            "failed": counts.failed,
        }

    async def fetch_job_report(self, request: Request) -> dict[str, Any]:
        """Everything about a job: the entry of listJobs, what its slices cost, why some failed, and its groups."""
        job, state = await self._one(request)
        async with self._core.database.snapshot() as tx:
            held = await self._core.money.held(tx, [job])
            reasons = await slices.failure_reasons(tx, job.key, MOST_REASONS)
            ids = (await jobs.groups(tx, [job.key])).get(job.key, frozenset())
            known = await groups.by_ids(tx, ids)
        return _report(job, state, held) | {
            "story": job_story(facts_of(state)),
            "computeGroups": [
                {"id": one, "name": known[one].label if one in known else "public"} for one in sorted(ids)
            ],
            "metrics": messages.job_metrics(state.estimate, state.counts),
            "failures": [{"reason": reason, "slices": count} for reason, count in reasons],
        }

    async def fetch_slice_report(self, request: Request) -> dict[str, Any]:
        """Where the slices of a job are, and what happened to them; to one of them when `slice` names it.

        At most 1000 at once; `next` is the number to ask for as `from` for the following ones. Slices beyond
        `distributedUpTo` were never given to a worker.
        """
        job, state = await self._one(request)
        data = fields(request)
        async with self._core.database.snapshot() as tx:
            if data.get("slice") is not None:
                number = _number("slice", data["slice"])
                told = {"job": job.id, **await slices.story(tx, job.key, number)}
                return told if job.rule is None else told | await self._opinions(tx, job, job.rule, number)
            first = 1 if data.get("from") is None else _number("from", data["from"])
            found = await slices.reports(tx, job.key, first, MOST_SLICES)
        counts = state.counts
        return {
            "job": job.id,
            "story": job_story(facts_of(state)),
            "total": counts.total,
            "distributedUpTo": counts.cursor,
            "slices": found,
            "next": found[-1]["slice"] + 1 if len(found) == MOST_SLICES else None,
        }

    async def _opinions(self, tx: Transaction, job: Job, rule: Rule, number: int) -> dict[str, Any]:
        """Who computed the slice, what became of it, and what the owner thinks of them."""
        heard = (await opinions.load(tx, job.key, [number])).get(number, [])
        trust = await opinions.trust(tx, job.owner, [one.by.identity for one in heard])
        rules = self._core.trust
        return {
            "agreement": Panel(rule, tuple(heard)).story(),
            "opinions": [
                {
                    "worker": one.by.worker,
                    "identity": one.by.identity,
                    "result": one.digest[:16],
                    "state": str(one.state),
                    "paid": one.state in PAID and one.by.payee is not None,
                    "trust": rules.story(trust.get(one.by.identity, Trust())),
                }
                for one in heard
            ],
        }

    async def explain_job(self, request: Request) -> dict[str, Any]:
        """An operation of ours: why a job waits, and what would change it. See `Explainer`."""
        job, _ = await self._one(request)
        return await self._explainer.explain(job)

    async def _one(self, request: Request) -> tuple[Job, JobState]:
        data: Mapping[str, Any] = fields(request)
        async with self._core.database.snapshot() as tx:
            job = await self._core.catalog.get(tx, data.get("job"))
            if not owns(request, job):
                raise NotPermitted(f"only the owner of job {job.id} may see its reports")
            return job, (await jobs.states(tx, [job.key]))[job.key]


def _report(job: Job, state: JobState, held: Mapping[int, int]) -> dict[str, Any]:
    return messages.job_report(job, state) | messages.money_of(job, state, held.get(job.key, 0))


def _address(field: str, value: Any) -> str:
    try:
        return checksum(value)
    except InvalidInput as error:
        raise InvalidInput(f"{field}: {error.message}") from error


def _number(field: str, value: Any) -> int:
    """A slice's number. Raises `InvalidInput`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**53:
        raise InvalidInput(f"{field} is {value!r:.40}; it must be the number of a slice, from 1 on")
    return value


def _time(field: str, value: Any) -> float | None:
    """Seconds since 1970 from milliseconds or ISO text. Raises `InvalidInput`."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LATEST_MS:
        return value / 1000
    try:
        moment = datetime.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InvalidInput(f"{field} is {value!r:.40}; it must be milliseconds since 1970 or an ISO date") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)).timestamp()
