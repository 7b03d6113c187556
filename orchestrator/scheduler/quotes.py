"""What a job costs: told before it is deployed, and at its deploy."""

from __future__ import annotations

from typing import Any

from orchestrator.database import Transaction
from orchestrator.protocol.server import Request
from orchestrator.scheduler import confidence, escrow, redundancy
from orchestrator.scheduler.core import Core, fields
from orchestrator.scheduler.pricing import hold_for, to_dcc
from orchestrator.scheduler.redundancy import Rule
from orchestrator.scheduler.store import opinions
from orchestrator.scheduler.submission import Enquiry, parse_enquiry
from orchestrator.wallet.addresses import checksum

_WORKERS_KNOWN = 10_000
"""workers whose trust is looked at to tell what a job may cost"""


class Quotes:
    def __init__(self, core: Core) -> None:
        self._core = core

    async def quote(self, request: Request) -> dict[str, Any]:
        """An operation of ours, `quoteJob`: what a job would cost if it was deployed now. Nothing is kept of it.

        Takes the fields of a `submit@5` that decide about the price: the offer, the input set (or the number of
        `slices` that will be listed), `isOpen`, `redundancy`. With `paymentAccount`, whose key has signed the
        request, the answer tells what that has (`available`).

        Amounts are decimal text in DCC: `slicePrice`; `total` {least, expected, most}; `held` {first, most}: what is
        set aside at the deploy, and when all slices are there. `redundancy` is as at the deploy.

        Errors: EINVAL.
        """
        settings, data = self._core.settings, fields(request)
        wish = parse_enquiry(data, redundancy.Offer(settings.agree, settings.max_opinions))
        price = wish.offer.slice_price(self._core.listing.market.slice_value(self._core.clock()))
        account = None if data.get("paymentAccount") is None else checksum(data["paymentAccount"])
        async with self._core.database.snapshot() as tx:
            told = await self.confidence(tx, request.peer, wish.rule, price, wish.slices)
        whole = to_dcc(hold_for(wish.slices, price))
        answer: dict[str, Any] = {
            "slicePrice": to_dcc(price),
            "slices": wish.slices,
            "total": told["total"] if told else dict.fromkeys(("least", "expected", "most"), whole),
            "held": self._held(wish, price),
        }
        if told:
            answer["redundancy"] = told
        if account is not None and account in request.authorized:
            async with self._core.database.transaction() as tx:
                available = await self._core.money.welcome(tx, account)
            answer |= {"paymentAccount": account, "available": to_dcc(available)}
        return answer

    def _held(self, wish: Enquiry, price: int) -> dict[str, str]:
        cost = price if wish.rule is None else price * wish.rule.of
        estimate = self._core.settings.open_job_slices
        _, first = escrow.to_fund(total=wish.known, closed=wish.closed, estimate=estimate)
        return {"first": to_dcc(hold_for(first, cost)), "most": to_dcc(hold_for(wish.slices, cost))}

    async def confidence(
        self, tx: Transaction, owner: str, rule: Rule | None, slice_price: int, slices: int
    ) -> dict[str, Any]:
        """What the agreement costs that a job asks for; empty when it asks for none."""
        if rule is None:
            return {}
        known = await opinions.all_trust(tx, owner, _WORKERS_KNOWN)
        price = confidence.price_of(rule, confidence.experience(known.values(), self._core.trust))
        return confidence.told(rule, price, slice_price, slices)
