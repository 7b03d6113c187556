"""Each reason for having no work is found, counted, and comes with the one change that helps."""

from __future__ import annotations

import pathlib
import re

import pytest

from orchestrator.cli.worker import run
from orchestrator.errors import InvalidInput
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker import task
from orchestrator.worker.explain import Circumstances, explain
from orchestrator.worker.job_filter import JobFilter
from orchestrator.worker.refusals import Kind, Refusals
from orchestrator.worker.trusting import KeyChange, accepted_keys

URL = "https://scheduler.example/"
FORBIDDEN = (
    "origin http://data.example:8080 is not allowed for fetchData: --allow-origin fetchData=http://data.example:8080"
)


def nothing() -> ev.TaskReceived:
    return ev.TaskReceived(task.parse({"body": {}}))


def findings(d, **about):
    about.setdefault("scheduler_url", URL)
    return explain(d.supervisor.statistics(), Circumstances(clock=d.now, **about))


def codes(d, **about):
    return [finding.code for finding in findings(d, **about)]


def idle(desk, **policy):
    """A worker that was just told that there is no work."""
    d = desk(**policy)
    d(nothing())
    return d


# -- what stops everything ---------------------------------------------------------------------------------------------


def test_no_scheduler_at_the_start(desk):
    [finding] = findings(desk(ready=False), connected=False, ready=True)[1:]
    assert (finding.code, finding.blocking) == ("ENOSCHEDULER", True)
    assert URL in finding.what and "--scheduler" in finding.remedy


def test_the_scheduler_went_away(desk):
    d = idle(desk)
    d(ev.Tick(), after=1.0)
    d(ev.TaskFailed("ENETWORK", "cannot connect to scheduler.example:443"), after=3.0)
    d(ev.Tick(), after=30.0)
    d(ev.TaskFailed("ENETWORK", "cannot connect to scheduler.example:443"))
    [finding] = findings(d)
    assert finding.code == "ENOSCHEDULER" and finding.count == 2 and "cannot connect" in finding.what
    assert (finding.since_s, finding.last_s) == (30.0, 0.0)
    d(ev.Tick(), after=60.0)
    d(nothing())
    assert codes(d) == ["ENOWORK"]  # it is back


def test_the_connection_is_lost_while_a_request_waits_for_its_answer(desk):
    d = desk(sandboxes=1)
    [finding] = findings(d, trouble="connection refused")
    assert finding.code == "ENOSCHEDULER" and finding.what.endswith("does not answer: connection refused")


def test_docker_is_lost(desk):
    d = idle(desk)
    d(ev.RuntimeLost("the connection broke"))
    docker = {"reason": "gone", "message": "The connection broke", "remedy": "systemctl start docker"}
    [finding] = findings(d, docker=docker)
    assert (finding.code, finding.what, finding.remedy) == ("ENODOCKER", docker["message"], docker["remedy"])
    [finding] = findings(d)  # the pool has not said how
    assert (finding.code, finding.what) == ("ENOSANDBOX", "the connection broke")


def test_the_image_is_missing(desk):
    d = desk(ready=False)
    docker = {"reason": "image-missing", "message": "The Docker Engine has no image x", "remedy": "make image"}
    [finding] = findings(d, docker=docker, ready=False)
    assert (finding.code, finding.remedy) == ("EIMAGE", "make image")


def test_sandboxes_fail_to_start(desk):
    d = desk(ready=False)
    pool = {"failure": "runc: no space left on device [ECONTAINER]", "failed": 7, "ready": 0, "in_use": 0}
    [finding] = findings(d, pool=pool, ready=False, image="img")
    assert (finding.code, finding.count, finding.blocking) == ("ESANDBOXSTART", 7, True)
    assert "no space left" in finding.what and "docker run --rm img" in finding.remedy
    d = idle(desk)
    assert not findings(d, pool={**pool, "in_use": 1})[0].blocking


def test_the_pool_is_still_starting(desk):
    d = desk(ready=False)
    [finding] = findings(d, ready=False, pool={"starting": 2, "failure": None})
    assert finding.code == "ESTARTING" and "2 under way" in finding.what


def test_draining_and_stopping(desk):
    d = desk(sandboxes=1)
    d.start({"job": [1, 2]})
    d(ev.DrainRequested())
    [finding] = findings(d)
    assert finding.code == "EDRAINING" and finding.count == 2
    d(ev.StopRequested(hard=False))
    assert codes(d) == ["ESTOPPING"]


def test_results_that_nobody_acknowledges(desk):
    d = desk(sandboxes=1, max_unacknowledged_size=5)
    [sandbox] = d.start({"job": [1, 2, 3]})
    [(_, key)] = d.submitted()
    d.complete(sandbox, key)
    finding = findings(d)[0]
    assert (finding.code, finding.count, finding.blocking) == ("EBACKLOG", 1, True) and URL in finding.remedy
    d(ev.ResultAccepted(key))
    assert "EBACKLOG" not in codes(d)


# -- what the worker refuses -------------------------------------------------------------------------------------------


def test_a_forbidden_origin_names_the_flag(desk):
    d = idle(desk)
    d.task({"one": [1, 2, 3]})
    d(ev.JobFetchFailed("one", "EPERM_ORIGIN", FORBIDDEN, final=True))
    d(nothing(), after=5.0)
    first, second = findings(d)
    assert (first.code, first.count, first.last_s) == ("EPERM_ORIGIN", 3, 5.0)
    assert "job one may not fetch from http://data.example:8080" in first.what
    assert first.remedy == "if you trust it: --allow-origin fetchData=http://data.example:8080"
    assert second.code == "ENOWORK" and "other than the 1 jobs" in second.what


def test_two_origins_are_two_findings_and_the_one_with_more_slices_comes_first(desk):
    d = idle(desk, sandboxes=1)
    for job, host, numbers in (("one", "b", [1]), ("two", "a", [1]), ("three", "b", [1])):
        d.task({job: numbers})
        text = f"not allowed: --allow-origin fetchData=https://{host}.example"
        d(ev.JobFetchFailed(job, "EPERM_ORIGIN", text, final=True), after=1.0)
    first, second = findings(d)[:2]
    assert (first.count, first.what) == (2, "jobs three, one may not fetch from https://b.example")
    assert (second.count, second.what) == (1, "job two may not fetch from https://a.example")


def test_data_of_a_forbidden_origin(desk):
    d = desk(sandboxes=1)
    d.start({"job": [1, 2]}, datum="http://data.example:8080/1")
    for key in (1, 2):
        d(ev.DatumFailed(key, "EPERM_ORIGIN", FORBIDDEN))
    finding = next(one for one in findings(d) if one.code == "EPERM_ORIGIN")
    assert finding.count == 2 and "--allow-origin fetchData=http://data.example:8080" in finding.remedy


def test_a_name_that_leads_into_the_own_network(desk):
    d = idle(desk)
    d.task({"one": [1]})
    text = "http://nas.example leads to a private address; --allow-origin fetchData=http://nas.example opens it by name"
    d(ev.JobFetchFailed("one", "EPERM_ORIGIN", text, final=True))
    finding = findings(d)[0]
    assert "leads to a private address" in finding.what
    assert finding.remedy == "if you trust it: --allow-origin fetchData=http://nas.example"


@pytest.mark.parametrize(
    ("job", "code", "words"),
    [
        ({"worktime": {"name": "pyodide", "version": "0.28.0"}}, "EWORKTIME", "needs worktime pyodide"),
        ({"needCapabilities": 64 | 32}, "ECAPABILITY", "needs WEBGPU"),
        ({"needCapabilities": 1 << 20}, "ECAPABILITY", "0x100000"),
    ],
)
def test_what_sandboxes_lack(desk, job, code, words):
    d = idle(desk)
    d.task({"job": [1, 2]}, **job)
    finding = findings(d)[0]
    assert (finding.code, finding.count) == (code, 2) and words in finding.what and "--image" in finding.remedy


def test_jobs_that_were_not_asked_for(desk):
    d = idle(desk, jobs=JobFilter(frozenset({"mine"})))
    d.task({"other": [1]})
    finding = findings(d, job_ids=("mine",))[0]
    assert finding.code == "EJOBNOTWANTED" and "--job-id" in finding.remedy


def test_a_job_that_cannot_be_fetched_for_a_while(desk):
    d = idle(desk)
    d.task({"job": [1]})
    d(ev.JobFetchFailed("job", "EJOBFETCH", "http://slow.example/x answered 503", final=False, retry_after_s=20.0))
    finding = findings(d)[0]
    assert finding.code == "EJOBFETCH" and "answered 503" in finding.what and "tried again in 20 s" in finding.what
    d(ev.Tick(), after=19.0)
    assert "tried again in 1 s" in findings(d)[0].what


def test_code_that_cannot_be_loaded(desk):
    d = desk(sandboxes=1, assign_tries=1)
    d.task({"job": [1, 2]})
    d(ev.JobFetched("job"))
    d(ev.SandboxRefusedJob(1, {"name": "SyntaxError", "message": "Unexpected token"}))
    finding = next(one for one in findings(d) if one.code == "EASSIGN")
    assert finding.count == 2 and "SyntaxError: Unexpected token" in finding.what and "owner" in finding.remedy


def test_out_of_memory_names_the_limit(desk):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1]})
    d(ev.SandboxEnded(sandbox, ev.Death.OUT_OF_MEMORY, "the kernel killed it at its limit"))
    finding = next(one for one in findings(d, memory_mib=512) if one.code == "ENOMEMORY")
    assert finding.remedy == "give sandboxes more memory (--memory), now 512 MiB"


def test_a_work_function_that_rejects(desk, made):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1]})
    [(_, key)] = d.submitted()
    d(ev.SliceRejected(sandbox, key, "no GPU here", 0, made.metrics()))
    finding = next(one for one in findings(d) if one.code == "EWORKREJECT")
    assert "no GPU here" in finding.what


def test_a_result_that_came_too_late(desk):
    d = desk(sandboxes=1)
    [sandbox] = d.start({"job": [1]})
    [(_, key)] = d.submitted()
    d.complete(sandbox, key)
    d(ev.ResultRefused(key, "ELEASE", "another lease is newer", lost=True))
    assert "ELEASE" in codes(d)


def test_what_a_code_without_a_sentence_of_its_own_says(desk):
    d = desk(sandboxes=1)
    d.start({"job": [1]}, datum="https://data.example/1")
    d(ev.DatumFailed(1, "ENEWCODE", "something new"))
    finding = next(one for one in findings(d) if one.code == "ENEWCODE")
    assert "went back with ENEWCODE: something new" in finding.what


def test_old_refusals_are_forgotten_unless_they_still_hold(desk):
    d = desk(sandboxes=1)
    d.start({"job": [1]}, datum="https://data.example/1")
    d(ev.DatumFailed(1, "EFETCH", "404"))
    d.task({"refused": [1]}, needCapabilities=64 | 32)
    d(nothing(), after=3600.0)
    assert codes(d) == ["ENOWORK", "ECAPABILITY"]  # the job may be over
    d(ev.Tick(), after=2.0)
    d(ev.TaskReceived(task.parse({"body": {"noWork": {"EREJECTED": 1}}})))
    assert codes(d) == ["ECAPABILITY", "ENOWORK"]  # it waits for somebody else


def test_slices_returned_because_of_a_stop_are_no_refusals(desk):
    d = desk(sandboxes=1)
    d(ev.DrainRequested())
    d.task({"job": [1]})
    assert "EWORKERSTOPPING" not in codes(d)


# -- why a place is empty ----------------------------------------------------------------------------------------------


def test_no_job_at_the_scheduler(desk):
    d = idle(desk, sandboxes=2)
    d(ev.Tick(), after=1.0)
    d(nothing())
    [finding] = findings(d)
    assert (finding.code, finding.count) == ("ENOWORK", 2)
    assert "2 of 2 places are empty" in finding.what and "when a job is deployed" in finding.remedy


def test_no_work_for_who_takes_certain_jobs_or_groups_only(desk):
    d = idle(desk)
    assert "drop the flag" in findings(d, job_ids=("mine",))[0].remedy
    finding = findings(d, public_group=False, groups=("scott",))[0]
    assert "(scott)" in finding.what and "--public-group" in finding.remedy


@pytest.mark.parametrize(
    ("said", "words", "remedy"),
    [
        (
            {"EESTIMATING": 1, "ECOMPUTEGROUP": 2},
            "jobs 2 in compute groups that it is not in, 1 that are",
            "--compute-group",
        ),
        ({"EESTIMATING": 1}, "measured by their first slices", "wait"),
        ({"ENEW": 3}, "jobs 3 refused with ENEW", "what the Scheduler means"),
        ({"EWORKTIME": -1, "x" * 100: "y"}, "has no work for this worker", "deployed"),
    ],
)
def test_what_the_scheduler_says_of_jobs_that_are_for_others(desk, said, words, remedy):
    d = desk(sandboxes=1)
    d(ev.TaskReceived(task.parse({"body": {"noWork": said}})))
    [finding] = findings(d)
    assert finding.code == "ENOWORK" and words in finding.what and remedy in finding.remedy
    d(ev.Tick(), after=2.0)
    d(nothing())
    assert "has no work for this worker" in findings(d)[0].what


def test_memory_bounds_what_there_may_be(desk):
    d = desk(sandboxes=2)
    d.start({"job": [1, 2]})
    about = {"memory_mib": 512, "memory_bytes": 2 << 30, "memory_available": 1 << 30, "cores": 8}
    fine, bound = findings(d, sandboxes_by_rule=True, **about)
    assert (fine.code, bound.code, bound.count) == ("EOK", "EMEMORYBOUND", 6)
    assert "only 2 of 8 cores" in bound.what and "--memory" in bound.remedy
    assert len(findings(d, **about)) == 1  # it was said how many there are to be
    about |= {"memory_available": 900 << 20, "memory_reserve_mib": 512, "pool": {"warm": 0, "failure": None}}
    assert [one.code for one in findings(d, **about)] == ["EOK", "EMEMORYSHORT"]
    assert len(findings(d, warm=0, **about)) == 1  # none are to be ready


def test_waiting_for_the_first_leases(desk):
    d = desk(sandboxes=1)
    d(ev.Tick(), after=4.0)
    [finding] = findings(d)
    assert finding.code == "EASKING" and "asked 4 s ago" in finding.what


def test_waiting_for_code_for_a_sandbox_and_for_data(desk):
    d = desk(sandboxes=1)
    d.task({"job": [1]}, datum="https://data.example/1")
    assert codes(d) == ["EJOBCODE"] and "job job (a job)" in findings(d)[0].what
    d(ev.JobFetched("job"))
    assert codes(d) == ["EDATA"]
    d(ev.DatumFetched(1, "data:,1"))
    assert codes(d) == ["EOPENING"]
    d(ev.SandboxOpened(1))
    d(nothing())
    [finding] = findings(d)
    assert (finding.code, finding.what) == ("EOK", "its one place is at work")


def test_a_busy_worker_is_well_whatever_it_refused_before(desk):
    d = idle(desk, sandboxes=1)
    d.task({"bad": [1]}, needCapabilities=64 | 32)
    d.start({"job": [1]})
    assert codes(d) == ["EOK", "ECAPABILITY"]


# -- the records -------------------------------------------------------------------------------------------------------


def test_idle_time_is_charged_to_its_reason(desk):
    d = idle(desk, sandboxes=2)
    d(ev.Tick())
    d(ev.Tick(), after=1.5)
    [record] = [one for one in d.supervisor.statistics().refusals if one.kind is Kind.IDLE and one.code == "ENOWORK"]
    assert record.seconds == 3.0


def test_signs_of_life_are_no_requests_for_work(desk):
    d = desk(sandboxes=1, beacon_s=60.0)
    d.start({"job": [1]})
    d(nothing())
    before = [one.count for one in d.supervisor.statistics().refusals if one.code == "ENOWORK"]
    d.supervisor.statistics()
    d(ev.DrainRequested())
    d(ev.Tick(), after=61.0)
    d(nothing())
    assert [one.count for one in d.supervisor.statistics().refusals if one.code == "ENOWORK"] == before


def test_records_are_bounded_in_number_and_length():
    refusals = Refusals(most=3)
    for n in range(5):
        refusals.note(Kind.SLICE, "E", float(n), job=f"job{n}", detail="x" * 1000)
    refusals.note(Kind.SLICE, "E", 9.0, job="job2")  # heard of again: younger than the others
    refusals.note(Kind.SLICE, "E", 10.0, job="job6")
    records = refusals.records()
    assert [one.job for one in records] == ["job4", "job2", "job6"]
    assert len(records[0].detail) == 400 and (records[1].count, records[1].first_at, records[1].last_at) == (
        2,
        2.0,
        9.0,
    )
    records[0].count = 99
    assert refusals.records()[0].count == 1


def test_slots_tell_what_each_place_does(desk):
    d = desk(sandboxes=3)
    d.start({"job": [7]})
    d(nothing())
    working, *empty = d.supervisor.statistics().slots
    assert (working.state, working.sandbox, working.job, working.job_name) == ("working", 1, "job", "a job")
    assert (working.slice, working.queued, working.since, working.why) == (7, 1, d.now, "")
    assert [(slot.state, slot.why) for slot in empty] == [("empty", "ENOWORK")] * 2


def test_payments_are_summed(desk):
    d = desk(sandboxes=1, queue_s=0.0)
    [sandbox] = d.start({"job": [1, 2, 3]})
    for amount in ("0.001", "rubbish", "1e-3"):
        [(_, key)] = d.submitted()
        d.complete(sandbox, key)
        submitted = d.submitted()
        d(ev.ResultAccepted(key, {"slicePaymentAmount": amount}))
        if submitted:
            d.actions = d.all(act.Submit, ever=True)[-1:]
    books = d.supervisor.statistics()
    assert books.earned == books.jobs["job"].earned == 2 * 10**15 and books.jobs["job"].completed == 3


def test_every_flag_that_is_named_exists():
    known = {flag for parameter in run.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    named = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", pathlib.Path(explain.__globals__["__file__"]).read_text()))
    assert named - {"--rm"} <= known and "--memory" in named


def test_a_scheduler_with_another_key_is_named_with_both_addresses_and_the_flag(desk):
    change = KeyChange(URL, "0x" + "1" * 40, "0x" + "2" * 40)
    d = idle(desk)
    d(ev.TaskFailed("EADDRCHANGE", "the service was … before"))
    finding, *others = findings(d, key_change=change, trouble="whatever")
    assert finding.code == "ESCHEDULERKEY" and finding.blocking
    assert change.before in finding.what and change.now in finding.what
    assert finding.remedy.endswith(f"--accept-scheduler-key {change.now}")
    assert "ENOSCHEDULER" not in [one.code for one in others]


def test_an_accepted_key_that_is_no_address_is_named():
    assert accepted_keys(["0x" + "a" * 40]) == {"0x" + "aAaAaAaaAaAaAaaAaAAAAAAAAaaaAaAaAaaAaaAa"}
    with pytest.raises(InvalidInput, match="accept_scheduler_key is '0x12'"):
        accepted_keys(["0x12"])


def test_results_that_the_disk_does_not_take_are_told_after_what_decides(desk):
    d = idle(desk)
    outbox = {"degraded": "/state/outbox.db cannot be used: database or disk is full", "only_in_memory": 3}
    first, *others = findings(d, outbox=outbox, state_dir="/state")
    [finding] = [one for one in others if one.code == "EOUTBOX"]
    assert first.code == "ENOWORK" and not finding.blocking and finding.count == 3
    assert "disk is full" in finding.what and "/state can be written" in finding.remedy
    outbox["degraded"] = "the outbox has its 100 bytes (outbox_bytes)"
    assert "--outbox-bytes" in findings(d, outbox=outbox)[-1].remedy
    assert "EOUTBOX" not in codes(d, outbox={"degraded": "", "only_in_memory": 3})
