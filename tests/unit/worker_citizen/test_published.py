"""What a Scheduler publishes: times, unless the owner set his own; when a slice is overdue; no junk hurts."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.settings import WorkerSettings, settings_from
from orchestrator.worker import published, task
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.desk import Policy
from orchestrator.worker.hands import Hands
from orchestrator.worker.limits import SliceLimits, StartLimits
from orchestrator.worker.published import Lifetimes
from orchestrator.worker.quanta import Quanta
from tests.unit.worker_supervisor.conftest import Desk, answer

JUNK = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.just(10**400) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
OWN = settings_from(WorkerSettings, {})


def config(sandbox: object = None, tuning: object = None) -> dict[str, object]:
    return {"supervisor": {"sandbox": sandbox, "tuning": tuning}}


# -- times -----------------------------------------------------------------------------------------------------------


def test_a_scheduler_that_publishes_nothing_leaves_the_defaults():
    for nothing in ({}, {"supervisor": 1}, config(), config([], "x")):
        rules = published.rules(OWN, nothing)
        assert (rules.start, rules.slices) == (StartLimits(), SliceLimits())
        assert (rules.artifacts_s, rules.prefetch_s, rules.idle_poll_s, rules.send_begin) == (2700.0, 5.0, 1.0, True)
        assert published.for_sandboxes(nothing) == {}


def test_what_the_scheduler_publishes_holds():
    sandbox = {"generalTimeoutMs": 4000, "sliceTimeoutMs": 7000, "progressTimeoutMs": 1500}
    tuning = {
        "reservedSliceLifetimeMs": 420_000, "artifactResolutionTimeoutMs": 60_000, "prefetchInterval": 20,
        "watchdogInterval": 7, "sendStatusBeginMessage": False,
    }  # fmt: skip
    rules = published.rules(OWN, config(sandbox, tuning))
    assert rules.start == StartLimits(describe_s=12.0, assign_s=420.0)
    assert rules.slices == SliceLimits(7.0, 1.5)
    assert (rules.artifacts_s, rules.prefetch_s, rules.idle_poll_s, rules.send_begin) == (60.0, 20.0, 7.0, False)
    assert published.for_sandboxes(config(sandbox)) == sandbox


def test_what_the_owner_set_holds_whatever_is_published():
    names = ("start_timeout_s", "assign_timeout_s", "slice_timeout_s", "progress_timeout_s", "prefetch_s")
    own = settings_from(WorkerSettings, {**dict.fromkeys(names, 3.5), "idle_poll_s": 0.05, "send_begin": False})
    rules = published.rules(
        own,
        config(
            dict.fromkeys(("generalTimeoutMs", "sliceTimeoutMs", "progressTimeoutMs"), 99_000),
            {"reservedSliceLifetimeMs": 99_000, "prefetchInterval": 99, "watchdogInterval": 9},
        ),
    )
    assert (rules.start, rules.slices) == (StartLimits(3.5, 3.5), SliceLimits(3.5, 3.5))
    assert (rules.prefetch_s, rules.idle_poll_s, rules.send_begin) == (3.5, 0.05, False)


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [(-1, 86_400.0), (0, 86_400.0), ("soon", 86_400.0), (True, 86_400.0), (math.nan, 86_400.0), (10**400, 86_400.0),
     (1, 0.1), (1e300, 30 * 86_400.0)],
)  # fmt: skip
def test_times_without_sense_were_not_said_and_others_are_taken_into_bounds(milliseconds, seconds):
    assert published.rules(OWN, config({"sliceTimeoutMs": milliseconds})).slices.slice_timeout_s == seconds


@given(st.dictionaries(st.sampled_from(["sandbox", "tuning"]), JUNK), JUNK, JUNK)
def test_no_configuration_hurts(supervisor, sandbox_time, tuning_time):
    times = dict.fromkeys(("generalTimeoutMs", "sliceTimeoutMs", "progressTimeoutMs"), sandbox_time)
    tuning = dict.fromkeys(("watchdogInterval", "prefetchInterval", "reservedSliceLifetimeMs"), tuning_time)
    for found in ({"supervisor": supervisor}, config(times, tuning)):
        rules = published.rules(OWN, found)
        assert 3.0 <= rules.start.describe_s <= 600.0 and 1.0 <= rules.start.assign_s <= 600.0
        assert 0.1 <= rules.slices.slice_timeout_s <= 30 * 86_400.0
        assert 0.2 <= rules.prefetch_s <= 300.0 and 0.1 <= rules.idle_poll_s <= 60.0


# -- overdue slices --------------------------------------------------------------------------------------------------


def shared(**changes: object) -> dict[str, object]:
    return {"targetTaskDuration": 1, "shared": {"useLifetimeAnalysis": True, "frequencyMs": 60_000, **changes}}


def test_thresholds():
    usual = Lifetimes()
    assert usual.threshold_s(0.0, 0.0) == 180.0  # the target
    assert usual.threshold_s(100.0, 20.0) == pytest.approx(120 + 1.5 * (100 + 2 * 20))
    assert usual.threshold_s(100.0, 1.0) == pytest.approx(120 + 1.5 * (100 + 2 * 12.5))
    assert usual.threshold_s(100.0, 20.0, cotasks=2) == pytest.approx(3 * 330.0)
    told = published.lifetimes(shared(lifetimeFactor=2, slice={"multiplier": 3, "sigmas": 4, "biasMs": 5000}))
    assert told is not None
    assert told.threshold_s(10.0, 2.0) == pytest.approx(2 * (5 + 3 * (10 + 4 * 2)))


def test_what_answers_say():
    assert published.lifetimes(None) is published.lifetimes({"shared": 3}) is None
    told = published.lifetimes(shared(debuggingFactor=0.5, useLifetimeAnalysis=0))
    assert told == Lifetimes(reported=False, bias_s=60.0, target_s=0.5, beacon_s=30.0)
    assert task.parse({"body": {"schedulerConfig": shared()}}).lifetimes == Lifetimes(target_s=1.0, beacon_s=60.0)


@given(JUNK, st.dictionaries(st.sampled_from(["useLifetimeAnalysis", "lifetimeFactor", "frequencyMs", "slice"]), JUNK),
       st.dictionaries(st.sampled_from(["multiplier", "sigmas", "biasMs"]), JUNK))  # fmt: skip
def test_no_answer_hurts(anything, rules, of_slices):
    published.lifetimes(anything)
    for found in ({"targetTaskDuration": anything, "shared": rules}, {"shared": {**rules, "slice": of_slices}}):
        told = published.lifetimes(found)
        assert told is not None and 0 < told.threshold_s(1.0, 1.0) < math.inf
        assert told.beacon_s is None or 1.0 <= told.beacon_s <= 3600.0
        task.parse({"body": {"schedulerConfig": found, "retryAfter": anything}})


def test_quanta_know_how_much_slices_differ():
    quanta = Quanta()
    quanta.add(3.0, 3.0)
    assert quanta.deviation_s() == 0.0
    quanta.add(5.0, 3.0)
    assert quanta.deviation_s() == pytest.approx(statistics.pstdev([3.0, 5.0]))
    chance = random.Random(1)
    for _ in range(2000):
        quanta.add(chance.gauss(10.0, 2.0), 1.0)
    assert quanta.deviation_s() == pytest.approx(2.0, rel=0.5)


def beacon_after(desk: Desk, seconds: float) -> dict[str, list[int]] | None:
    desk(ev.Tick(), after=seconds)
    return desk.one(act.RequestTask).overdue


def working(estimation: bool = False, **said: object) -> Desk:
    """A slice runs, nothing of its job is measured yet, and the request that was under way is answered."""
    desk = Desk(Policy(sandboxes=1))
    given_out = answer({"job": [1]})
    given_out["body"]["task"]["job"][0] |= {"isEstimationSlice": estimation, "cotaskCount": said.pop("cotasks", 0)}
    given_out["body"]["schedulerConfig"] = shared(**said)
    desk(ev.TaskReceived(task.parse(given_out)))
    desk(ev.JobFetched("job"))
    desk(ev.SandboxOpened(desk.one(act.OpenSandbox).sandbox))
    desk(ev.TaskReceived(task.parse({"body": {"retryAfter": 10_000}})))
    return desk


def test_a_running_slice_is_reported_when_it_is_overdue():
    desk = working()
    assert beacon_after(desk, 119.0) is None
    desk(ev.TaskReceived(task.parse({"body": {"retryAfter": 10_000}})))
    assert beacon_after(desk, 61.0) == {"job": [1]}


def test_it_is_not_when_the_scheduler_does_not_want_it_or_the_slice_is_to_measure_the_job():
    assert beacon_after(working(useLifetimeAnalysis=False), 500.0) is None
    assert beacon_after(working(estimation=True), 500.0) is None
    assert beacon_after(working(cotasks=3), 470.0) is None
    assert beacon_after(working(cotasks=3), 490.0) == {"job": [1]}


async def test_a_job_whose_code_does_not_come_in_time_goes_back(monkeypatch):
    async def never(*_args: object, **_more: object) -> None:
        await asyncio.Event().wait()

    told: list[ev.Event] = []
    link = types.SimpleNamespace(packages=None, requests=types.SimpleNamespace())
    hands = Hands(None, link, None, None, None, sandbox_config={}, artifacts_s=0.0, tell=told.append, trace=never)
    monkeypatch.setattr("orchestrator.worker.artifacts.gather", never)
    await hands._gather(task.parse_job("job", {"codeLocation": "data:,f"}))
    [failed] = told
    assert (failed.code, failed.final, failed.retry_after_s) == ("EJOBFETCH", False, 60.0)
