"""Unmodified dcp-client packages against our server."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

pytestmark = pytest.mark.npm

EMOJI = "\U0001f600"


@pytest.fixture(params=["5.6.1", "4.4.29"])
def package(request: pytest.FixtureRequest, npm_modules: pathlib.Path) -> pathlib.Path:
    """The current client, and the older one that the official worker brings along."""
    if request.param == "5.6.1":
        return npm_modules / "dcp-client"
    return npm_modules / "dcp-worker" / "node_modules" / "dcp-client"


async def test_values_and_errors(run_scenarios: Any, server: Any, caplog: pytest.LogCaptureFixture) -> None:
    results = await run_scenarios(
        "echo", "surrogates", "numeric_keys", "failure", "bug", "unserialisable", "notification", "keepalive", "close"
    )
    assert results["echo"]["payload"] == {
        "2": "y",
        "10": "x",
        "a": 1,
        "unicode": "é中" + EMOJI + "\u2028\u007f",
        "f": 1e21,
        "z": 0,
        "tiny": 1e-7,
        "n": None,
    }
    assert results["surrogates"]["payload"] == {"lone": "a\ud83d", "other": "\ude00b", "pair": EMOJI}
    assert list(results["numeric_keys"]["payload"]) == ["2", "10", "b", "f", "g", "h", "i"]
    assert results["failure"] == {
        "success": False,
        "message": "no money",
        "code": "ENOFUNDS",
        "info": {"needed": "5"},
    }
    for bug in ("bug", "unserialisable"):
        assert results[bug]["success"] is False
        assert results[bug]["payload"]["code"] == "EINTERNAL"
        assert results[bug]["payload"]["origin"] == server.identity.address
    assert "a bug in the service" in caplog.text
    assert "a bug in the service" not in str(results["bug"])
    assert results["keepalive"] == {"success": True, "payload": {"success": True}}
    assert results["close"] == "closed"
    assert server.connections == []


async def test_authorisation_travels_with_the_request(run_scenarios: Any, server: Any) -> None:
    results = await run_scenarios("authorized")
    assert results["authorized"]["resources"] == [results["authorized"]["account"]]
    assert results["authorized"]["known"] == server.identity.address


async def test_fragments_both_ways(run_scenarios: Any, server: Any) -> None:
    results = await run_scenarios("large", "called_large")
    assert results["large"] is True
    assert results["called_large"]["payload"] is True


async def test_batches_both_ways(run_scenarios: Any, server: Any) -> None:
    results = await run_scenarios("batches", "no_batches", "called", "called_often", "called_refused")
    assert results["batches"] is True
    assert results["no_batches"] is True
    assert results["called"]["payload"] is True
    # 500 requests in three messages: ten times as many in a batch as the reference itself would send.
    assert results["called_often"] == {"answer": True, "served": 500}
    assert results["called_refused"]["payload"] == ["ENOTHANKS", "no thanks"]
    (connection,) = server.connections
    statistics = connection.statistics()
    assert statistics["requests_out"] == 502
    # 5 messages would do; a few more when the first of a crowd finds nothing on deck.
    assert statistics["messages_out"] - statistics["responses_out"] < 20


async def test_validity(run_scenarios: Any) -> None:
    results = await run_scenarios("expired", "reused_stamp")
    assert results["expired"] == {"success": False, "code": "EEXPIRED"}
    assert results["reused_stamp"] == ["accepted", "EDUP"]


async def test_resume_in_every_case(run_scenarios: Any, server: Any, service: Any) -> None:
    results = await run_scenarios(
        "echo",
        "same_session",
        "lost_request",
        "lost_ack",
        "lost_response",
        "lost_call",
        "lost_in_traffic",
        "surrogates",
    )
    assert not server.faults, "every fault was met"
    for name in ("lost_request", "lost_ack", "lost_response"):
        text = name.replace("lost_", "lose-")
        assert results[name] == {"success": True, "payload": text}
        assert service.seen.count(text) == 1
    assert results["lost_call"]["payload"] == {"n": 1}
    assert results["lost_in_traffic"] is True
    (connection,) = server.connections
    assert connection.dcpsid == results["same_session"]
    statistics = connection.statistics()
    assert statistics["transports"] == 6
    assert statistics["retransmissions"] >= 2


async def test_a_forgotten_session_is_closed_and_replaced(run_scenarios: Any, server: Any) -> None:
    results = await run_scenarios("echo", "forgotten", "close")
    assert results["forgotten"]["first"] == {"code": "ECONNRESET"}
    assert results["forgotten"]["after"] == {"success": True, "payload": "new session"}
    assert results["forgotten"]["changed"] is True


async def test_the_server_may_close(run_scenarios: Any, server: Any) -> None:
    results = await run_scenarios("closed_by_server", "close")
    assert results["closed_by_server"] == "closed"
    assert server.connections == []
