"""Jobs that pay too little, or that the owner does not want: their slices go back, and the Scheduler sends no more."""

from __future__ import annotations

import re

from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker import task
from orchestrator.worker.job_filter import JobFilter
from orchestrator.worker.wages import Rules, Wage

DCC = 10**18
RULES = Rules(Wage(cpu=3600 * DCC), slices=2, retry_s=600.0)  # one DCC per CPU second


def nothing() -> ev.TaskReceived:
    return ev.TaskReceived(task.parse({"body": {}}))


def test_a_price_below_the_wage_is_refused_before_anything_is_fetched(desk):
    d = desk(sandboxes=1, wages=RULES)
    measured = {"measuredSlices": 3, "sliceCPUTime": 500, "sliceCPUDensity": 1}
    d.task({"job": [1, 2]}, slicePaymentAmount="0.4", metrics=measured)
    assert (d.one(act.ReturnSlices).numbers, d.one(act.ReturnSlices).reason) == ((1, 2), "EWAGE")
    assert not d.all(act.FetchJob)
    d(ev.Tick(), after=5.0)
    assert d.one(act.RequestTask).unresolved_jobs == ("job",) and not d.one(act.RequestTask).rejected_jobs
    assert d.one(act.RequestTask).deferred_jobs == ("job",)  # the Scheduler need not hurry to answer
    d(nothing())
    d(ev.Tick(), after=580.0)
    assert d.one(act.RequestTask).unresolved_jobs == ("job",) and not d.one(act.RequestTask).deferred_jobs
    records = [one for one in d.supervisor.statistics().refusals if one.code == "EWAGE"]
    assert "a slice brings 0.4 DCC where the minimum wage is 0.5 DCC" in records[0].detail


def test_a_good_price_is_taken(desk):
    d = desk(sandboxes=1, wages=RULES)
    d.start({"job": [1]}, slicePaymentAmount="0.6", metrics={"measuredSlices": 3, "sliceCPUTime": 500})
    assert d.all(act.Submit)


def test_a_job_is_found_out_by_what_it_pays(desk):
    d = desk(sandboxes=1, queue_s=0.0, wages=RULES)
    [sandbox] = d.start({"job": [1, 2, 3, 4]})
    d(nothing())
    key = d.all(act.Submit, ever=True)[0].slices[0][0]
    for number in (1, 2):
        d.complete(sandbox, key)  # 0.01 CPU seconds each
        done, key = d.all(act.SendResult)[0].key, d.submitted()[0][1]
        d(ev.ResultAccepted(done, {"slicePaymentAmount": "0.001"}))
        assert bool(d.all(act.ReturnSlices)) is (number == 2)
    assert (d.one(act.ReturnSlices).numbers, d.one(act.ReturnSlices).reason) == ((4,), "EWAGE")
    d.complete(sandbox, key)  # what was begun is finished
    d.one(act.SendResult)


def test_it_gets_a_new_chance(desk):
    d = desk(sandboxes=1, wages=RULES)
    d.task({"job": [1]}, slicePaymentAmount="0")
    assert d.one(act.ReturnSlices).reason == "EWAGE"
    d(ev.Tick(), after=601.0)
    assert d.one(act.RequestTask).unresolved_jobs == ()
    d.task({"job": [1]}, slicePaymentAmount="1")
    d.one(act.FetchJob)


def test_a_job_that_is_kept_out(desk):
    d = desk(sandboxes=1, jobs=JobFilter(blocked_names=(re.compile("a job"),)))
    d.task({"job": [1]})
    assert d.one(act.ReturnSlices).reason == "EJOBFILTER"
    d(ev.Tick(), after=5.0)
    assert d.one(act.RequestTask).unresolved_jobs == ("job",)
