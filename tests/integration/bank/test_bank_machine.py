"""The Bank over real databases, driven at random (see `tests.bank_machine`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from orchestrator.bank import Bank
from orchestrator.database import Database
from tests.bank_machine import BankMachine


class OnDatabase(BankMachine):
    """Every example works inside one transaction, which is rolled back at its end."""

    loop: asyncio.Runner
    database: Database

    def open(self) -> None:
        self.bank = Bank(clock=lambda: self.now)
        self.stack = contextlib.AsyncExitStack()
        self.tx = self.run_async(self.stack.enter_async_context(self.database.snapshot()))

    def run_async(self, awaitable: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await awaitable

        return self.loop.run(wait())

    def check(self) -> None:
        """As if the transaction ended now."""
        self.run_async(self._check())

    async def _check(self) -> None:
        if self.database.is_shared:
            await self.tx.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
            await self.tx.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
        else:
            assert (await self.tx.exec_driver_sql("PRAGMA foreign_key_check")).all() == []

    def teardown(self) -> None:
        self.run_async(self.stack.aclose())


def test_random_operations_keep_the_books(database_url: str) -> None:
    with asyncio.Runner() as loop:
        OnDatabase.loop = loop
        OnDatabase.database = loop.run(Database.open(database_url))
        try:
            few = settings(
                max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
            )
            run_state_machine_as_test(OnDatabase, settings=few)
        finally:
            loop.run(OnDatabase.database.close())
