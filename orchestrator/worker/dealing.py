"""Pure: the supervisor's decisions: which slice into which sandbox, how many sandboxes per job, when to ask for work.

They are made once after each batch of events, and look only at what those events touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.worker import allotment, demand
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker.desk import STORIES_KEPT, Desk
from orchestrator.worker.holdings import QUEUED, Held, Job, Place, Sandbox
from orchestrator.worker.pausing import GiveBack

_SPACE_EVERY_S = 0.01
_DEFERRED_S = 30.0  # a Scheduler may let a request wait so long and still learn in time that a job is wanted again
_WORTH_S = 1.0  # work that a sandbox beyond the cores must find: its start takes a fifth of a second


class Dealer(Desk):
    """Adds decisions to the desk; see the module."""

    @property
    def wake_at(self) -> float:
        """When the next `Tick` is due at the latest, beyond the regular one a second."""
        if self._finished or self._stopping or self._demand.in_flight or not self._runtime:
            return math.inf
        if (self._satisfied or self._takes_nothing) and not self._owes_word:
            return self._beacon_at
        return min(self._demand.ask_at, self._beacon_at)

    @property
    def tick_s(self) -> float:
        """How often a regular `Tick` is wanted."""
        return min(1.0, self.policy.prefetch_s / 4)

    @property
    def wants_crowding(self) -> bool:
        """Whether a `Tick` should tell it: not where the kernel tells how long each slice waited for a core."""
        return self.policy.most > self.policy.sandboxes and not self._queues_seen

    @property
    def _takes_nothing(self) -> bool:
        """Whether no new work is asked for, for a reason of our own."""
        return self._draining or bool(self._pauses)

    def _settle(self, now: float) -> None:
        if self._finished:
            return
        if self._stopping:
            self._settle_stop(now)
            self._touched.clear()
            return
        if self._pauses.give_back is not GiveBack.NOTHING:
            self._hand_over(now)
        while self._touched or self._deal:
            touched, self._touched = self._touched, {}
            for sandbox in touched.values():
                if sandbox.id in self._sandboxes:
                    self._top_up(sandbox, now)
            if self._deal:
                self._deal = False
                self._deal_sandboxes(now)
        if self._draining and not self._held and not self._demand.in_flight:
            self._finish(now)
        else:
            self._maybe_ask(now)

    def _settle_stop(self, now: float) -> None:
        for job in list(self._jobs.values()):
            # What came back from a dead sandbox while stopping is not started again.
            stranded = list(job.ready)
            job.ready.clear()
            self._return(stranded, "EWORKERSTOPPING", now)
            for sandbox in list(job.sandboxes.values()):
                if not sandbox.queue:
                    self._drop_sandbox(sandbox, now, "the worker is stopping")
            self._forget_if_done(job)
        waits = self._demand.in_flight and self._stopping == "soft"  # for an answer that may bring slices
        if not self._held and not waits:
            self._finish(now)

    def _hand_over(self, now: float) -> None:
        """Paused: give back what no sandbox holds, or all; also what has just come back from a sandbox that died."""
        if self._pauses.give_back is GiveBack.EVERYTHING:
            for job in list(self._jobs.values()):
                if job.sandboxes or any(held.place is not Place.REPORTED for held in job.held.values()):
                    self._purge(job, "EPAUSED", now)
            return
        for job in list(self._jobs.values()):
            if job.unstarted():
                self._return_unstarted(job, "EPAUSED", now)

    def _finish(self, now: float) -> None:
        """Nothing is held any more, and nothing will come."""
        for sandbox in list(self._sandboxes.values()):
            self._drop_sandbox(sandbox, now, "the worker is stopping")
        for job in list(self._jobs.values()):
            self._forget_if_done(job)
        self._touched.clear()
        self._finished = True
        self._actions.append(act.Finish())

    def _top_up(self, sandbox: Sandbox, now: float) -> None:
        """Fill the sandbox's queue when it is half empty; note when it has nothing to do."""
        if not sandbox.open:
            return
        job, queue = sandbox.job, sandbox.queue
        if job.ready and not sandbox.retiring and not self._backlogged:
            most = 1 if job.alone else min(self.policy.max_depth, self._pipeline_depth)
            depth = job.quanta.depth(self.policy.queue_s, most)
            if len(queue) * 2 <= depth and len(queue) < depth:
                # Near the end of a job the rest is spread evenly over its sandboxes.
                even = -(-(len(job.ready) + len(queue)) // max(1, len(job.sandboxes)))
                count = max(min(depth, even) - len(queue), 0 if queue else 1)
                left = self.policy.recycling.slices - sandbox.wear.slices - len(queue)
                self._submit(sandbox, min(count, left), now)
        if not queue:
            self._look_at_space = True
            if sandbox.retiring:
                self._drop_sandbox(sandbox, now, f"retired: {sandbox.worn}" if sandbox.worn else "retired")
            elif not job.ready:
                self._deal = self._deal or len(self._jobs) > 1
                if self._backlogged or not job.waiting:
                    job.active_at = max(job.active_at, sandbox.idle_since)

    def _submit(self, sandbox: Sandbox, count: int, now: float) -> None:
        job = sandbox.job
        batch: list[tuple[int, str]] = []
        begun: dict[int, list[Held]] = {}
        if not sandbox.queue:
            sandbox.head_since = now
        while len(batch) < count and job.ready:
            held = job.ready.popleft()
            assert held.uri is not None
            held.place, held.sandbox, held.sandbox_id = Place.QUEUED, sandbox, sandbox.id
            sandbox.queue[held.key] = held
            held.story.append((now, QUEUED))
            batch.append((held.key, held.uri))
            if not held.began:
                held.began = True
                begun.setdefault(id(held.authorization), []).append(held)
        if not batch:
            return
        self._actions.append(act.Submit(sandbox.id, tuple(batch)))
        for members in begun.values():
            numbers = tuple(held.number for held in members)
            self._actions.append(act.Begin(job.id, numbers, members[0].authorization))
        if job.waiting:
            self._fetch_data(job)

    def _deal_sandboxes(self, now: float) -> None:
        """Open, keep, retire and close sandboxes so that jobs with work share cores and sandboxes evenly."""
        if not self._runtime:
            return
        jobs = [self._jobs[job_id] for job_id in self._order]
        densities = [self._density(job) for job in jobs]
        wanted = [self._wanted(job) for job in jobs]
        given = self._shares(jobs, wanted, densities)
        missing: list[Job] = []
        for job, share in zip(jobs, given, strict=True):
            active = [sandbox for sandbox in job.sandboxes.values() if not sandbox.retiring]
            for sandbox in job.sandboxes.values():
                if len(active) < share and sandbox.retiring and sandbox.worn is None:
                    sandbox.retiring = False
                    active.append(sandbox)
                    self._touched[sandbox.id] = sandbox
            missing.extend([job] * (share - len(active)))
        blocked = self._open_what_fits(missing, now)
        if blocked and self._make_room(jobs, given, blocked, now):
            self._open_what_fits(blocked, now)

    def _shares(self, jobs: Sequence[Job], wanted: Sequence[int], densities: Sequence[float]) -> list[int]:
        """Jobs that the Scheduler wants first get all that they can use, the others share the rest."""
        cores, most = float(self.policy.sandboxes), self.policy.most
        first = [want if job.id in self._first else 0 for job, want in zip(jobs, wanted, strict=True)]
        if not any(first):
            return allotment.overlapping(wanted, densities, cores, most)
        given = allotment.overlapping(first, densities, cores, most)
        busy = sum(share * density for share, density in zip(given, densities, strict=True))
        others = [0 if job.id in self._first else want for job, want in zip(jobs, wanted, strict=True)]
        rest = allotment.overlapping(others, densities, max(cores - busy, 0.0), most - sum(given))
        return [one + other for one, other in zip(given, rest, strict=True)]

    def _density(self, job: Job) -> float:
        """Of all jobs 1 where nothing is gained by knowing better: every sandbox has a core of its own."""
        return job.quanta.density(self._crowd_of(job)) if self.policy.most > self.policy.sandboxes else 1.0

    def _crowd_of(self, job: Job) -> float | None:
        """None until the crowd was looked at while the job ran: what the machine did before says nothing of it."""
        return self._crowding if job.began_at <= self._crowding_from else None

    def _busy(self) -> float:
        """How many cores all sandboxes keep busy, should all of them be at work."""
        return sum(self._density(job) * len(job.sandboxes) for job in self._jobs.values())

    def _wanted(self, job: Job) -> int:
        """How many sandboxes the job could use at this moment.

        Beyond the cores each must be worth its start, and the job has to prove itself by doubling.
        """
        if not job.fetched:
            return 0
        opened = busy = 0
        for sandbox in job.sandboxes.values():
            opened += sandbox.open
            busy += bool(sandbox.queue)
        cores = self.policy.sandboxes
        worth = max(cores, busy) + int(len(job.ready) * (job.quanta.slice_s() or 0.0) / _WORTH_S)
        return min(busy + len(job.ready), self.policy.most, max(cores, 2 * opened), worth)

    def _open_what_fits(self, missing: Sequence[Job], now: float) -> list[Job]:
        """Open a sandbox for each of these jobs; those for which there is no room are returned."""
        blocked: list[Job] = []
        busy = self._busy()
        for job in missing:
            density = self._density(job)
            room = len(self._sandboxes) < self.policy.most
            if room and allotment.fits(busy, density, self.policy.sandboxes):
                self._open(job, now)
                busy += density
            else:
                blocked.append(job)
        return blocked

    def _make_room(self, jobs: Sequence[Job], given: Sequence[int], blocked: Sequence[Job], now: float) -> bool:
        """Close idle sandboxes of jobs with more than their share, let busy ones run out. Whether any is closed."""
        wanted = sum(self._density(job) for job in blocked)
        load = allotment.excess(self._busy(), wanted, self.policy.sandboxes)
        number = len(self._sandboxes) + len(blocked) - self.policy.most
        for sandbox in self._sandboxes.values():
            if sandbox.retiring:  # they make room soon
                number -= 1
                load -= self._density(sandbox.job)
        closed = False
        for job, share in zip(jobs, given, strict=True):
            surplus = [sandbox for sandbox in job.sandboxes.values() if not sandbox.retiring]
            surplus.sort(key=lambda sandbox: len(sandbox.queue))
            for sandbox in surplus[: max(0, len(surplus) - share)]:
                if number <= 0 and load <= 0.0:
                    return closed
                number -= 1
                load -= self._density(job)
                if sandbox.queue:
                    sandbox.retiring = True
                    self._tell(sandbox, now, "retires to make room for another job")
                else:
                    self._drop_sandbox(sandbox, now, "idle, and another job needs the room")
                    closed = True
        return closed

    def _thin_out(self, now: float) -> None:
        """Jobs that wait less than before keep more cores busy than there are: let some of their sandboxes run out.

        The bound is a little wider than that for opening, so that a density that wavers opens and closes nothing.
        """
        cores = self.policy.sandboxes
        if not self._runtime or len(self._sandboxes) <= cores:
            return
        jobs = [self._jobs[job_id] for job_id in self._order]
        active = [sum(not sandbox.retiring for sandbox in job.sandboxes.values()) for job in jobs]
        densities = [self._density(job) for job in jobs]
        slop = allotment.SLOP + max(0.25, 0.1 * cores)
        kept = allotment.overlapping(active, densities, cores, self.policy.most, slop)
        for job, share in zip(jobs, kept, strict=True):
            surplus = sorted(
                (sandbox for sandbox in job.sandboxes.values() if not sandbox.retiring),
                key=lambda sandbox: len(sandbox.queue),
            )
            for sandbox in surplus[: max(0, len(surplus) - share)]:
                sandbox.retiring = True
                self._tell(sandbox, now, "retires: its job keeps the cores busy")
                self._touched[sandbox.id] = sandbox

    def _open(self, job: Job, now: float) -> None:
        sandbox = Sandbox(next(self._sandbox_ids), job, idle_since=now, opened_at=now)
        self._sandboxes[sandbox.id] = job.sandboxes[sandbox.id] = sandbox
        self._counts["sandboxes opened"] += 1
        self._sandbox_lives[sandbox.id] = []
        if len(self._sandbox_lives) > STORIES_KEPT:
            del self._sandbox_lives[next(iter(self._sandbox_lives))]
        self._tell(sandbox, now, f"wanted for job {job.id}")
        self._actions.append(act.OpenSandbox(sandbox.id, job.id))

    def _space(self, now: float) -> float:
        """Cores that will want work within the horizon."""
        if len(self._held) >= self.policy.max_held or self._backlogged:
            return 0.0
        if sum(job.reported for job in self._jobs.values()) >= self.policy.max_unacknowledged:
            return 0.0
        horizon = self.policy.prefetch_s
        return self.policy.sandboxes - demand.work_within(self._jobs.values(), now, horizon, self._part) / horizon

    def _part(self, job: Job) -> float:
        """Which part of a core a slice of the job stands for: so many are at work at once, as far as we may."""
        return max(self._density(job), self.policy.sandboxes / self.policy.most)

    def _maybe_ask(self, now: float) -> None:
        if not self._runtime or self._demand.in_flight:
            return
        if not self._held:
            self._beacon_at = math.inf
        beacon = now >= self._beacon_at or (self._owes_word and now >= self._demand.ask_at)
        if (self._takes_nothing or now < self._demand.ask_at) and not beacon:
            return
        if not (self._look_at_space or beacon or now - self._space_at >= _SPACE_EVERY_S):
            return
        self._look_at_space, self._space_at = False, now
        space = 0.0 if self._takes_nothing or now < self._demand.ask_at else self._space(now)
        wanted = space >= min(1.0, max(0.25, self.policy.sandboxes / 4))
        self._satisfied = not wanted
        if not wanted and not beacon:
            return
        self._ask(space if wanted else 0.0, beacon, now)

    def _ask(self, space: float, beacon: bool, now: float) -> None:
        held = overdue = None
        if beacon:
            held, overdue = self._inventory(), self._overdue(now)
            self._beacon_at = now + self._beacon_s if self._held else math.inf
        for job_id in [job_id for job_id, until in self._paused.items() if until <= now]:
            del self._paused[job_id]
        unresolved = [job.id for job in self._jobs.values() if not job.fetched]
        self._actions.append(
            act.RequestTask(
                space=min(max(1.0, space), float(self.policy.sandboxes)) if space else 0.0,
                first=self._first_request and bool(space),
                beacon_only=not space,
                quanta_ms={job.id: job.quanta.wall_s * 1000 for job in self._jobs.values() if job.quanta.count},
                held=held,
                overdue=overdue,
                unresolved_jobs=tuple(dict.fromkeys([*unresolved, *self._paused])),
                rejected_jobs=self._rejected.items(),
                previous_jobs=self._previous.items(),
                deferred_jobs=tuple(job_id for job_id, until in self._paused.items() if until - now >= _DEFERRED_S),
            )
        )
        self._asking, self._asked_at = bool(space), now
        if space:
            self._first_request = False
        self._demand.asked()

    def _inventory(self) -> dict[str, list[int]] | None:
        return {job.id: sorted(job.held) for job in self._jobs.values() if job.held} or None

    def _overdue(self, now: float) -> dict[str, list[int]] | None:
        late: dict[str, list[int]] = {}
        for sandbox in self._sandboxes.values() if self._lifetimes.reported else ():
            job = sandbox.job
            if not sandbox.open or not sandbox.queue or job.estimating:
                continue
            running = next(iter(sandbox.queue.values()))
            quanta = job.quanta
            limit = self._lifetimes.threshold_s(quanta.slice_s() or 0.0, quanta.deviation_s(), running.offer.cotasks)
            if now - sandbox.head_since > limit:
                late.setdefault(job.id, []).append(running.number)
        return late or None

    def _rotate(self, now: float) -> None:
        """When jobs wait that have no sandbox at all, those that have some go to the end of the line."""
        self._rotated_at = now
        starving = any(job.fetched and job.ready and not job.sandboxes for job in self._jobs.values())
        if starving:
            self._order.sort(key=lambda job_id: bool(self._jobs[job_id].sandboxes))
            self._deal = True
