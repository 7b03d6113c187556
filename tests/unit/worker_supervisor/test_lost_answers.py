"""Answers that nobody will read: the Scheduler is told of them soon, and for a while."""

from __future__ import annotations

from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.pausing import GiveBack
from orchestrator.worker.scheduler_link.lost_answers import AGAIN_S, MOST, LostAnswers


def test_names_differ_and_are_told_until_somebody_has_heard_them_for_a_while() -> None:
    requests = LostAnswers("p")
    first, second = requests.name(), requests.name()
    assert first != second and not requests.untold
    requests.lost(first, 10.0)
    assert requests.untold and requests.to_tell(10.0 + 10 * AGAIN_S) == (first,), "nobody has heard of it"
    requests.told((first, "never heard of"))
    assert not requests.untold and requests.to_tell(9.0 + AGAIN_S) == (first,)
    requests.lost(second, 20.0)
    assert requests.untold and requests.to_tell(10.0 + AGAIN_S) == (second,)


def test_not_more_are_kept_than_can_be_told() -> None:
    requests = LostAnswers("p")
    names = [requests.name() for _ in range(MOST + 3)]
    for name in names:
        requests.lost(name, 0.0)
    assert requests.to_tell(0.0) == tuple(names[3:])


def test_a_paused_worker_that_holds_nothing_tells_of_a_lost_answer(desk):
    d = desk()
    d(ev.PauseRequested("command", "later", GiveBack.NOTHING))
    d(ev.TaskFailed("EPIPE", "the session is lost", owes_word=True))
    assert not d.all(act.RequestTask), "the Scheduler may be away: not at once"
    d(ev.Tick(), after=d.supervisor.wake_at - d.now)
    assert d.one(act.RequestTask).beacon_only
    d(ev.TaskFailed("EPIPE", "again", owes_word=True))
    d(ev.Tick(), after=d.supervisor.wake_at - d.now)
    assert d.one(act.RequestTask).beacon_only
    d.task({})
    d(ev.Tick(), after=1000.0)
    assert not d.all(act.RequestTask), "it was heard"


def test_a_worker_that_wants_work_tells_it_with_the_next_request(desk):
    d = desk()
    d(ev.TaskFailed("EPIPE", "the session is lost", owes_word=True))
    d(ev.Tick(), after=d.supervisor.wake_at - d.now)
    request = d.one(act.RequestTask)
    assert request.space and not request.beacon_only


def test_a_failure_that_loses_nothing_is_told_to_nobody(desk):
    d = desk()
    d(ev.PauseRequested("command", "later", GiveBack.NOTHING))
    d(ev.TaskFailed("ENETWORK", "refused"))
    d(ev.Tick(), after=1000.0)
    assert not d.all(act.RequestTask)
