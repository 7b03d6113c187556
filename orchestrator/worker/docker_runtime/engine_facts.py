"""Everything that the Engine says of itself and of one image: for judging, not for running."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.worker.docker_runtime import failures
from orchestrator.worker.docker_runtime.engine import Engine, EngineInfo, endpoint_from_environment, parse_info


@dataclass(frozen=True)
class Component:
    """A program that the Engine runs. Distributions put their package's version in `commit`."""

    version: str
    commit: str


@dataclass(frozen=True)
class ImageFacts:
    """An image in the Engine. `repo_digests` are `name@sha256:…` of registries that it came from or went to."""

    id: str
    repo_digests: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class EngineFacts:
    """`local`: it surely runs here."""

    address: str
    local: bool
    info: EngineInfo
    components: Mapping[str, Component]
    root_dir: str
    image: ImageFacts | None


async def gather(docker_host: str | None, image: str, timeout_s: float) -> EngineFacts:
    """Raises RuntimeUnavailable; an image that is not there is None."""
    endpoint = endpoint_from_environment(docker_host)
    async with connected(docker_host, timeout_s) as engine:
        version = await engine.call("version", engine.api.version)
        info = await engine.call("info", engine.api.info)
        try:
            found = parse_image(await engine.call("image", engine.api.inspect_image, image))
        except failures.ContainerGone:
            found = None
    return parse_facts(endpoint.address, version, info, found, local=endpoint.local)


@contextlib.asynccontextmanager
async def connected(docker_host: str | None, timeout_s: float) -> AsyncIterator[Engine]:
    """Raises RuntimeUnavailable."""
    engine = Engine(endpoint_from_environment(docker_host), timeout_s)
    try:
        await engine.connect()
        yield engine
    finally:
        engine.close()


def parse_facts(
    address: str, version: Mapping[str, Any], info: Mapping[str, Any], image: ImageFacts | None, *, local: bool
) -> EngineFacts:
    return EngineFacts(
        address=address,
        local=local,
        info=parse_info(version, info),
        components={
            str(one.get("Name")): Component(
                str(one.get("Version", "")), str((one.get("Details") or {}).get("GitCommit", ""))
            )
            for one in version.get("Components") or ()
        },
        root_dir=str(info.get("DockerRootDir") or ""),
        image=image,
    )


def parse_image(inspected: Mapping[str, Any]) -> ImageFacts:
    return ImageFacts(str(inspected["Id"]), tuple(inspected.get("RepoDigests") or ()), int(inspected.get("Size") or 0))
