"""Settings that hold at once, and those that wait; how a Scheduler ends a worker; jobs that come first."""

from __future__ import annotations

import dataclasses
import re

import pytest

from orchestrator.settings import WorkerSettings
from orchestrator.worker import ordered_end, reconfiguring
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.desk import Policy
from orchestrator.worker.job_filter import JobFilter
from orchestrator.worker.service import Worker
from tests.unit.worker_supervisor.conftest import Desk


def test_every_name_is_a_setting():
    assert set(WorkerSettings.model_fields) >= reconfiguring.AT_ONCE


def test_what_holds_at_once_and_what_does_not():
    old = WorkerSettings(job_ids=("a",), memory_mib=512)
    changes = reconfiguring.compare(old, WorkerSettings(job_ids=("b",), memory_mib=1024, minimum_wage_cpu=1.0))
    assert (changes.at_once, changes.need_restart) == (("job_ids", "minimum_wage_cpu"), ("memory_mib",))
    assert (changes.settings.job_ids, changes.settings.memory_mib) == (("b",), 512)


def test_a_worker_takes_new_settings_or_leaves_all_as_it_was(tmp_path):
    worker = Worker(WorkerSettings(state_dir=tmp_path))
    with pytest.raises(Exception, match="quiet_hours"):
        worker.reconfigure(WorkerSettings(state_dir=tmp_path, quiet_hours=("later",), job_ids=("a",)))
    assert worker.settings.job_ids == ()
    changes = worker.reconfigure(WorkerSettings(state_dir=tmp_path, job_ids=("a",), image="other"))
    assert (changes.at_once, changes.need_restart, worker.settings.job_ids) == (("job_ids",), ("image",), ("a",))


def test_a_disabled_worker_does_not_start_again_by_itself(tmp_path):
    ordered_end.check(tmp_path, enable=False)
    ordered_end.disable(tmp_path, "https://s.example/")
    with pytest.raises(ordered_end.WorkerDisabled, match="--enable"):
        ordered_end.check(tmp_path, enable=False)
    ordered_end.check(tmp_path, enable=True)
    ordered_end.check(tmp_path, enable=False)


def test_another_filter_gives_back_what_is_not_begun():
    d = Desk(Policy(sandboxes=1, queue_s=0.0))
    d.start({"job": [1, 2, 3]})
    d(ev.PolicyChanged(dataclasses.replace(d.supervisor.policy, jobs=JobFilter(blocked_names=(re.compile("job"),)))))
    assert (d.one(act.ReturnSlices).numbers, d.one(act.ReturnSlices).reason) == ((2, 3), "EJOBFILTER")


def test_a_priority_job_gets_sandboxes_before_others():
    d = Desk(Policy(sandboxes=2, queue_s=0.0))
    d.start({"a": [1, 2, 3]})
    d(ev.PriorityChanged("b", True, immediate=True))
    d.task({"b": [1, 2, 3]})
    d(ev.JobFetched("b"))
    for sandbox in (1, 2):
        key = next(key for one in d.all(act.Submit, ever=True) if one.sandbox == sandbox for key, _ in one.slices)
        d.complete(sandbox, key)
    assert {one.job_id for one in d.all(act.OpenSandbox, ever=True)[2:]} == {"b"}
    assert len(d.all(act.OpenSandbox, ever=True)) == 4
