"""Five minutes of random jobs and random faults. An hour of the same: `make bench B=soak`."""

from __future__ import annotations

import pytest

from benchmarks import soak
from tests.faults.parts import Engine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1300)]

SECONDS = 300.0
SEED = 20


async def test_nothing_is_wrong_lost_left_or_growing(engine: Engine) -> None:
    # What an Engine was asked for while it was frozen comes up when all the rest is over.
    report, folder = await soak.soak(SECONDS, SEED, engine, last=["freeze engine"])
    assert report.wrong == [], f"logs: {folder}"
    assert report.results > 0
    assert sum(report.faults.values()) > 10
