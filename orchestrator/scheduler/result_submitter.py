"""The resultSubmitter service: results and returned slices from workers; clients close jobs and fetch.

Built for many small results: everything that arrived while one transaction ran is settled in the next (`GroupCommit`),
whatever connection it came over.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from orchestrator import telemetry
from orchestrator.database import Transaction
from orchestrator.errors import InvalidInput, NotFound, OrchestratorError
from orchestrator.jobs.fingerprints import fingerprint
from orchestrator.jobs.ranges import parse_slice_selection
from orchestrator.protocol.server import BatchService, Request
from orchestrator.scheduler import lifecycle, messages
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.core import Core, Operations, fields, owns, require_owner
from orchestrator.scheduler.estimates import is_believable
from orchestrator.scheduler.group_commit import GroupCommit
from orchestrator.scheduler.lifecycle import Ending, Verdict
from orchestrator.scheduler.pricing import to_dcc
from orchestrator.scheduler.result_reports import ResultReport, StatusReport, parse_result, parse_status
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.settling import UNASKED_REASON, WRONG_REASON, Report
from orchestrator.scheduler.store import jobs, leases, slices
from orchestrator.scheduler.store.leases import Lease
from orchestrator.wallet.addresses import checksum

MOST_FETCHED = 100_000
"""results in one answer of fetchResult"""

_URI_COMPONENT = "-_.!~*'()"
Parsed = tuple[str, list[ResultReport] | list[StatusReport]]


@dataclasses.dataclass(slots=True)
class _Arrival:
    """One `result` or `status` message on its way through the transaction."""

    worker: str
    reports: list[Report]
    leases: list[Lease]


class ResultSubmitter(BatchService):
    """`run()` must be running while requests are handled."""

    def __init__(self, core: Core, roster: Roster) -> None:
        self._core = core
        self._roster = roster
        self._commits = GroupCommit(self._apply)
        self._payees: dict[str, str] = {}
        self._operations = Operations(
            {
                "closeJob": self.close_job,
                "fetchResult": self.fetch_result,
            }
        )

    async def run(self) -> None:
        await self._commits.run()

    async def handle_batch(self, requests: Sequence[Request]) -> Sequence[Any | OrchestratorError]:
        """Answers in the order of the requests. Reports of one batch are settled together."""
        reports = [i for i, request in enumerate(requests) if request.operation in ("result", "status")]
        if len(reports) == len(requests):
            return await self._report(requests)
        answers: list[Any] = [None] * len(requests)
        others = [i for i, request in enumerate(requests) if request.operation not in ("result", "status")]
        outcomes = await asyncio.gather(
            self._report([requests[i] for i in reports]),
            *(self._other(requests[i]) for i in others),
        )
        for index, answer in zip(reports, outcomes[0], strict=True):
            answers[index] = answer
        for index, answer in zip(others, outcomes[1:], strict=True):
            answers[index] = answer
        return answers

    async def _other(self, request: Request) -> Any:
        try:
            return await self._operations.handle(request)
        except OrchestratorError as error:
            return error

    async def _report(self, requests: Sequence[Request]) -> list[Any]:
        parsed = [_parse(request) for request in requests]
        await self._load([one for one in parsed if not isinstance(one, OrchestratorError)])
        arrivals = [
            one if isinstance(one, OrchestratorError) else self._arrival(request, one)
            for request, one in zip(requests, parsed, strict=True)
        ]
        if any(isinstance(one, _Arrival) and any(map(self._is_big, one.reports)) for one in arrivals):
            arrivals = list(await asyncio.gather(*map(self._stash, arrivals)))
        await self._commits.submit([one for one in arrivals if isinstance(one, _Arrival)])
        answers = _Answers()
        return [
            answers.to(arrival, request) if isinstance(arrival, _Arrival) else arrival
            for arrival, request in zip(arrivals, requests, strict=True)
        ]

    def _is_big(self, report: Report) -> bool:
        return report.lease > 0 and self._core.blobs.is_big(report.uri)

    async def _stash(self, arrival: _Arrival | OrchestratorError) -> _Arrival | OrchestratorError:
        """Big results go where they are kept before their rows are written."""
        if isinstance(arrival, OrchestratorError):
            return arrival
        try:
            for report in filter(self._is_big, arrival.reports):
                [report.uri] = await self._core.blobs.stash(report.job.id, [report.uri])
        except OrchestratorError as error:
            return error
        return arrival

    async def _load(self, parsed: Sequence[Parsed]) -> None:
        """Bring jobs and leases that are not in memory there (after a restart)."""
        reports = [report for _, group in parsed for report in group]
        lease_ids = self._core.leases.missing({report.claim.lease for report in reports})
        job_ids = {report.job_id for report in reports if self._core.catalog.cached(report.job_id) is None}
        if not lease_ids and not job_ids:
            return
        async with self._core.database.snapshot() as tx:
            await self._core.leases.load(tx, lease_ids)
            for job_id in job_ids:
                await self._core.catalog.find(tx, job_id)

    def _arrival(self, request: Request, parsed: Parsed) -> _Arrival | OrchestratorError:
        worker, group = parsed
        arrival = _Arrival(worker, [], [])
        try:
            for one in group:
                job = self._core.catalog.cached(one.job_id)
                if job is None:
                    raise NotFound(f"there is no job {one.job_id}", info={"job": one.job_id})
                lease = self._core.leases.check(one.claim, request.peer)
                # A lease whose row is long gone cannot be proven any more: its reports are late, whatever they say.
                lease_id = lease.id if lease is not None else -1
                if lease is not None:
                    arrival.leases.append(lease)
                if isinstance(one, ResultReport):
                    arrival.reports.append(self._result(job, one, lease_id, lease, request.peer))
                elif not one.begins:
                    arrival.reports += [
                        Report(job, number, lease_id, one.ending, worker=worker, reason=one.reason)
                        for number in one.numbers
                    ]
        except OrchestratorError as error:
            return error
        return arrival

    def _result(self, job: Job, one: ResultReport, lease_id: int, lease: Lease | None, peer: str) -> Report:
        since_s = 0.0 if lease is None else self._core.clock() - lease.opened_at
        payee = one.payee if one.payee is not None else lease.payment_address if lease is not None else None
        return Report(
            job, one.number, lease_id, one.ending,
            worker=one.worker, payee=self._payee(payee), uri=one.uri, reason=one.reason,
            measured=one.measured if is_believable(one.measured, since_s) else None,
            commission=None if lease is None else lease.commissions.get(job.key),
            identity=peer,
            digest=fingerprint(one.uri) if job.rule is not None and one.ending is Ending.COMPLETED else "",
        )  # fmt: skip

    def _payee(self, address: str | None) -> str | None:
        """Checksummed, or None when it is no address. Remembered: the same few come with every result."""
        if address is None:
            return None
        known = self._payees.get(address)
        if known is None:
            try:
                known = checksum(address)
            except InvalidInput:
                return None
            if len(self._payees) > 10_000:
                self._payees.clear()
            self._payees[address] = known
        return known

    async def _apply(self, arrivals: Sequence[_Arrival]) -> None:
        """One transaction for everything that came."""
        now = self._core.clock()
        settings = self._core.settings
        renewed = {
            lease.id: lease
            for arrival in arrivals
            for lease in arrival.leases
            if lease.expires_at < now + settings.lease_s * 0.75
        }
        for worker in {arrival.worker for arrival in arrivals}:
            self._roster.heard(worker, now)
        reports = [report for arrival in arrivals for report in arrival.reports]
        if not reports and not renewed:
            return
        expires_at = now + settings.lease_s
        begun = time.perf_counter()
        async with self._core.database.transaction() as tx:
            outcome = await self._core.settlement.settle(tx, reports, now)
            if renewed:
                await leases.renew(tx, renewed, expires_at)
        telemetry.settling_time.record(time.perf_counter() - begun)
        for lease in renewed.values():
            self._core.leases.renewed(lease, expires_at)
        self._core.publish(outcome)
        for verdict, count in collections.Counter(report.verdict for report in reports).items():
            telemetry.results_received.add(count, {"verdict": verdict})

    async def close_job(self, request: Request) -> dict[str, Any]:
        """No more slices will come. Repeating it is harmless."""
        data = fields(request)
        async with self._core.database.transaction() as tx:
            job = await self._core.catalog.get(tx, data.get("job"))
            require_owner(request, job)
            state = (await jobs.states(tx, [job.key], lock=True))[job.key]
            if not state.closed:
                now = self._core.clock()
                state = dataclasses.replace(state, heard_at=now, closed=True)
                if state.status not in lifecycle.ENDED:
                    state = await self._core.settlement.close(tx, job, state, now)
                await jobs.save(tx, [state])
        self._core.answered(job)
        self._core.publish_state(state)
        return {"success": True, "job": job.id, "lastSliceNumber": state.counts.total}

    async def fetch_result(self, request: Request) -> list[dict[str, Any]]:
        """Results that are there. Never an error: a client's process ends on one; without a right to the results, or
        with a range that makes no sense, there are none."""
        try:
            data = fields(request)
            async with self._core.database.snapshot() as tx:
                job, found = await self._fetch(tx, request, data)
            values = await asyncio.gather(
                *(self._core.blobs.resolve(job, uri, f"the result of slice {number}") for number, uri in found)
            )
            return [
                {"slice": number, "value": quote(uri, safe=_URI_COMPONENT)}
                for (number, _), uri in zip(found, values, strict=True)
            ]
        except OrchestratorError:
            return []

    async def _fetch(
        self, tx: Transaction, request: Request, data: Mapping[str, Any]
    ) -> tuple[str, list[tuple[int, str]]]:
        job = await self._core.catalog.find(tx, data.get("job"))
        if job is None or not owns(request, job):
            return "", []
        wanted = parse_slice_selection(data.get("range"))
        found = await slices.results(tx, job.key, wanted.explicit(), limit=MOST_FETCHED)
        return job.id, [(number, uri) for number, uri in found if number in wanted]


def _parse(request: Request) -> Parsed | OrchestratorError:
    try:
        if request.operation == "status":
            return parse_status(request.data)
        report = parse_result(request.data)
        return report.worker, [report]
    except OrchestratorError as error:
        return error


_WELCOME = frozenset({Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.OPINION, Verdict.UNDECIDED})
_WHY = {
    Verdict.OPINION: "others must agree with the result before it is paid",
    Verdict.WRONG: WRONG_REASON,
    Verdict.UNDECIDED: "the results of several workers differ; it is paid, since nobody knows whose is right",
    Verdict.UNASKED: UNASKED_REASON,
}


class _Answers:
    """What a worker hears, one object for all results of which the same is said: it is written once."""

    def __init__(self) -> None:
        self._made: dict[tuple[Verdict, int, int], dict[str, Any]] = {}

    def to(self, arrival: _Arrival, request: Request) -> dict[str, Any]:
        """A result that is not wanted any more is refused politely: as a success that pays nothing, because an error
        would make official workers send it again. An opinion that waits for others is accepted and not paid yet."""
        if request.operation == "status":
            return _HEARD
        report = arrival.reports[0]
        said = (report.verdict, report.paid, id(report.state))
        answer = self._made.get(said)
        if answer is None:
            answer = self._made[said] = _answer(report)
        return answer


_HEARD = {"success": True}


def _answer(report: Report) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "accepted": report.verdict in _WELCOME,
        "verdict": str(report.verdict),
        "slicePaymentAmount": to_dcc(report.paid),
    }
    if report.verdict in _WHY:
        answer["reason"] = _WHY[report.verdict]
    if report.state is not None:
        answer["metrics"] = messages.job_metrics(report.state.estimate, report.state.counts)
    return answer
