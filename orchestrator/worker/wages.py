"""Pure: whether a job pays what its slices cost here. Money is an integer of 10^-18 DCC.

Three sources, the best that there is: what accepted results were paid with, against what they cost; the price that the
Scheduler names, against what slices cost here; the same price against what the Scheduler has measured. A price of
nothing is below any wage. A job that pays too little is refused for a while, then gets a new chance.
"""

from __future__ import annotations

import collections
import dataclasses
import decimal
from typing import Final

from orchestrator.bank.amounts import UNITS, format_amount
from orchestrator.jobs.words import SliceMetrics

_NS_PER_HOUR: Final = 3600 * 10**9
_BYTES_PER_MB: Final = 10**6
MOST_JOBS: Final = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Wage:
    """Units of 10^-18 DCC: per hour of CPU and of GPU, per MB (10^6 bytes) in and out."""

    cpu: int = 0
    gpu: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    @classmethod
    def of_dcc(cls, cpu: float, gpu: float, bytes_in: float, bytes_out: float) -> Wage:
        """A float stands for its shortest decimal form, which is what somebody wrote; rounded down to units."""
        return cls(*(int(decimal.Decimal(repr(one)) * UNITS) for one in (cpu, gpu, bytes_in, bytes_out)))

    def __bool__(self) -> bool:
        return bool(self.cpu or self.gpu or self.bytes_in or self.bytes_out)

    def of(self, cost: Cost) -> int:
        """What such work must bring, rounded down: nobody is refused for a rounding."""
        time = self.cpu * cost.cpu_ns + self.gpu * cost.gpu_ns
        data = self.bytes_in * cost.bytes_in + self.bytes_out * cost.bytes_out
        return (time * _BYTES_PER_MB + data * _NS_PER_HOUR) // (_NS_PER_HOUR * _BYTES_PER_MB)


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What slices took of this machine."""

    cpu_ns: int = 0
    gpu_ns: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    @classmethod
    def of_slice(cls, metrics: SliceMetrics) -> Cost:
        return cls(
            round(metrics.cpu_time_s * 1e9), round(metrics.gpu_time_s * 1e9), metrics.bytes_in, metrics.bytes_out
        )

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.cpu_ns + other.cpu_ns,
            self.gpu_ns + other.gpu_ns,
            self.bytes_in + other.bytes_in,
            self.bytes_out + other.bytes_out,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """`slices` are looked at before a job is judged by what it pays; `retry_s` later it gets a new chance."""

    wage: Wage = dataclasses.field(default_factory=Wage)
    slices: int = 5
    retry_s: float = 600.0


@dataclasses.dataclass(slots=True)
class _Account:
    """Of one job since its last chance began. `costs` are of slices that ended, `paid` of those that were accepted."""

    measured: int = 0
    cost: Cost = dataclasses.field(default_factory=Cost)
    settled: int = 0
    settled_cost: Cost = dataclasses.field(default_factory=Cost)
    paid: int = 0
    refused_until: float | None = None
    why: str = ""


class WageBook:
    """What each job cost and paid; the one that was quiet for longest is forgotten first."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._accounts: collections.OrderedDict[str, _Account] = collections.OrderedDict()

    def reconfigure(self, rules: Rules) -> None:
        """Other wages are other judgements; what was measured stays."""
        if rules != self.rules:
            self.rules = rules
            for account in self._accounts.values():
                account.refused_until = None

    def measured(self, job: str, cost: Cost) -> None:
        """A slice has ended, however."""
        account = self._account(job)
        account.measured += 1
        account.cost += cost

    def paid(self, job: str, cost: Cost, amount: int) -> None:
        """A result that had this cost was accepted, and paid with `amount`."""
        account = self._account(job)
        account.settled += 1
        account.settled_cost += cost
        account.paid += amount

    def refusal(self, job: str, price: int | None, estimate: Cost | None, now: float) -> str | None:
        """Why the job is refused now, for people; None when it is not. Without wages nothing is.

        `price` of a slice as the Scheduler names it, and `estimate` of what one costs, None when it does not say.
        """
        if not self.rules.wage:
            return None
        account = self._account(job)
        if account.refused_until is not None:
            if now < account.refused_until:
                return account.why
            self._accounts[job] = account = _Account()
        why = self._judge(account, price, estimate)
        if why is not None:
            account.refused_until, account.why = now + self.rules.retry_s, why
        return why

    def refused_until(self, job: str) -> float | None:
        account = self._accounts.get(job)
        return None if account is None else account.refused_until

    def _judge(self, account: _Account, price: int | None, estimate: Cost | None) -> str | None:
        wage = self.rules.wage
        if account.settled >= self.rules.slices:
            wanted = wage.of(account.settled_cost)
            if account.paid < wanted:
                return _below(account.paid, wanted, f"{account.settled} slices brought")
            return None
        if price is None:
            return None
        if account.measured >= self.rules.slices:
            wanted = wage.of(account.cost)
            if price * account.measured < wanted:
                return _below(price * account.measured, wanted, f"{account.measured} slices here would bring")
            return None
        if price == 0:
            return "it pays nothing"
        if estimate is not None and price < wage.of(estimate):
            return _below(price, wage.of(estimate), "a slice brings")
        return None

    def _account(self, job: str) -> _Account:
        account = self._accounts.get(job)
        if account is None:
            account = self._accounts[job] = _Account()
            if len(self._accounts) > MOST_JOBS:
                self._accounts.popitem(last=False)
        self._accounts.move_to_end(job)
        return account


def _below(brought: int, wanted: int, what: str) -> str:
    return f"{what} {format_amount(brought)} DCC where the minimum wage is {format_amount(wanted)} DCC"
