"""How the database of a Scheduler is: what `db check` tells."""

from __future__ import annotations

import asyncio
import pathlib
import time
from typing import Any

from orchestrator.bank import Bank
from orchestrator.database import Database, check_url
from orchestrator.errors import NotFound
from orchestrator.migrations import running
from orchestrator.scheduler.blob_places import place_of, store_at
from orchestrator.scheduler.cluster import ALIVE_S
from orchestrator.scheduler.store import bans, blob_intents, counters, owner_accounts, stamps
from orchestrator.scheduler.store import cluster as store
from orchestrator.scheduler.value_check import check_values
from orchestrator.settings import SchedulerSettings


async def examine(url: str, settings: SchedulerSettings, *, values: bool = True) -> dict[str, Any]:
    """A report as JSON; `settings` say where big values are, which are all read if `values`. Changes nothing.

    Raises `InvalidInput`, `DatabaseAway`, `NotFound` (no SQLite file).
    """
    parsed = check_url(url)
    if parsed.get_backend_name() == "sqlite" and not await asyncio.to_thread(_is_file, parsed.database or ""):
        raise NotFound(
            f"there is no database {parsed.database}: start a Scheduler there, or name its --state or --database"
        )
    schema = await asyncio.to_thread(running.look, parsed)
    database = await Database.open(url, migrate=False)
    try:
        begun = time.monotonic()
        server, size = await database.describe()
        report: dict[str, Any] = {
            "server": server,
            "answers_ms": round((time.monotonic() - begun) * 1000, 3),
            "bytes": size,
            "schema": {
                "at": schema.at,
                "newest": schema.newest,
                "pending": list(schema.pending),
                "ahead": schema.is_ahead,
            },
            "scheduler": None,
            "processes": [],
            "rows": {},
            "numbers": [],
            "ledger": None,
            "values": None,
        }
        if not schema.pending:
            await _look_inside(database, report)
            if values:
                report["values"] = await _values(database, settings)
    finally:
        await database.close()
    return report


async def _look_inside(database: Database, report: dict[str, Any]) -> None:
    now = time.time()
    async with database.snapshot() as tx:
        report["scheduler"] = await store.fact(tx, "identity")
        report["processes"] = [
            {"place": one["place"], "version": one["version"], "silent_s": max(now - one["seen_at"], 0.0)}
            for one in await store.others(tx, "", now - ALIVE_S)
        ]
        report["rows"] = {
            "owner_accounts": await owner_accounts.count(tx),
            "bans": await bans.count(tx),
            "stamps": await stamps.count(tx),
            "values_of_no_job_yet": await blob_intents.count(tx),
        }
        report["numbers"] = await counters.behind(tx)
        audit = await Bank().audit(tx)
    report["ledger"] = {
        "accounts": audit.accounts,
        "postings": audit.postings,
        "open_holds": audit.open_holds,
        "problems": list(audit.problems),
    }


async def _values(database: Database, settings: SchedulerSettings) -> dict[str, Any]:
    place = place_of(settings, is_shared=database.is_shared)
    kept = store_at(place, settings)
    try:
        return await check_values(database, place, kept)
    finally:
        if kept is not None:
            await kept.close()


def _is_file(path: str) -> bool:
    return pathlib.Path(path).is_file()
