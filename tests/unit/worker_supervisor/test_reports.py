"""What the worker says on the wire."""

from __future__ import annotations

import pytest

from orchestrator import kvin
from orchestrator.errors import InvalidInput
from orchestrator.jobs import words
from orchestrator.jobs.values import is_emittable_result, result_uri, value_of_uri
from orchestrator.worker import account, reports
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker.sandbox_events import DeathCause, DeathKind
from orchestrator.worker.seats import death_of
from orchestrator.worker.supervisor_events import Death


def test_a_result_is_wrapped_without_being_decoded():
    wrapped = reports.result_v2(kvin.stringify([1, None]), "kvin", "application/x-kvin", True)
    assert value_of_uri(result_uri(wrapped)) == [1, None]
    assert kvin.unmarshal(wrapped)["method"] == "kvin"


def test_jobs_without_kvin_9_get_version_8_in_wrapping_and_text():
    wrapped = reports.result_v2(kvin.stringify([1]), "kvin", "application/x-kvin", False)
    assert wrapped["_serializeVerId"] == "v8"
    assert wrapped["what"]["raw"]["string"] == kvin.stringify([1], version=8)
    untouched = '["_serializeVerId", "v9"]'
    assert reports.text_for_job(untouched, False) == untouched
    assert reports.value_for_job({"_serializeVerId": "v9", "what": {"raw": 1}}, False)["_serializeVerId"] == "v8"


@pytest.mark.parametrize("message", ["no", "\ud800 half a pair", '"quoted" \\ \n'])
def test_what_was_thrown_is_an_error_that_clients_survive(message):
    wrapped = reports.thrown_result({"name": "TypeError", "message": message, "stack": "at x"}, True)
    uri = result_uri(wrapped)
    assert is_emittable_result(uri)
    error = value_of_uri(uri)
    assert isinstance(error, kvin.JsError) and error.message == message
    assert error.properties["errorCode"] == "EUNCAUGHT" and error.properties["stack"] == "at x"


def test_metrics_are_what_was_measured(made):
    measured = reports.metrics(made.metrics(wall_s=0.5, cpu_s=0.25))
    assert (measured["CPUTime"], measured["CPUDensity"], measured["InDataSize"]) == (250.0, 0.5, 10)


def test_events_carry_what_the_sandbox_said_and_errors_their_time():
    emit = act.Emit(1, "j", 2, {"a": 1}, "error", {"message": "no", "info": None}, True)
    sent = reports.work_emit(emit, "w", 1234)
    assert sent["payload"] == {"message": "no", "timestamp": 1234}
    assert (sent["eventName"], sent["job"], sent["slice"], sent["authorizationMessage"]) == ("error", "j", 2, {"a": 1})


def request(**changes):
    fields = {
        "space": 2.0, "first": False, "beacon_only": False, "quanta_ms": {"j": 1.5}, "held": None, "overdue": None,
        "unresolved_jobs": (), "rejected_jobs": ("r",), "previous_jobs": (),
    }  # fmt: skip
    return reports.task_request(
        act.RequestTask(**{**fields, **changes}),
        worker_id="w", payment_address="0x0", cores=2, capabilities=81, worktimes=[], job_ids=[], minimum_wage={},
        groups=[], sequence=3, return_all="signed" if changes.get("first") else None,
    )  # fmt: skip


def test_requests_say_what_they_are():
    assert request()["fetchState"] == 1 and "returnAllSlices" not in request()
    first = request(first=True)
    assert (first["fetchState"], first["returnAllSlices"]) == (5, "signed")
    assert request(held={"j": [1]})["fetchState"] == 3
    assert "deferredJobs" not in request()
    assert request(deferred_jobs=("d",))["deferredJobs"] == ["d"]
    assert request()["jobQuanta"] == {"CPU": {"j": 1.5, "0": 1}, "GPU": {"0": 1}}
    beacon = request(beacon_only=True, held={"j": [1]}, space=0.0)
    assert beacon == {
        "coreStats": {"worker": "w"},
        "paymentAddress": "0x0",
        "soteriaJobs": {"j": [1]},
        "overdueSlices": None,
        "fetchState": 2,
    }


def test_group_proofs_are_bound_to_the_session():
    hashed = words.join_hash("scott", "tiger")
    scott, public = reports.compute_groups([("scott", hashed)], True, "session")
    assert scott == {"joinKey": "scott", "joinHashHash": words.join_hash_hash("session", hashed)}
    assert public["joinKey"] == "public"
    assert reports.compute_groups([], False, "session") == []


def test_capabilities_and_worktimes_come_from_the_sandbox():
    assert reports.capabilities_of({"environment": {"fdlibm": True, "webgpu": False}}) == 1 | 16 | 64
    assert reports.capabilities_of({"environment": "?"}) == 65
    listed = [{"name": "map-basic", "version": "1.0.0"}, {"name": "py", "versions": ["1", "2"]}, {"name": 3}, "x"]
    assert [one["version"] for one in reports.worktimes_of(listed)] == ["1.0.0", "1", "2"]


@pytest.mark.parametrize(
    ("cause", "death"),
    [
        (DeathCause(DeathKind.OOM, ""), Death.OUT_OF_MEMORY),
        (DeathCause(DeathKind.OOM, "its JavaScript heap reached the limit", exit_code=134), Death.OUT_OF_MEMORY),
        (DeathCause(DeathKind.EXIT, ""), Death.EXIT),
        (DeathCause(DeathKind.DEADLINE, "", code="ENOPROGRESS"), Death.NO_PROGRESS),
        (DeathCause(DeathKind.DEADLINE, "", code="ESLICETOOSLOW"), Death.TOO_SLOW),
        (DeathCause(DeathKind.DAEMON_LOST, ""), Death.RUNTIME_LOST),
    ],
)
def test_causes_of_death(cause, death):
    assert death_of(cause) is death


def test_an_account_is_made_once_and_kept(tmp_path):
    made = account.load_account(tmp_path / "state")
    again = account.load_account(tmp_path / "state", payment_address="0x" + "22" * 20)
    assert made.identity.address == again.identity.address == made.payment_address
    assert made.worker_id == again.worker_id and len(made.worker_id) == 22
    assert again.payment_address == "0x" + "22" * 20
    (tmp_path / "state" / "worker-id").write_text("short")
    with pytest.raises(InvalidInput, match="worker-id"):
        account.load_account(tmp_path / "state")
    with pytest.raises(InvalidInput):
        account.load_account(tmp_path / "other", payment_address="nobody")
