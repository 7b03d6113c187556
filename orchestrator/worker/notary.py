"""The notary: signs a receipt for every result, and keeps it on disk, both in batches and off the event loop.

A result waits for its signature only, which shares a thread with those that came meanwhile. Writing and syncing come
after; what a crash takes is the receipts of the last moments, never a result.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

from orchestrator import telemetry
from orchestrator.wallet.keys import PrivateKey
from orchestrator.worker import receipts
from orchestrator.worker.owned_tasks import OwnedTasks
from orchestrator.worker.receipt_files import ReceiptFiles

log = logging.getLogger(__name__)

_MOST_UNWRITTEN: Final = 50_000
_RETRY_S: Final = 5.0
_LAST_WRITE_S: Final = 5.0
_BATCH_BYTES: Final = 4 * 1024 * 1024


class Notary:
    """`async with` it. Leaving writes what is signed, for five seconds at most."""

    def __init__(
        self,
        key: PrivateKey,
        terms: receipts.Terms,
        files: ReceiptFiles,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._terms = terms
        self._files = files
        self._clock = clock
        self._asked: list[tuple[Sequence[receipts.Delivery], asyncio.Future[list[dict[str, Any]]]]] = []
        self._unwritten: collections.deque[str] = collections.deque()
        self._to_sign = asyncio.Event()
        self._to_write = asyncio.Event()
        self._tasks = OwnedTasks()
        self._counts: collections.Counter[str] = collections.Counter(issued=0, lost=0)

    async def __aenter__(self) -> Notary:
        await self._tasks.__aenter__()
        self._tasks.create_task(self._sign(), name="sign-receipts")
        self._tasks.create_task(self._write(), name="write-receipts")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._tasks.__aexit__(kind, exc, traceback)
        finally:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(_LAST_WRITE_S):
                    await asyncio.to_thread(self._last_write)

    async def receipt(self, delivery: receipts.Delivery) -> dict[str, Any]:
        """As `receipts_for`, of one."""
        return (await self.receipts_for([delivery]))[0]

    async def receipts_for(self, deliveries: Sequence[receipts.Delivery]) -> list[dict[str, Any]]:
        """The signed receipts in the same order, about a millisecond later. When cancelled, they may be issued and kept
        all the same."""
        future: asyncio.Future[list[dict[str, Any]]] = asyncio.get_running_loop().create_future()
        self._asked.append((deliveries, future))
        self._to_sign.set()
        return await future

    async def _sign(self) -> None:
        while True:
            await self._to_sign.wait()
            self._to_sign.clear()
            batch, self._asked = self._asked, []
            issued = await asyncio.to_thread(self._issue, [one for deliveries, _future in batch for one in deliveries])
            self._counts["issued"] += len(issued)
            telemetry.receipts_issued.add(len(issued))
            next_one = iter(issued)
            for deliveries, future in batch:
                signed = [one.receipt for one in itertools.islice(next_one, len(deliveries))]
                if not future.done():
                    future.set_result(signed)
            self._unwritten.extend(one.line for one in issued)
            while len(self._unwritten) > _MOST_UNWRITTEN:
                self._unwritten.popleft()
                self._lose(1)
            self._to_write.set()

    def _issue(self, deliveries: Sequence[receipts.Delivery]) -> list[receipts.Issued]:
        now_ms = round(self._clock() * 1000)
        return [receipts.issue(self._key, self._terms, delivery, now_ms) for delivery in deliveries]

    async def _write(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            while self._unwritten:
                lines = self._take()
                try:
                    await _to_its_end(functools.partial(self._files.append, lines, self._clock()))
                except OSError as error:
                    # Some of them may be there: writing them again could make duplicates, which are worse than gaps.
                    self._lose(len(lines))
                    extra = {"error": str(error), "folder": str(self._files.folder)}
                    log.error("receipts_not_written", extra=extra)  # noqa: TRY400
                    self._files.close()
                    await asyncio.sleep(_RETRY_S)

    def _take(self) -> list[str]:
        lines: list[str] = []
        size = 0
        while self._unwritten and size < _BATCH_BYTES:
            lines.append(self._unwritten.popleft())
            size += len(lines[-1])
        return lines

    def _last_write(self) -> None:
        try:
            while self._unwritten:
                self._files.append(self._take(), self._clock())
        finally:
            self._files.close()

    def _lose(self, count: int) -> None:
        self._counts["lost"] += count
        telemetry.receipts_lost.add(count)

    def statistics(self) -> dict[str, Any]:
        """`lost` were sent with their results, but not kept: the disk did not take them."""
        files = self._files
        waiting = len(self._unwritten)
        return {**self._counts, "written": files.written, "unwritten": waiting, "files_removed": files.removed}


async def _to_its_end(write: Callable[[], None]) -> None:
    """In a thread. Being cancelled waits for it: lines that were taken must be written before the last ones are."""
    writing = asyncio.get_running_loop().run_in_executor(None, write)
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing], timeout=_LAST_WRITE_S)
        if writing.done():
            writing.exception()  # there is nobody left to tell; the log of the disk's failure is not worth the stop
        raise
