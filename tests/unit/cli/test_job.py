from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli import connection
from orchestrator.cli.main import cli
from orchestrator.wallet.keys import PrivateKey

JOB = "j" * 22
ANSWER = {
    "job": JOB, "status": "estimation",
    "findings": [{"code": "EWAGE", "what": "4 slices wait\x1b[31m", "remedy": "offer more", "count": 1}],
    "slices": {"total": 4, "waiting": 4, "leased": 0, "computed": 0, "failed": 0},
    "workers": {"present": 1, "able": 0, "refused": {"EWAGE": 1}, "refusedLately": {}},
    "leases": [], "computeGroups": ["public"],
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would have been sent; every question gets the same answer."""
    requests: list[tuple[Any, ...]] = []

    def ask(url: str, key: PrivateKey, service: str, operation: str, data: Any) -> Any:
        requests.append((url, service, operation, data))
        return {"explainJob": ANSWER, "listJobs": []}.get(operation, {"status": "cancelled", "computed": 2})

    monkeypatch.setattr(connection, "ask", ask)
    monkeypatch.setattr(connection, "unlock", lambda name: PrivateKey.generate())
    return requests


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["job", *arguments], catch_exceptions=False, env={"COLUMNS": "80"})


def test_explain_says_what_decides_and_what_would_change_it(asked: list[tuple[Any, ...]]) -> None:
    said = run("explain", JOB, "--scheduler", "http://127.0.0.1:1/").output
    assert "The job is in its estimation: 0 of 4 slices computed" in said
    assert "4 slices wait·[31m." in said and "\x1b[31m" not in said
    assert "    change: offer more\n    EWAGE" in said
    assert asked == [("http://127.0.0.1:1/", "pheme", "explainJob", {"job": JOB})]
    assert json.loads(run("explain", JOB, "--output", "json").output) == ANSWER


def test_cancel_and_list(asked: list[tuple[Any, ...]]) -> None:
    assert run("cancel", JOB, "--reason", "enough").output == f"job {JOB} is cancelled; 2 slices were computed\n"
    assert run("list", "--status", "running").output == "no jobs\n"
    assert [one[1:] for one in asked] == [
        ("jobSubmit", "cancelJob", {"job": JOB, "reason": "enough"}),
        ("pheme", "listJobs", {"statuses": ["running"]}),
    ]


def test_an_id_that_is_none_is_refused_before_anything_is_asked(asked: list[tuple[Any, ...]]) -> None:
    with pytest.raises(Exception, match="'nonsense' is not a job id"):
        run("cancel", "nonsense")
    assert asked == []
