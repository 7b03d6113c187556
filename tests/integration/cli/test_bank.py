"""`dcp-orchestrator bank` against a Scheduler that runs, and its database."""

from __future__ import annotations

import asyncio
import json
import pathlib
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import cli
from orchestrator.errors import InvalidInput, NotEnoughFunds, NotFound, OrchestratorError
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet import files
from tests.postgres import name_of


@pytest.fixture(params=["sqlite", "postgres"])
async def app(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SchedulerApp]:
    """On the SQLite file of its state folder, or on PostgreSQL."""
    monkeypatch.setenv("DCP_RESOURCE_DIR", str(tmp_path / "wallet"))
    for name in ("default", "other"):
        files.load_or_create(tmp_path / "wallet" / f"{name}.keystore", name)
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    async with SchedulerApp(SchedulerSettings(port=0, state_dir=tmp_path / "state", database_url=url)) as app:
        yield app


def books_of(app: SchedulerApp) -> list[str]:
    """The options that name its database."""
    state, url = str(app.settings.state_dir), app.settings.database_url
    return ["--state", state] if url is None else ["--state", state, "--database", url]


async def bank(*arguments: str, status: int = 0) -> str:
    """What the command prints. Raises what it raises."""
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["bank", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.output


async def told(*arguments: str, status: int = 0) -> Any:
    return json.loads(await bank(*arguments, "--output", "json", status=status))


async def test_from_issue_to_audit(app: SchedulerApp, tmp_path: pathlib.Path) -> None:
    state, url = books_of(app), ["--scheduler", app.url]
    default, other = (files.load(tmp_path / "wallet" / f"{name}.keystore").address for name in ("default", "other"))
    assert default is not None
    assert other is not None
    for is_new in (True, False):
        made = await told("issue", "100", "--to", "default", *state[:2], *url, "--id", "first")
        assert (made["balance"], made["isNew"], made["toAccount"]) == ("100", is_new, default)
    with pytest.raises(OrchestratorError, match="only an operator's key"):
        await bank("issue", "100", "--to", default, "--key", "other", *url)
    for _ in range(2):
        moved = await told("transfer", "0.5", "--to", other, *url, "--id", "t")
        assert (moved["balance"], moved["transferId"]) == ("99.5", "t")
    assert "99.5 DCC left" in await bank("transfer", "0.5", "--to", other, *url, "--id", "t")
    with pytest.raises(OrchestratorError) as caught:
        await bank("transfer", "1", "--to", default, "--from", "other", *url)
    assert caught.value.code == NotEnoughFunds.code
    with pytest.raises(InvalidInput, match="not a decimal number"):
        await bank("transfer", "much", "--to", other, *url)
    noted = tmp_path / "audit.json"
    noted.write_text(await bank("audit", *state, "--output", "json"))
    assert (await told("transfer", "all", "--to", "other", *url))["amount"] == "99.5"
    lines = (await told("statement", default, *state))["lines"]
    assert [(one["kind"], one["amount"], one["balance"], one["other"]) for one in lines] == [
        ("transfer", "-99.5", "0", other),
        ("transfer", "-0.5", "99.5", other),
        ("issue", "100", "100", "issuance"),
    ]
    assert len((await told("statement", default, *state, "--limit", "1"))["lines"]) == 1
    assert (await told("statement", default, *state, "--until", "2020-01-01"))["lines"] == []
    text = await bank("statement", "issuance", *state)
    assert default in text
    assert "-100" in text
    accounts = {one["account"]: one["balance"] for one in await told("accounts", *state)}
    assert accounts == {"issuance": "-100", default: "0", other: "100"}
    assert await told("accounts", "--kind", "fees", *state) == []
    assert other in await bank("accounts", *state)
    assert (await told("audit", "--since", str(noted), *state))["problems"] == []
    assert "3 postings, 3 accounts, 100 DCC issued" in await bank("audit", *state)


async def test_the_audit_fails_when_something_is_wrong(app: SchedulerApp, request: pytest.FixtureRequest) -> None:
    state = books_of(app)
    await bank("issue", "100", "--to", "default", *state[:2], "--scheduler", app.url, "--id", "first")

    def tamper() -> None:
        if app.settings.database_url is not None:
            request.getfixturevalue("postgres_server").execute(
                name_of(app.settings.database_url),
                "SET session_replication_role = replica",
                "UPDATE bank_postings SET posted_at = posted_at + 1",
            )
            return
        with sqlite3.connect(app.settings.state_dir / "scheduler.sqlite") as raw:
            raw.execute("DROP TRIGGER bank_postings_no_update")
            raw.execute("UPDATE bank_postings SET posted_at = posted_at + 1")
        raw.close()

    await asyncio.to_thread(tamper)  # the Scheduler may hold the lock, and gives it back only while its loop runs
    (problem,) = (await told("audit", *state, status=1))["problems"]
    assert problem.startswith("posting 'issue:first' (number 1 of lane 1) is not what was chained")
    assert "1 problems" in await bank("audit", *state, status=1)


async def test_an_operator_of_its_own(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCP_RESOURCE_DIR", str(tmp_path / "wallet"))
    operator = files.load_or_create(tmp_path / "wallet" / "operator.keystore", "operator")
    settings = SchedulerSettings(port=0, state_dir=tmp_path / "state", bank_operator=(operator.address.lower(),))
    async with SchedulerApp(settings) as app:
        arguments = ["issue", "1", "--to", "operator", "--scheduler", app.url]
        with pytest.raises(OrchestratorError, match=f"sign with the keystore of {operator.address}"):
            await bank(*arguments, "--state", str(settings.state_dir))
        assert (await told(*arguments, "--key", "operator"))["balance"] == "1"
    with pytest.raises(InvalidInput, match="bank_operator"):
        async with SchedulerApp(settings.model_copy(update={"bank_operator": ("me",)})):
            pass


async def test_without_books(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFound, match="no books: there is no"):
        await bank("accounts", "--state", str(tmp_path))
    noted = tmp_path / "noted"
    noted.write_text("{}")
    with pytest.raises(InvalidInput, match="is not the answer of"):
        await bank("audit", "--since", str(noted), "--state", str(tmp_path))
