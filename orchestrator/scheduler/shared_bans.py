"""Bans of addresses and identities are rows: every process keeps them, they outlive it, the operator can change them.

The server's guard bans from memory, at once; what began there is written here, and what others wrote is taken in. A
database that is away delays only that.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from orchestrator.database import Database, persistently, retried
from orchestrator.errors import InvalidInput
from orchestrator.protocol.bans import Ban
from orchestrator.protocol.places import place_of
from orchestrator.protocol.server import DcpServer
from orchestrator.scheduler.cluster import CHANNEL, Cluster
from orchestrator.scheduler.store import peer_bans as store
from orchestrator.scheduler.store.peer_bans import BanRow
from orchestrator.wallet.addresses import checksum

log = logging.getLogger(__name__)

TOLD = "peer-bans"
"""says to other processes that rows have changed"""
POLL_S = 2.0
"""how late a change is heard of that nobody told"""
_PAUSE_S = 0.2
_MARGIN_S = 10.0
"""clocks of processes may differ so much"""
_MOST = 1_000
"""rows that are read at once"""
_KEPT_S = 600.0


class SharedBans:
    def __init__(
        self, server: DcpServer, database: Database, clock: Callable[[], float], cluster: Cluster | None
    ) -> None:
        self._server = server
        self._database = database
        self._clock = clock
        self._cluster = cluster
        self._unwritten: dict[str, BanRow] = {}
        self._read_at = 0.0
        self._seen: dict[str, float] = {}
        """by subject, the last change that was taken in"""
        self._forgot_at = clock()
        self._something = asyncio.Event()
        server.guard.bans.on_begin = self._something.set
        if cluster is not None:
            cluster.hear(TOLD, lambda _items: self._something.set())

    async def run(self) -> None:
        while True:
            await self.sync()
            await asyncio.sleep(_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._something.wait()

    async def sync(self) -> None:
        """Write what began here, then take in what changed elsewhere."""
        self._something.clear()
        now, monotonic = self._clock(), time.monotonic()
        for ban in self._server.guard.bans.take_begun():
            self._unwritten[ban.subject] = BanRow(ban.subject, now, now + ban.until - monotonic, ban.reason, now)
        if self._unwritten or now - self._forgot_at > _KEPT_S:
            await persistently(lambda: self._write(now))
            self._forgot_at = now
            self._seen.update({row.subject: row.changed_at for row in self._unwritten.values()})
            if self._unwritten and self._cluster is not None:
                self._cluster.tell(TOLD)
            self._unwritten.clear()
        for row in await persistently(self._read):
            if self._seen.get(row.subject) != row.changed_at:
                self._seen[row.subject] = row.changed_at
                self._take_in(row)
        self._read_at = now
        self._seen = {subject: at for subject, at in self._seen.items() if at > now - 3 * _MARGIN_S}

    async def _write(self, now: float) -> None:
        async with self._database.transaction() as tx:
            await store.save(tx, list(self._unwritten.values()))
            await store.forget(tx, now - _KEPT_S)

    async def _read(self) -> list[BanRow]:
        async with self._database.snapshot() as tx:
            return await store.changed(tx, self._read_at - _MARGIN_S, _MOST)

    def _take_in(self, row: BanRow) -> None:
        left = row.until - self._clock()
        if left > 0:
            log.warning("%s is banned for %.0f s: %s", row.subject, left, row.reason, extra={"action": "banned"})
            self._server.ban(Ban(row.subject, time.monotonic() + left, row.reason))
        elif self._server.guard.lift(row.subject):
            log.warning("the ban of %s is lifted", row.subject, extra={"action": "ban-lifted"})


# --- for the operator


def subject_of(text: str) -> str:
    """What a ban of this address or identity is filed under. Raises `InvalidInput`."""
    if text.startswith("0x"):
        return checksum(text)
    try:
        ipaddress.ip_address(text.partition("/")[0])
    except ValueError:
        raise InvalidInput(
            f"{text} is neither a network address (203.0.113.7, 2001:db8::1) nor an identity (0x and 40 hex digits)"
        ) from None
    return place_of(text.partition("/")[0])


async def current(database: Database, now: float) -> list[BanRow]:
    async with database.snapshot() as tx:
        return await store.current(tx, now)


async def add(database: Database, rows: Sequence[BanRow]) -> None:
    async def work() -> None:
        async with database.transaction() as tx:
            await store.save(tx, [replace(row, subject=subject_of(row.subject)) for row in rows])

    await retried(work)
    await _tell(database)


async def lift(database: Database, subjects: Sequence[str] | None, now: float) -> list[str]:
    """End the bans of these, or all; those that were banned."""
    wanted = None if subjects is None else [subject_of(one) for one in subjects]

    async def work() -> list[str]:
        async with database.transaction() as tx:
            return await store.lift(tx, wanted, now)

    lifted = await retried(work)
    await _tell(database)
    return lifted


async def _tell(database: Database) -> None:
    if database.is_shared:
        await database.notify(CHANNEL, [json.dumps(["operator", {TOLD: [[]]}])])
