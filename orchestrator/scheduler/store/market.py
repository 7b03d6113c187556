"""Rows of the market: work that was recently paid, by steps of price. Several processes add to them."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.scheduler.store.schema import market


async def load(tx: AsyncConnection, now: float, half_life_s: float) -> dict[int, float]:
    """Core-seconds by step, as they count now."""
    rows = await tx.execute(sa.select(market.c.step, market.c.work_s, market.c.counted_at))
    return {step: _now(work_s, at, now, half_life_s) for step, work_s, at in rows}


async def add(tx: AsyncConnection, fresh: Mapping[int, float], now: float, half_life_s: float) -> None:
    """Count more work."""
    if not fresh:
        return
    query = sa.select(market.c.step, market.c.work_s, market.c.counted_at).where(market.c.step.in_(sorted(fresh)))
    known = {step: _now(work_s, at, now, half_life_s) for step, work_s, at in await tx.execute(query.with_for_update())}
    for step, work_s in sorted(fresh.items()):
        values = {"work_s": known.get(step, 0.0) + work_s, "counted_at": now}
        if step in known:
            await tx.execute(sa.update(market).where(market.c.step == step).values(values))
        else:
            await tx.execute(sa.insert(market).values(values | {"step": step}))


def _now(work_s: float, at: float, now: float, half_life_s: float) -> float:
    kept: float = 0.5 ** (max(0.0, now - at) / half_life_s)
    return work_s * kept
