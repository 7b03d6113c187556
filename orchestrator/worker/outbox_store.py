"""Finished results on disk, until the Scheduler has answered for them: one SQLite file in the state folder.

Blocking, and used from one thread at a time. Each `write` is one transaction, on the platter when it returns; what a
crash interrupts is as if it had not begun. SQLite rather than a log of our own: it has been crashed more often.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from orchestrator.errors import OrchestratorError

log = logging.getLogger(__name__)

FILE: Final = "outbox.db"
_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS results (
        id INTEGER PRIMARY KEY, scheduler TEXT NOT NULL, job TEXT NOT NULL, slice INTEGER NOT NULL,
        finished_at REAL NOT NULL, size INTEGER NOT NULL, report TEXT NOT NULL
    ) STRICT
"""
_DAMAGED: Final = "ESTOREDAMAGED"
_BUSY_S: Final = 2.0
_GROUP: Final = 500
_SHRINK_BYTES: Final = 4 * 1024 * 1024


class StoreUnusable(OrchestratorError):
    """The disk is full, the folder cannot be written, the file is damaged: the message says which."""

    code = "ESTORE"
    retryable = True


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A result on disk, without its text. `size` is that of the text in bytes, `finished_at` Unix time."""

    id: int
    job: str
    slice: int
    finished_at: float
    size: int


class OutboxStore:
    """Opens its file at the first use, and again after a failure. `close` it."""

    def __init__(self, folder: pathlib.Path, scheduler: str) -> None:
        self._path = folder / FILE
        self._scheduler = scheduler
        self._database: sqlite3.Connection | None = None
        self.strangers = 0
        """Bytes of results that another Scheduler is to have."""

    def load(self) -> list[Stored]:
        """What earlier processes left for this Scheduler, oldest first. Raises `StoreUnusable`.

        A file that is no database is put aside, and a new one begun.
        """
        query = "SELECT id, job, slice, finished_at, size FROM results WHERE scheduler = ? ORDER BY id"
        others = "SELECT coalesce(sum(size), 0) FROM results WHERE scheduler <> ?"
        try:
            with self._use() as database:
                found = [Stored(*row) for row in database.execute(query, (self._scheduler,))]
                self.strangers = int(database.execute(others, (self._scheduler,)).fetchone()[0])
        except StoreUnusable as error:
            if error.code != _DAMAGED:
                raise
            self._put_aside()
            return self.load()
        return found

    def next_id(self) -> int:
        """Greater than any in the file. Raises `StoreUnusable`."""
        with self._use() as database:
            return int(database.execute("SELECT coalesce(max(id), 0) + 1 FROM results").fetchone()[0])

    def write(self, results: Sequence[tuple[Stored, str]], done: Iterable[int]) -> None:
        """Keep results (an id that is there is replaced), drop those that are done. All or nothing.

        Raises `StoreUnusable`.
        """
        rows = [(one.id, self._scheduler, one.job, one.slice, one.finished_at, one.size, text) for one, text in results]
        with self._use() as database:
            database.executemany("DELETE FROM results WHERE id = ?", ((one,) for one in done))
            database.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def read(self, ids: Sequence[int]) -> Mapping[int, str]:
        """Texts by id; what is not there is left out. Raises `StoreUnusable`."""
        found: dict[int, str] = {}
        with self._use() as database:
            for start in range(0, len(ids), _GROUP):
                some = ids[start : start + _GROUP]
                marks = ",".join("?" * len(some))
                found.update(database.execute(f"SELECT id, report FROM results WHERE id IN ({marks})", some))  # noqa: S608
        return found

    def shrink(self) -> None:
        """Give the disk back what nothing needs any more. Raises `StoreUnusable`."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size < _SHRINK_BYTES:
                return
        with self._use() as database:
            database.execute("PRAGMA incremental_vacuum").fetchall()
        with self._use() as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    @contextlib.contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        """One transaction. After a failure the file is opened anew: what SQLite knew of it may be wrong."""
        try:
            if self._database is None:
                self._database = self._open()
            with self._database:  # commits, or rolls back
                yield self._database
        except (sqlite3.Error, OSError) as error:
            self.close()
            damaged = isinstance(error, sqlite3.DatabaseError) and _is_damage(error)
            raise StoreUnusable(
                f"{self._path} cannot be used: {error}", code=_DAMAGED if damaged else StoreUnusable.code
            ) from error

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=_BUSY_S, check_same_thread=False)
        try:
            self._path.chmod(0o600)
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before there is a table
            database.execute("PRAGMA journal_mode = WAL").fetchall()
            database.execute("PRAGMA synchronous = FULL")  # each commit is on the platter
            database.execute(_TABLE)
            database.commit()
        except BaseException:
            database.close()
            raise
        return database

    def _put_aside(self) -> None:
        aside = self._path.with_name(f"{FILE}.damaged-{time.time_ns() // 1_000_000}")
        log.error("outbox_damaged", extra={"file": str(self._path), "aside": str(aside)})
        self._path.replace(aside)
        for name in ("-wal", "-shm"):
            self._path.with_name(FILE + name).unlink(missing_ok=True)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", None)  # absent from errors of the module itself
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
