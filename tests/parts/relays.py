"""TCP relays of the tests' own, on loopback: to one server, or to the next of several that accepts a connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Self

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class CuttableProxy:
    """In front of a port; `async with serve()` it. `cut()` resets every connection that goes through it."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.connections: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Self]:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()

    def cut(self) -> int:
        """Abort every open connection; how many there were, both ends counted."""
        count = len(self.connections)
        for writer in list(self.connections):
            writer.transport.abort()
        return count

    async def _connect(self) -> Streams | None:
        """To the server; None when it cannot be reached."""
        with contextlib.suppress(OSError):
            return await asyncio.open_connection("127.0.0.1", self.target_port)
        return None

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await self._connect()
        if there is None:
            writer.transport.abort()
            return
        both = {writer, there[1]}
        self.connections |= both
        try:
            await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
        finally:
            self.connections -= both
            for one in both:
                one.close()


class Balancer(CuttableProxy):
    """Each connection goes to the next server that accepts one. It knows their ports, and looks into nothing."""

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__(0)
        self.ports = list(ports)
        self.carried = dict.fromkeys(ports, 0)
        """connections that went to each server"""
        self._next = 0

    async def _connect(self) -> Streams | None:
        for _ in self.ports:
            self.target_port = self.ports[self._next % len(self.ports)]
            self._next += 1
            found = await super()._connect()
            if found is not None:
                self.carried[self.target_port] += 1
                return found
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()
