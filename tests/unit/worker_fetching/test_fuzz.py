"""A server that answers anything at all."""

from __future__ import annotations

import asyncio
import gzip
import logging
import random

import pytest

from orchestrator.worker.fetching.failures import FetchFailed
from orchestrator.worker.fetching.fetcher import Fetcher, FetchLimits
from orchestrator.worker.fetching.web import WebLimits
from orchestrator.worker.origins import OriginForbidden, OriginRules, Purpose

GOOD = [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"hello" * 100),
    b"HTTP/1.0 204 No\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx",
    b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 5\r\n\r\n",
]
SPICE = [
    b"\r\n", b"\0", b"\xff", b": ", b";", b"-1", b"%", b"HTTP/1.1 ", b"data:,x", b"//[::1", b"Location: ",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 99999999999999999999\r\n", b"Content-Encoding: gzip\r\n",
]  # fmt: skip


def spoilt(draw: random.Random) -> bytes:
    answer = bytearray(draw.choice(GOOD))
    for _ in range(draw.randint(0, 4)):
        at = draw.randint(0, len(answer))
        if draw.random() < 0.3:
            del answer[at : at + draw.randint(1, 10)]
        else:
            answer[at:at] = draw.choice([*SPICE, bytes([draw.randint(0, 255)])])
    return bytes(answer)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_comes_back_is_an_answer_or_a_failure_that_has_a_name(seed, caplog):
    draw = random.Random(seed)
    now = 0.0

    def clock() -> float:  # runs away, so that nothing is ever left alone
        nonlocal now
        now += 1000
        return now

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            answer = spoilt(draw)
            cut = draw.randint(0, len(answer))
            writer.write(answer[:cut])
            await writer.drain()
            writer.write(answer[cut:])
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the fetcher has seen enough
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    limits = FetchLimits(max_bytes=10_000, web=WebLimits(timeout_s=2, idle_s=0.1))
    async with server, Fetcher(OriginRules.parse("http://scheduler.invalid", [origin]), limits, clock=clock) as f:
        for number in range(0, 160, 4):
            outcomes = await asyncio.gather(
                f.datum(f"{origin}/{number}"),
                f.text(f"{origin}/{number + 1}", Purpose.WORK_FUNCTIONS),
                f.module(f"{origin}/{number + 2}"),
                f.for_guest({"url": f"{origin}/{number + 3}"}),
                return_exceptions=True,
            )
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    assert isinstance(outcome, FetchFailed | OriginForbidden), repr(outcome)
                    assert outcome.info["cause"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
