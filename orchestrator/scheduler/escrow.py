"""Pure: how far the money goes that is held for a job, and how a slice's price is divided.

A hold is filled in whole slices. `funded` counts the slices for which money was put aside since the job was deployed
(None: the job pays nothing, or was held in full by an older Scheduler, so that nothing limits it). Whoever accepts a
slice spends one of them, whoever leases one binds one:

    held ≥ price · (funded − accepted) ≥ price · leased

so every slice that is with a worker can be paid, whatever happens to the account meanwhile. What the hold does not
cover is not leased; a job of which nothing may be leased though slices wait is paused until there is more.

Where workers must agree, a slice may cost several prices (`Counts.copies`), and a hold is filled for all of them. A
slice on which somebody was heard stays bound until it is decided, since those who were heard are paid then. What it did
not cost in the end serves other slices.
"""

from __future__ import annotations

from typing import Protocol

from orchestrator.errors import Fault, OrchestratorError
from orchestrator.scheduler.lifecycle import Counts

RATE_UNITS = 10**18
"""A commission of everything; rates are integers of 10^-18."""


class EscrowBroken(OrchestratorError):
    """A bug of ours: more is leased than the hold covers."""

    code = "EINTERNAL"
    fault = Fault.SCHEDULER


class Commission(Protocol):
    """What a compute group takes of each payment for slices that were handed out through it."""

    @property
    def account(self) -> str:
        """who gets it"""

    @property
    def rate(self) -> int:
        """in 10^-18"""


def split(price: int, rate: int) -> tuple[int, int]:
    """(for the worker, for the group) of one slice's price, together all of it. The group's part is rounded down.

    Raises `ValueError` for a rate that is none.
    """
    if not 0 <= rate <= RATE_UNITS:
        raise ValueError(f"a commission rate is between 0 and {RATE_UNITS}, not {rate}")
    fee = price * rate // RATE_UNITS
    return price - fee, fee


def used(counts: Counts) -> int:
    """Slices' worth of the hold that is paid out, rounded up."""
    return -(-counts.earning // counts.copies)


def leasable(funded: int | None, counts: Counts) -> int | None:
    """How many more slices the hold lets out on which nobody was heard; None when nothing limits them."""
    return None if funded is None else max(0, funded - used(counts) - counts.leased - counts.doubted)


def may_lease(funded: int | None, counts: Counts) -> int:
    """How many of the waiting slices may be leased now."""
    covered = leasable(funded, counts)
    return counts.waiting if covered is None else min(counts.waiting, counts.doubted + covered)


def covers_unleased(funded: int | None, counts: Counts) -> bool:
    """Whether a result may still be accepted whose lease has expired and whose slice waits again: its pay is not among
    what is kept for leased slices, nor for those on which somebody was heard."""
    return leasable(funded, counts) != 0


def is_starved(funded: int | None, counts: Counts) -> bool:
    """Slices wait and the hold covers none of them."""
    return counts.waiting > 0 and may_lease(funded, counts) == 0


def missing(funded: int | None, counts: Counts) -> int:
    """For how many slices that wait or are out there is no money in the hold."""
    if funded is None:
        return 0
    return max(0, used(counts) + counts.leased + counts.waiting - funded)


def surplus(funded: int | None, counts: Counts) -> int:
    """How many slices the hold covers beyond those that may still cost something, when no more will come."""
    if funded is None:
        return 0
    return max(0, funded - used(counts) - counts.leased - counts.waiting)


def to_fund(*, total: int, closed: bool, estimate: int) -> tuple[int, int]:
    """(least, wanted) slices to hold for at the deploy of a job. A job whose slices are all known is held in full. One
    whose inputs come later is held for `estimate` slices as far as the account goes: what somebody cannot pay who
    cannot pay for one is told at once."""
    if closed:
        return total, total
    return max(total, 1), max(total, estimate, 1)


def validate(funded: int | None, counts: Counts) -> None:
    """Raise `EscrowBroken` when slices are out that the hold does not cover."""
    if funded is not None and used(counts) + counts.leased + counts.doubted > funded:
        raise EscrowBroken(f"money was held for {funded} slices, and {counts} are out or paid")
