"""What the Scheduler asks of the Bank: one hold per job, wages out of it, the rest back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from orchestrator.bank import Bank, Payment
from orchestrator.bank.ledger import escrow_account
from orchestrator.database import Transaction
from orchestrator.errors import NotEnoughFunds
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.pricing import hold_for, to_dcc


@dataclasses.dataclass(slots=True)  # not frozen: freezing costs four times as much, and there is one for every result
class Wage:
    """What is paid for one accepted slice, or one opinion on it: units for the worker's account, and for its compute
    group's."""

    number: int
    payee: str
    amount: int
    fee_account: str | None = None
    fee: int = 0
    lease: int = 0
    """of an opinion: under which it was given; 0 where a slice is paid once"""


class Money:
    """`initial_credit` > 0 opens an account that was never seen with that many units.

    Holds are filled for whole slices; see `escrow` for how many.
    """

    def __init__(self, bank: Bank, initial_credit: int) -> None:
        self._bank = bank
        self._initial_credit = initial_credit

    async def open(self, tx: Transaction, job: Job, *, least: int, wanted: int) -> int | None:
        """Set aside what `wanted` slices cost, or at least `least` of them; how many it is for, None when they are
        free. Raises `NotEnoughFunds`."""
        if job.slice_price == 0:
            return None
        account = job.payment_account
        if self._initial_credit > 0:
            await self._bank.open_account_with_credit(tx, account, self._initial_credit)
        available = await self._bank.balance(tx, account)
        slices = min(wanted, available // job.slice_cost)
        if slices < least:
            raise not_enough(account, available, least, job.slice_cost)
        await self._bank.hold(tx, hold_id=hold_id(job), account=account, amount=hold_for(slices, job.slice_cost))
        return slices

    async def add(self, tx: Transaction, job: Job, slices: int) -> int:
        """Set aside what up to `slices` more slices cost, as far as the payment account goes; for how many."""
        if slices <= 0 or job.slice_price == 0:
            return 0
        available = await self._bank.balance(tx, job.payment_account)
        slices = min(slices, available // job.slice_cost)
        if slices <= 0:
            return 0
        try:
            await self._bank.add_to_hold(tx, hold_id=hold_id(job), amount=hold_for(slices, job.slice_cost))
        except NotEnoughFunds:  # another transaction was quicker
            return 0
        return slices

    async def top_up(self, tx: Transaction, job: Job, slices: int, *, source: str, transfer_id: str) -> int:
        """Set aside what exactly `slices` slices cost, out of account `source`; for how many, 0 when this `transfer_id`
        did it before. Raises `NotEnoughFunds`, `IdReused`."""
        amount = hold_for(slices, job.slice_cost)
        if self._initial_credit > 0:
            await self._bank.open_account_with_credit(tx, source, self._initial_credit)
        available = await self._bank.balance(tx, source)
        name = f"topup:{job.id}:{transfer_id}"
        try:
            if source != job.payment_account:
                await self._bank.transfer(
                    tx, transfer_id=name, source=source, target=job.payment_account, amount=amount
                )
            added = await self._bank.add_to_hold(tx, hold_id=hold_id(job), amount=amount, transfer_id=transfer_id)
        except NotEnoughFunds:
            raise not_enough(source, available, slices, job.slice_cost) from None
        return slices if added else 0

    async def pay(self, tx: Transaction, due: Iterable[tuple[Job, Sequence[Wage]]]) -> None:
        """Pay accepted slices and what groups take of it, of all these jobs with as many statements as of one. All that
        one account gets for a job is one transfer, named after its lowest slice: a slice is accepted once, so no two
        transfers of a job share a name. An opinion is paid once, and a lease has one at most on a slice."""
        payments = {hold_id(job): found for job, wages in due if (found := _payments(job, wages))}
        if payments:
            await self._bank.pay_all(tx, payments)

    async def fee(self, tx: Transaction, job: Job, *, transfer_id: str, to: str, amount: int) -> None:
        """Pay something for a job at once, from its payment account. Raises `NotEnoughFunds`."""
        if self._initial_credit > 0:
            await self._bank.open_account_with_credit(tx, job.payment_account, self._initial_credit)
        source = job.payment_account
        await self._bank.transfer(tx, transfer_id=transfer_id, source=source, target=to, amount=amount)

    async def give_back(self, tx: Transaction, job: Job, slices: int, *, transfer_id: str) -> None:
        """Return what was held for slices that there will not be; the rest stays."""
        amount = hold_for(slices, job.slice_cost)
        if amount > 0:
            await self._bank.release_part(tx, hold_id=hold_id(job), amount=amount, transfer_id=transfer_id)

    async def release(self, tx: Transaction, job: Job) -> None:
        """Give back what is left of the job's hold."""
        if job.slice_price > 0:
            await self._bank.release(tx, hold_id=hold_id(job))

    async def welcome(self, tx: Transaction, account: str) -> int:
        """Units of an account, opened if it was never seen and new accounts get a credit."""
        if self._initial_credit > 0:
            await self._bank.open_account_with_credit(tx, account, self._initial_credit)
        return await self._bank.balance(tx, account)

    async def balances(self, tx: Transaction, accounts: Sequence[str]) -> dict[str, int]:
        """Units of each account."""
        return await self._bank.balances(tx, accounts)

    async def held(self, tx: Transaction, jobs: Iterable[Job]) -> dict[int, int]:
        """Units in the hold of each job, by the job's key; 0 when it is over or pays nothing."""
        names = {job.key: escrow_account(hold_id(job)) for job in jobs if job.slice_price > 0}
        found = await self._bank.balances(tx, list(names.values())) if names else {}
        return {key: found[name] for key, name in names.items()}


def _payments(job: Job, wages: Iterable[Wage]) -> list[Payment]:
    earned: dict[tuple[str, str], tuple[tuple[int, int], int]] = {}

    def note(kind: str, payee: str, wage: Wage, amount: int) -> None:
        this = (wage.number, wage.lease)
        lowest, total = earned.get((kind, payee), (this, 0))
        earned[kind, payee] = (min(lowest, this), total + amount)

    for wage in wages:
        note("wage", wage.payee, wage, wage.amount)
        if wage.fee_account is not None and wage.fee > 0:
            note("commission", wage.fee_account, wage, wage.fee)
    return [
        Payment(f"{kind}:{job.id}:{number}" + (f":{lease}" if lease else ""), payee, amount)
        for (kind, payee), ((number, lease), amount) in earned.items()
        if amount > 0
    ]


def hold_id(job: Job) -> str:
    return f"job:{job.id}"


def not_enough(account: str, available: int, slices: int, price: int) -> NotEnoughFunds:
    needed = to_dcc(hold_for(slices, price))
    what = "1 slice costs" if slices == 1 else f"{slices} slices cost"
    return NotEnoughFunds(
        f"account {account} has {to_dcc(available)} DCC; {what} {needed} DCC",
        info={"needed": needed, "available": to_dcc(available)},
    )
