"""The daemon's own account of what happened to containers: its event stream, filtered to our label."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from orchestrator.worker.docker_runtime import failures
from orchestrator.worker.docker_runtime.endpoint import Endpoint, chunks, read_head, request_head


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """`action` is "die" or "oom". `time_ns` is the daemon's clock."""

    action: str
    container_id: str
    time_ns: int


def parse_event(data: Mapping[str, Any]) -> ContainerEvent | None:
    """One decoded event; None when it is not about a container's end."""
    action, actor = data.get("Action"), data.get("Actor")
    if action not in ("die", "oom") or not isinstance(actor, Mapping):
        return None
    return ContainerEvent(action, str(actor.get("ID", "")), data.get("timeNano", 0))


class EventStream:
    """One connection's worth of events. `async with` it, then iterate; iteration ends when the daemon goes away."""

    def __init__(self, endpoint: Endpoint, api_version: str, label: str, since_ns: int, timeout_s: float) -> None:
        filters = json.dumps({"type": ["container"], "event": ["die", "oom"], "label": [label]}, separators=(",", ":"))
        since = f"&since={since_ns // 10**9}.{since_ns % 10**9:09d}" if since_ns else ""
        self._path = f"/v{api_version}/events?filters={quote(filters)}{since}"
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> EventStream:
        """Connect. Raises RuntimeUnavailable."""
        self._reader, self._writer = await self._endpoint.open(self._timeout_s)
        try:
            self._writer.write(request_head("GET", self._path))
            async with asyncio.timeout(self._timeout_s):
                head = await read_head(self._reader)
        except TimeoutError as exc:
            self._writer.transport.abort()
            raise failures.silent("events", self._timeout_s) from exc
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as exc:
            self._writer.transport.abort()
            raise failures.gone(f"events: {exc}") from exc
        except BaseException:
            self._writer.transport.abort()
            raise
        if head.status != 200:
            self._writer.transport.abort()
            raise failures.refusing(f"events answered {head.status}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._writer is not None:
            self._writer.transport.abort()

    async def __aiter__(self) -> AsyncIterator[ContainerEvent]:
        assert self._reader is not None
        text = b""
        try:
            # One JSON text per line; a chunk may hold several, or a part of one.
            async for chunk in chunks(self._reader):
                *lines, text = (text + chunk).split(b"\n")
                for line in lines:
                    event = parse_event(json.loads(line)) if line.strip() else None
                    if event is not None:
                        yield event
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
