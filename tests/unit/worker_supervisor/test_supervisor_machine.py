"""Any order of events, however odd: the books stay straight and every slice is accounted for."""

from __future__ import annotations

import collections
from typing import Any

import hypothesis
from hypothesis import stateful
from hypothesis import strategies as st

from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker import recycling, task
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.desk import Policy
from orchestrator.worker.pausing import GiveBack
from orchestrator.worker.supervisor import Supervisor

JOBS = ("a", "b", "c", "gpu")  # the last needs what this worker does not have


def _metrics(wall_s: float, density: float = 1.0) -> SliceMetrics:
    return SliceMetrics(
        cpu_time_s=wall_s * density, wall_time_s=wall_s, bytes_in=1, bytes_out=1, peak_memory_bytes=1, gpu_time_s=0.0
    )


class World(stateful.RuleBasedStateMachine):
    """Plays the shell and the Scheduler, keeping books of its own from nothing but actions."""

    @stateful.initialize(sandboxes=st.integers(1, 4), extra=st.sampled_from([0, 0, 3]), remote=st.booleans())
    def begin(self, sandboxes: int, extra: int, remote: bool) -> None:
        self.policy = Policy(
            sandboxes=sandboxes,
            max_sandboxes=sandboxes + extra,
            data_ahead=3,
            max_unacknowledged_size=30,
            recycling=recycling.Limits(slices=5, age_s=100.0),
            rotation_s=2.0,
        )
        self.supervisor = Supervisor(self.policy)
        self.now = 0.0
        self.datum = "https://d.example/" if remote else "data:,1"
        self.leased: set[tuple[str, int, int]] = set()  # (job, slice, lease) that the Scheduler counts as ours
        self.leases = 0
        self.asked = False
        self.fetching_jobs: set[str] = set()
        self.fetching_data: set[int] = set()
        self.opening: dict[int, str] = {}
        self.open: dict[int, tuple[str, list[int]]] = {}
        self.sent: dict[int, tuple[str, int, int]] = {}
        self.ran: collections.Counter[int] = collections.Counter()
        self.finished = False
        self.stopping = False
        self.draining = False
        self.pauses: dict[str, GiveBack] = {}
        self.tell(ev.RuntimeReady(81, 8))

    # -- the shell ---------------------------------------------------------------------------------------------

    def tell(self, *events: ev.Event, after: float = 0.0) -> None:
        self.now += after
        for action in self.supervisor.handle_all(events, self.now):
            self.carry_out(action)

    def lease_of(self, job_id: str, number: int, authorization: Any) -> tuple[str, int, int]:
        return (job_id, number, authorization["lease"])

    def carry_out(self, action: act.Action) -> None:
        assert not self.finished or isinstance(action, act.ReturnSlices)
        match action:
            case act.RequestTask():
                assert not self.asked and not self.stopping
                assert action.beacon_only or not self.pauses, "a paused worker asks for no work"
                assert action.beacon_only or not self.draining, "a draining worker asks for no work"
                self.asked = True
            case act.FetchJob(offer):
                assert offer.job_id not in self.fetching_jobs
                self.fetching_jobs.add(offer.job_id)
            case act.ForgetJob(job_id):
                self.fetching_jobs.discard(job_id)
            case act.FetchDatum(key):
                assert key not in self.fetching_data
                self.fetching_data.add(key)
            case act.OpenSandbox(sandbox, job_id):
                assert sandbox not in self.opening and sandbox not in self.open and not self.stopping
                self.opening[sandbox] = job_id
                assert len(self.opening) + len(self.open) <= self.policy.most
            case act.CloseSandbox(sandbox):
                assert self.opening.pop(sandbox, None) or self.open.pop(sandbox, None)
            case act.Submit(sandbox, slices):
                for key, uri in slices:
                    assert uri.startswith("data:")
                    assert not any(key in queue for _job, queue in self.open.values()), "two sandboxes, one slice"
                    self.open[sandbox][1].append(key)
                    self.ran[key] += 1
            case act.Begin(job_id, numbers, authorization):
                assert all(self.lease_of(job_id, number, authorization) in self.leased for number in numbers)
            case act.ReturnSlices(job_id, numbers, authorization):
                assert not self.draining, "a drain finishes what is held"
                for number in numbers:
                    self.leased.remove(self.lease_of(job_id, number, authorization))
            case act.SendResult():
                lease = self.lease_of(action.job_id, action.number, action.authorization)
                assert lease in self.leased and action.key not in self.sent
                self.sent[action.key] = lease
            case act.RenewResult(key, authorization):
                old = self.sent[key]
                self.leased.remove(old)  # what comes back now counts for the newer one
                self.sent[key] = self.lease_of(*old[:2], authorization)
            case act.Emit():
                assert (action.job_id, action.number) in {lease[:2] for lease in self.leased}
            case act.Finish():
                assert (self.stopping or self.draining) and not self.sent
                self.finished = True

    # -- the Scheduler -----------------------------------------------------------------------------------------

    @stateful.rule(
        counts=st.dictionaries(st.sampled_from(JOBS), st.lists(st.integers(1, 9), unique=True, max_size=6)),
    )
    def answer(self, counts: dict[str, list[int]]) -> None:
        if not self.asked:
            return
        self.asked = False
        self.leases += 1
        held = {lease[:2]: lease for lease in self.leased}
        for job_id, numbers in counts.items():
            for number in numbers:
                old = held.get((job_id, number))
                if old is not None and old not in self.sent.values():
                    self.leased.remove(old)  # a renewed lease takes the place of the old one
                self.leased.add((job_id, number, self.leases))
        message = {
            "lease": self.leases,
            "body": {
                "newJobs": {
                    job_id: {"codeLocation": "data:,f", "needCapabilities": 32 if job_id == "gpu" else 64}
                    for job_id in counts
                },
                "task": {
                    job_id: [{"sliceNumber": number, "datumUri": self.datum} for number in numbers]
                    for job_id, numbers in counts.items()
                },
            },
        }
        self.tell(ev.TaskReceived(task.parse(message)), after=0.01)

    @stateful.rule()
    def fail_the_request(self) -> None:
        if self.asked:
            self.asked = False
            self.tell(ev.TaskFailed("ENETWORK", "gone"))

    @stateful.rule(data=st.data(), accept=st.sampled_from(["accept", "refuse", "lost"]))
    def answer_a_result(self, data: st.DataObject, accept: str) -> None:
        if not self.sent:
            return
        key = data.draw(st.sampled_from(sorted(self.sent)))
        lease = self.sent.pop(key)
        if accept == "refuse":
            self.tell(ev.ResultRefused(key, "EINVAL", "no", lost=False))
            return
        self.leased.remove(lease)
        self.tell(ev.ResultAccepted(key) if accept == "accept" else ev.ResultRefused(key, "ELEASE", "", lost=True))

    # -- fetching ----------------------------------------------------------------------------------------------

    @stateful.rule(data=st.data(), outcome=st.sampled_from(["there", "there", "there", "later", "never"]))
    def fetch_a_job(self, data: st.DataObject, outcome: str) -> None:
        if not self.fetching_jobs:
            return
        job_id = data.draw(st.sampled_from(sorted(self.fetching_jobs)))
        self.fetching_jobs.discard(job_id)
        if outcome == "there":
            self.tell(ev.JobFetched(job_id))
        else:
            self.tell(ev.JobFetchFailed(job_id, "EJOBFETCH", "no", outcome == "never", 1.0))

    @stateful.rule(data=st.data(), good=st.booleans())
    def fetch_a_datum(self, data: st.DataObject, good: bool) -> None:
        if self.fetching_data:
            key = data.draw(st.sampled_from(sorted(self.fetching_data)))
            self.fetching_data.discard(key)
            self.tell(ev.DatumFetched(key, "data:,1") if good else ev.DatumFailed(key, "ESLICEFETCH", "404"))

    # -- sandboxes ---------------------------------------------------------------------------------------------

    @stateful.rule(data=st.data(), good=st.sampled_from([True, True, True, False]))
    def open_a_sandbox(self, data: st.DataObject, good: bool) -> None:
        if not self.opening:
            return
        sandbox = data.draw(st.sampled_from(sorted(self.opening)))
        job_id = self.opening.pop(sandbox)
        if good:
            self.open[sandbox] = (job_id, [])
            self.tell(ev.SandboxOpened(sandbox))
        else:
            self.tell(ev.SandboxRefusedJob(sandbox, {"name": "SyntaxError", "message": "?"}))

    @stateful.rule(
        data=st.data(),
        outcome=st.sampled_from(["complete", "complete", "complete", "silent", "throw", "reject"]),
        wall_s=st.sampled_from([0.001, 0.05, 2.0]),
        density=st.sampled_from([1.0, 0.3, 0.0]),
    )
    def end_a_slice(self, data: st.DataObject, outcome: str, wall_s: float, density: float) -> None:
        busy = sorted(sandbox for sandbox, (_job, queue) in self.open.items() if queue)
        if not busy:
            return
        sandbox = data.draw(st.sampled_from(busy))
        key = self.open[sandbox][1].pop(0)
        measured = _metrics(wall_s, density)
        match outcome:
            case "complete" | "silent":
                event: ev.Event = ev.SliceCompleted(sandbox, key, "r", 10, measured, outcome == "complete")
            case "throw":
                event = ev.SliceFailed(sandbox, key, {"message": "no"}, measured)
            case _:
                event = ev.SliceRejected(sandbox, key, "no", 1, measured)
        self.tell(event, after=wall_s)

    @stateful.rule(data=st.data(), death=st.sampled_from(list(ev.Death)))
    def kill_a_sandbox(self, data: st.DataObject, death: ev.Death) -> None:
        alive = sorted([*self.open, *self.opening])
        if alive:
            sandbox = data.draw(st.sampled_from(alive))
            self.open.pop(sandbox, None)
            self.opening.pop(sandbox, None)
            self.tell(ev.SandboxEnded(sandbox, death, "it died"))

    @stateful.rule(sandbox=st.integers(1, 5), key=st.integers(1, 20))
    def stray_news(self, sandbox: int, key: int) -> None:
        if sandbox in self.open and key in self.open[sandbox][1]:
            return
        self.tell(
            ev.SliceCompleted(sandbox, key, "forged", 1, _metrics(0.1), True),
            ev.SliceSpoke(sandbox, key, "console", {}),
            ev.Progressed(sandbox, key, 0.5),
        )

    @stateful.rule()
    def lose_the_engine(self) -> None:
        self.tell(ev.RuntimeLost("gone"))
        assert not self.open and not self.opening
        self.tell(ev.RuntimeReady(81, 8), after=1.0)

    @stateful.rule(job_id=st.sampled_from(JOBS))
    def remove_a_job(self, job_id: str) -> None:
        self.tell(ev.JobRemoved(job_id))

    @stateful.rule(after=st.sampled_from([0.1, 1.0, 20.0]), crowding=st.sampled_from([None, 1.0, 3.0]))
    def pass_time(self, after: float, crowding: float | None) -> None:
        self.tell(ev.Tick(crowding), after=after)

    @stateful.rule(source=st.sampled_from(["command", "load"]), give_back=st.sampled_from(list(GiveBack)))
    def pause(self, source: str, give_back: GiveBack) -> None:
        self.pauses[source] = give_back
        self.tell(ev.PauseRequested(source, "the machine is needed", give_back))

    @stateful.rule(source=st.sampled_from(["command", "load"]))
    def resume(self, source: str) -> None:
        self.pauses.pop(source, None)
        self.tell(ev.ResumeRequested(source))

    # -- always ------------------------------------------------------------------------------------------------

    @stateful.invariant()
    def the_books_are_straight(self) -> None:
        self.supervisor.validate()

    @stateful.invariant()
    def the_scheduler_agrees_on_what_is_held(self) -> None:
        assert self.supervisor.statistics().held == len(self.leased)

    @stateful.invariant()
    def no_sandbox_idles_while_its_job_has_ready_slices(self) -> None:
        statistics = self.supervisor.statistics()
        if GiveBack.UNSTARTED in self.pauses.values() or GiveBack.EVERYTHING in self.pauses.values():
            assert not any(one.unstarted for one in statistics.jobs.values())
        if GiveBack.EVERYTHING in self.pauses.values():
            assert not self.open and not self.opening
        backlogged = statistics.unacknowledged > self.policy.max_unacknowledged_size
        if not backlogged and not self.stopping:
            for job_id, queue in self.open.values():
                assert queue or not statistics.jobs[job_id].unstarted or self.fetching_data

    def teardown(self) -> None:
        """However it went: a stop or a drain accounts for every slice."""
        if not hasattr(self, "supervisor"):
            return
        if self.leases % 2:
            self.drain()
        else:
            self.stop()
        self.supervisor.validate()
        assert self.finished and not self.leased and not self.open and not self.opening

    def drain(self) -> None:
        """Everybody does what is asked of him: then all that is held is computed and delivered."""
        for source in list(self.pauses):
            del self.pauses[source]
            self.tell(ev.ResumeRequested(source))
        self.draining = True
        self.tell(ev.DrainRequested())
        for _ in range(2000):
            if self.finished:
                return
            self.do_what_is_asked()
            self.tell(ev.Tick(), after=1.0)
        raise AssertionError(f"a drain that does not end: {self.supervisor.statistics()}")

    def do_what_is_asked(self) -> None:
        if self.asked:
            self.asked = False
            self.tell(ev.TaskReceived(task.parse({"body": {}})))
        while self.fetching_jobs:
            self.tell(ev.JobFetched(self.fetching_jobs.pop()))
        while self.fetching_data:
            self.tell(ev.DatumFetched(self.fetching_data.pop(), "data:,1"))
        while self.opening:
            sandbox, job_id = self.opening.popitem()
            self.open[sandbox] = (job_id, [])
            self.tell(ev.SandboxOpened(sandbox))
        for sandbox, (_job, queue) in list(self.open.items()):
            if queue:
                self.tell(ev.SliceCompleted(sandbox, queue.pop(0), "r", 1, _metrics(0.1), True))
        self.accept_all()

    def accept_all(self) -> None:
        for key in list(self.sent):
            self.leased.remove(self.sent.pop(key))
            self.tell(ev.ResultAccepted(key))

    def stop(self) -> None:
        self.stopping = True
        self.tell(ev.StopRequested(hard=False))
        if self.asked:
            self.asked = False
            self.tell(ev.TaskFailed("ENETWORK", "gone"))
        if len(self.leased) % 2:
            self.tell(ev.StopRequested(hard=True))
        while any(queue for _job, queue in self.open.values()):
            sandbox, (_job, queue) = next((s, entry) for s, entry in self.open.items() if entry[1])
            self.tell(ev.SliceCompleted(sandbox, queue.pop(0), "r", 1, _metrics(0.1), True))
        self.accept_all()


TestWorld = World.TestCase
TestWorld.settings = hypothesis.settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
