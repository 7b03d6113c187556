"""Pure: the Worker's mind. `handle(event, now) -> list[Action]`; no I/O, no clock, no randomness.

A slice's way: it arrives with a task (`WAITING`), its job's code and its datum are fetched, it becomes `READY`, is
queued in a sandbox of its job (`QUEUED`), its result is sent (`REPORTED`) and acknowledged. Whatever goes wrong, it
ends in exactly one of: result accepted, returned with a reason, or refused by the Scheduler.

Sandboxes are bound to one job for life. Short slices are queued several deep, so that a sandbox never waits for us.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.bank import amounts
from orchestrator.errors import InvalidInput
from orchestrator.jobs import words
from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker import demand, recycling
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.audit import Auditor
from orchestrator.worker.desk import ANSWERED_KEPT, DUPLICATE, Policy
from orchestrator.worker.holdings import ACCEPTED, COMPLETED, FETCHED, RECEIVED, Held, Job, Place, Sandbox
from orchestrator.worker.quanta import Quanta
from orchestrator.worker.refusals import Kind
from orchestrator.worker.task import JobOffer, SliceOffer, Task


class Supervisor(Auditor):
    """See the module. Not thread-safe; events must be handed over in the order in which they happened."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.Tick: self._on_tick,
            ev.RuntimeReady: self._on_runtime_ready,
            ev.RuntimeLost: self._on_runtime_lost,
            ev.TaskReceived: self._on_task,
            ev.TaskCameLate: self._on_late_task,
            ev.TaskFailed: self._on_task_failed,
            ev.JobFetched: self._on_job_fetched,
            ev.JobFetchFailed: self._on_job_fetch_failed,
            ev.DatumFetched: self._on_datum,
            ev.DatumFailed: self._on_datum_failed,
            ev.SandboxOpened: self._on_opened,
            ev.SandboxRefusedJob: self._on_refused_job,
            ev.SandboxEnded: self._on_ended,
            ev.SliceCompleted: self._on_completed,
            ev.SliceFailed: self._on_failed,
            ev.SliceRejected: self._on_rejected,
            ev.Progressed: self._on_progress,
            ev.SliceSpoke: self._on_spoke,
            ev.ResultAccepted: self._on_accepted,
            ev.ResultRefused: self._on_refused,
            ev.JobRemoved: self._on_job_removed,
            ev.StopRequested: self._on_stop,
            ev.DrainRequested: self._on_drain,
            ev.RoomChanged: self._on_room,
            ev.PauseRequested: self._on_pause,
            ev.PriorityChanged: self._on_priority,
            ev.PolicyChanged: self._on_policy,
            ev.ResumeRequested: self._on_resume,
        }

    def handle(self, event: ev.Event, now: float) -> list[act.Action]:
        """Take one event, return what is to be done, in order."""
        return self.handle_all((event,), now)

    def handle_all(self, events: Iterable[ev.Event], now: float) -> list[act.Action]:
        """Take events that happened together; decisions that span them (queues, requests) are made once."""
        self._now = now
        for event in events:
            self._handlers[type(event)](event, now)
        self._settle(now)
        actions, self._actions = self._actions, []
        return actions

    def _on_task(self, event: ev.TaskReceived, now: float) -> None:
        task = event.task
        useful = self._take(task, now)
        self._demand.answered(useful, now, task.retry_after_s)
        self._owes_word = False
        self._heard_at = now
        if self._asking:
            self._answered_at = now
            self._no_work = task.no_work
            if useful:
                self._worked_at = now
            elif not task.slices and not task.malformed:
                self._refusals.note(Kind.REQUEST, "ENOWORK", now)
        self._look_at_space = True

    def _on_late_task(self, event: ev.TaskCameLate, now: float) -> None:
        """It says nothing of the request that is under way, if one is."""
        self._counts["answers that came late"] += 1
        self._heard_at = now
        if self._take(event.task, now):
            self._worked_at = now
        self._look_at_space = True

    def _take(self, task: Task, now: float) -> int:
        """Keep what can be done here, give back the rest; how many slices were kept."""
        useful = 0
        if task.lifetimes is not None:
            self._lifetimes = task.lifetimes
            if task.lifetimes.beacon_s is not None:
                self._beacon_s = task.lifetimes.beacon_s
                self._beacon_at = min(self._beacon_at, now + self._beacon_s) if self._held else math.inf
        for bad in task.malformed:
            self._reject_job(bad.job_id, bad.reason)
            self._note_why(bad.job_id, "EBADTASK", bad.reason)
            self._give_back(bad.job_id, bad.numbers, task.authorization, "EBADTASK")
        for job_id, offers in task.slices.items():
            refusal = self._why_not(task.jobs[job_id], now)
            if refusal is not None:
                self._refuse(task, job_id, refusal, now)
            elif fresh := self._without_answered(task, job_id, offers):
                useful += self._keep(task, self._known(task.jobs[job_id], now), fresh, now)
        return useful

    def _without_answered(self, task: Task, job_id: str, offers: Sequence[SliceOffer]) -> Sequence[SliceOffer]:
        """A lease whose result is accepted is done with: what comes under it again goes back. Newer ones are work."""
        again = {offer.number for offer in offers if self._answered.get((job_id, offer.number)) == task.authorization}
        if not again:
            return offers
        self._give_back(job_id, tuple(sorted(again)), task.authorization, DUPLICATE)
        return [offer for offer in offers if offer.number not in again]

    def _refuse(self, task: Task, job_id: str, code: str, now: float) -> None:
        """New slices go back. Those that are held go on under their newer lease: the older one ended with it."""
        job, offers = self._jobs.get(job_id), task.slices[job_id]
        held = [] if job is None else [offer for offer in offers if offer.number in job.held]
        if job is not None:
            self._keep(task, job, held, now)
        self._give_back(job_id, tuple(offer.number for offer in offers if offer not in held), task.authorization, code)
        if code in _UNWANTED and job is not None:
            self._return_unstarted(job, code, now)

    def _why_not(self, offer: JobOffer, now: float) -> str | None:
        """The reason code for which slices of this job go straight back, or None."""
        if self._stopping or self._draining:
            return "EWORKERSTOPPING"
        if self._pauses:
            return "EPAUSED"
        if not self._runtime:
            return "ENOSANDBOX"
        if offer.job_id in self._rejected:
            return self._reasons.get(offer.job_id, "EWORKREJECT")
        unwanted = self.policy.jobs.refusal(offer) or self._underpaid(offer, now)
        if unwanted is not None:
            code, detail = unwanted
            self._refuse_for_a_while(offer.job_id, now)
            self._note_why(offer.job_id, code, detail)
            return code
        if offer.worktime[0] not in self._worktimes:
            self._reject_job(offer.job_id, "EWORKTIME")
            have = ", ".join(sorted(self._worktimes))
            self._note_why(offer.job_id, "EWORKTIME", f"it needs worktime {offer.worktime[0]}; sandboxes have {have}")
            return "EWORKTIME"
        missing = offer.need_capabilities & ~self._capabilities
        if missing:
            self._reject_job(offer.job_id, "ECAPABILITY")
            self._note_why(offer.job_id, "ECAPABILITY", f"it needs {_names(missing)}")
            return "ECAPABILITY"
        if self._paused.get(offer.job_id, 0.0) > now:
            return "EJOBFETCH"
        return None

    def _underpaid(self, offer: JobOffer, now: float) -> tuple[str, str] | None:
        why = self._wages.refusal(offer.job_id, offer.slice_price, offer.slice_cost, now)
        return None if why is None else ("EWAGE", why)

    def _refuse_for_a_while(self, job_id: str, now: float) -> None:
        """The Scheduler hears of it with every request, and does not send slices of it: others may want them."""
        until = self._wages.refused_until(job_id)
        self._paused[job_id] = now + self.policy.unwanted_s if until is None else until

    def _known(self, offer: JobOffer, now: float) -> Job:
        job = self._jobs.get(offer.job_id)
        if job is None:
            job = Job(offer, quanta=Quanta(hint_s=offer.known_slice_s), active_at=now)
            self._jobs[job.id] = job
            self._order.append(job.id)
            self._lives[job.id] = collections.deque(maxlen=50)
            self._tell_job(job, now, "first slices arrived; fetching code and arguments")
            self._actions.append(act.FetchJob(offer))
        else:
            job.quanta.hint_s = offer.known_slice_s
        return job

    def _keep(self, task: Task, job: Job, offers: Sequence[SliceOffer], now: float) -> int:
        kept = 0
        for offer in offers:
            job.estimating = job.estimating and offer.estimation
            old = job.held.get(offer.number)
            if old is not None:
                # Its lease was renewed, or ended while the Scheduler was away: what is or was computed counts under the
                # newer one. Or the Scheduler repeats itself.
                if old.authorization == task.authorization:
                    continue
                old.authorization = task.authorization
                old.story.append((now, "offered again; the newer authorization counts"))
                if old.place is Place.REPORTED:
                    self._counts["results offered again"] += 1
                    self._actions.append(act.RenewResult(old.key, task.authorization))
                continue
            held = Held(
                next(self._keys), job, offer, task.authorization, story=[(now, RECEIVED)], asked_at=self._asked_at
            )
            self._held[held.key] = held
            job.held[offer.number] = held
            self._place(held, now)
            kept += 1
        self._counts["slices received"] += kept
        if kept:
            job.active_at = now
            if self._beacon_at == math.inf:
                self._beacon_at = now + self._beacon_s
            self._stir(job)
        return kept

    def _on_task_failed(self, event: ev.TaskFailed, now: float) -> None:
        self._demand.failed(now, event.retry_after_s)
        self._owes_word = event.owes_word
        self._counts["requests failed"] += 1
        if event.code != "ESTOPPED":
            self._refusals.note(Kind.REQUEST, event.code, now, detail=event.message)

    def _on_job_fetched(self, event: ev.JobFetched, now: float) -> None:
        job = self._jobs.get(event.job_id)
        if job is None or job.fetched:
            self._ignore(event)
            return
        job.fetched, job.datum_of = True, event.datum_of
        self._tell_job(job, now, "code and arguments are here")
        waiting, job.waiting = job.waiting, collections.deque()
        for held in waiting:
            self._place(held, now)
        self._stir(job)

    def _on_job_fetch_failed(self, event: ev.JobFetchFailed, now: float) -> None:
        job = self._jobs.get(event.job_id)
        if job is None or job.fetched:
            self._ignore(event)
            return
        if event.final:
            self._reject_job(job.id, event.code)
        else:
            self._paused[job.id] = now + max(event.retry_after_s, 1.0)
        self._tell_job(job, now, f"could not be fetched: {event.code}: {event.message}")
        self._emit_fetch_error(next(iter(job.held.values()), None), event)
        self._note_why(job.id, event.code, event.message)
        self._purge(job, event.code, now)

    def _on_datum(self, event: ev.DatumFetched, now: float) -> None:
        held = self._held.get(event.key)
        if held is None or held.place is not Place.FETCHING:
            self._ignore(event)
            return
        held.uri, held.place, held.weight = event.uri, Place.READY, len(event.uri)
        held.job.fetched_size += held.weight
        held.job.heaviest = max(held.job.heaviest, held.weight)
        held.job.fetching -= 1
        held.job.ready.append(held)
        held.story.append((now, FETCHED))
        self._stir(held.job)

    def _on_datum_failed(self, event: ev.DatumFailed, now: float) -> None:
        held = self._held.get(event.key)
        if held is None or held.place is not Place.FETCHING:
            self._ignore(event)
            return
        held.job.fetching -= 1
        self._counts[f"datum {event.code}"] += 1
        held.story.append((now, f"datum not fetched: {event.message}"))
        self._emit_fetch_error(held, event)
        self._note_why(held.job.id, event.code, event.message)
        self._return([held], event.code, now)
        self._stir(held.job)

    def _emit_fetch_error(self, held: Held | None, event: ev.JobFetchFailed | ev.DatumFailed) -> None:
        """Let the job's owner know what the code of the return does not say, once per cause and not per victim."""
        if held is not None and event.cause not in ("", "back-off"):
            info = {"cause": event.cause}
            error = {"name": "Error", "message": event.message, "code": event.code, "info": info}
            self._emit_error(held, error, event.code)

    def _on_runtime_ready(self, event: ev.RuntimeReady, now: float) -> None:
        self._runtime, self._runtime_reason = True, ""
        self._capabilities, self._worktimes = event.capabilities, event.worktimes
        self._pipeline_depth = max(1, event.pipeline_depth)
        self._demand.ask_at = min(self._demand.ask_at, now)
        self._deal = self._look_at_space = True

    def _on_runtime_lost(self, event: ev.RuntimeLost, now: float) -> None:
        self._runtime, self._runtime_reason = False, event.reason
        self._counts["runtime lost"] += 1
        for sandbox in list(self._sandboxes.values()):
            self._drop_sandbox(sandbox, now, f"the container engine is gone: {event.reason}")
        for job in list(self._jobs.values()):
            self._purge(job, "ENOSANDBOX", now)

    def _on_opened(self, event: ev.SandboxOpened, now: float) -> None:
        sandbox = self._sandboxes.get(event.sandbox)
        if sandbox is None or sandbox.open:
            self._ignore(event)
            return
        sandbox.open = True
        sandbox.idle_since = sandbox.opened_at = now
        sandbox.job.assign_failures = 0
        self._tell(sandbox, now, "opened")
        self._touched[sandbox.id] = sandbox

    def _on_refused_job(self, event: ev.SandboxRefusedJob, now: float) -> None:
        sandbox = self._sandboxes.get(event.sandbox)
        if sandbox is None or sandbox.open:
            self._ignore(event)
            return
        self._assign_failed(sandbox, event.error, now)

    def _assign_failed(self, sandbox: Sandbox, error: Mapping[str, Any], now: float) -> None:
        job = sandbox.job
        self._drop_sandbox(sandbox, now, f"could not take the job: {error.get('message')}", tell_shell=False)
        self._counts["assign failures"] += 1
        job.assign_failures += 1
        if job.assign_failures < self.policy.assign_tries:
            return
        self._tell_job(job, now, f"{job.assign_failures} sandboxes in a row could not take it: {error.get('message')}")
        unfinished = [held for held in job.held.values() if held.place is not Place.REPORTED]
        if unfinished:
            self._emit_error(unfinished[0], error, "EASSIGN")
        self._note_why(job.id, "EASSIGN", f"{error.get('name')}: {error.get('message')}")
        self._reject_job(job.id, "EASSIGN")
        self._purge(job, "EASSIGN", now)

    def _on_ended(self, event: ev.SandboxEnded, now: float) -> None:
        sandbox = self._sandboxes.get(event.sandbox)
        if sandbox is None:
            self._ignore(event)
            return
        self._counts[f"sandbox deaths {event.death.value}"] += 1
        if not sandbox.open and event.death not in ev.INNOCENT:
            error = {"name": "Error", "message": event.detail, "code": event.death.value}
            self._assign_failed(sandbox, error, now)
            return
        queue = list(sandbox.queue.values())
        self._drop_sandbox(sandbox, now, f"died: {event.death.value}: {event.detail}", tell_shell=False)
        if len(queue) > 1 and event.death not in ev.INNOCENT:
            # Answers of slices before the guilty one may have died with the sandbox, so its place in the queue is not
            # known. All run again, one at a time: the next death names its slice.
            queue[0].job.alone = True
            for held in queue:
                held.story.append((now, f"sandbox died with {len(queue)} slices: {event.death.value}; runs alone"))
        elif queue:
            self._blame(queue[0], event, now)

    def _blame(self, held: Held, event: ev.SandboxEnded, now: float) -> None:
        """`held` was running when its sandbox died (it is back among the ready ones): is it to blame?"""
        if event.death in ev.INNOCENT:
            held.deaths += 1
            if held.deaths < self.policy.death_tries:
                held.story.append((now, f"sandbox died without its fault ({event.death.value}); runs again"))
                return
        held.job.ready.remove(held)
        error = {"name": "Error", "message": event.detail, "code": event.death.value}
        if event.death is ev.Death.NO_PROGRESS:
            self._emit_no_progress(held, event.metrics, event.detail)
        self._emit_error(held, error, event.death.value)
        self._note_why(held.job.id, event.death.value, event.detail)
        self._return([held], event.death.value, now)

    def _running(self, event: Any) -> Held | None:
        """The slice an event of a sandbox speaks about, if that sandbox holds it."""
        held = self._held.get(event.key)
        if held is None or held.sandbox is None or held.sandbox.id != event.sandbox:
            self._ignore(event)
            return None
        return held

    def _leave_sandbox(self, held: Held, metrics: SliceMetrics, now: float) -> Sandbox:
        sandbox = held.sandbox
        assert sandbox is not None
        del sandbox.queue[held.key]
        held.sandbox = None
        sandbox.head_since = now
        sandbox.wear.ran(metrics.peak_memory_bytes)
        self._look_at_wear(sandbox, now)
        if not sandbox.queue:
            sandbox.idle_since = now
        self._touched[sandbox.id] = sandbox
        self._demand.progressed()
        return sandbox

    def _look_at_wear(self, sandbox: Sandbox, now: float) -> None:
        """One that has reached a limit runs what it holds, and is replaced then."""
        if sandbox.worn is None:
            sandbox.worn = recycling.limit_reached(self.policy.recycling, sandbox.wear, now - sandbox.opened_at)
            if sandbox.worn is not None:
                sandbox.retiring = True
                self._tell(sandbox, now, f"reached its limit of {sandbox.worn}; is replaced after its slices")
                self._touched[sandbox.id] = sandbox

    def _measure(self, job: Job, metrics: SliceMetrics) -> None:
        job.quanta.add(metrics.wall_time_s, metrics.cpu_time_s)
        count = job.quanta.count
        if self.policy.most > self.policy.sandboxes and count & (count - 1) == 0:
            self._deal = True  # what is known of its density has changed; later the regular tick is enough

    def _on_completed(self, event: ev.SliceCompleted, now: float) -> None:
        held = self._running(event)
        if held is None:
            return
        self._leave_sandbox(held, event.metrics, now)
        held.metrics = event.metrics
        self._measure(held.job, event.metrics)
        metrics = _added(event.metrics, held.spent)
        if not (event.progressed or held.progressed):
            self._counts["slices without progress"] += 1
            detail = "the work function never called progress()"
            self._emit_no_progress(held, metrics, detail)
            self._emit_error(held, {"name": "Error", "message": detail, "code": "ENOPROGRESS"}, "ENOPROGRESS")
            self._return([held], "ENOPROGRESS", now)
            return
        self._counts["slices completed"] += 1
        held.story.append((now, COMPLETED))
        self._report(held, event.result, None, event.size, metrics)

    def _on_failed(self, event: ev.SliceFailed, now: float) -> None:
        held = self._running(event)
        if held is None:
            return
        self._leave_sandbox(held, event.metrics, now)
        if event.bad_datum:
            self._counts["datum EBADDATUM"] += 1
            held.story.append((now, f"its datum cannot be decoded: {event.error.get('message')}"))
            self._emit_error(held, event.error, "EBADDATUM")
            self._return([held], "EBADDATUM", now)
            return
        held.metrics = event.metrics
        self._counts["slices that threw"] += 1
        held.story.append((now, f"threw {event.error.get('name')}: {event.error.get('message')}"))
        self._emit_error(held, event.error, "EUNCAUGHT")
        self._report(held, None, event.error, 1024, _added(event.metrics, held.spent))

    def _on_rejected(self, event: ev.SliceRejected, now: float) -> None:
        held = self._running(event)
        if held is None:
            return
        sandbox = self._leave_sandbox(held, event.metrics, now)
        held.spent = _added(event.metrics, held.spent)
        held.rejections += 1
        held.place, held.progressed = Place.READY, False
        held.story.append((now, f"rejected by the work function: {event.reason}"))
        job = held.job
        job.ready.appendleft(held)
        # A work function that rejected may have left anything behind: its next try gets a fresh sandbox.
        self._drop_sandbox(sandbox, now, "the work function called work.reject")
        if held.rejections <= event.retries:
            self._counts["local retries"] += 1
            return
        job.ready.remove(held)
        self._counts["jobs rejected by their work function"] += 1
        reason = {"message": event.reason, "retries": event.retries, "errorCode": "EWORKREJECT"}
        self._return([held], reason, now)
        self._reject_job(job.id, "EWORKREJECT")
        self._tell_job(job, now, f"rejected by its work function: {event.reason}")
        self._purge(job, "EWORKREJECT", now)

    def _on_progress(self, event: ev.Progressed, now: float) -> None:
        held = self._running(event)
        if held is not None:
            held.progressed = True

    def _on_spoke(self, event: ev.SliceSpoke, now: float) -> None:
        held = self._running(event)
        if held is not None:
            self._emit(held, event.name, event.payload)

    def _on_accepted(self, event: ev.ResultAccepted, now: float) -> None:
        held = self._reported(event)
        if held is not None:
            self._counts["results accepted"] += 1
            held.job.completed += 1
            self._pay(held, event.answer)
            self._answered[held.job.id, held.number] = held.authorization
            if len(self._answered) > ANSWERED_KEPT:
                del self._answered[next(iter(self._answered))]
            self._let_go(held, now, ACCEPTED)
            self._look_at_wage(held.job, now)

    def _pay(self, held: Held, answer: Any) -> None:
        amount = answer.get("slicePaymentAmount") if isinstance(answer, Mapping) else None
        if amount is not None:
            paid = _units(str(amount))
            self._earned += paid
            held.job.earned += paid
            if held.cost is not None:
                self._wages.paid(held.job.id, held.cost, paid)

    def _look_at_wage(self, job: Job, now: float) -> None:
        """A job that turns out to pay too little: what sandboxes have is finished, the rest goes back."""
        unwanted = self._underpaid(job.offer, now) if self.policy.wages.wage else None
        if unwanted is None or self._stopping:
            return
        code, detail = unwanted
        self._refuse_for_a_while(job.id, now)
        self._note_why(job.id, code, detail)
        if job.unstarted():
            self._tell_job(job, now, f"refused for a while: {detail}")
            self._return_unstarted(job, code, now)

    def _on_refused(self, event: ev.ResultRefused, now: float) -> None:
        held = self._reported(event)
        if held is None:
            return
        self._counts[f"results refused {event.code}"] += 1
        if event.lost:
            self._refusals.note(Kind.SLICE, event.code, now, job=held.job.id, detail=event.message)
        else:
            self._note_why(held.job.id, event.code, event.message)
        if event.lost:
            self._let_go(held, now, f"result refused: {event.code}: {event.message}")
        else:
            self._return([held], event.code, now)

    def _reported(self, event: ev.ResultAccepted | ev.ResultRefused) -> Held | None:
        held = self._held.get(event.key)
        if held is None or held.place is not Place.REPORTED:
            self._ignore(event)
            return None
        return held

    def _on_job_removed(self, event: ev.JobRemoved, now: float) -> None:
        job = self._jobs.get(event.job_id)
        if job is not None:
            self._purge(job, event.reason, now)

    def _on_stop(self, event: ev.StopRequested, now: float) -> None:
        if self._stopping == "hard" or (self._stopping and not event.hard):
            return
        self._stopping = "hard" if event.hard else "soft"
        for job in list(self._jobs.values()):
            if event.hard:
                self._purge(job, "EWORKERSTOPPING", now)
                continue
            for sandbox in list(job.sandboxes.values()):
                if not sandbox.queue:
                    self._drop_sandbox(sandbox, now, "the worker is stopping")
            self._return_unstarted(job, "EWORKERSTOPPING", now)

    def _on_drain(self, event: ev.DrainRequested, now: float) -> None:
        self._draining = True  # what is at work goes on as ever, and the Scheduler goes on hearing of it

    def _on_pause(self, event: ev.PauseRequested, now: float) -> None:
        if self._pauses.hold(event.source, event.reason, event.give_back, now):
            self._counts[f"pauses by {event.source}"] += 1
            self._pause_lives.append((now, f"paused by {event.source}: {event.reason}"))

    def _on_resume(self, event: ev.ResumeRequested, now: float) -> None:
        if not self._pauses.release(event.source):
            self._ignore(event)
            return
        more = ", ".join(pause.source for pause in self._pauses.all())
        self._pause_lives.append((now, f"{event.source} let go" + (f"; still paused by {more}" if more else "")))
        if not self._pauses:
            self._demand.ask_at = min(self._demand.ask_at, now)
            self._deal = self._look_at_space = True

    def _on_priority(self, event: ev.PriorityChanged, now: float) -> None:
        if event.first:
            self._first.add(event.job_id)
        else:
            self._first.discard(event.job_id)
        self._deal = True
        if event.immediate and not self._demand.failures:
            self._demand.ask_at = min(self._demand.ask_at, now)
            self._look_at_space = True

    def _on_policy(self, event: ev.PolicyChanged, now: float) -> None:
        old, kept = self.policy, ("sandboxes", "max_sandboxes")
        self.policy = dataclasses.replace(event.policy, **{name: getattr(old, name) for name in kept})
        self._wages.reconfigure(self.policy.wages)
        self._demand.patience = self.policy.patience
        if (old.jobs, old.wages) != (self.policy.jobs, self.policy.wages):
            self._paused.clear()  # what was not wanted may be wanted now; what cannot be fetched is soon found out
            for job in list(self._jobs.values()):
                unwanted = self.policy.jobs.refusal(job.offer) or self._underpaid(job.offer, now)
                if unwanted is not None and job.unstarted() and not self._stopping:
                    self._refuse_for_a_while(job.id, now)
                    self._note_why(job.id, *unwanted)
                    self._return_unstarted(job, unwanted[0], now)
        self._deal = self._look_at_space = True

    def _on_room(self, event: ev.RoomChanged, now: float) -> None:
        full = self._backlogged
        self._room = event.size
        if full and not self._backlogged:
            self._touched.update(self._sandboxes)

    def _on_tick(self, event: ev.Tick, now: float) -> None:
        self._note_idle(now)
        if self._stopping:
            return
        if event.crowding is not None:
            self._crowding = demand.smoothed(self._crowding, event.crowding)
        for sandbox in list(self._sandboxes.values()):
            job = sandbox.job
            if sandbox.open:
                self._look_at_wear(sandbox, now)
            if sandbox.open and not sandbox.queue and not job.ready and not job.fetching:
                linger = self.policy.sandbox_linger_s
                if now - sandbox.idle_since >= linger and now - job.active_at >= linger:
                    self._drop_sandbox(sandbox, now, "idle for long")
        for job in list(self._jobs.values()):
            if not job.held and not job.sandboxes and now - job.active_at >= self.policy.job_linger_s:
                self._forget_if_done(job)
        if now - self._rotated_at >= self.policy.rotation_s:
            self._rotate(now)
        if self.policy.most > self.policy.sandboxes:
            self._thin_out(now)
            self._deal = True
        self._look_at_space = True


_UNWANTED = frozenset({"EWAGE", "EJOBFILTER", "EJOBNOTWANTED"})


@functools.lru_cache(maxsize=256)  # slices of a job are mostly paid alike
def _units(amount: str) -> int:
    """Units of 10^-18 DCC; what is no amount counts as nothing."""
    try:
        return amounts.parse_amount(amount, round_down=True)
    except InvalidInput:
        return 0


def _names(capabilities: int) -> str:
    known = [flag.name or "" for flag in words.Capability if flag & capabilities]
    return ", ".join(known) or f"the unknown capability {capabilities:#x}"


def _added(metrics: SliceMetrics, earlier: SliceMetrics | None) -> SliceMetrics:
    """What a slice cost, earlier tries included."""
    if earlier is None:
        return metrics
    return dataclasses.replace(
        metrics,
        cpu_time_s=metrics.cpu_time_s + earlier.cpu_time_s,
        wall_time_s=metrics.wall_time_s + earlier.wall_time_s,
        gpu_time_s=metrics.gpu_time_s + earlier.gpu_time_s,
        bytes_in=metrics.bytes_in + earlier.bytes_in,
        bytes_out=metrics.bytes_out + earlier.bytes_out,
        peak_memory_bytes=max(metrics.peak_memory_bytes, earlier.peak_memory_bytes),
    )
