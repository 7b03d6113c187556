"""A short bank test; `python -m benchmarks.bank_under_fire` is the long one."""

from __future__ import annotations

import pathlib

import pytest

from tests import bank_fire
from tests.postgres import PostgresServer


@pytest.mark.timeout(180)
async def test_money_survives_kills_and_cuts(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: pathlib.Path
) -> None:
    fire, problems = await bank_fire.run(postgres_server, postgres_url, tmp_path, seconds=8)
    print(fire)
    assert problems == []
    assert fire.kills > 0
    assert fire.cut_from_clients > 0
    assert fire.cut_from_database > 0
    assert len(fire.said["posted"]) > 20
