"""Keeps the board of jobs in step with the database, and the market with what is paid."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from orchestrator.database import Database, Transaction
from orchestrator.jobs.words import Isolation
from orchestrator.scheduler.bans import BanRules, Bans
from orchestrator.scheduler.board import Board, BoardRules, Entry
from orchestrator.scheduler.catalog import Catalog, Job
from orchestrator.scheduler.market import Market, MarketRules
from orchestrator.scheduler.matching import JobProfile
from orchestrator.scheduler.pricing import parse_offer
from orchestrator.scheduler.settlement import Outcome
from orchestrator.scheduler.store import bans as ban_rows
from orchestrator.scheduler.store import jobs, owner_accounts
from orchestrator.scheduler.store import market as market_rows
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.settings import SchedulerSettings

PAGE = 500
"""jobs read at once"""
ACCOUNTS_KEPT_S = 30 * 86_400.0
"""an owner who got nothing for so long begins anew"""
REFRESH_S = 5.0
"""a page of jobs is read again so often: other processes change them, too"""


class Listing:
    """`fresh()` before the board is looked at; `note()` after each commit."""

    def __init__(self, settings: SchedulerSettings, database: Database, catalog: Catalog) -> None:
        self.board = Board(BoardRules(settings.longest_wait_portions, credit_s=settings.target_task_s))
        self.market = Market(MarketRules(settings.market_slice_value, settings.market_half_life_s))
        self.bans = Bans(BanRules(lasts_s=settings.ban_s))
        self.posted: Callable[[Iterable[int]], None] = lambda _keys: None
        """is told which jobs were brought in"""
        self._database = database
        self._catalog = catalog
        self._unposted: dict[int, None] = {}
        self._loaded = False
        self._loading = asyncio.Lock()
        self._page_after = 0
        self._refresh_at = 0.0

    def note(self, outcome: Outcome, now: float) -> None:
        """What a transaction has changed."""
        self.bans.change(outcome.bans)
        for state in outcome.states.values():
            self._note_state(state, now)

    def _note_state(self, state: JobState, now: float) -> None:
        entry = self.board.get(state.key)
        if state.ended_at is not None:
            self._unposted.pop(state.key, None)
            self.bans.forget(state.key)
        elif entry is None:
            self._unposted[state.key] = None
        if entry is not None:
            accepted = self.board.update(state, self._weight(entry.profile.slice_price, state))
            self._paid(entry, state, accepted, now)

    def _paid(self, entry: Entry, state: JobState, accepted: int, now: float) -> None:
        price, work_s = entry.profile.slice_price, state.estimate.work_s
        if accepted and price and work_s is not None:
            # Who offers a multiple of the market value follows the market: his multiple counts, not what comes of it.
            multiple = entry.market_multiple
            rate = self.market.rate(now) * multiple if multiple else price / max(work_s, 1e-6)
            self.market.paid(rate, accepted * work_s, now)

    def _weight(self, slice_price: int, state: JobState) -> float:
        return self.market.weight(slice_price, state.estimate.work_s)

    def changed(self, keys: Iterable[int]) -> None:
        """Read these jobs again before the board is looked at next: another process has changed them, or they have
        joined other groups."""
        self._unposted.update(dict.fromkeys(keys))

    def is_stale(self, key: int) -> bool:
        """It is to be read again."""
        return key in self._unposted

    @property
    def is_behind(self) -> bool:
        """Jobs are to be read again."""
        return bool(self._unposted)

    def reload(self) -> None:
        """Read all live jobs again."""
        self._loaded = False

    async def fresh(self, now: float) -> None:
        """Bring in what is new. Costs nothing when nothing is."""
        if not self._loaded:
            async with self._loading:
                await self._load(now)
        if self._unposted:
            keys = list(self._unposted)[:PAGE]
            for key in keys:
                del self._unposted[key]
            try:
                async with self._database.snapshot() as tx:
                    await self._post(tx, list((await jobs.states(tx, keys)).values()))
            except BaseException:
                self.changed(keys)
                raise
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_S
            await self._turn_page()

    async def _load(self, now: float) -> None:
        if self._loaded:
            return
        async with self._database.snapshot() as tx:
            self.market.load(await market_rows.load(tx, now, self.market.rules.half_life_s), now)
            self.board.load(await owner_accounts.load(tx))
        while True:
            await self._turn_page()
            if self._page_after == 0:
                break
        self._loaded = True
        self._refresh_at = now + REFRESH_S

    async def _turn_page(self) -> None:
        """Read the next live jobs, in the order of their keys, and begin again after the last."""
        before = self.board.changes
        async with self._database.snapshot() as tx:
            page = await jobs.live(tx, self._page_after, PAGE)
            await self._post(tx, page, before)
        self._page_after = page[-1].key if len(page) == PAGE else 0

    async def _post(self, tx: Transaction, states: list[JobState], unless_after: int | None = None) -> None:
        keys = [state.key for state in states]
        known = await self._catalog.by_keys(tx, keys)
        groups = await jobs.groups(tx, keys)
        posted = []
        banned = await ban_rows.load(tx, keys)
        for state in states:
            entry, mine = self.board.get(state.key), groups.get(state.key, frozenset())
            if entry is not None and unless_after is not None and entry.changed > unless_after:
                continue  # it has changed here since it was read
            if unless_after is None or entry is None or entry.state != state or entry.profile.groups != mine:
                posted.append(state.key)
            self.bans.load([state.key], {pair: record for pair, record in banned.items() if pair[0] == state.key})
            weight = self._weight(known[state.key].slice_price, state)
            if entry is not None and entry.profile.groups == mine:
                self.board.update(state, weight)
            elif state.ended_at is None:
                job = known[state.key]
                self.board.post(
                    job.key, job.owner, job_profile(job, mine), state,
                    weight=weight, since=job.record.created_at, market_multiple=_multiple(job),
                )  # fmt: skip
        self.posted(posted)

    async def write_market(self, tx: Transaction, now: float) -> None:
        """Keep what was paid, and take in what other processes saw."""
        half_life_s = self.market.rules.half_life_s
        await market_rows.add(tx, self.market.take_fresh(), now, half_life_s)
        self.market.load(await market_rows.load(tx, now, half_life_s), now)

    async def share_accounts(self, now: float) -> None:
        """Write what owners got, and take in what other processes have counted."""
        grown = self.board.grown()
        if not grown and not self._database.is_shared:
            return
        async with self._database.transaction() as tx:
            await owner_accounts.grow(tx, grown, now)
            known = await owner_accounts.load(tx, now - 3 * REFRESH_S) if self._database.is_shared else {}
        self.board.load(known | {name: max(done, known.get(name, 0.0)) for name, done in grown.items()})

    async def forget(self, now: float) -> None:
        """Drop rows that mean nothing any more."""
        async with self._database.transaction() as tx:
            await owner_accounts.forget(tx, now - ACCOUNTS_KEPT_S)
            await ban_rows.forget(tx, now - self.bans.rules.lasts_s, now)


def job_profile(job: Job, groups: frozenset[str]) -> JobProfile:
    worktime, level = job.spec["worktime"], job.spec.get("isolation")
    return JobProfile(
        job_id=job.id,
        needs=job.spec["requirements"],
        groups=groups,
        local_exec=job.record.local_exec,
        worktime=(worktime["name"], worktime["version"]),
        discrete=job.spec["discrete"],
        isolation=None if level is None else Isolation(level),
        slice_price=job.slice_price,
        rule=job.rule,
    )


def _multiple(job: Job) -> float:
    return float(parse_offer(job.spec.get("marketMultiple"), None).market_multiple)
