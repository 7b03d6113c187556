"""The Engine's statistics stream of one container, one JSON text a second: for when no cgroup file can be read."""

from __future__ import annotations

import asyncio
import json

from orchestrator.worker.docker_runtime import failures
from orchestrator.worker.docker_runtime.endpoint import Endpoint, chunks, read_head, request_head
from orchestrator.worker.docker_runtime.usage import StatsUsage


async def follow(endpoint: Endpoint, api_version: str, container_id: str, usage: StatsUsage, timeout_s: float) -> None:
    """Keep `usage` up to date until the container ends. Raises RuntimeUnavailable, ContainerRefused."""
    reader, writer = await endpoint.open(timeout_s)
    try:
        writer.write(request_head("GET", f"/v{api_version}/containers/{container_id}/stats?stream=1"))
        async with asyncio.timeout(timeout_s):
            head = await read_head(reader)
        if head.status != 200:
            raise failures.ContainerRefused(f"stats answered {head.status}")
        text = b""
        async for chunk in chunks(reader):
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    usage.update(json.loads(line))
    except TimeoutError as exc:
        raise failures.silent("stats", timeout_s) from exc
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
        raise failures.gone(f"stats: {exc}") from exc
    finally:
        writer.transport.abort()
