"""Pure: the supervisor's foreman: sandboxes, and what becomes of the slices in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker import recycling
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.holdings import COMPLETED, Held, Job, Place, Sandbox
from orchestrator.worker.intake import Intake


class Foreman(Intake):
    """See the module."""

    def _on_opened(self, event: ev.SandboxOpened, now: float) -> None:
        sandbox = self._sandboxes.get(event.sandbox)
        if sandbox is None or sandbox.open:
            self._ignore(event)
            return
        sandbox.open = True
        sandbox.idle_since = sandbox.opened_at = now
        sandbox.job.began_at = min(sandbox.job.began_at, now)
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
        job.quanta.add(metrics.wall_time_s, metrics.cpu_time_s, metrics.queued_share)
        self._queues_seen = metrics.queued_share is not None
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
