"""The Docker Engine as tests look at it: the image is there, and which containers a Worker has."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import docker
import docker.errors
import pytest

IMAGE = "dcp-evaluator:local"


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    try:
        client.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        pytest.fail(f"{IMAGE} is missing: run `make image`")
    yield client
    client.close()


def containers_of(worker_id: str, docker_host: str | None = None) -> list[str]:
    """Ids of the containers, running or not, that carry the worker's label."""
    made = docker.from_env() if docker_host is None else docker.DockerClient(base_url=docker_host)
    with contextlib.closing(made) as client:
        found = client.api.containers(all=True, filters={"label": f"dcp-orchestrator.worker={worker_id}"})
        return [entry["Id"] for entry in found]


def containers_in(state: pathlib.Path) -> list[str]:
    """The same of the worker with this state folder."""
    return containers_of((state / "worker-id").read_text().strip())
