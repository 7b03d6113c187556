"""Which rows refer to big values that lie outside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Collection
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.scheduler.store.schema import jobs, slice_inputs, slice_opinions, slice_results

_ROWS: Final = 2000
_SLICES: Final = (
    (slice_inputs, "the input of slice {}"),
    (slice_results, "the result of slice {}"),
    (slice_opinions, "an opinion on slice {}"),
)
_PROGRAM: Final = (("codeLocation", "the code"), ("argumentUris", "the list of arguments"))


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    job: str
    what: str
    """as `the input of slice 3`"""
    mark: str


async def references(tx: AsyncConnection, mark: str, only: Collection[str] | None = None) -> AsyncIterator[Reference]:
    """Everything that begins with `mark`, of all jobs or of `only` these. Reads every row once."""
    query: sa.Select[Any] = sa.select(jobs.c.id, jobs.c.spec).where(jobs.c.spec.contains(mark, autoescape=True))
    async for job, text in await tx.stream(_of(query, only), execution_options={"yield_per": _ROWS}):
        spec = json.loads(text)
        for name, what in _PROGRAM:
            value = spec.get(name)
            if isinstance(value, str) and value.startswith(mark):
                yield Reference(job, what, value)
    for table, what in _SLICES:
        columns: list[Any] = [jobs.c.id, table.c.number, table.c.uri]
        query = sa.select(*columns).join(table, table.c.job == jobs.c.key)
        query = query.where(table.c.uri.startswith(mark, autoescape=True))
        async for job, number, uri in await tx.stream(_of(query, only), execution_options={"yield_per": _ROWS}):
            if uri.startswith(mark):  # LIKE of SQLite takes capitals for small letters
                yield Reference(job, what.format(number), uri)


async def undisturbed(tx: AsyncConnection, only: Collection[str]) -> None:
    """Wait for whoever is dropping what these jobs have left, and keep others from it until the transaction ends."""
    query = sa.select(jobs.c.key).where(jobs.c.id.in_(only)).order_by(jobs.c.key).with_for_update()
    await tx.execute(query)


def _of(query: sa.Select[Any], only: Collection[str] | None) -> sa.Select[Any]:
    return query if only is None else query.where(jobs.c.id.in_(only))
