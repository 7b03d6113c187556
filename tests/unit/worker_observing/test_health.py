"""Ready is a worker that the Scheduler answered not long ago, that has sandboxes and that takes work."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.worker import health
from orchestrator.worker.desk import Policy
from orchestrator.worker.supervisor import Supervisor
from orchestrator.worker.trusting import KeyChange


def judged(state="working", heard_at=95.0, docker="", connected=True, now=100.0, most_s=30.0, **given):
    books = dataclasses.replace(Supervisor(Policy()).statistics(), heard_at=heard_at)
    return health.readiness(
        books, state, connected=connected, docker=docker, now=now, most_s=most_s, began=40.0, **given
    )  # fmt: skip


def test_ready():
    verdict = judged()
    assert (verdict.ok, verdict.reason) == (True, "")
    assert verdict.detail["checks"]["scheduler"] == {"ok": True, "reason": "", "last_answer_s": 5.0, "limit_s": 30.0}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"heard_at": 60.0}, "the Scheduler last answered 40 s ago; more than 30 s is too long"),
        ({"heard_at": None}, "the Scheduler has not answered a request for work yet (60 s since the start)"),
        ({"heard_at": None, "connected": False, "state": "working"}, "the Scheduler cannot be reached"),
        ({"key_change": KeyChange("http://s/", "0x01", "0x02")}, "http://s/ was 0x01, now it is 0x02"),
        ({"key_change": KeyChange("http://s/", "0x01", "0x02")}, "--accept-scheduler-key 0x02"),
        ({"docker": "no such socket"}, "no such socket"),
        ({"state": "draining"}, "it drains"),
        ({"state": "stopping"}, "it stops"),
        ({"state": "paused"}, "paused"),
        ({"state": "starting"}, "no sandbox has started yet"),
        ({"state": "connecting"}, "not reached yet"),
    ],
)
def test_not_ready(given, reason):
    verdict = judged(**given)
    assert not verdict.ok and reason in verdict.reason


def test_alive():
    assert health.liveness(None, 5.0).ok
    assert health.liveness(99.0, 100.0).ok
    verdict = health.liveness(10.0, 100.0)
    assert not verdict.ok and "90 s" in verdict.reason


def test_a_disk_that_takes_no_results_is_told_and_decides_nothing():
    verdict = judged(outbox="disk is full")
    assert verdict.ok and verdict.detail["outbox"] == {"ok": False, "reason": "disk is full"}
    assert judged(outbox="").detail["outbox"] == {"ok": True, "reason": ""}
    assert "outbox" not in judged().detail
