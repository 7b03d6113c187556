"""Statements about many rows at once.

On PostgreSQL the rows go as one parameter, so the text does not depend on how many they are: it is put together and
prepared once, and the server is asked once, where SQLAlchemy would make a parameter of each value, or a round trip of
each row. The driver of SQLite takes rows as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

_postgresql: sa.Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
Row = Sequence[Any]
"""numbers, text, bytes and None, in the order of a statement's columns"""


class Bulk:
    """A statement whose `{rows}` stands for a table `given` with these columns (PostgreSQL's types by name); its other
    parameters are written `:name`. `postgresql`: the text there, where it must be another one."""

    def __init__(self, text: str, *, postgresql: str | None = None, **columns: str) -> None:
        self._statements = {
            "postgresql": sa.text((postgresql or text).replace("{rows}", _given_postgresql(columns))),
            "sqlite": sa.text(text.replace("{rows}", _given_sqlite(columns))),
        }

    async def execute(
        self, tx: AsyncConnection, rows: Iterable[Row], **others: Any
    ) -> sa.CursorResult[*tuple[Any, ...]]:
        """No bytes: SQLite's JSON has none."""
        return await tx.execute(self._statements[tx.dialect.name], {"rows": _text(rows), **others})


class BulkInsert:
    """`INSERT` of rows with these columns."""

    def __init__(self, table: sa.Table, *columns: str) -> None:
        into = f"INSERT INTO {table.name} ({', '.join(columns)})"
        given = _given_postgresql(_types(table, columns))
        self._postgresql = sa.text(f"{into} SELECT given.* FROM {given}")  # noqa: S608
        self._sqlite = f"{into} VALUES ({', '.join('?' * len(columns))})"

    async def execute(self, tx: AsyncConnection, rows: Iterable[Row]) -> None:
        await _write(tx, rows, self._postgresql, self._sqlite)


class BulkUpdate:
    """`UPDATE` of rows with this key and these columns; a row's values begin with those of its key. The rows are locked
    already, or nobody minds the order in which they are locked."""

    def __init__(self, table: sa.Table, key: Sequence[str], *columns: str) -> None:
        name = table.name
        changes = ", ".join(f"{column} = given.{column}" for column in columns)
        found = " AND ".join(f"{name}.{column} = given.{column}" for column in key)
        given = _given_postgresql(_types(table, (*key, *columns)))
        self._postgresql = sa.text(f"UPDATE {name} SET {changes} FROM {given} WHERE {found}")  # noqa: S608
        # Numbered, since there the key comes last.
        numbers = {column: place for place, column in enumerate((*key, *columns), 1)}
        changes = ", ".join(f"{column} = ?{numbers[column]}" for column in columns)
        found = " AND ".join(f"{column} = ?{numbers[column]}" for column in key)
        self._sqlite = f"UPDATE {name} SET {changes} WHERE {found}"  # noqa: S608

    async def execute(self, tx: AsyncConnection, rows: Iterable[Row]) -> None:
        await _write(tx, rows, self._postgresql, self._sqlite)


async def _write(tx: AsyncConnection, rows: Iterable[Row], postgresql: sa.TextClause, sqlite: str) -> None:
    items = list(rows)
    if not items:
        return
    if tx.dialect.name == "sqlite":
        await tx.exec_driver_sql(sqlite, items)
    else:
        await tx.execute(postgresql, {"rows": _text(items)})


def _types(table: sa.Table, columns: Sequence[str]) -> dict[str, str]:
    return {name: table.c[name].type.compile(dialect=_postgresql) for name in columns}


def _given_postgresql(columns: Mapping[str, str]) -> str:
    values = ", ".join(
        f"CAST(one ->> {place} AS {kind}) AS {name}" for place, (name, kind) in enumerate(columns.items())
    )
    return f"(SELECT {values} FROM json_array_elements(CAST(:rows AS json)) AS one) AS given"  # noqa: S608


def _given_sqlite(columns: Mapping[str, str]) -> str:
    values = ", ".join(f"json_extract(value, '$[{place}]') AS {name}" for place, name in enumerate(columns))
    return f"(SELECT {values} FROM json_each(:rows)) AS given"  # noqa: S608


def _hex(value: object) -> str:
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    raise TypeError(f"{type(value).__name__} cannot be written to a row")


# Half a surrogate pair must not get through as an escape: what is read could not be decoded.
_encode = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), default=_hex
).encode


def _text(rows: Iterable[Row]) -> str:
    return _encode([*rows])
