"""Pure: a job comes into a compute group: whether its sender may put it there, and what is paid for that."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from orchestrator.bank.amounts import format_amount
from orchestrator.errors import NotFound, NotPermitted
from orchestrator.jobs.words import PUBLIC_GROUP
from orchestrator.scheduler import escrow
from orchestrator.scheduler import groups as rules
from orchestrator.scheduler.groups import Group, Knock


def find(known: Iterable[Group], knock: Knock) -> Group:
    """The group that lets the sender in. Raises `NotFound` when there is none or the sender proves nothing: others are
    not told which."""
    for group in known:
        if rules.may_deploy(group, knock):
            return group
    raise NotFound(f"there is no compute group {knock.descriptor.name} that takes jobs from you: is its secret right?")


def fee(group: Group, payer: str, *, is_first: bool) -> int:
    """Units that the payment account pays at once when its job joins; `is_first`: the job was in no group before."""
    if group.account == payer:
        return 0
    return group.terms.add_job_fee + (group.terms.deploy_fee if is_first else 0)


def check_fee(group: Group, amount: int, payer: str, *, limit: int, is_signed: bool) -> None:
    """Raises `NotPermitted` for a fee that the payment account itself has to agree to, and did not."""
    if amount > limit and not is_signed:
        raise NotPermitted(
            f"compute group {group.label} asks for {format_amount(amount)} DCC; more than {format_amount(limit)} DCC "
            f"is paid only when the payment account {payer} signs the request to join"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """One of the groups through which workers may get a job's slices; None is the public group."""

    group: Group | None
    fee: int

    def told(self, price: int) -> dict[str, Any]:
        """What the deployer hears, DCC as decimal text: the fee is paid beside the slices, the commission comes out of
        their `price`."""
        rate = 0 if self.group is None else self.group.terms.commission_rate
        worker, taken = escrow.split(price, rate)
        return {
            "group": PUBLIC_GROUP["joinKey"] if self.group is None else self.group.label,
            "fee": format_amount(self.fee),
            "commissionRate": format_amount(rate),
            "commission": format_amount(taken),
            "workerPay": format_amount(worker),
        }
