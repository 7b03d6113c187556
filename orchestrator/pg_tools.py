"""PostgreSQL's own programs for backups, run as commands: `pg_dump` and `pg_restore`."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Mapping

from orchestrator.errors import InvalidInput

__all__ = ["dump", "restore"]

_VERSION = re.compile(r"(\d+)/bin/")


def dump(place: Mapping[str, str], file: pathlib.Path) -> None:
    """Write a database, as it is at one moment, to a new file that only its owner may read, while others work on it.

    `place` are libpq's variables (PGHOST, PGDATABASE…): on a command line others could read a password. Raises
    `InvalidInput`. Blocks as long as it takes.
    """
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise InvalidInput(f"{file} is there already; name a new file") from None
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}") from error
    try:
        # What is not logged would come back empty after a crash, too: sessions and who is present.
        options = ["--format=custom", "--no-owner", "--no-privileges", "--no-unlogged-table-data"]
        _run("pg_dump", place, *options, f"--file={file}")
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def restore(place: Mapping[str, str], file: pathlib.Path) -> None:
    """Fill an empty database from a file of `dump`, wholly or not at all. Raises `InvalidInput`. Blocks."""
    if not file.is_file():
        raise InvalidInput(f"there is no backup {file}")
    options = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
    try:
        _run("pg_restore", place, *options, f"--dbname={place['PGDATABASE']}", str(file))
    except InvalidInput as error:
        if "already exists" in error.message:
            raise InvalidInput(
                f"the database {place['PGDATABASE']} is not empty; make a new one with createdb, and restore into that"
            ) from error
        raise


def _run(name: str, place: Mapping[str, str], *options: str) -> None:
    program = _find(name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(  # noqa: S603 - our own command line
        [program, "--no-password", *options], env={**environment, **place}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        said = " ".join(done.stderr.split())[:500]
        raise InvalidInput(f"{name} failed with status {done.returncode}: {said}")


def _find(name: str) -> str:
    """The newest that the distribution has, which reads servers of every older version, or the one on the path."""
    installed = pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = max(installed, key=lambda one: int(match[1]) if (match := _VERSION.search(str(one))) else 0, default=None)
    program = str(newest) if newest is not None else shutil.which(name)
    if program is None:
        raise InvalidInput(f"{name} is not installed: install PostgreSQL's client programs (postgresql-client)")
    return program
