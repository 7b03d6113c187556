"""A relay in front of a Docker socket that can be slow, cut streams and answer for the Engine: faults of an Engine that
cannot be caused in a real one at will. What it does not break goes to the real Engine untouched."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import re
from collections.abc import AsyncIterator, Callable

REFUSAL = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 27\r\n"
    b'Connection: close\r\n\r\n{"message":"made to fail"}\n'
)


class DockerProxy:
    """`async with serve(...)` it; set its fields to break things, also while it runs."""

    def __init__(self, target: pathlib.Path, path: pathlib.Path) -> None:
        self.target = target
        self.path = path
        self.delay: Callable[[str], float] = lambda _line: 0.0
        """How many seconds a request (its first line) waits before it goes on, also when its client has gone."""
        self.refuse: Callable[[str], bool] = lambda _line: False
        """Whether a request (its first line) is answered with 500 instead."""
        self.attach_bytes: Callable[[], int | None] = lambda: None
        """After how many bytes from the container an attach stream is cut; None leaves it whole."""
        self.away = False
        """Whether connections are cut as soon as they are made; see `go_away`."""
        self.requests: list[str] = []
        self.created = asyncio.Event()
        """Set by each container that the Engine says it has made."""
        self.cuts = 0
        self._cut_after: int | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def host(self) -> str:
        return f"unix://{self.path}"

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[DockerProxy]:
        server = await asyncio.start_unix_server(self._relay, self.path)
        try:
            yield self
        finally:
            server.close()
            for relay in list(self._relays):
                relay.cancel()
            await asyncio.gather(*self._relays, return_exceptions=True)

    def go_away(self) -> None:
        """Cut every connection, those that are to come too, as an Engine does that is being restarted for long."""
        self.away = True
        for writer in self._writers:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)
        try:
            if self.away:
                raise ConnectionResetError
            upstream_reader, upstream = await asyncio.open_unix_connection(self.target)
        except OSError:
            writer.transport.abort()
            return
        both_ends = {writer, upstream}
        self._writers |= both_ends
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._requests(reader, upstream, writer))
                both.create_task(self._answers(upstream_reader, writer))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers -= both_ends
            for end in both_ends:
                end.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        """Request by request while the connection speaks HTTP; what follows an upgrade is passed on as it comes."""
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                upstream.write_eof()  # the Engine ends the connection when it has answered what it was asked
                return
            line = head.split(b"\r\n", 1)[0].decode()
            self.requests.append(line)
            await asyncio.sleep(self.delay(line))
            if self.refuse(line):
                writer.write(REFUSAL)
                await writer.drain()
                raise ConnectionResetError
            upstream.write(head)
            if b"upgrade" in head.lower():
                self._cut_after = self.attach_bytes()
                while data := await reader.read(65536):
                    upstream.write(data)
                    await upstream.drain()
                return
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            if length:
                upstream.write(await reader.readexactly(int(length[1])))
            await upstream.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = 0
        limit: int | None = None
        attached = False
        while data := await reader.read(65536):
            if not attached and data.startswith(b"HTTP/1.1 101"):
                attached, limit = True, self._cut_after
            if data.startswith(b"HTTP/1.1 201"):
                self.created.set()
            seen += len(data)
            writer.write(data)
            await writer.drain()
            if attached and limit is not None and seen > limit:
                self.cuts += 1
                raise ConnectionResetError
        writer.close()
