"""What the supervisor decides, one situation at a time."""

from __future__ import annotations

import pytest

from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker import task


def test_the_first_request_waits_for_sandboxes_and_asks_for_all_cores(desk):
    d = desk(sandboxes=4, ready=False)
    assert d(ev.Tick()) == []
    d(ev.RuntimeReady(81, 256))
    request = d.one(act.RequestTask)
    assert (request.space, request.first, request.beacon_only) == (4.0, True, False)


def test_a_slice_goes_through_to_an_accepted_result(desk):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1]})
    [(where, key)] = d.submitted()
    assert where == sandbox
    begin = d.one(act.Begin)
    assert (begin.job_id, begin.numbers, begin.authorization["auth"]) == ("job", (1,), {"token": "t"})
    d.complete(sandbox, key)
    sent = d.one(act.SendResult)
    assert (sent.job_id, sent.number, sent.result, sent.error, sent.modern) == ("job", 1, "result", None, True)
    assert d.supervisor.statistics().reported == 1
    d(ev.ResultAccepted(key))
    statistics = d.supervisor.statistics()
    assert statistics.held == 0 and statistics.counts["results accepted"] == 1
    sentences = [text for _time, text in d.supervisor.story(("job", 1))]
    assert sentences == ["received", "queued in a sandbox", "completed", "result accepted"]


def test_only_the_last_result_of_a_job_in_hand_is_awaited(desk):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1, 2]})
    [(_, first)] = d.submitted()
    d.complete(sandbox, first)
    assert not d.one(act.SendResult).awaited
    [(_, second)] = d.submitted()
    d.complete(sandbox, second)
    assert d.one(act.SendResult).awaited, "the first is not acknowledged, and yet nothing more is to come"


def test_results_of_the_estimation_are_told_apart(desk):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1, 2]}, estimation=True)
    [(_, first)] = d.submitted()
    d.complete(sandbox, first)
    sent = d.one(act.SendResult)
    assert (sent.estimation, sent.awaited) == (True, False)


def test_short_slices_are_queued_deep_and_long_ones_alone(desk):
    d = desk(sandboxes=1, queue_s=0.1)
    [sandbox] = d.start({"job": list(range(1, 501))})
    [(_, first)] = d.submitted()  # nobody knows how long it takes: one at a time
    d.complete(sandbox, first, wall_s=0.001)
    assert len(d.submitted()) == 101

    d = desk(sandboxes=1, queue_s=0.1)
    [sandbox] = d.start({"job": list(range(1, 501))})
    [(_, first)] = d.submitted()
    d.complete(sandbox, first, wall_s=3.0)
    assert len(d.submitted()) == 1


def test_queues_are_refilled_in_batches(desk):
    d = desk(sandboxes=1, queue_s=0.1)
    [sandbox] = d.start({"job": list(range(1, 501))})
    [(_, key)] = d.submitted()
    d.complete(sandbox, key, wall_s=0.005)
    queue = [key for _, key in d.submitted()]
    assert len(queue) == 21
    batches = 0
    for key in queue[:11]:
        d.complete(sandbox, key, wall_s=0.005)
        batches += bool(d.submitted())
    assert batches == 1


def test_the_end_of_a_job_is_spread_over_its_sandboxes(desk):
    d = desk(sandboxes=2)
    one, _two = d.start({"job": list(range(1, 23))})
    keys = dict(d.submitted())
    d.complete(one, keys[one], wall_s=0.001)
    assert len(d.submitted()) == 10


def test_an_evaluator_without_pipelining_gets_one_slice_at_a_time(desk):
    d = desk(sandboxes=1, ready=False)
    d(ev.RuntimeReady(81, 1))
    [sandbox] = d.start({"job": list(range(1, 9))})
    [(_, key)] = d.submitted()
    d.complete(sandbox, key, wall_s=0.001)
    assert len(d.submitted()) == 1


def test_asks_again_before_running_dry_and_never_twice_at_a_time(desk):
    d = desk(sandboxes=1, prefetch_s=5.0)
    [sandbox] = d.start({"job": [1, 2, 3]})
    assert d.all(act.RequestTask) == []  # one is in flight since the task came, for slices nobody has measured
    assert len(d.all(act.RequestTask, ever=True)) == 2
    d(ev.TaskReceived(task.parse({"body": {}})))
    [(_, key)] = [(action.sandbox, action.slices[0][0]) for action in d.all(act.Submit, ever=True)]
    d.complete(sandbox, key, wall_s=2.0)  # 2 slices of 2 s are 4 s of work: a fifth of the horizon is free
    assert d.all(act.RequestTask) == []
    d(ev.Tick(), after=1.0)
    assert d.one(act.RequestTask).space == 1.0


def test_an_idle_worker_asks_with_growing_pauses_up_to_a_bound(desk):
    d = desk(sandboxes=1)
    pauses = []
    for _ in range(6):
        d(ev.TaskReceived(task.parse({"body": {}})))
        assert d.all(act.RequestTask) == []
        pauses.append(d.supervisor.wake_at - d.now)
        d.now = d.supervisor.wake_at
        d(ev.Tick())
        d.one(act.RequestTask)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_the_schedulers_own_pause_is_kept(desk):
    d = desk(sandboxes=1)
    d(ev.TaskReceived(task.parse({"body": {"retryAfter": 20}})))
    assert d.supervisor.wake_at == 20.0
    d(ev.Tick(), after=19.9)
    assert d.all(act.RequestTask) == []


def test_failed_requests_back_off_exponentially(desk):
    d = desk(sandboxes=1)
    pauses = []
    for _ in range(9):
        d(ev.TaskFailed("ENETWORK", "no"))
        pauses.append(d.supervisor.wake_at - d.now)
        d.now = d.supervisor.wake_at
        d(ev.Tick())
    assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30])


def test_a_completion_ends_the_pause_after_an_empty_answer(desk):
    d = desk(sandboxes=2)
    one, _two = d.start({"job": [1, 2]})
    keys = dict(d.submitted())
    for _ in range(5):
        d(ev.TaskReceived(task.parse({"body": {}})))
        d.now = d.supervisor.wake_at
        d(ev.Tick())
    d(ev.TaskReceived(task.parse({"body": {}})))
    d.complete(one, keys[one], wall_s=0.06)
    d.one(act.RequestTask)


def test_a_slice_without_progress_is_returned_and_told(desk):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [7]})
    [(_, key)] = d.submitted()
    d.complete(sandbox, key, progressed=False)
    assert [emit.name for emit in d.all(act.Emit)] == ["noProgress", "error"]
    returned = d.one(act.ReturnSlices)
    assert (returned.numbers, returned.reason) == ((7,), "ENOPROGRESS")
    assert d.all(act.SendResult) == []


def test_a_throwing_work_function_is_a_result_with_an_error_beside_it(desk, made):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1, 2]})
    [(_, key)] = d.submitted()
    d(ev.SliceFailed(sandbox, key, {"name": "TypeError", "message": "no", "stack": "s"}, made.metrics()))
    assert d.one(act.SendResult).error["message"] == "no"
    payload = d.one(act.Emit).payload
    assert (payload["name"], payload["errorCode"], payload["jobName"]) == ("TypeError", "EUNCAUGHT", "a job")
    assert d.all(act.CloseSandbox) == [] and d.all(act.Submit)  # the sandbox goes on


def test_work_reject_is_retried_here_in_a_fresh_sandbox_then_the_whole_job_is_given_up(desk, made):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1, 2, 3]})
    [(_, key)] = d.submitted()
    d(ev.SliceRejected(sandbox, key, "not on Mondays", 1, made.metrics(cpu_s=0.5)))
    d.one(act.CloseSandbox)
    fresh = d.one(act.OpenSandbox).sandbox
    d(ev.SandboxOpened(fresh))
    assert d.submitted() == [(fresh, key)]
    d(ev.SliceRejected(fresh, key, "not on Mondays", 1, made.metrics(cpu_s=0.5)))
    first, rest = d.all(act.ReturnSlices)
    assert first.numbers == (1,)
    assert first.reason == {"message": "not on Mondays", "retries": 1, "errorCode": "EWORKREJECT"}
    assert (sorted(rest.numbers), rest.reason) == ([2, 3], "EWORKREJECT")
    d.task({"job": [9]})
    assert d.one(act.ReturnSlices).reason == "EWORKREJECT"
    requests = d.all(act.RequestTask, ever=True)
    d(ev.Tick(), after=60)
    assert (requests + d.all(act.RequestTask))[-1].rejected_jobs == ("job",)


def test_costs_of_rejected_tries_are_added_to_the_result(desk, made):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1]})
    [(_, key)] = d.submitted()
    d(ev.SliceRejected(sandbox, key, "once", 3, made.metrics(cpu_s=0.5)))
    fresh = d.one(act.OpenSandbox).sandbox
    d(ev.SandboxOpened(fresh))
    d(ev.SliceCompleted(fresh, key, "r", 1, made.metrics(cpu_s=0.25), True))
    assert d.one(act.SendResult).metrics.cpu_time_s == 0.75


def test_who_killed_a_sandbox_with_several_slices_is_found_by_running_them_alone(desk):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": list(range(1, 6))})
    [(_, key)] = d.submitted()
    d.complete(sandbox, key, wall_s=0.01)
    queued = [key for _, key in d.submitted()]
    assert len(queued) == 4
    d(ev.SandboxEnded(sandbox, ev.Death.OUT_OF_MEMORY, "256 MiB are not enough"))
    assert d.all(act.ReturnSlices) == []
    fresh = d.one(act.OpenSandbox).sandbox
    d(ev.SandboxOpened(fresh))
    assert [key for _, key in d.submitted()] == queued[:1]
    d.complete(fresh, queued[0], wall_s=0.01)
    assert [key for _, key in d.submitted()] == queued[1:2]
    d(ev.SandboxEnded(fresh, ev.Death.OUT_OF_MEMORY, "256 MiB are not enough"))
    returned = d.one(act.ReturnSlices)
    assert (returned.numbers, returned.reason) == ((3,), "ENOMEMORY")
    assert d.one(act.Emit).payload["message"] == "256 MiB are not enough"


def test_a_sandbox_killed_from_outside_blames_nobody_until_it_happens_often(desk):
    d = desk(sandboxes=1, death_tries=3)
    [sandbox] = d.start({"job": [1]})
    for _ in range(2):
        d(ev.SandboxEnded(sandbox, ev.Death.KILLED, "docker kill"))
        assert d.all(act.ReturnSlices) == []
        sandbox = d.one(act.OpenSandbox).sandbox
        d(ev.SandboxOpened(sandbox))
        d.one(act.Submit)
        assert d.all(act.Begin) == []  # it has begun already
    d(ev.SandboxEnded(sandbox, ev.Death.KILLED, "docker kill"))
    assert d.one(act.ReturnSlices).reason == "ESANDBOXKILLED"


def test_three_failed_assigns_give_the_job_up_with_its_error(desk):
    d = desk(sandboxes=1)
    d.task({"job": [1, 2]})
    d(ev.JobFetched("job"))
    for _ in range(2):
        sandbox = d.one(act.OpenSandbox).sandbox
        d(ev.SandboxRefusedJob(sandbox, {"name": "SyntaxError", "message": "Unexpected token"}))
        assert d.all(act.ReturnSlices) == []
    d(ev.SandboxRefusedJob(d.one(act.OpenSandbox).sandbox, {"name": "SyntaxError", "message": "Unexpected token"}))
    returned = d.one(act.ReturnSlices)
    assert (returned.numbers, returned.reason) == ((1, 2), "EASSIGN")
    assert d.one(act.Emit).payload["name"] == "SyntaxError"
    assert d.supervisor.statistics().rejected_jobs == {"job": "EASSIGN"}


def test_a_job_that_cannot_be_fetched_is_returned_and_not_wanted_for_a_while(desk):
    d = desk(sandboxes=1)
    d.task({"job": [1]})
    d(ev.JobFetchFailed("job", "EJOBFETCH", "503", False, 30.0))
    assert d.one(act.ReturnSlices).reason == "EJOBFETCH"
    d(ev.TaskReceived(task.parse({"body": {}})))
    d(ev.Tick(), after=1.0)
    assert d.one(act.RequestTask).unresolved_jobs == ("job",)
    d.task({"job": [1]})
    assert d.one(act.ReturnSlices).reason == "EJOBFETCH"
    d(ev.Tick(), after=30.0)
    assert d.one(act.RequestTask).unresolved_jobs == ()


def test_a_forbidden_origin_rejects_the_job_for_good(desk):
    d = desk(sandboxes=1)
    d.task({"job": [1]})
    d(ev.JobFetchFailed("job", "EPERM_ORIGIN", "not allowed", True))
    assert d.one(act.ReturnSlices).reason == "EPERM_ORIGIN"
    d.task({"job": [1]})
    assert d.one(act.ReturnSlices).reason == "EPERM_ORIGIN"


def test_missing_capabilities_and_worktimes_send_the_job_back(desk):
    d = desk(sandboxes=1)
    d.task({"gpu": [1]}, needCapabilities=64 | 32)
    assert d.one(act.ReturnSlices).reason == "ECAPABILITY"
    d.task({"python": [1]}, worktime={"name": "pyodide", "version": "0.28.0"})
    assert d.one(act.ReturnSlices).reason == "EWORKTIME"


def test_remote_data_are_fetched_ahead_but_not_all_at_once(desk):
    d = desk(sandboxes=1, data_ahead=4)
    d.task({"job": list(range(1, 11))}, datum="https://data.example/1")
    d(ev.JobFetched("job"))
    fetches = d.all(act.FetchDatum)
    assert len(fetches) == 4
    d(ev.DatumFetched(fetches[0].key, "data:,1"))
    sandbox = d.one(act.OpenSandbox).sandbox
    d(ev.SandboxOpened(sandbox))
    assert d.submitted() == [(sandbox, fetches[0].key)]
    d.one(act.FetchDatum)
    d(ev.DatumFailed(fetches[1].key, "ESLICEFETCH", "404"))
    assert d.one(act.ReturnSlices).reason == "ESLICEFETCH"


def test_a_range_gives_the_data_of_slices_that_carry_none(desk):
    d = desk(sandboxes=1)
    d.task({"job": [3, 4, 99]}, datum=None)

    def element(number):
        return f"data:,{[10, 20, 30, 40][number - 1]}"

    d(ev.JobFetched("job", element))
    assert d.one(act.ReturnSlices).reason == "ENODATUM"
    d(ev.SandboxOpened(d.all(act.OpenSandbox)[0].sandbox))
    assert d.one(act.Submit).slices[0][1] == "data:,30"


def test_a_lease_renewed_while_at_work_counts_and_so_does_one_renewed_after_the_result(desk):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1]}, token="old")
    [(_, key)] = d.submitted()
    d.task({"job": [1]}, token="new")
    assert d.all(act.ReturnSlices) == []
    d.complete(sandbox, key)
    assert d.one(act.SendResult).authorization["auth"] == {"token": "new"}
    d.task({"job": [1]}, token="newest")
    renewal = d.one(act.RenewResult)
    assert (renewal.key, renewal.authorization["auth"]) == (key, {"token": "newest"})
    assert d.all(act.ReturnSlices) == []


def test_a_slice_that_threw_is_computed_again_when_it_is_offered_before_the_word_that_it_was_heard(desk, made):
    """The Scheduler hears that it threw, and leases it to the same worker at once: the two answers cross."""
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1]}, token="old")
    [(_, first)] = d.submitted()
    error = {"name": "Error", "message": "seven"}
    d(ev.SliceFailed(sandbox, first, error, made.metrics()))
    assert d.one(act.SendResult).authorization["auth"] == {"token": "old"}
    d.task({"job": [1]}, token="new")
    [(again, _)] = d.one(act.Submit).slices
    d(ev.ResultAccepted(first, {}))
    d(ev.SliceFailed(sandbox, again, error, made.metrics()))
    assert d.one(act.SendResult).authorization["auth"] == {"token": "new"}
    d(ev.ResultAccepted(again, {}))
    assert d.supervisor.statistics().held == 0


def test_how_much_may_wait_unacknowledged_follows_the_disk(desk):
    d = desk(sandboxes=1, max_unacknowledged_size=10_000)
    [sandbox] = d.start({"job": [1, 2, 3]})
    [(_, key)] = d.submitted()
    d(ev.RoomChanged(0))
    d.complete(sandbox, key)
    assert d.all(act.Submit) == [], "the disk takes nothing and memory is full: nothing new is begun"
    d(ev.RoomChanged(10_000))
    assert d.one(act.Submit)


def test_jobs_share_sandboxes_and_idle_ones_make_room_at_once(desk):
    d = desk(sandboxes=2)
    one, two = d.start({"first": [1]}) + d.start({"second": [1]})
    d.task({"first": [2, 3, 4, 5]})
    assert d.all(act.OpenSandbox) == []
    (first,) = [a.slices[0][0] for a in d.all(act.Submit, ever=True) if a.sandbox == one]
    d.complete(one, first, wall_s=1.0)
    second = next(a.slices[0][0] for a in d.all(act.Submit, ever=True) if a.sandbox == two)
    d.complete(two, second)  # "second" has nothing left: its sandbox makes room
    assert d.one(act.CloseSandbox).sandbox == two
    assert d.one(act.OpenSandbox).job_id == "first"


def test_a_job_without_a_sandbox_gets_its_turn(desk):
    d = desk(sandboxes=1, rotation_s=10)
    [sandbox] = d.start({"first": [1, 2, 3, 4]})
    [(_, key)] = d.submitted()
    d.task({"second": [1]})
    d(ev.JobFetched("second"))
    d(ev.Tick(), after=11.0)
    d.complete(sandbox, key, wall_s=1.0)
    assert d.one(act.CloseSandbox).sandbox == sandbox
    assert d.one(act.OpenSandbox).job_id == "second"


def test_results_that_pile_up_stop_new_slices_until_some_are_taken(desk, made):
    d = desk(sandboxes=1, max_unacknowledged_size=10)
    [sandbox] = d.start({"job": [1, 2, 3]})
    [(_, one)] = d.submitted()
    d(ev.SliceCompleted(sandbox, one, "x" * 11, 11, made.metrics(1.0), True), after=1.0)
    assert d.submitted() == []
    d(ev.ResultAccepted(one))
    assert len(d.submitted()) == 1


def test_a_refused_result_is_returned_unless_the_lease_is_lost(desk):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1, 2]})
    [(_, one)] = d.submitted()
    d.complete(sandbox, one)
    [(_, two)] = d.submitted()
    d(ev.ResultRefused(one, "EINVAL", "bad URI", lost=False))
    assert d.one(act.ReturnSlices).reason == "EINVAL"
    d.complete(sandbox, two)
    d(ev.ResultRefused(two, "ELEASE", "another worker has it", lost=True))
    assert d.all(act.ReturnSlices) == [] and d.supervisor.statistics().held == 0


def test_when_the_engine_goes_away_slices_are_returned_and_work_resumes_later(desk):
    d = desk(sandboxes=2)
    one, _two = d.start({"job": [1, 2, 3]})
    d(ev.RuntimeLost("Docker does not answer"))
    assert sorted(d.one(act.ReturnSlices).numbers) == [1, 2, 3]
    assert d.one(act.ReturnSlices).reason == "ENOSANDBOX"
    d(ev.SandboxEnded(one, ev.Death.RUNTIME_LOST, "gone"))
    d(ev.TaskReceived(task.parse({"body": {}})))
    d(ev.Tick(), after=100)
    assert d.all(act.RequestTask) == []
    d(ev.RuntimeReady(81, 256))
    d.one(act.RequestTask)


def test_a_soft_stop_finishes_what_runs_and_returns_the_rest(desk):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1, 2, 3]})
    [(_, key)] = d.submitted()
    d(ev.StopRequested(hard=False))
    assert sorted(d.one(act.ReturnSlices).numbers) == [2, 3]
    d(ev.TaskReceived(task.parse({"body": {}})))
    assert d.all(act.Finish) == []
    d.complete(sandbox, key)
    d.one(act.SendResult)
    d.one(act.CloseSandbox)
    d(ev.ResultAccepted(key))
    d.one(act.Finish)
    assert d.supervisor.finished and d(ev.Tick(), after=99) == []


def test_a_soft_stop_waits_for_the_answer_under_way_and_returns_its_slices(desk):
    d = desk(sandboxes=1)
    d(ev.StopRequested(hard=False))
    assert d.actions == []
    d.task({"job": [1]})
    assert d.one(act.ReturnSlices).numbers == (1,)
    d.one(act.Finish)


def test_a_hard_stop_returns_everything_but_finished_results(desk):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1, 2, 3]})
    [(_, key)] = d.submitted()
    d.complete(sandbox, key)
    d(ev.StopRequested(hard=False))
    d(ev.StopRequested(hard=True))
    returned = [n for action in d.all(act.ReturnSlices, ever=True) for n in action.numbers]
    assert sorted(returned) == [2, 3]
    d(ev.ResultAccepted(key))
    d.one(act.Finish)


def test_a_beacon_names_what_is_held_even_when_nothing_is_wanted(desk):
    d = desk(sandboxes=1, beacon_s=60)
    [sandbox] = d.start({"job": [1, 2, 3]})
    [(_, key)] = d.submitted()
    d(ev.TaskReceived(task.parse({"body": {}})))
    d.complete(sandbox, key, wall_s=30.0)
    d(ev.ResultAccepted(key))
    d(ev.Tick(), after=31.0)
    request = d.one(act.RequestTask)
    assert request.held == {"job": [2, 3]}
    assert request.quanta_ms == {"job": 30_000.0}


def test_malformed_jobs_are_returned_without_spoiling_their_neighbours(desk, made):
    d = desk(sandboxes=1)
    mixed = made.answer({"good": [1], "bad": [5, 6]})
    del mixed["body"]["newJobs"]["bad"]["codeLocation"]
    d(ev.TaskReceived(task.parse(mixed)))
    assert d.one(act.ReturnSlices).numbers == (5, 6)
    assert d.one(act.FetchJob).offer.job_id == "good"


def test_news_about_unknown_things_change_nothing(desk, made):
    d = desk(sandboxes=1)
    d(
        ev.SliceCompleted(9, 9, "r", 1, made.metrics(), True),
        ev.SandboxOpened(9),
        ev.SandboxEnded(9, ev.Death.EXIT, ""),
        ev.DatumFetched(9, "data:,"),
        ev.JobFetched("x"),
        ev.ResultAccepted(9),
        ev.JobRemoved("x"),
    )
    assert d.actions == [] and d.supervisor.statistics().counts["ignored SliceCompleted"] == 1


def test_idle_sandboxes_and_forgotten_jobs_are_cleared_away(desk):
    d = desk(sandboxes=1, sandbox_linger_s=15, job_linger_s=60)
    [sandbox] = d.start({"job": [1]})
    [(_, key)] = d.submitted()
    d.complete(sandbox, key)
    d(ev.ResultAccepted(key))
    d(ev.Tick(), after=14)
    assert d.all(act.CloseSandbox) == []
    d(ev.Tick(), after=2)
    d.one(act.CloseSandbox)
    d(ev.Tick(), after=60)
    assert d.one(act.ForgetJob).job_id == "job"


def test_a_job_given_up_while_data_are_on_the_way_starts_clean_when_it_comes_again(desk):
    d = desk(sandboxes=1)
    d.task({"job": [1, 2, 3]}, datum="https://data.example/")
    d(ev.JobFetched("job"))
    fetches = d.all(act.FetchDatum)
    d(ev.DatumFetched(fetches[0].key, "data:,1"))
    sandbox = d.one(act.OpenSandbox).sandbox
    d(ev.SandboxOpened(sandbox))
    d.complete(sandbox, fetches[0].key)  # its result is under way when the job goes
    d(ev.JobRemoved("job"))
    assert sorted(d.one(act.ReturnSlices).numbers) == [2, 3]
    d.task({"job": [4]}, datum="https://data.example/")
    assert d.all(act.FetchJob) == [] and len(d.all(act.FetchDatum)) == 1


def test_elements_of_a_range_that_lie_elsewhere_are_fetched(desk):
    d = desk(sandboxes=1)
    d.task({"job": [3]}, datum=None)
    d(ev.JobFetched("job", lambda number: f"https://data.example/{number}"))
    fetch = d.one(act.FetchDatum)
    assert fetch.uri == "https://data.example/3"
    d(ev.DatumFetched(fetch.key, "data:,30"))
    d(ev.SandboxOpened(d.one(act.OpenSandbox).sandbox))
    assert d.one(act.Submit).slices[0][1] == "data:,30"


def test_the_owner_hears_why_something_could_not_be_fetched_but_not_of_each_that_was_not_tried(desk):
    d = desk(sandboxes=1)
    d.task({"job": [1, 2]}, datum="https://data.example/1")
    d(ev.JobFetched("job"))
    first, second = d.all(act.FetchDatum)
    d(ev.DatumFailed(first.key, "ESLICEFETCH", "answered 404", "status"))
    emitted = d.one(act.Emit)
    assert (emitted.name, emitted.number, emitted.payload["errorCode"]) == ("error", 1, "ESLICEFETCH")
    assert (emitted.payload["message"], emitted.payload["info"]) == ("answered 404", {"cause": "status"})
    d(ev.DatumFailed(second.key, "ESLICEFETCH", "left alone", "back-off"))
    assert d.one(act.ReturnSlices).numbers == (2,) and not d.all(act.Emit)
    d.task({"other": [1, 2]})
    d(ev.JobFetchFailed("other", "EFETCH", "image/png", True, 0.0, "type"))
    assert d.one(act.Emit).payload["info"] == {"cause": "type"}, "once for the job"
    assert d.one(act.ReturnSlices).numbers == (1, 2)


def test_a_datum_that_cannot_be_decoded_is_no_result(desk, made):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1]})
    [(_, key)] = d.submitted()
    error = {"name": "SyntaxError", "message": "datum: no JSON", "code": "EBADDATUM"}
    d(ev.SliceFailed(sandbox, key, error, made.metrics(), bad_datum=True))
    assert d.one(act.ReturnSlices).reason == "EBADDATUM" and not d.all(act.SendResult)
    assert d.one(act.Emit).payload["errorCode"] == "EBADDATUM"


def test_large_data_are_fetched_fewer_at_a_time(desk):
    d = desk(sandboxes=1, data_ahead=4, data_ahead_size=250)
    d.task({"job": list(range(1, 21))}, datum="https://data.example/1")
    d(ev.JobFetched("job"))
    fetches = d.all(act.FetchDatum)
    assert len(fetches) == 4, "nothing is known of their size yet"
    for fetch in fetches:
        d(ev.DatumFetched(fetch.key, "data:," + "x" * 94))
        assert not d.all(act.FetchDatum)
    sandbox = d.all(act.OpenSandbox, ever=True)[0].sandbox
    d(ev.SandboxOpened(sandbox))
    for fetch, fetched in zip(fetches, (0, 0, 1, 1), strict=True):
        d.complete(sandbox, fetch.key)
        assert len(d.all(act.FetchDatum)) == fetched, "two of 100 characters fit"


def test_one_datum_that_is_larger_than_the_bound_still_comes(desk):
    d = desk(sandboxes=1, data_ahead_size=10)
    d.task({"job": [1]}, datum="https://data.example/1")
    d(ev.JobFetched("job"))
    d(ev.DatumFetched(d.one(act.FetchDatum).key, "data:," + "x" * 94))
    sandbox = d.one(act.OpenSandbox).sandbox
    d(ev.SandboxOpened(sandbox))
    [(_, key)] = d.submitted()
    d.task({"job": [2, 3]}, datum="https://data.example/1")
    assert not d.all(act.FetchDatum)
    d.complete(sandbox, key)
    assert d.one(act.FetchDatum).key == key + 1


def test_a_slice_whose_result_is_accepted_goes_back_when_it_comes_again_under_the_same_lease(desk):
    d = desk()
    [sandbox] = d.start({"a": [1]})
    key = d.all(act.Submit, ever=True)[0].slices[0][0]
    d.complete(sandbox, key)
    d(ev.ResultAccepted(key, {}))
    d.task({"a": [1, 2, 2]})
    returned = d.one(act.ReturnSlices)
    assert (returned.numbers, returned.reason) == ((1,), "return duplicate slice")
    assert d.supervisor.statistics().held == 1
    d.task({"a": [1]}, token="newer")
    assert not d.all(act.ReturnSlices) and d.supervisor.statistics().held == 2


def test_only_slices_that_were_answered_make_no_job(desk):
    d = desk(sandbox_linger_s=0.1, job_linger_s=0.1)
    [sandbox] = d.start({"a": [1]})
    key = d.all(act.Submit, ever=True)[0].slices[0][0]
    d.complete(sandbox, key)
    d(ev.ResultAccepted(key, {}))
    for _ in range(5):
        d(ev.Tick(), after=10.0)
    assert d.all(act.ForgetJob, ever=True)
    fetched = len(d.all(act.FetchJob, ever=True))
    d.task({"a": [1]})
    assert d.one(act.ReturnSlices).numbers == (1,)
    assert len(d.all(act.FetchJob, ever=True)) == fetched


def test_an_answer_that_comes_late_leaves_the_request_under_way_alone(desk, made):
    d = desk()
    d(ev.TaskFailed("ETIMEDOUT", "no answer"))
    d(ev.Tick(), after=1.0)
    assert d.one(act.RequestTask)
    d(ev.TaskCameLate(task.parse(made.answer({"a": [1]}))))
    assert d.supervisor.statistics().held == 1 and d.one(act.FetchJob)
    assert not d.all(act.RequestTask)
    d(ev.Tick(), after=1.0)
    assert not d.all(act.RequestTask), "one is under way"
