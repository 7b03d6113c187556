"""A drain: nothing new is taken, everything held is finished, then the supervisor is done."""

from __future__ import annotations

from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker import task
from orchestrator.worker.pausing import GiveBack


def nothing() -> ev.TaskReceived:
    return ev.TaskReceived(task.parse({"body": {}}))


def test_all_that_is_held_is_computed_before_the_end(desk):
    d = desk(sandboxes=1, queue_s=0.0)
    [sandbox] = d.start({"job": [1, 2, 3]})
    d(nothing())
    [(_, key)] = d.submitted() or [(sandbox, d.all(act.Submit, ever=True)[0].slices[0][0])]
    d(ev.DrainRequested())
    assert d.supervisor.statistics().draining and not d.all(act.ReturnSlices, ever=True)
    for _ in range(3):
        d.complete(sandbox, key)
        assert not d.all(act.RequestTask) and not d.all(act.Finish, ever=True)
        key = d.submitted()[0][1] if d.submitted() else key
    d(*(ev.ResultAccepted(sent.key) for sent in d.all(act.SendResult, ever=True)))
    d.one(act.Finish)
    assert d.one(act.CloseSandbox).sandbox == sandbox and d.one(act.ForgetJob).job_id == "job"
    assert d.supervisor.finished and d.supervisor.statistics().held == 0
    assert d(ev.Tick(), after=5.0) == []


def test_what_an_answer_under_way_brings_goes_back(desk):
    d = desk(sandboxes=1)
    assert d.supervisor.statistics().request_in_flight
    d(ev.DrainRequested())
    assert not d.supervisor.finished  # the answer may bring slices
    d.task({"job": [1, 2]})
    returned = d.one(act.ReturnSlices)
    assert (returned.numbers, returned.reason) == ((1, 2), "EWORKERSTOPPING")
    d.one(act.Finish)


def test_the_request_that_was_cancelled_ends_an_idle_worker(desk):
    d = desk(sandboxes=1)
    d(ev.DrainRequested(), ev.TaskFailed("ESTOPPED", ""))
    d.one(act.Finish)


def test_before_sandboxes_are_ready(desk):
    d = desk(sandboxes=1, ready=False)
    d(ev.DrainRequested())
    d.one(act.Finish)


def test_the_scheduler_goes_on_hearing_of_long_slices(desk):
    d = desk(sandboxes=1, beacon_s=60.0)
    d.start({"job": [1]})
    d(nothing())
    d(ev.DrainRequested())
    assert d.supervisor.wake_at <= d.now + 60.0
    d(ev.Tick(), after=61.0)
    beacon = d.one(act.RequestTask)
    assert beacon.beacon_only and beacon.held == {"job": [1]} and not beacon.first
    d(nothing())
    assert d.all(act.RequestTask) == []


def test_a_stop_ends_a_drain_sooner(desk):
    d = desk(sandboxes=1, queue_s=0.0)
    [sandbox] = d.start({"job": [1, 2]})
    d(nothing())
    d(ev.DrainRequested())
    d(ev.StopRequested(hard=False))
    assert d.one(act.ReturnSlices).numbers == (2,)
    d(ev.StopRequested(hard=True))
    assert d.one(act.ReturnSlices).numbers == (1,)
    d.one(act.Finish)
    assert [one.sandbox for one in d.all(act.CloseSandbox, ever=True)] == [sandbox]


def test_a_paused_worker_drains_too(desk):
    d = desk(sandboxes=1, queue_s=0.0)
    [sandbox] = d.start({"job": [1, 2]})
    [(_, key)] = d.submitted()
    d(nothing())
    d(ev.PauseRequested("command", "lunch", GiveBack.UNSTARTED))
    d(ev.DrainRequested())
    assert d.supervisor.statistics().held == 1
    d.complete(sandbox, key)
    d(ev.ResultAccepted(key))
    d.one(act.Finish)
