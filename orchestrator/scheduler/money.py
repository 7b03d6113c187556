"""What the Scheduler asks of the Bank: one hold per job, wages out of it, the rest back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from orchestrator.bank import Bank, Payment
from orchestrator.database import Transaction
from orchestrator.errors import NotEnoughFunds
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.pricing import hold_for, to_dcc


@dataclasses.dataclass(frozen=True, slots=True)
class Wage:
    """One accepted slice and who is paid for it."""

    number: int
    payee: str


class Money:
    """`initial_credit` > 0 opens an account that was never seen with that many units."""

    def __init__(self, bank: Bank, initial_credit: int) -> None:
        self._bank = bank
        self._initial_credit = initial_credit

    async def hold(self, tx: Transaction, job: Job, slices: int) -> None:
        """Set aside what `slices` slices cost. Raises `NotEnoughFunds`."""
        if job.slice_price == 0:
            return
        account = job.payment_account
        if self._initial_credit > 0:
            await self._bank.open_account_with_credit(tx, account, self._initial_credit)
        amount = hold_for(slices, job.slice_price)
        # When inputs come later, somebody who cannot pay for one slice is told now.
        needed = max(amount, job.slice_price)
        available = await self._bank.balance(tx, account)
        if available < needed:
            raise NotEnoughFunds(
                f"account {account} has {to_dcc(available)} DCC; {max(slices, 1)} slices cost {to_dcc(needed)} DCC",
                info={"needed": to_dcc(needed), "available": to_dcc(available)},
            )
        await self._bank.hold(tx, hold_id=hold_id(job), account=account, amount=amount)

    async def add(self, tx: Transaction, job: Job, slices: int) -> None:
        """Set more aside. Raises `NotEnoughFunds`."""
        amount = hold_for(slices, job.slice_price)
        if amount > 0:
            await self._bank.add_to_hold(tx, hold_id=hold_id(job), amount=amount)

    async def pay(self, tx: Transaction, job: Job, wages: Sequence[Wage]) -> None:
        """Pay accepted slices. All wages of one payee are one transfer, named after its lowest slice: a slice is
        accepted once, so no two transfers of a job share a name."""
        by_payee: dict[str, list[int]] = {}
        for wage in wages:
            by_payee.setdefault(wage.payee, []).append(wage.number)
        payments = [
            Payment(f"wage:{job.id}:{min(numbers)}", payee, hold_for(len(numbers), job.slice_price))
            for payee, numbers in by_payee.items()
        ]
        if payments:
            await self._bank.pay(tx, hold_id=hold_id(job), payments=payments)

    async def fee(self, tx: Transaction, job: Job, *, transfer_id: str, to: str, amount: int) -> None:
        """Pay something for a job at once, from its payment account. Raises `NotEnoughFunds`."""
        if self._initial_credit > 0:
            await self._bank.open_account_with_credit(tx, job.payment_account, self._initial_credit)
        source = job.payment_account
        await self._bank.transfer(tx, transfer_id=transfer_id, source=source, target=to, amount=amount)

    async def release(self, tx: Transaction, job: Job) -> None:
        """Give back what is left of the job's hold."""
        if job.slice_price > 0:
            await self._bank.release(tx, hold_id=hold_id(job))


def hold_id(job: Job) -> str:
    return f"job:{job.id}"
