"""The Scheduler freezes, answers garbage or answers late: the Worker stays sane, and what it finished arrives.

Stated: results flow again within 45 s of the Scheduler's recovery, whatever it answered before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import AsyncIterator, Callable

import pytest

from tests.e2e import harness
from tests.faults.parts import Parts, assert_complete, deployed, free_port, stop
from tests.parts.containers import containers_of

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.timeout(1500)]

BACK_S = 45.0
HTML = b"<html><body>502 Bad Gateway</body></html>"


async def flows_again(client: harness.Client) -> None:
    seen = sum(name == "result" for name, _ in client.said)
    await client.wait_for("result", count=min(seen + 1, 200), within=BACK_S)


async def test_gone_for_ten_minutes(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, lasting: Callable[..., float]
) -> None:
    """The Worker computes what it holds, keeps it, and delivers it when the Scheduler is back."""
    assert parts.scheduler and parts.worker
    async with deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        await parts.scheduler.kill()
        await asyncio.sleep(lasting(600, least=5))
        assert parts.worker.process.returncode is None, parts.logs()
        await parts.start_scheduler()
        await flows_again(client)
        await assert_complete(client, parts, duplicates_allowed=True)
        assert not (parts.folder / "worker" / "late-results.jsonl").exists()


async def test_frozen_scheduler_answers_late(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, lasting: Callable[..., float]
) -> None:
    """SIGSTOP: requests are taken and answered much later, beyond the connection's patience at full length."""
    assert parts.scheduler
    async with deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        await parts.scheduler.freeze(lasting(240, least=5))
        await flows_again(client)
        await assert_complete(client, parts, duplicates_allowed=True)


class Liar:
    """A relay in front of the Scheduler. While it lies, every new connection is answered with `answer`, and what the
    Scheduler says on open ones is replaced by it."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.answer: bytes | None = None
        self.lies = 0

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Liar]:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                await asyncio.gather(self._pump(reader, upstream), self._pump(upstream_reader, writer, lying=True))
            finally:
                upstream.transport.abort()
        writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lying: bool = False) -> None:
        while data := await reader.read(65536):
            if lying and self.answer is not None:
                self.lies += 1
                data = self.answer
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


def websocket(text: bytes) -> bytes:
    """A text frame of a server."""
    assert len(text) < 65536
    return b"\x81" + (bytes([len(text)]) if len(text) < 126 else b"\x7e" + len(text).to_bytes(2, "big")) + text


GARBAGE = {
    "a page": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(HTML), HTML),
    "noise": os.urandom(512),
    "no JSON": websocket(b'42["message","{\\"owner\\": nonsense"]'),
    "unsigned": websocket(b'42["message","{\\"owner\\":\\"0x00\\",\\"body\\":{\\"type\\":\\"response\\"}}"]'),
    "a signature of nobody": websocket(
        b'42["message","{\\"owner\\":\\"0x%s\\",\\"signature\\":{\\"r\\":\\"0x1\\",\\"s\\":\\"0x1\\",\\"v\\":27},'
        b'\\"body\\":{}}"]' % (b"1" * 40)
    ),
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage(
    what: str, tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path,
    lasting: Callable[..., float],
) -> None:  # fmt: skip
    """Slices that were leased in an answer which nobody could read do not wait for the end of their lease (300 s)."""
    parts = Parts(tmp_path, free_port())
    await parts.start_scheduler()
    liar = Liar(parts.port)
    try:
        async with liar.serve():
            parts.worker_url = f"http://127.0.0.1:{liar.port}/"
            await parts.start_worker()
            async with deployed(parts, wallet, node, npm_modules) as client:
                await client.wait_for("result", count=20)
                liar.answer = GARBAGE[what]
                await asyncio.sleep(lasting(30, least=3))
                assert liar.lies, "nobody was lied to: the test shows nothing"
                assert parts.worker and parts.worker.process.returncode is None, parts.logs()
                liar.answer = None
                await flows_again(client)
                await assert_complete(client, parts, duplicates_allowed=True)
            await stop(parts)
        assert containers_of(parts.worker_id()) == []
    finally:
        await stop(parts)


async def test_a_page_instead_of_a_scheduler_at_the_start(
    tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    """A proxy's error page is not the end: the Worker says so and waits for the Scheduler."""
    parts = Parts(tmp_path, free_port())
    await parts.start_scheduler()
    liar = Liar(parts.port)
    liar.answer = GARBAGE["a page"]
    try:
        async with liar.serve():
            parts.worker_url = f"http://127.0.0.1:{liar.port}/"
            await parts.start_worker()
            await parts.wait_for_log("scheduler_unreachable")
            liar.answer = None
            await parts.worker_ready()
            await stop(parts)
        assert containers_of(parts.worker_id()) == []
    finally:
        await stop(parts)
