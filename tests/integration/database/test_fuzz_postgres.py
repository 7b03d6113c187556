"""What strangers send to the services, with PostgreSQL below them: as `tests/unit/fuzz` does with SQLite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import fuzz
from tests.postgres import PostgresServer


@pytest.fixture(scope="module", autouse=True)
def services(postgres_server: PostgresServer) -> Iterator[None]:
    with fuzz.services(postgres_server.create()):
        yield


@pytest.mark.parametrize("name", fuzz.SERVICES)
def test_nothing_but_its_own_errors_comes_out_of_a_service(name: str) -> None:
    fuzz.fuzz(name, 30, seed=1)
