"""The v4 dialect, in the words that a real dcp-worker 3.3.19 was seen to use."""

from __future__ import annotations

import copy
import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import kvin
from orchestrator.jobs import data_uris
from orchestrator.jobs.values import kvin_uri, value_of_uri
from orchestrator.jobs.words import Capability
from orchestrator.scheduler.dialects import v4
from orchestrator.scheduler.dialects.addresses import job_address, job_id
from orchestrator.scheduler.task_request import parse_task_request
from orchestrator.wallet.addresses import checksum

JOB = "eQNfAgt5rYzbgsHU1q4oyG"
ADDRESS = job_address(JOB)

REQUEST: dict[str, Any] = {
    "supervisor": "2.0.0",
    "targetLoad": {"cpu": 1, "gpu": 0, "longSlices": 1},
    "coreStats": {"worker": "smwebDcKBUYnyYNPGDGc8K", "lCores": 2, "pCores": 2, "sandbox": 2},
    "jobQuanta": {"CPU": {"0": 1, ADDRESS: 203.04}, "GPU": {"0": 1}},
    "capabilities": {
        "engine": {"es7": False, "spidermonkey": False},
        "environment": {"webgpu": False, "offscreenCanvas": False, "fdlibm": True},
        "browser": {},
        "discrete": True,
        "useStrict": True,
    },
    "paymentAddress": "0x2222222222222222222222222222222222222222",
    "jobAddresses": [],
    "workerComputeGroups": [{"joinKey": "public", "joinHashHash": "eh1-76"}],
    "minimumWage": {"CPU": 0, "GPU": 0, "in": 0, "out": 0},
    "soteriaJobs": {ADDRESS: [2]},
    "overdueSlices": None,
    "previouslyWorkedJobs": [],
    "rejectedJobs": [ADDRESS],
    "unresolvedJobs": [ADDRESS],
    "fetchState": 5,
    "worktimes": [{"name": "map-basic", "versions": ["1.0.0"]}, {"name": "pyodide", "versions": ["0.26.0", "0.9.1"]}],
}


def answer(**job: Any) -> dict[str, Any]:
    """What the services answer to `requestTask`, with one job of two slices."""
    message = {
        "jobId": JOB,
        "jobCgId": f"{JOB}-group",
        "public": {"name": "play"},
        "codeLocation": "data:,x",
        "argumentsLocation": [{"argIndex": 0, "value": kvin_uri([1, [2]])}],
        "dependencies": [],
        "requirePath": [],
        "worktime": {"name": "map-basic", "version": "^1.0.0"},
        "needCapabilities": int(Capability.KVIN_V9 | Capability.FDLIBM),
        "discrete": True,
        "useStrict": False,
        **job,
    }
    slices = [{"jobId": JOB, "sliceNumber": n, "datumUri": kvin_uri({"n": [n]})} for n in (1, 2)]
    return {
        "owner": "0x",
        "signature": {},
        "auth": {"workerId": "w", "authSlices": {JOB: [1, 2]}},
        "body": {"newJobs": {JOB: message}, "task": {JOB: slices}, "pendingNotifications": False},
    }


ids = st.text(string.ascii_letters + string.digits, min_size=22, max_size=22)


@given(ids)
def test_an_address_says_which_job_it_is(name: str) -> None:
    address = job_address(name)
    assert checksum(address) == address
    assert [job_id(spelt) for spelt in (address, address.lower(), address[2:].upper(), name)] == [name] * 4


@given(ids, ids)
def test_no_two_jobs_share_an_address(one: str, other: str) -> None:
    assert (job_address(one) == job_address(other)) == (one == other)


def test_the_first_letters_of_an_address_tell_jobs_apart() -> None:
    assert job_address("A" * 22)[:8] != job_address("B" * 22)[:8]


@pytest.mark.parametrize(
    "name", ["", "0x", "0x" + "1" * 40, "0x" + "g" * 40, "x" * 40, "0x" + "f" * 34 + "dc900b", "1" * 41]
)
def test_what_is_no_address_of_a_job_is_left_as_it_is(name: str) -> None:
    assert job_id(name) == name


def test_a_request_for_work_reads_as_if_it_were_v5() -> None:
    said = parse_task_request(v4.read("requestTask", REQUEST))
    assert said.profile.worker == "smwebDcKBUYnyYNPGDGc8K"
    assert said.profile.capabilities == Capability.FDLIBM | Capability.KVIN_V9
    assert said.profile.worktimes == (("map-basic", "1.0.0"), ("pyodide", "0.26.0"), ("pyodide", "0.9.1"))
    assert said.profile.rejected == said.profile.unresolved == {JOB}
    assert said.profile.job_ids == frozenset()
    assert dict(said.held) == {JOB: [2]}
    assert said.holds_nothing
    assert v4.read("requestTask", REQUEST)["jobQuanta"] == {"CPU": {"0": 1, JOB: 203.04}, "GPU": {"0": 1}}


def test_only_a_start_says_that_the_worker_holds_nothing() -> None:
    assert not parse_task_request(v4.read("requestTask", REQUEST | {"fetchState": 3})).holds_nothing


oddities = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=50)
@given(st.sampled_from(sorted(REQUEST)), oddities)
def test_odd_requests_are_left_to_the_services(field: str, oddity: Any) -> None:
    for operation in ("requestTask", "result", "status", "workEmit", "subscribe", "other"):
        assert v4.read(operation, oddity) is oddity or isinstance(oddity, dict)
        v4.read(operation, REQUEST | {field: oddity})
        v4.read(operation, {"job": oddity, "slices": oddity, "options": oddity})
    v4.write("requestTask", {"jobAddresses": oddity, "worktimes": oddity}, answer())


def test_reports_name_jobs_by_id() -> None:
    assert v4.read("result", {"job": ADDRESS, "slice": 1}) == {"job": JOB, "slice": 1}
    assert v4.read("workEmit", {"job": ADDRESS.lower()})["job"] == JOB
    status = {"worker": "w", "slices": [{"job": ADDRESS, "sliceNumbers": [1]}]}
    assert v4.read("status", status) == {"worker": "w", "slices": [{"job": JOB, "sliceNumbers": [1]}]}
    wanted = {"label": "job::optionalEvent", "options": {"filter": {"job": ADDRESS, "eventName": "stop"}}}
    assert v4.read("subscribe", wanted)["options"]["filter"]["job"] == JOB


def test_a_task_is_told_in_addresses_requirements_and_kvin_8() -> None:
    services = answer()
    before = copy.deepcopy(services)
    said = v4.write("requestTask", REQUEST, services)
    assert services == before, "what the services keep was changed"
    job = said["body"]["newJobs"][ADDRESS]
    assert (job["address"], job["opaqueId"]) == (ADDRESS, JOB)
    assert job["requirements"] == {
        "environment": {"offscreenCanvas": False, "fdlibm": True, "webgpu": False},
        "engine": {"es7": False, "spidermonkey": False},
        "discrete": True,
        "useStrict": False,
    }
    assert job["worktime"] == {"name": "map-basic", "version": "1.0.0"}
    assert "jobId" not in job
    assert "jobCgId" not in job
    assert "%22v8%22" in job["argumentsLocation"][0]["value"]
    assert value_of_uri(job["argumentsLocation"][0]["value"]) == [1, [2]]
    first, second = said["body"]["task"][ADDRESS]
    assert (first["jobAddress"], first["sliceNumber"], second["sliceNumber"]) == (ADDRESS, 1, 2)
    assert "%22v8%22" in first["datumUri"]
    assert said["auth"]["authSlices"] == {ADDRESS: [1, 2]}
    assert said["body"]["pendingNotifications"] is False


def test_a_worker_bound_to_a_job_hears_of_it_under_the_name_that_it_gave() -> None:
    for spelt in (ADDRESS.lower(), JOB):
        said = v4.write("requestTask", REQUEST | {"jobAddresses": [spelt]}, answer())
        assert (
            list(said["body"]["newJobs"]) == list(said["body"]["task"]) == list(said["auth"]["authSlices"]) == [spelt]
        )
        assert said["body"]["newJobs"][spelt]["address"] == said["body"]["task"][spelt][0]["jobAddress"] == spelt


def test_the_highest_fitting_worktime_is_named() -> None:
    wanted = {"name": "pyodide", "version": "*"}
    said = v4.write("requestTask", REQUEST, answer(worktime=wanted))
    assert said["body"]["newJobs"][ADDRESS]["worktime"] == {"name": "pyodide", "version": "0.26.0"}
    unsaid = v4.write("requestTask", {}, answer(worktime=wanted))
    assert unsaid["body"]["newJobs"][ADDRESS]["worktime"] == wanted


def test_an_answer_without_work_stays_as_it_is() -> None:
    nothing = {"owner": "0x", "auth": {"authSlices": {}}, "body": {"schedulerConfig": {}}}
    assert v4.write("requestTask", REQUEST, nothing) == nothing


def test_commands_name_jobs_by_address() -> None:
    assert v4.command({"jobId": JOB}) == {"jobAddress": ADDRESS}
    assert v4.command({"message": "hello"}) == {"message": "hello"}


def test_values_are_the_same_in_kvin_8() -> None:
    value = {"a": [1, 2.5, None], "text": '"_serializeVerId":"v9"', "bytes": kvin.UNDEFINED}
    for uri in (
        kvin_uri(value),
        data_uris.encode_data_uri(kvin.stringify(value, version=9), data_uris.KVIN),
        # base64, as mostly binary data may be written
        data_uris.encode_data_uri(
            kvin.stringify({"t": "\u00e9" * 100}, version=9).replace("\\u00e9", "\u00e9"), data_uris.KVIN, compact=True
        ),
    ):
        translated = v4.v8_uri(uri)
        _, text = data_uris.decode_data_uri(translated, 10_000)
        assert isinstance(text, str)
        assert json.loads(text)["_serializeVerId"] == "v8"
        assert value_of_uri(translated) == value_of_uri(uri)


@pytest.mark.parametrize(
    "uri",
    ["data:,v9", "data:application/json,1", "http://x/v9", kvin_uri([1], 8), "data:application/x-kvin,%GG"],
)
def test_other_uris_are_left_as_they_are(uri: str) -> None:
    assert v4.v8_uri(uri) == uri
