"""`dcp-orchestrator db` on real databases."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import sqlite3
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from orchestrator.cli.db import DAMAGED, PENDING, command
from orchestrator.cli.main import cli
from orchestrator.database import DatabaseAway, check_url
from orchestrator.migrations import running
from orchestrator.scheduler.store import schema
from tests.faults.parts import free_port
from tests.postgres import PostgresServer

SYNCHRONOUS = {"sqlite+aiosqlite": "sqlite", "postgresql+psycopg": "postgresql+psycopg"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--output", "json"], catch_exceptions=False)


def said(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, postgres_server: PostgresServer, tmp_path: pathlib.Path) -> str:
    if request.param == "sqlite":
        (tmp_path / "new.sqlite").touch()
        return f"sqlite+aiosqlite:///{tmp_path}/new.sqlite"
    return postgres_server.create(migrated=False)


def test_an_empty_database_is_migrated(empty_url: str) -> None:
    first = run("check", "--database", empty_url)
    assert first.exit_code == PENDING
    assert said(first)["schema"]["pending"][0] == "0001_bank"
    assert said(first)["ledger"] is None
    taken = said(run("migrate", "--database", empty_url))
    assert (taken["from"], taken["taken"][-1]) == (None, taken["to"])
    assert said(run("migrate", "--database", empty_url))["taken"] == []
    after = run("check", "--database", empty_url)
    assert after.exit_code == 0
    assert said(after)["schema"] == {"at": taken["to"], "newest": taken["to"], "pending": [], "ahead": False}
    assert said(after)["ledger"]["problems"] == []
    text = CliRunner().invoke(command, ["check", "--database", empty_url])
    assert "the newest" in text.stdout
    assert "ledger     adds up: " in text.stdout


def test_a_step_that_is_pending_and_a_ledger_that_was_changed(postgres_server: PostgresServer) -> None:
    url = postgres_server.create(migrated=False)
    running.upgrade(check_url(url), "0002_scheduler")
    assert run("check", "--database", url).exit_code == PENDING
    run("migrate", "--database", url)
    postgres_server.execute(
        check_url(url).database or "",
        "SET session_replication_role = replica",  # past the triggers, as whoever owns the server may
        "INSERT INTO bank_accounts (name, kind, high, low, opened_at) VALUES ('x', 'address', 0, 5, 0)",
    )
    damaged = run("check", "--database", url)
    assert damaged.exit_code == DAMAGED
    assert "account x " in str(said(damaged)["ledger"]["problems"])
    postgres_server.drop(url)


def test_a_ledger_in_a_file_that_was_changed(sqlite_template: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file = shutil.copy(sqlite_template, tmp_path / "scheduler.sqlite")
    assert run("check", "--state", str(tmp_path)).exit_code == 0
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("PRAGMA foreign_keys = off")
        database.execute(
            "INSERT INTO bank_accounts (name, kind, high, low, opened_at) VALUES ('x', 'address', 0, 5, 0)"
        )
    damaged = run("check", "--state", str(tmp_path))
    assert damaged.exit_code == DAMAGED
    assert "account x " in str(said(damaged)["ledger"]["problems"])


def test_numbers_that_would_be_given_twice(database_url: str) -> None:
    """As after a copy that was put back in parts."""
    assert said(run("check", "--database", database_url))["numbers"] == []
    engine = sa.create_engine(check_url(database_url).set(drivername=SYNCHRONOUS[database_url.partition(":")[0]]))
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.events).values(id=7, job=1, label="custom", body="{}"))
        if engine.name == "postgresql":
            connection.execute(sa.text("ALTER SEQUENCE event_ids RESTART"))
    engine.dispose()
    damaged = run("check", "--database", database_url)
    assert damaged.exit_code == DAMAGED
    assert "event" in str(said(damaged)["numbers"])
    text = CliRunner().invoke(command, ["check", "--database", database_url])
    assert (text.exit_code, "numbers    " in text.stdout) == (DAMAGED, True)


def test_a_server_that_does_not_answer() -> None:
    url = f"postgresql+psycopg://dcp@127.0.0.1:{free_port()}/dcp"
    result = CliRunner().invoke(cli, ["db", "check", "--database", url])
    assert isinstance(result.exception, DatabaseAway), result.output
    assert result.exit_code == 1


def test_nothing_there(tmp_path: pathlib.Path) -> None:
    result = CliRunner().invoke(command, ["check", "--state", str(tmp_path)])
    assert "there is no database" in str(result.exception)
