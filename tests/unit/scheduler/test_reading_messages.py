"""What clients and workers send is checked field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator import kvin
from orchestrator.errors import InvalidInput
from orchestrator.jobs.words import Isolation
from orchestrator.scheduler.config import config_text
from orchestrator.scheduler.lifecycle import Ending
from orchestrator.scheduler.result_reports import parse_result, parse_status
from orchestrator.scheduler.submission import parse_submission
from orchestrator.scheduler.task_request import parse_task_request
from orchestrator.settings import SchedulerSettings

AUTH = {"owner": "x", "auth": {"lease": {"id": 7, "token": "secret"}}}
JOB = "abcdefghijklmnopqrstuv"
SUBMIT = {
    "job": JOB,
    "paymentAccount": "0x" + "1" * 40,
    "workFunctionURI": "data:,x=>x",
    "mvMultSlicePayment": 1,
    "requirements": 64,
}


def submission(**fields: Any) -> Any:
    return parse_submission({**SUBMIT, **fields}, default_estimation_slices=3)


def test_range_jobs_are_complete_at_submit_unless_open() -> None:
    span = {"start": 1, "end": 10, "step": 1}
    one = submission(dataRange=span)
    assert (one.total, one.closed, one.estimation_slices) == (10, True, 3)
    assert not submission(dataRange=span, isOpen=True).closed
    assert submission(dataPattern="http://a/{slice}", sliceCount=4).total == 4


def test_listed_jobs_wait_for_their_slices() -> None:
    one = submission()
    assert (one.total, one.closed, one.input_set) == (0, False, None)


def test_local_jobs_bring_their_inputs() -> None:
    one = submission(localExec=True, marshaledDataValues={"0": "file:///a", "length": 1})
    assert (one.total, one.closed, one.estimation_slices) == (1, True, 0)
    assert submission(localExec=True, dataRange={"0": "file:///r", "length": 1}, rangeLength=9).total == 9


def test_estimation_slices_may_be_infinite() -> None:
    assert submission(estimationSlices=None).estimation_slices is None
    assert submission(estimationSlices=0).estimation_slices == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"job": "short"},
        {"job": None},
        {"paymentAccount": "0x12"},
        {"paymentAccount": 5},
        {"workFunctionURI": 3},
        {"workFunctionURI": "no uri"},
        {"dataRange": {"start": "a"}},
        {"dataPattern": "http://a/{slice}", "sliceCount": -1},
        {"requirements": "v8"},
        {"dependencies": "x"},
        {"estimationSlices": -1},
        {"worktime": "map-basic"},
        {"marshaledArguments": {"what": 1}},
        {"mvMultSlicePayment": "much"},
        {"isolation": "steel"},
        {"isolation": 3},
    ],
)
def test_bad_submissions_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        submission(**fields)


def result(value: Any = None, **fields: Any) -> Any:
    text = kvin.stringify(value)
    wrapped = kvin.marshal({"string": text, "method": "kvin", "MIMEType": "application/x-kvin"})
    return {"job": JOB, "slice": 1, "worker": "w", "authorizationMessage": AUTH, "resultV2": wrapped, **fields}


def test_an_ordinary_result() -> None:
    one = parse_result(result([1, 2]))
    assert (one.ending, one.number, one.claim.lease, one.claim.token) == (Ending.COMPLETED, 1, 7, "secret")
    assert one.uri.startswith("data:application/x-kvin,")


def test_what_a_work_function_threw_is_a_failure() -> None:
    one = parse_result(result(kvin.JsError("boom", {"errorCode": "EUNCAUGHT"})))
    assert (one.ending, one.reason) == (Ending.FAILED, "EUNCAUGHT: Error: boom")


def test_an_error_as_a_value_or_the_word_alone_is_a_result() -> None:
    assert parse_result(result(kvin.JsError("returned"))).ending is Ending.COMPLETED
    assert parse_result(result("EUNCAUGHT")).ending is Ending.COMPLETED


def test_results_by_location() -> None:
    assert parse_result(result(resultV2=None, result="https://dcp/dev/null")).ending is Ending.COMPLETED
    assert parse_result(result(resultV2=None, result="data:application/json,{")).ending is Ending.FAILED
    assert parse_result(result(resultV2=None, result=17)).ending is Ending.FAILED
    assert parse_result(result(resultV2={"string": 1})).ending is Ending.FAILED


@pytest.mark.parametrize(
    "fields",
    [{"slice": 0}, {"slice": True}, {"slice": "1"}, {"job": 1}, {"worker": None}, {"authorizationMessage": {}}],
)
def test_results_must_say_what_they_are_about(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        parse_result(result(**fields))


def test_status_messages() -> None:
    entry = {"sliceNumbers": [1, 2], "job": JOB, "authorizationMessage": AUTH}
    worker, (begin, back, rejected) = parse_status(
        {
            "worker": "w",
            "slices": [
                {**entry, "status": "begin"},
                {**entry, "status": "return", "reason": "ENOPROGRESS"},
                {**entry, "status": "return", "reason": {"message": "no", "retries": 0, "errorCode": "EWORKREJECT"}},
            ],
        }
    )
    assert (worker, begin.begins, back.begins) == ("w", True, False)
    assert (back.ending, rejected.ending, rejected.reason) == (Ending.FAILED, Ending.FAILED, "EWORKREJECT: no")
    with pytest.raises(InvalidInput):
        parse_status({"worker": "w", "slices": [{**entry, "status": "dance"}]})
    with pytest.raises(InvalidInput):
        parse_status({"worker": "w"})


def test_task_requests() -> None:
    wanted = parse_task_request(
        {
            "targetLoad": {"cpu": 1.5},
            "coreStats": {"worker": "w"},
            "workerComputeGroups": [{"joinKey": "public"}, {"joinKey": "scott"}, "nonsense"],
            "capabilities": 80,
            "jobIds": [JOB, 5],
            "fetchState": 1,
        }
    )
    assert (wanted.load, wanted.profile.worker, wanted.profile.job_ids) == (1.5, "w", frozenset({JOB}))
    assert len(wanted.profile.groups) == 1
    assert wanted.wants_slices
    assert (wanted.long_slices, wanted.gpu_load, wanted.profile.isolation) == (None, 0, None)
    assert not parse_task_request({"coreStats": {"worker": "w"}, "fetchState": 2}).wants_slices
    assert parse_task_request({"fetchState": 16, "returnAllSlices": "{}"}).returns_all
    with pytest.raises(InvalidInput):
        parse_task_request({"fetchState": 1})


def test_what_a_worker_says_of_itself() -> None:
    wanted = parse_task_request(
        {
            "targetLoad": {"cpu": 4, "gpu": 1, "longSlices": 3},
            "coreStats": {"worker": "w"},
            "isolation": {"level": "gvisor", "runtime": "runsc"},
            "minimumWage": {"CPU": 0.25},
            "jobQuanta": {"CPU": {JOB: 12.5, "0": 2}},
            "overdueSlices": {JOB: [4]},
        }
    )
    profile = wanted.profile
    assert (wanted.load, wanted.gpu_load, wanted.long_slices) == (4, 1, 3)
    assert (profile.isolation, profile.minimum_wage.cpu_hour) == (Isolation.GVISOR, 0.25)
    assert (profile.speed.local_ms, profile.speed.told) == ({JOB: 12.5}, 2)
    assert wanted.overdue == {JOB: [4]}
    odd = parse_task_request(
        {"coreStats": {"worker": "w"}, "isolation": {"level": "steel"}, "targetLoad": {"longSlices": "x"}}
    )
    assert (odd.profile.isolation, odd.long_slices, odd.load) == (None, 0, 1)


@pytest.mark.parametrize(
    ("unresolved", "deferred", "resolving"),
    [([], [], False), (["a"], [], True), (["a"], ["a"], False), (["a", "b"], ["a"], True), (["a"], "a", True)],
)
def test_jobs_that_a_worker_does_not_want_for_long_are_not_being_fetched(
    unresolved: list[str], deferred: Any, resolving: bool
) -> None:
    request = {"coreStats": {"worker": "w"}, "unresolvedJobs": unresolved, "deferredJobs": deferred}
    assert parse_task_request(request).resolving is resolving


@pytest.mark.parametrize("version", [8, 9])
def test_the_configuration_can_be_read_back(version: Any) -> None:
    text = config_text("http://127.0.0.1:9001/", SchedulerSettings(), version)
    assert json.loads(text)["_serializeVerId"] == f"v{version}"
    config = kvin.parse(text)
    assert config["scheduler"]["services"]["jobSubmit"]["location"] == kvin.DcpUrl("http://127.0.0.1:9001/jobSubmit/")
    assert config["job"]["deployAttempts"] >= 10
