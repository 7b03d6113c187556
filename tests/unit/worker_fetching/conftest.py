"""A fetcher, and a real web server on this machine for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from orchestrator.worker.fetching.fetcher import Fetcher, FetchLimits
from orchestrator.worker.fetching.web import WebLimits
from orchestrator.worker.origins import OriginRules
from tests.unit.worker_fetching.bad_server import Site, serving

NOWHERE = "http://scheduler.invalid/"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as (pages, _origins):
        yield pages


@pytest.fixture
def fetcher(site: Site) -> Callable[..., Fetcher]:
    """`fetcher(*entries, max_bytes=…, timeout_s=…, clock=…)`; the site is allowed when there are no entries."""

    def made(*entries: str, **given: object) -> Fetcher:
        rules = OriginRules.parse(str(given.pop("scheduler", NOWHERE)), entries or [site.origin])
        times = {name: given.pop(name) for name in ("timeout_s", "connect_s", "idle_s", "least_bytes") if name in given}
        sizes = {name: given.pop(name) for name in ("guest_bytes", "cache_bytes", "store_patience_s") if name in given}
        limits = FetchLimits(max_bytes=int(given.pop("max_bytes", 1000)), web=WebLimits(**times), **sizes)  # type: ignore[arg-type, call-overload]
        return Fetcher(rules, limits, **given)  # type: ignore[arg-type]

    return made
