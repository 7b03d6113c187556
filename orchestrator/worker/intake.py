"""Pure: the supervisor's intake: what arrives, tasks, jobs' code and slices' data, and which of it is kept."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Final

from orchestrator.jobs import words
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.cashier import Cashier
from orchestrator.worker.desk import DUPLICATE
from orchestrator.worker.holdings import FETCHED, RECEIVED, Held, Job, Place
from orchestrator.worker.quanta import Quanta
from orchestrator.worker.refusals import Kind
from orchestrator.worker.task import JobOffer, SliceOffer, Task

#: A job refused for one of these is not wanted any more: what of it lies in no sandbox goes back, too.
_UNWANTED: Final = frozenset({"EWAGE", "EJOBFILTER", "EJOBNOTWANTED"})


class Intake(Cashier):
    """See the module."""

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
            if old is not None and old.threw and old.authorization != task.authorization:
                # The Scheduler has heard of it and wants another try, though its word for that is not here yet.
                self._let_go(old, now, "threw, and is offered again")
                old = None
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


def _names(capabilities: int) -> str:
    known = [flag.name or "" for flag in words.Capability if flag & capabilities]
    return ", ".join(known) or f"the unknown capability {capabilities:#x}"
