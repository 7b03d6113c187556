"""The battery that `dcp-orchestrator self-check` runs on an operator's machine, here against this one."""

from __future__ import annotations

import collections
from collections.abc import Iterator

import docker
import pytest

from orchestrator.worker.battery import CASES, Area, Case, Ground, NotApplicable
from orchestrator.worker.docker_runtime.reaper import LABEL_WORKER

pytestmark = pytest.mark.docker


@pytest.fixture
def ground(engine: docker.DockerClient) -> Iterator[Ground]:
    ground = Ground()
    yield ground
    everything = engine.containers.list(all=True, filters={"label": LABEL_WORKER}, ignore_removed=True)
    left = [one for one in everything if one.labels.get(LABEL_WORKER, "").startswith(ground.worker_id)]
    for container in left:
        container.remove(force=True)
    assert left == [], "a container outlived its sandbox"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_contained(ground: Ground, case: Case) -> None:
    try:
        assert await case.run(ground)
    except NotApplicable as reason:
        pytest.skip(reason.message)


def test_the_battery_is_large_and_its_names_are_its_own() -> None:
    counts = collections.Counter(case.area for case in CASES)
    assert len(CASES) >= 60
    assert set(counts) == set(Area)
    assert len({case.id for case in CASES}) == len(CASES)
