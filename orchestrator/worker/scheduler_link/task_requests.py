"""Requests for work, and the word at the end that nothing is held any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from orchestrator.errors import OrchestratorError
from orchestrator.protocol import js_json, signing
from orchestrator.protocol.client import ClientConnection
from orchestrator.protocol.errors import ConnectionClosed, PeerChanged
from orchestrator.worker import reports, task
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker.account import WorkerAccount
from orchestrator.worker.offers import Offer
from orchestrator.worker.owned_tasks import OwnedTasks
from orchestrator.worker.scheduler_link.lost_answers import LostAnswers

log = logging.getLogger(__name__)

_LEFTOVERS_S: Final = 120.0
_GOODBYE_PAUSE_S: Final = 0.3


class TaskRequests:
    """`leftovers_settled`: results of earlier processes are answered for. `tasks` do the asking, and end it."""

    def __init__(
        self,
        distributor: ClientConnection,
        account: WorkerAccount,
        offer: Offer,
        leftovers_settled: asyncio.Event,
        tasks: OwnedTasks,
        *,
        timeout_s: float,
    ) -> None:
        self._distributor = distributor
        self._account = account
        self.offer = offer
        """What is told from now on."""
        self._leftovers_settled = leftovers_settled
        self._tasks = tasks
        self._timeout_s = timeout_s
        self._own_groups_had_none = False
        self._sequence = 0
        self._lost_answers = LostAnswers(secrets.token_urlsafe(6))
        self._starts_over = False
        self._work_answered = False
        self._capabilities = 0
        self._worktimes: Sequence[Mapping[str, str]] = ()
        self.answered_at: float | None = None
        """When the Scheduler last answered (`time.time()`)."""
        self.on_late_task: Callable[[task.Task], None] = lambda _task: None
        """Told what a request brought after all that had been given up."""

    def describe(self, capabilities: int, worktimes: Sequence[Mapping[str, str]]) -> None:
        """What sandboxes can do, to be told with every request from now on."""
        self._capabilities, self._worktimes = capabilities, worktimes

    @property
    def owes_word(self) -> bool:
        """Whether the Scheduler is still to hear of answers that were lost."""
        return self._lost_answers.untold

    # -- asking --------------------------------------------------------------------------------------------------------

    async def ask(self, action: act.RequestTask) -> task.Task:
        """Ask for work. Raises `OrchestratorError` (network, Scheduler's refusal, malformed answer).

        When it is given up (no answer in time, or cancelled) and the answer comes later, `on_late_task` hears of its
        slices. What was leased in an answer that is lost with its session is given back by the requests that follow.
        """
        if action.first:  # it gives back all that is leased to this worker: results would be late after it
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEFTOVERS_S):
                    await self._leftovers_settled.wait()
        self._sequence += 1
        asking = self._tasks.create_task(self._ask(action, self._sequence), name="ask-for-task")
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await asyncio.shield(asking)
        except TimeoutError:
            asking.add_done_callback(self._came_late)
            raise OrchestratorError(
                f"the Scheduler did not answer within {self._timeout_s:g} s", code="ETIMEDOUT", retryable=True
            ) from None
        except asyncio.CancelledError:
            asking.add_done_callback(self._came_late)
            raise
        if isinstance(answer, OrchestratorError):
            raise answer
        if not action.beacon_only:
            self._own_groups_had_none = not answer.count and not self._own_groups_had_none
        return answer

    async def _ask(self, action: act.RequestTask, sequence: int) -> task.Task | OrchestratorError:
        """What came of it: it lives on when nobody waits any more, and then nobody catches what it raises."""
        name, lost = self._lost_answers.name(), self._lost_answers.to_tell(time.monotonic())
        # Lost, it may not have given back what earlier processes held; while nothing was answered, nothing else is out.
        starts = action.first or (self._starts_over and not self._work_answered and not action.beacon_only)
        try:
            if self._distributor.dcpsid is None:  # the proofs of group membership need the session's id
                await self._distributor.request("keepalive", round(time.time() * 1000))
            data = self._words(action, sequence, name, lost, starts=starts)
            answer = await self._distributor.request("requestTask@3", data)
            self.answered_at = time.time()
            self._work_answered = self._work_answered or not action.beacon_only
            self._lost_answers.told(lost)
            return task.parse(answer)
        except (ConnectionClosed, task.MalformedTask) as error:
            if not action.beacon_only:
                self._lost_answers.lost(name, time.monotonic())
            self._starts_over = self._starts_over or starts
            return error
        except OrchestratorError as error:
            return error

    def _words(
        self, action: act.RequestTask, sequence: int, name: str, lost: Sequence[str], *, starts: bool
    ) -> dict[str, Any]:
        offer = self.offer
        groups = reports.compute_groups(offer.groups, self._asks_public_group(), self._distributor.dcpsid or "")
        return reports.task_request(
            action,
            worker_id=self._account.worker_id,
            payment_address=self._account.payment_address,
            cores=offer.cores,
            capabilities=self._capabilities,
            worktimes=self._worktimes,
            job_ids=offer.job_ids,
            minimum_wage=offer.minimum_wage,
            groups=groups,
            sequence=sequence,
            return_all=self._return_all() if starts else None,
            isolation=offer.isolation,
            request_id=name,
            lost=lost,
        )

    def _asks_public_group(self) -> bool:
        offer = self.offer
        waits = offer.public_fallback and bool(offer.groups) and not self._own_groups_had_none
        return offer.public_group and not waits

    def _return_all(self) -> str:
        """The signed statement that gives back everything this worker id held before."""
        return signing.seal(self._account.identity, js_json.dumps({"id": self._account.worker_id}))

    def _came_late(self, asking: asyncio.Task[task.Task | OrchestratorError]) -> None:
        if asking.cancelled() or asking.exception() is not None:
            return  # the link ends, or has failed for all to see
        answer = asking.result()
        if isinstance(answer, OrchestratorError):
            log.info("late_answer", extra={"code": answer.code, "error": answer.message})
        elif answer.count or answer.malformed:
            log.warning("late_answer", extra={"slices": answer.count})
            self.on_late_task(answer)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def goodbye(self, timeout_s: float) -> None:
        """Tell the Scheduler that nothing is held any more; give up after so many seconds, however often it was tried.

        That is logged and does no harm: what is leased comes back at the next start, or when its lease ends.
        """
        data = {
            "coreStats": {"worker": self._account.worker_id},
            "paymentAddress": self._account.payment_address,
            "fetchState": reports.RETURN_ALL,
            "returnAllSlices": self._return_all(),
        }
        attempt, trouble = 0, "no answer"
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    attempt += 1
                    try:
                        await self._distributor.request("requestTask@3", data)
                        return
                    except OrchestratorError as error:
                        trouble = str(error)
                        if isinstance(error, PeerChanged):
                            break
                    await asyncio.sleep(_GOODBYE_PAUSE_S)
        except TimeoutError:
            trouble = self._distributor.statistics()["trouble"] or trouble
        log.warning("goodbye_failed", extra={"attempt": attempt, "error": trouble})
