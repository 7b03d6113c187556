"""Finished results on their way: kept on disk until they are acknowledged, and in memory only as far as needed.

Durability: a result that is not acknowledged within `_LAG_S`, or `_SOON_S` when it is dear, is written and synced to
disk; a kill at any moment loses at most what finished within that time (and `_LOOK_S`), and others compute it again.
Reports are gathered for two seconds before they leave (see `pace`): `_LAG_S` is that and the time that an answer takes,
so that most results are acknowledged sooner, and never touch the disk: to write and delete it costs more than a short
slice.

Memory: `_WINDOW_BYTES` of results are on their way at once. Others wait for their turn; once they are on disk their
text leaves memory and is read again when the turn comes. A disk that takes nothing (full, gone, over the bound) is a
degraded mode: results stay in memory, `room` shrinks to what memory bears, and writing is tried again. With a bound of
0 nothing is written, which is no trouble; what earlier processes wrote is submitted all the same.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from orchestrator.protocol import js_json
from orchestrator.worker.late_results import LateResult, LateResults
from orchestrator.worker.outbox_store import OutboxStore, Stored, StoreUnusable
from orchestrator.worker.scheduler_link import pace

log = logging.getLogger(__name__)

MEMORY_BYTES: Final = 256 * 1024 * 1024
"""How much may wait unacknowledged while the disk takes nothing."""
_WINDOW_BYTES: Final = 32 * 1024 * 1024
_LAG_S: Final = pace.EVERY_S + 0.5
_SOON_S: Final = 0.05
_LOOK_S: Final = 0.5
_BATCH_BYTES: Final = 8 * 1024 * 1024
_CHUNK: Final = 500
_RETRY_FIRST_S: Final = 1.0
_RETRY_MOST_S: Final = 15.0
_CLOSE_S: Final = 10.0


@dataclasses.dataclass(slots=True, eq=False)
class Entry:
    """A result that is not acknowledged. `report` is None while only the disk has it."""

    id: int
    job: str
    slice: int
    size: int
    finished_at: float
    report: Mapping[str, Any] | None
    on_disk: int = 0  # bytes there
    on_way: bool = False
    done: bool = False
    due_at: float = 0.0  # when it is to be on disk, by the loop's clock
    turn: asyncio.Future[None] | None = None


class Outbox:
    """`async with` it. Leaving writes what is unacknowledged; the next process finds it in `left`.

    `on_room(bytes)` is called when the bound on unacknowledged results changes.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        scheduler: str,
        most_bytes: int,
        *,
        on_room: Callable[[int], None] = lambda _: None,
        window_bytes: int = _WINDOW_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = OutboxStore(folder, scheduler)
        self._late = LateResults(folder)
        self._most_bytes = most_bytes
        self._window_bytes = window_bytes
        self._on_room = on_room
        self._clock = clock
        self._next_id = 1
        self._open: dict[int, Entry] = {}
        self._unwritten: dict[int, Entry] = {}
        self._deletions: dict[int, int] = {}  # id → bytes
        self._refused: list[LateResult] = []
        self._disk_bytes = 0
        self._on_way_bytes = 0
        self._line: collections.deque[Entry] = collections.deque()
        self._work = asyncio.Event()
        self._soon = asyncio.Event()
        self._trouble = ""
        self._counts: collections.Counter[str] = collections.Counter()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._writer: asyncio.Task[None] | None = None
        self.left: list[Entry] = []
        """What earlier processes did not get acknowledged, oldest first."""

    async def __aenter__(self) -> Self:
        try:
            found = await self._in_thread(self._store.load)
            self._next_id = await self._in_thread(self._store.next_id)
        except StoreUnusable as error:
            found = []
            self._next_id = time.time_ns()  # beyond whatever ids the file may have
            if self._most_bytes:
                self._degrade(error.message)
            else:
                log.warning("outbox_not_read", extra={"error": error.message})
        self.left = [
            Entry(one.id, one.job, one.slice, one.size, one.finished_at, None, on_disk=one.size) for one in found
        ]
        self._open = {entry.id: entry for entry in self.left}
        self._disk_bytes = sum(entry.on_disk for entry in self.left) + self._store.strangers
        if self.left:
            log.info("results_found", extra={"count": len(self.left), "bytes": self._disk_bytes})
        self._writer = asyncio.create_task(self._write_on(), name="outbox-writer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._writer is not None
        self._writer.cancel()
        await asyncio.wait([self._writer])
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._write_all(lambda: list(self._unwritten.values()))
                if not self._open:
                    await self._in_thread(self._store.shrink)
            if self.unsafe:
                log.error("results_lost", extra={"count": self.unsafe, "error": self._trouble or "outbox_bytes is 0"})
        except (StoreUnusable, TimeoutError) as error:
            log.error("results_lost", extra={"count": self.unsafe, "error": str(error) or "time-out"})  # noqa: TRY400
        finally:
            self._thread.submit(self._store.close)
            self._thread.shutdown(wait=False)

    # -- results -------------------------------------------------------------------------------------------------------

    def add(self, report: Mapping[str, Any], size: int, *, soon: bool = True) -> Entry:
        """A result has finished: from now on it is kept, on disk within `_SOON_S` or `_LAG_S`. `size` is about that of
        its text."""
        due_at = asyncio.get_running_loop().time() + (_SOON_S if soon else _LAG_S)
        entry = Entry(self._next_id, report["job"], report["slice"], size, self._clock(), report, due_at=due_at)
        self._next_id += 1
        self._open[entry.id] = entry
        self._to_disk(entry)
        if soon:
            self._soon.set()
        return entry

    def _to_disk(self, entry: Entry) -> None:
        if self._most_bytes:
            self._unwritten[entry.id] = entry
            self._work.set()

    async def take(self, entry: Entry) -> Mapping[str, Any] | None:
        """The report to send, when it is its turn. None when it is gone from the disk. Call `done` after it.

        Raises `StoreUnusable` when the disk does not give it back; try again later.
        """
        if not entry.on_way:
            if not self._fits(entry):
                entry.turn = asyncio.get_running_loop().create_future()
                self._line.append(entry)
                self._let_go_of_text(entry)
                entry.due_at = 0.0  # its text need not wait in memory
                self._soon.set()
                await entry.turn
            else:
                self._start(entry)
        if entry.report is None:
            text = (await self._in_thread(self._store.read, [entry.id])).get(entry.id)
            if text is None:
                return None
            entry.report = js_json.loads(text)
        return entry.report

    def take_at_once(self, entry: Entry) -> Mapping[str, Any] | None:
        """The report to send, as by `take`; None when it is not its turn, or only the disk has it."""
        if not entry.on_way and not self._line and self._fits(entry):
            self._start(entry)
        return entry.report if entry.on_way else None

    def renew(self, entry: Entry, report: Mapping[str, Any]) -> None:
        """It is to be sent in another form."""
        entry.report = report
        if not entry.done:
            self._to_disk(entry)

    def done(self, entry: Entry) -> None:
        """It was answered for, in whichever way."""
        if entry.done:
            return
        entry.done, entry.report = True, None
        del self._open[entry.id]
        unwritten = self._unwritten.pop(entry.id, None) is not None
        if entry.on_disk:
            self._deletions[entry.id] = entry.on_disk
            self._work.set()
        elif unwritten:
            self._counts["never written"] += 1
        if entry.on_way:
            self._on_way_bytes -= entry.size
            self._next_turns()

    def refused(self, entry: Entry, code: str, message: str) -> None:
        """Record that the Scheduler did not want it."""
        late = LateResult(entry.job, entry.slice, code, message[:2000], self._clock(), entry.finished_at)
        self._late.note(late)
        self._refused.append(late)
        self._work.set()

    def _fits(self, entry: Entry) -> bool:
        return not self._on_way_bytes or self._on_way_bytes + entry.size <= self._window_bytes

    def _start(self, entry: Entry) -> None:
        entry.on_way = True
        self._on_way_bytes += entry.size

    def _next_turns(self) -> None:
        while self._line and self._fits(self._line[0]):
            entry = self._line.popleft()
            if entry.turn is not None and not entry.turn.done():
                self._start(entry)
                entry.turn.set_result(None)

    def _let_go_of_text(self, entry: Entry) -> None:
        if entry.on_disk and entry.id not in self._unwritten and not entry.on_way:
            entry.report = None
            self._counts["moved to disk"] += 1

    # -- the disk ------------------------------------------------------------------------------------------------------

    async def _write_on(self) -> None:
        pause = _RETRY_FIRST_S
        while True:
            await self._work.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._soon.wait()
                    await asyncio.sleep(_SOON_S)
            self._work.clear()
            self._soon.clear()
            try:
                await self._write_all(self._due)
            except StoreUnusable as error:
                self._degrade(error.message)
                self._work.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY_MOST_S)
            else:
                pause = _RETRY_FIRST_S
                if self._unwritten:
                    self._work.set()

    def _due(self) -> list[Entry]:
        now = asyncio.get_running_loop().time()
        return [entry for entry in self._unwritten.values() if entry.due_at <= now]

    async def _write_all(self, due: Callable[[], list[Entry]]) -> None:
        if self._refused:
            refused, self._refused = self._refused, []
            await self._in_thread(self._late.write, refused)
        while (entries := due()) or self._deletions:
            if not await self._write_some(entries):
                return

    async def _write_some(self, due: Sequence[Entry]) -> bool:
        """One transaction. False when nothing more fits under the bound."""
        batch: list[tuple[Entry, Mapping[str, Any]]] = []
        size = 0
        deletions, self._deletions = self._deletions, {}
        for entry in due:
            if size and size + entry.size > _BATCH_BYTES:
                break
            if self._disk_bytes + size + entry.size > self._most_bytes:
                break
            assert entry.report is not None
            batch.append((entry, entry.report))
            size += entry.size
        try:
            sizes = await self._in_thread(self._write, batch, list(deletions))
        except BaseException:  # also when cancelled: deleting twice does no harm
            self._deletions |= deletions
            raise
        for (entry, report), written in zip(batch, sizes, strict=True):
            self._disk_bytes += written - entry.on_disk
            entry.on_disk = written
            self._counts["written"] += 1
            if entry.done:
                self._deletions[entry.id] = written
            elif entry.report is report:
                self._unwritten.pop(entry.id, None)
                self._let_go_of_text(entry)
        self._counts["deleted"] += len(deletions)
        self._disk_bytes -= sum(deletions.values())
        return self._judge(wanted=bool(due), written=bool(batch), freed=bool(deletions))

    def _judge(self, *, wanted: bool, written: bool, freed: bool) -> bool:
        """Whether to go on writing; a full outbox is as bad as a full disk."""
        if wanted and not written:
            if not freed:
                self._degrade(f"the outbox has its {self._most_bytes} bytes (outbox_bytes)")
            return freed
        if self._trouble:
            log.warning("outbox_is_back", extra={"count": len(self._open)})
            self._trouble = ""
            self._on_room(self.room)
        return True

    def _write(self, batch: list[tuple[Entry, Mapping[str, Any]]], deletions: list[int]) -> list[int]:
        """In the thread."""
        texts = [js_json.dumps(report) for _, report in batch]
        rows = [
            (Stored(entry.id, entry.job, entry.slice, entry.finished_at, len(text)), text)
            for (entry, _), text in zip(batch, texts, strict=True)
        ]
        self._store.write(rows, deletions)
        return [len(text) for text in texts]

    def _degrade(self, why: str) -> None:
        """Keep results in memory only, and say so once."""
        fresh = not self._trouble
        self._trouble = why
        if fresh:
            log.error("outbox_degraded", extra={"error": why, "count": len(self._unwritten)})
            self._on_room(self.room)

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # -- asking it -----------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many bytes may wait unacknowledged."""
        return MEMORY_BYTES if self._trouble else max(self._most_bytes, MEMORY_BYTES)

    @property
    def trouble(self) -> str:
        """Why results are in memory only; "" when the disk takes them."""
        return self._trouble

    @property
    def unacknowledged(self) -> int:
        """Results that are kept."""
        return len(self._open)

    @property
    def unsafe(self) -> int:
        """Those of them that a crash would lose at this moment."""
        return len(self._unwritten) if self._most_bytes else sum(not entry.on_disk for entry in self._open.values())

    @property
    def kept(self) -> int:
        """Those of them that the next process will find, if the disk takes them until then."""
        return len(self._open) if self._most_bytes else len(self._open) - self.unsafe

    def statistics(self) -> dict[str, Any]:
        return {
            "unacknowledged": len(self._open),
            "only_in_memory": self.unsafe,
            "waiting_for_turn": len(self._line),
            "disk_bytes": self._disk_bytes,
            "most_bytes": self._most_bytes,
            "degraded": self._trouble,
            "counts": dict(self._counts),
            "late": self._late.count,
            "late_results": self._late.latest(),
        }
