"""The processes that share one database: what one does is heard by the others, and none of them is special.

A decision is made under the lock of a row. What crosses here only says that something may be looked at again: work
became available, a job changed, events wait, a session moved. A notification may be lost (a process can die between a
commit and telling of it), so every process also looks by itself every `RESYNC_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import socket
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import pydantic

from orchestrator import __version__
from orchestrator.database import Database, DatabaseAway, Transaction, persistently, retried
from orchestrator.errors import InvalidInput
from orchestrator.scheduler.roster import Roster, Seen
from orchestrator.scheduler.store import cluster as store
from orchestrator.task_groups import TaskGroup

log = logging.getLogger(__name__)

CHANNEL = "dcp_scheduler"
RESYNC_S = 5.0
"""how late a change is heard of whose notification was lost"""
HEARTBEAT_S = 3.0
ALIVE_S = 15.0
"""a process that was not heard of for so long has died"""
ASK_S = 1.0
"""how long other processes are waited for that were asked something"""
ROSTER_S = 1.0
"""how often processes tell each other of workers"""
GATHER_S = 0.005
"""how long what is told right after something else waits for more"""
SESSIONS_KEPT_S = 7300.0
PROGRAMS_ASIDE = 1
"""level of processes that know code and arguments outside the rows"""
LEVEL = PROGRAMS_ASIDE
"""what this version knows; what an older one would misread is not written while one is alive"""
_LARGEST = 7000
"""bytes of one notification; PostgreSQL takes less than 8000"""

Item = tuple[int | str, ...]
Hear = Callable[[Sequence[Any]], None]
"""Takes the items of one kind, in the order in which they were told; each is a list."""

Answer = Callable[[Sequence[Any]], Any]
"""What a process says to a question: JSON of less than a notification."""

_SEEN = pydantic.TypeAdapter(Seen)


class Cluster:
    """`join` first; `run()` must be running while anything is told. Handlers are added with `hear` before that.

    `missed` is called whenever notifications may have been lost, and every `RESYNC_S`.
    """

    def __init__(self, database: Database, roster: Roster, clock: Callable[[], float], place: str = "") -> None:
        self.process = secrets.token_hex(8)
        self._database = database
        self._roster = roster
        self._clock = clock
        self._place = place or socket.gethostname()
        self._started_at = clock()
        self._handlers: dict[str, Hear] = {}
        self._missed: list[Callable[[], None]] = []
        self._told: dict[str, dict[Item, None]] = {}
        self._something = asyncio.Event()
        self._mine: dict[str, Seen] = {}
        """what this process has written of its workers"""
        self._foreign: dict[str, tuple[str, Seen]] = {}
        """workers of others, each with the process that heard it last"""
        self._departed: dict[str, float] = {}
        """workers that have left, when; their rows are still there"""
        self._left: set[str] = set()
        """those of whose leaving was heard while the rows of others are being read"""
        roster.on_gone = self._worker_left_here
        self._lowest_level = 0
        self._others: frozenset[str] = frozenset()
        """processes that were alive at the last beat"""
        self._answers: dict[str, Answer] = {}
        self._questions: dict[str, _Question] = {}
        self.hear("worker-gone", self._workers_left)
        self.hear("hello", self._greeted)
        self.hear("ask", self._asked)
        self.hear("answer", self._answered)

    # --- telling and hearing

    def hear(self, kind: str, handler: Hear) -> None:
        self._handlers[kind] = handler

    def on_missed(self, handler: Callable[[], None]) -> None:
        self._missed.append(handler)

    def tell(self, kind: str, *item: int | str) -> None:
        """The other processes hear of it soon; what is told several times meanwhile, once."""
        self._told.setdefault(kind, {})[item] = None
        self._something.set()

    def answer(self, kind: str, answer: Answer) -> None:
        """How this process answers questions of a kind."""
        self._answers[kind] = answer

    async def ask(self, kind: str, *item: int | str) -> list[Any]:
        """What the other processes answer that are alive; those that are silent for `ASK_S` are left out."""
        if not self._others:
            return []
        number, question = secrets.token_hex(8), _Question(set(self._others))
        self._questions[number] = question
        self.tell("ask", number, kind, json.dumps(item))
        try:
            async with asyncio.timeout(ASK_S):
                await question.complete.wait()
        except TimeoutError:
            log.info("a process does not answer", extra={"action": "process-silent", "count": len(question.awaited)})
        finally:
            del self._questions[number]
        return question.answers

    def _asked(self, items: Sequence[Any]) -> None:
        for number, kind, text in items:
            answer = self._answers.get(kind)
            said = None if answer is None else answer(json.loads(text))
            self.tell("answer", number, self.process, json.dumps(said))

    def _answered(self, items: Sequence[Any]) -> None:
        for number, process, text in items:
            question = self._questions.get(number)
            if question is not None and process in question.awaited:
                question.take(process, json.loads(text))

    async def _send(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            told, self._told = self._told, {}
            if not self._others:
                continue  # nobody listens: whoever comes says so, and has read everything
            payloads = list(_payloads(self.process, told))
            await persistently(lambda payloads=payloads: self._database.notify(CHANNEL, payloads))  # type: ignore[misc]
            await asyncio.sleep(GATHER_S)

    def _listening(self) -> None:
        """From now on this process hears the others, and they hear of it."""
        self._look_again()
        self.tell("hello", self.process)

    def _greeted(self, items: Sequence[Any]) -> None:
        self._others |= {process for (process,) in items}

    def _heard(self, payload: str) -> None:
        try:
            process, kinds = json.loads(payload)
            if process == self.process:
                return
            for kind, items in kinds.items():
                handler = self._handlers.get(kind)  # a newer version may tell what this one does not know
                if handler is not None:
                    handler(items)
        except Exception:  # what another version says must not end this one
            log.exception("a notification could not be understood", extra={"action": "bug"})

    def _look_again(self) -> None:
        for handler in self._missed:
            handler()

    # --- life

    async def join(self, identity: str, wait_s: float = 0.0) -> int:
        """Make this process known; how many others are alive. A database that is away is waited for so long.

        Raises `InvalidInput` when the others have another key, and `DatabaseAway`.
        """
        agreed = await retried(lambda: self._join(identity), patience=wait_s)
        if agreed[0] != identity:
            raise InvalidInput(
                f"this database belongs to a Scheduler with the address {agreed[0]}, and the keystore here is that of "
                f"{identity}: give every process a copy of the same scheduler.keystore"
            )
        return agreed[1]

    async def _join(self, identity: str) -> tuple[str, int]:
        async with self._database.transaction() as tx:
            agreed = await store.agree(tx, "identity", identity)
            if agreed != identity:
                return agreed, 0
            return agreed, await self._register(tx)

    async def _register(self, tx: Transaction) -> int:
        """Say that this process is alive; how many others are."""
        await store.register(tx, self._row())
        others = await store.others(tx, self.process, self._clock() - ALIVE_S)
        self._others = frozenset(one["id"] for one in others)
        self._lowest_level = min([one["level"] or 0 for one in others], default=LEVEL)
        return len(others)

    def all_are_at(self, level: int) -> bool:
        """Every process that is alive knows what belongs to this level."""
        return self._lowest_level >= level

    def _row(self) -> dict[str, Any]:
        return {
            "id": self.process,
            "place": self._place,
            "version": __version__,
            "started_at": self._started_at,
            "seen_at": self._clock(),
            "level": LEVEL,
        }

    async def run(self) -> None:
        try:
            async with TaskGroup() as group:
                group.create_task(self._send())
                group.create_task(self._database.listen(CHANNEL, self._heard, self._listening))
                group.create_task(self._repeatedly(HEARTBEAT_S, self.beat))
                group.create_task(self._repeatedly(ROSTER_S, self._share_workers))
                group.create_task(self._resync())
        finally:
            with contextlib.suppress(DatabaseAway, TimeoutError):
                async with asyncio.timeout(2):
                    await retried(self._leave)

    async def _repeatedly(self, every: float, work: Callable[[], Any]) -> None:
        while True:
            await persistently(work)
            await asyncio.sleep(every)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_S)
            self._look_again()

    async def beat(self) -> None:
        """Say that this process is alive, and look which others are."""
        now = self._clock()
        async with self._database.transaction() as tx:
            await self._register(tx)
            await store.forget(
                tx,
                processes_before=now - 4 * ALIVE_S,
                workers_before=now - 10 * ALIVE_S,
                sessions_before=now - SESSIONS_KEPT_S,
            )
            others = await store.others(tx, self.process, now - ALIVE_S)
        self._forget_workers_of_the_dead({one["id"] for one in others})

    async def _leave(self) -> None:
        async with self._database.transaction() as tx:
            await store.leave(tx, self.process)

    # --- workers

    async def _share_workers(self) -> None:
        """Write what was heard here, take in what was heard elsewhere."""
        await self.write_workers()
        await self.read_workers()

    async def write_workers(self) -> None:
        roster = self._roster
        present = {
            worker: seen
            for worker, seen in roster.entries().items()
            if roster.asks_here(worker) and worker not in roster.absent
        }
        fresh = {worker: seen for worker, seen in present.items() if _is_news(self._mine.get(worker), seen)}
        lost = self._mine.keys() - present.keys()
        departed = dict(self._departed)
        if not (fresh or lost or departed):
            return
        rows = [
            {"worker": worker, "process": self.process, "seen": _SEEN.dump_json(seen).decode(), "at": seen.at}
            for worker, seen in fresh.items()
        ]
        async with self._database.transaction() as tx:
            await store.drop_workers(tx, self.process, lost)
            await store.drop_departed(tx, departed)
            await store.save_workers(tx, rows)
        self._departed = {worker: at for worker, at in self._departed.items() if departed.get(worker) != at}
        self._mine.update(fresh)
        for worker in lost:
            del self._mine[worker]
        # Whoever asks another process now has gone from here only.
        for worker in (departed.keys() | lost) - present.keys():
            if worker in departed or worker not in self._foreign:
                self.tell("worker-gone", worker)

    async def read_workers(self) -> None:
        now = self._clock()
        since = now - 3 * ROSTER_S if self._foreign else 0.0
        self._left.clear()
        async with self._database.snapshot() as tx:
            rows = await store.workers_elsewhere(tx, self.process, since, processes_since=now - ALIVE_S)
        known = self._roster.entries()
        for worker, process, text in rows:
            try:
                seen = _SEEN.validate_json(text)
            except pydantic.ValidationError:
                continue  # of a version that says it otherwise
            here = known.get(worker)
            if worker not in self._left and (here is None or here.at < seen.at):
                self._foreign[worker] = (process, seen)
                self._roster.saw_elsewhere(seen, now)
        for worker in [one for one in self._foreign if one not in known or self._roster.asks_here(one)]:
            del self._foreign[worker]

    def _forget_workers_of_the_dead(self, alive: Container[str]) -> None:
        """They come back to a process that lives, or not at all."""
        for worker, (process, _) in list(self._foreign.items()):
            if process not in alive:
                del self._foreign[worker]
                self._roster.gone_elsewhere(worker)

    def _worker_left_here(self, worker: str) -> None:
        self._departed[worker] = self._clock()
        self._foreign.pop(worker, None)
        self._left.add(worker)

    def _workers_left(self, items: Sequence[Any]) -> None:
        for (worker,) in items:
            self._foreign.pop(worker, None)
            self._left.add(worker)
            self._roster.gone_elsewhere(worker)

    def statistics(self) -> dict[str, Any]:
        return {"process": self.process, "workers": len(self._mine), "workers_elsewhere": len(self._foreign)}


class _Question:
    def __init__(self, awaited: set[str]) -> None:
        self.awaited = awaited
        self.answers: list[Any] = []
        self.complete = asyncio.Event()

    def take(self, process: str, answer: Any) -> None:
        self.awaited.discard(process)
        if answer is not None:  # a version that does not know such questions
            self.answers.append(answer)
        if not self.awaited:
            self.complete.set()


def _is_news(before: Seen | None, now: Seen) -> bool:
    """Worth a row: another profile, or the same one long after the last time."""
    if before is None:
        return True
    same = (before.profile, before.load) == (now.profile, now.load)
    return now.at - before.at >= (20.0 if same else ROSTER_S)


def _payloads(process: str, told: dict[str, dict[Item, None]]) -> Iterable[str]:
    """Texts that a notification can hold; an item that is larger than that travels in no notification."""
    kinds: dict[str, list[Item]] = {}
    size = 0
    for kind, items in told.items():
        for item in items:
            bytes_ = len(json.dumps(item).encode()) + len(kind) + 8
            if bytes_ > _LARGEST:
                log.warning("something is too large to tell other processes: %s", kind, extra={"action": "untold"})
                continue
            if size + bytes_ > _LARGEST:
                yield json.dumps([process, kinds])
                kinds, size = {}, 0
            kinds.setdefault(kind, []).append(item)
            size += bytes_
    if kinds:
        yield json.dumps([process, kinds])
