"""Pure: the Worker's mind. `handle(event, now) -> list[Action]`; no I/O, no clock, no randomness.

A slice's way: it arrives with a task (`WAITING`), its job's code and its datum are fetched, it becomes `READY`, is
queued in a sandbox of its job (`QUEUED`), its result is sent (`REPORTED`) and acknowledged. Whatever goes wrong, it
ends in exactly one of: result accepted, returned with a reason, or refused by the Scheduler.

Moves are made in `desk`, decisions in `dealing`. Events are understood here and in `intake` (what arrives), `foreman`
(what sandboxes say) and `cashier` (what became of results).

Sandboxes are bound to one job for life. Short slices are queued several deep, so that a sandbox never waits for us.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.worker import demand
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.desk import Policy
from orchestrator.worker.foreman import Foreman


class Supervisor(Foreman):
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
            # Less of a crowd is believed slowly, more at once: a job's first slices share the cores with new sandboxes.
            self._crowding = max(demand.smoothed(self._crowding, event.crowding), event.crowding)
            self._crowding_from, self._crowding_to = self._crowding_to, now
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
