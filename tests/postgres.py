"""A PostgreSQL server of the tests' own: a throw-away cluster in a temporary folder, and a fresh database per test.

The server runs as somebody who is not root (PostgreSQL refuses root), on a free port and a unix socket in that folder,
without waiting for the disk; it is stopped by its pid.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import pathlib
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import psycopg
import pytest

from orchestrator.database import check_url, sqlite_url
from orchestrator.migrations import running

_START_S = 60
_OWNER = "dcp"
_TEMPLATE = "migrated"
_OPTIONS = {
    # Nothing here must outlive a power cut; what a killed server must keep, it keeps.
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "max_prepared_transactions": "0",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "5s",
    "deadlock_timeout": "200ms",
    "log_line_prefix": "%m [%p] %a ",
}


def binaries() -> pathlib.Path:
    """Where `postgres` and `initdb` are: the newest that the distribution has installed."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda one: int(one.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path is None:
        pytest.fail("PostgreSQL's server is not installed: run `make setup` or `scripts/setup.sh postgres`")
    return pathlib.Path(on_path).parent


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _somebody() -> str | None:
    """Whom to run as when we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.fail("there is no user postgres or nobody to run PostgreSQL as")


@dataclasses.dataclass
class PostgresServer:
    """Use as `with PostgresServer() as server: server.create() …`. `stop`, `kill` and `start` may be called between."""

    folder: pathlib.Path = dataclasses.field(init=False)
    port: int = dataclasses.field(default_factory=_free_port)
    durable: bool = False
    """Wait for the disk at each commit, as a server that holds money does."""
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PostgresServer:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dcp-postgres-"))
        try:
            user = _somebody()
            if user is not None:
                shutil.chown(self.folder, user)
            initdb = [
                binaries() / "initdb", "--pgdata", self._data, "--username", _OWNER, "--auth", "trust",
                "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions",
            ]  # fmt: skip
            done = subprocess.run(initdb, user=user, cwd=self.folder, capture_output=True, text=True, timeout=_START_S)
            if done.returncode:
                pytest.fail(f"initdb failed: {done.stderr}")
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _data(self) -> pathlib.Path:
        return self.folder / "data"

    @property
    def log(self) -> pathlib.Path:
        return self.folder / "postgres.log"

    def start(self) -> None:
        given = {**_OPTIONS, "fsync": "on", "full_page_writes": "on"} if self.durable else _OPTIONS
        options = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        places = ["-k", str(self.folder), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [binaries() / "postgres", "-D", self._data, *places, *options],
                user=_somebody(), cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + _START_S
        while True:
            try:
                self.execute("postgres", "SELECT 1")
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"PostgreSQL does not start ({error}): {self.log.read_text()[-2000:]}")
                time.sleep(0.05)

    def stop(self) -> None:
        """Fast shutdown: open connections are cut."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Immediate shutdown, as a crash: the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def destroy(self) -> None:
        """SIGKILL, as from the kernel's out-of-memory killer; what it had started ends by itself."""
        assert self._process is not None
        place = pathlib.Path("/proc", str(self._process.pid), "task", str(self._process.pid), "children")
        children = place.read_text().split()
        self._end(signal.SIGKILL)
        until = time.monotonic() + _START_S
        while any(pathlib.Path("/proc", child).exists() for child in children) and time.monotonic() < until:
            time.sleep(0.02)

    def cut(self, database: str) -> None:
        """End every connection to this database but ours."""
        self.execute(
            "postgres", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name_of(database)}'"
        )

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(_START_S)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{_OWNER}@/{database}?host={self.folder}&port={self.port}"

    def tcp_url(self, database: str) -> str:
        return f"postgresql+psycopg://{_OWNER}@127.0.0.1:{self.port}/{database}"

    def execute(self, database: str, *statements: str) -> None:
        """Run statements outside a transaction."""
        where = {"host": str(self.folder), "port": self.port, "user": _OWNER, "dbname": database}
        with psycopg.connect(**where, autocommit=True, connect_timeout=10) as connection:
            for statement in statements:
                connection.execute(statement)

    def create(self, *, migrated: bool = True) -> str:
        """A new database; its URL. `migrated`: at the newest schema, otherwise empty."""
        if migrated:
            self._make_template()
        name = f"t{next(_numbers)}_{secrets.token_hex(3)}"
        template = _TEMPLATE if migrated else "template0"
        self.execute("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.execute("postgres", f"DROP DATABASE IF EXISTS {name_of(url)} WITH (FORCE)")

    def _make_template(self) -> None:
        if not self._has_template:
            self.execute("postgres", f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
            # In a thread: the caller may be inside an event loop.
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                pool.submit(running.upgrade, check_url(self.url(_TEMPLATE))).result()
            self._has_template = True

    _has_template: bool = False


def name_of(url: str) -> str:
    """The database that a URL of `PostgresServer.url` names."""
    return url.partition("@/")[2].partition("?")[0]


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh database at the newest schema."""
    url = postgres_server.create()
    yield url
    postgres_server.drop(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A database at the newest schema, to be copied: the steps to it take a second."""
    file = tmp_path_factory.mktemp("sqlite") / "template.sqlite"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(running.upgrade, check_url(sqlite_url(file))).result()
    return file


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """A fresh database, once on SQLite and once on PostgreSQL: the same test runs on both."""
    if request.param == "sqlite":
        file = tmp_path / "database.sqlite"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), file)
        return sqlite_url(file)
    url: str = request.getfixturevalue("postgres_url")
    return url
