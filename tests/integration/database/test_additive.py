"""Migrations only add: processes of the version before go on working on the new schema."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from orchestrator.database import check_url
from orchestrator.migrations import running
from tests.postgres import PostgresServer

FIRST = "0002_scheduler"
"""up to here nobody had a schema yet"""


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """What is executed on any engine of ours."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(" ".join(statement.split()))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(sa.Engine, "before_cursor_execute", note)


def breaks_the_old(statement: str) -> bool:
    if re.match(r"DROP TABLE|ALTER TABLE \S+ (DROP COLUMN|RENAME|ALTER COLUMN \S+ TYPE)", statement):
        return True
    if re.match(r"ALTER TABLE \S+ ALTER COLUMN \S+ SET NOT NULL", statement):
        return True
    added = re.match(r"ALTER TABLE \S+ ADD COLUMN (.*)", statement)
    return added is not None and "NOT NULL" in added[1] and "DEFAULT" not in added[1]


def test_what_an_old_process_needs_stays(postgres_server: PostgresServer, statements: list[str]) -> None:
    url = check_url(postgres_server.create(migrated=False))
    running.upgrade(url, FIRST)
    statements.clear()
    running.upgrade(url)
    assert any(one.startswith("ALTER TABLE jobs ADD COLUMN") for one in statements)
    assert [one for one in statements if breaks_the_old(one)] == []
    postgres_server.drop(url.render_as_string())


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE jobs",
        "ALTER TABLE jobs DROP COLUMN owner",
        "ALTER TABLE jobs ADD COLUMN x TEXT NOT NULL",
        "ALTER TABLE jobs ALTER COLUMN total TYPE INTEGER",
    ],
)
def test_what_would_break_it_is_seen(statement: str) -> None:
    assert breaks_the_old(statement)
