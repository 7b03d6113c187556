"""The Worker's hands: carry out what the supervisor decides, and tell it what came of that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from orchestrator import telemetry
from orchestrator.errors import OrchestratorError
from orchestrator.worker import artifacts, reports
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.fetching.fetcher import Errand, Fetcher
from orchestrator.worker.owned_tasks import OwnedTasks
from orchestrator.worker.scheduler_link.link import SchedulerLink
from orchestrator.worker.seats import Seats, described_worktimes
from orchestrator.worker.supervisor import Supervisor
from orchestrator.worker.task import JobOffer, ResultStorage, Task

log = logging.getLogger(__name__)

_FETCH_AGAIN_S: Final = 60.0


class Hands:
    """What takes long is done by `tasks`, and ends with them. Events go to `tell`, from the event loop."""

    def __init__(
        self,
        supervisor: Supervisor,
        link: SchedulerLink,
        fetcher: Fetcher,
        seats: Seats,
        tasks: OwnedTasks,
        *,
        sandbox_config: Mapping[str, Any],
        artifacts_s: float,
        tell: Callable[[ev.Event], None],
        trace: Callable[[act.Trace], None],
    ) -> None:
        self._supervisor = supervisor
        self._link = link
        self._fetcher = fetcher
        self._seats = seats
        self._tasks = tasks
        self._sandbox_config = sandbox_config
        self._tell = tell
        self._trace = trace
        self._requesting: asyncio.Task[None] | None = None
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._artifacts: dict[str, artifacts.Artifacts] = {}
        self.worktimes: Sequence[Mapping[str, str]] = ()
        """What sandboxes have, once one has described itself."""
        self.artifacts_s = artifacts_s
        """How long code, arguments and modules of a job may take to come."""
        link.requests.on_late_task = self._on_late_task

    def carry_out(self, action: act.Action) -> None:
        match action:
            case act.SendResult():
                self._send_result(action)
            case act.RenewResult():
                self._link.deliveries.renew(action)
            case act.Submit(sandbox, slices):
                self._seats.submit(sandbox, slices)
            case act.Begin():
                self._link.statuses.begin(action)
            case act.Emit():
                self._link.emissions.emit(action)
            case act.ReturnSlices():
                self._link.statuses.give_back(action)
            case act.RequestTask():
                self._requesting = self._tasks.create_task(self._ask(action), name="request-task")
            case act.FetchJob(offer):
                self._jobs[offer.job_id] = self._tasks.create_task(self._gather(offer), name=f"job-{offer.job_id}")
            case act.ForgetJob(job_id):
                self._forget_job(job_id)
            case act.FetchDatum():
                self._tasks.create_task(self._get_datum(action))
            case act.OpenSandbox(sandbox, job_id):
                self._seats.open(sandbox, job_id, self._artifacts[job_id], self._errand(job_id))
            case act.CloseSandbox(sandbox, reason, limit):
                self._seats.close(sandbox, reason)
                if limit is not None:
                    telemetry.sandboxes_recycled.add(1, {"limit": limit})
            case act.Trace():
                self._trace(action)
            case act.Finish():
                pass  # the worker's loop ends

    # -- requests for work ---------------------------------------------------------------------------------------------

    async def _ask(self, action: act.RequestTask) -> None:
        try:
            task = await self._link.requests.ask(action)
        except OrchestratorError as error:
            log.warning("request_failed", extra={"code": error.code, "error": error.message})
            self._tell(ev.TaskFailed(error.code, error.message, _retry_after(error), self._link.requests.owes_word))
        except asyncio.CancelledError:
            self._tell(ev.TaskFailed("ESTOPPED", "the worker is stopping"))
            raise
        else:
            self._fetcher.lend(task.group_origins)
            if task.count:
                log.debug("task_received", extra={"slices": task.count})
            self._tell(ev.TaskReceived(task))
        finally:
            self._requesting = None

    def _on_late_task(self, task: Task) -> None:
        self._fetcher.lend(task.group_origins)
        self._tell(ev.TaskCameLate(task))

    def stop_asking(self) -> None:
        """Give up the request for work, which may be a long poll; what it might have brought comes late, or is given
        back at the end."""
        if self._requesting is not None:
            self._requesting.cancel()

    # -- jobs and their data -------------------------------------------------------------------------------------------

    async def _gather(self, offer: JobOffer) -> None:
        patience_s = self.artifacts_s
        try:
            async with asyncio.timeout(patience_s):
                found = await artifacts.gather(
                    offer,
                    self._fetcher,
                    self._link.packages,
                    worktime_version=described_worktimes(self.worktimes, offer.worktime[0]),
                    sandbox_config=self._sandbox_config,
                )
        except TimeoutError:
            log.warning("job_not_fetched", extra={"job": offer.job_id, "code": "EJOBFETCH", "error": "time-out"})
            why = f"code, arguments and modules did not come within {patience_s:g} s"
            self._tell(ev.JobFetchFailed(offer.job_id, "EJOBFETCH", why, False, _FETCH_AGAIN_S))
        except OrchestratorError as error:
            log.warning("job_not_fetched", extra={"job": offer.job_id, "code": error.code, "error": error.message})
            self._tell(artifacts.failure(offer.job_id, error))
        except Exception:  # a job that finds a mistake of ours gets its slices back, and ends nobody
            log.exception("job_not_fetched", extra={"job": offer.job_id})
            self._tell(ev.JobFetchFailed(offer.job_id, "EINTERNAL", "a mistake of the worker's", True))
        else:
            self._artifacts[offer.job_id] = found
            self._tell(ev.JobFetched(offer.job_id, found.datum_of))

    def _forget_job(self, job_id: str) -> None:
        self._artifacts.pop(job_id, None)
        gathering = self._jobs.pop(job_id, None)
        if gathering is not None:
            gathering.cancel()

    async def _get_datum(self, action: act.FetchDatum) -> None:
        try:
            uri = await self._fetcher.datum(action.uri, self._errand(action.job_id))
        except OrchestratorError as error:
            cause = artifacts.cause_of(error)
            self._tell(ev.DatumFailed(action.key, error.code, error.message, cause))
        else:
            self._tell(ev.DatumFetched(action.key, uri))

    def _errand(self, job_id: str) -> Errand:
        return artifacts.errand_of(self._supervisor.offer_of(job_id))

    # -- results -------------------------------------------------------------------------------------------------------

    def _send_result(self, action: act.SendResult) -> None:
        if action.storage is not None:
            self._tasks.create_task(self._store(action, action.storage))
        elif action.error is not None:
            self._link.deliveries.send(action, reports.thrown_result(action.error, action.modern))
        else:
            result = action.result
            body = reports.result_v2(result.string, result.method, result.mime, action.modern)
            self._link.deliveries.send(action, body)

    async def _store(self, action: act.SendResult, storage: ResultStorage) -> None:
        """The job keeps its results elsewhere: take the result there first, and report where it lies.

        What a work function threw is taken there, too; the Scheduler must hear of that as such, and hears of it even
        when the storage does not.
        """
        if action.error is None:
            text, mime = action.result.string, action.result.mime
        else:
            thrown = reports.thrown_result(action.error, action.modern)
            text, mime = reports.thrown_text(action.error), "application/x-kvin"
        content = reports.text_for_job(text, action.modern)
        try:
            uri = await self._fetcher.store_result(
                storage.url, action.number, content, mime, storage.params, threw=action.error is not None,
                errand=self._errand(action.job_id),
            )  # fmt: skip
        except OrchestratorError as error:
            log.warning(
                "result_not_stored",
                extra={"job": action.job_id, "slice": action.number, "code": error.code, "error": error.message},
            )
            if action.error is None:
                self._tell(ev.ResultRefused(action.key, error.code, error.message, lost=False))
                return
        if action.error is None:
            self._link.deliveries.send(action, uri)
        else:
            self._link.deliveries.send(action, thrown)


def _retry_after(error: OrchestratorError) -> float | None:
    after = error.info.get("retryAfter")
    return float(after) if isinstance(after, int | float) and not isinstance(after, bool) and after >= 0 else None
