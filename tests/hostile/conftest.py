"""Hostile programs in real containers of the real Evaluator image, as the worker sees them from outside."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import docker
import pytest

from orchestrator.worker.cgroups import CgroupTree
from orchestrator.worker.docker_runtime.reaper import LABEL_WORKER
from orchestrator.worker.limits import MIB, SandboxLimits
from tests.parts import containers as parts

IMAGE = parts.IMAGE
SMALL = SandboxLimits(memory_bytes=192 * MIB)

engine = parts.engine


@pytest.fixture
def worker_id(engine: docker.DockerClient) -> Iterator[str]:
    name = f"hostile-{secrets.token_hex(4)}"
    yield name
    left = engine.containers.list(all=True, filters={"label": f"{LABEL_WORKER}={name}"}, ignore_removed=True)
    for container in left:
        container.remove(force=True)
    assert left == [], "a container outlived its sandbox"
    assert CgroupTree.of_this_machine(name).sandboxes() == set(), "a process outlived its container"
