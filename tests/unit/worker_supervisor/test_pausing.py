"""A pause: nothing new is asked for; what is held is finished or goes back; the last source to let go ends it."""

from __future__ import annotations

import pytest

from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker import task
from orchestrator.worker.audit import Statistics
from orchestrator.worker.explain import Circumstances, explain
from orchestrator.worker.pausing import MOST_SOURCES, GiveBack, Pauses
from orchestrator.worker.status import state_of


def nothing() -> ev.TaskReceived:
    return ev.TaskReceived(task.parse({"body": {}}))


def pause(source: str = "command", give_back: GiveBack = GiveBack.NOTHING) -> ev.PauseRequested:
    return ev.PauseRequested(source, f"{source} says so", give_back)


def test_what_is_held_is_finished_and_nothing_is_asked_for_until_the_resume(desk):
    d = desk(sandboxes=1, queue_s=0.0)
    [sandbox] = d.start({"job": [1, 2]})
    d(nothing())
    d(pause())
    keys = [d.all(act.Submit, ever=True)[0].slices[0][0]]
    d.complete(sandbox, keys[0])
    keys.append(d.submitted()[0][1])
    d.complete(sandbox, keys[1])
    assert not d.all(act.RequestTask) and not d.all(act.ReturnSlices, ever=True)
    d(ev.Tick(), after=600.0)
    assert [one.beacon_only for one in d.all(act.RequestTask)] == [True]  # results are not acknowledged yet
    d(nothing(), *(ev.ResultAccepted(key) for key in keys))
    d(ev.Tick(), after=600.0)
    assert not d.all(act.RequestTask) and not d.supervisor.finished
    d(ev.ResumeRequested("command"))
    assert not d.one(act.RequestTask).beacon_only


def test_the_sandboxes_of_a_paused_worker_go(desk):
    d = desk(sandboxes=1, queue_s=0.0, sandbox_linger_s=15.0)
    [sandbox] = d.start({"job": [1]})
    d(nothing())
    d(pause())
    d.complete(sandbox, d.all(act.Submit, ever=True)[0].slices[0][0])
    d(ev.Tick(), after=16.0)
    assert d.one(act.CloseSandbox).sandbox == sandbox


@pytest.mark.parametrize(
    ("give_back", "returned", "closed"),
    [(GiveBack.NOTHING, [], 0), (GiveBack.UNSTARTED, [2, 3], 0), (GiveBack.EVERYTHING, [1, 2, 3], 1)],
)
def test_what_goes_back(desk, give_back, returned, closed):
    d = desk(sandboxes=1, queue_s=0.0)
    d.start({"job": [1, 2, 3]})
    d(nothing())
    d(pause(give_back=give_back))
    back = d.all(act.ReturnSlices)
    assert sorted(n for one in back for n in one.numbers) == returned
    assert all(one.reason == "EPAUSED" for one in back) and len(d.all(act.CloseSandbox)) == closed


def test_what_an_answer_under_way_brings_goes_back(desk):
    d = desk(sandboxes=1)
    d(pause())
    d.task({"job": [1, 2]})
    assert (d.one(act.ReturnSlices).numbers, d.one(act.ReturnSlices).reason) == ((1, 2), "EPAUSED")
    d(ev.Tick(), after=60.0)
    assert not d.all(act.RequestTask)


def test_what_comes_back_from_a_dead_sandbox_is_given_back_too(desk):
    d = desk(sandboxes=1, queue_s=0.0)
    [sandbox] = d.start({"job": [1]})
    d(nothing())
    d(pause(give_back=GiveBack.UNSTARTED))
    d(ev.SandboxEnded(sandbox, ev.Death.KILLED, "somebody did it"))
    assert d.one(act.ReturnSlices).numbers == (1,) and not d.all(act.OpenSandbox)


def test_it_lasts_until_the_last_source_lets_go(desk):
    d = desk(sandboxes=1)
    d(nothing())
    d(pause("command"), pause("load"), after=1.0)
    d(ev.ResumeRequested("command"), after=1.0)
    assert not d.all(act.RequestTask)
    assert [one.source for one in d.supervisor.statistics().pauses] == ["load"]
    d(ev.ResumeRequested("load"), after=1.0)
    d.one(act.RequestTask)
    assert [what for _at, what in d.supervisor.story("pauses")] == [
        "paused by command: command says so",
        "paused by load: load says so",
        "command let go; still paused by load",
        "load let go",
    ]


def test_a_resume_of_a_source_that_holds_nothing_changes_nothing(desk):
    d = desk(sandboxes=1)
    d(nothing())
    d(pause("load"))
    d(ev.ResumeRequested("command"))
    assert d.supervisor.statistics().pauses[0].source == "load" and not d.all(act.RequestTask)


def test_a_second_word_of_a_source_replaces_the_first():
    pauses = Pauses()
    assert pauses.hold("load", "cpu", GiveBack.EVERYTHING, 1.0)
    assert pauses.hold("load", "memory", GiveBack.NOTHING, 2.0)
    assert not pauses.hold("load", "memory", GiveBack.NOTHING, 3.0)
    [one] = pauses.all()
    assert (one.reason, one.since, pauses.give_back) == ("memory", 1.0, GiveBack.NOTHING)


def test_sources_are_bounded():
    pauses = Pauses()
    for number in range(MOST_SOURCES + 5):
        pauses.hold(f"source {number}", "", GiveBack.NOTHING, 0.0)
    assert len(pauses.all()) == MOST_SOURCES


def test_it_is_told_to_whoever_asks(desk):
    d = desk(sandboxes=1)
    d(nothing())
    d(pause("schedule"))
    d(ev.Tick(), after=30.0)
    books: Statistics = d.supervisor.statistics()
    assert state_of(books, connected=True, ready=True) == "paused"
    assert [slot.why for slot in books.slots] == ["EPAUSED"]
    finding = explain(books, Circumstances(clock=d.now))[0]
    assert (finding.code, finding.since_s) == ("EPAUSED", 30.0)
    assert "schedule says so" in finding.what and "--quiet-hours" in finding.remedy


def test_a_stop_ends_a_paused_worker(desk):
    d = desk(sandboxes=1)
    d(nothing())
    d(pause(give_back=GiveBack.UNSTARTED))
    d(ev.StopRequested(hard=False))
    d.one(act.Finish)


def test_what_runs_goes_on_under_a_newer_lease_that_comes_in_a_pause(desk):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1]})
    [(_, key)] = d.submitted()
    d(ev.PauseRequested("command", "for lunch"))
    d.task({"job": [1, 2]}, token="newer")
    assert (d.one(act.ReturnSlices).numbers, d.one(act.ReturnSlices).reason) == ((2,), "EPAUSED")
    d.complete(sandbox, key)
    assert d.one(act.SendResult).authorization["auth"] == {"token": "newer"}
