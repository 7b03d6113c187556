"""What a job costs: told before it is deployed, and at its deploy."""

from __future__ import annotations

from typing import Any

from orchestrator.database import Transaction
from orchestrator.errors import InvalidInput
from orchestrator.jobs.words import parse_group
from orchestrator.protocol.server import Request
from orchestrator.scheduler import confidence, escrow, joining, redundancy
from orchestrator.scheduler import groups as rules
from orchestrator.scheduler.core import Core, fields
from orchestrator.scheduler.groups import Knock
from orchestrator.scheduler.joining import Way
from orchestrator.scheduler.pricing import hold_for, to_dcc
from orchestrator.scheduler.redundancy import Rule
from orchestrator.scheduler.store import groups, opinions
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
        `slices` that will be listed), `isOpen`, `redundancy`; and `cgArray` as `addJobToGroups` takes it, with proofs
        for this connection. With `paymentAccount`, whose key has signed the request, the answer tells what that has
        (`available`).

        Amounts are decimal text in DCC: `slicePrice`; `total` {least, expected, most} of the slices; `held` {first,
        most}: what is set aside at the deploy, and when all slices are there; `fees`: what the groups are paid at once,
        beside that. `redundancy` is as at the deploy. `groups` tells of each group its `fee`, its `commissionRate`,
        and of the price of a slice the `commission` and the `workerPay` that is left: the job pays no more for it.

        Errors: EINVAL; of a group that would refuse the job, what it would say: ENOENT, EGROUPLIMIT, EPERM.
        """
        settings, data = self._core.settings, fields(request)
        wish = parse_enquiry(data, redundancy.Offer(settings.agree, settings.max_opinions))
        price = wish.offer.slice_price(self._core.listing.market.slice_value(self._core.clock()))
        account = None if data.get("paymentAccount") is None else checksum(data["paymentAccount"])
        async with self._core.database.snapshot() as tx:
            told = await self.confidence(tx, request.peer, wish.rule, price, wish.slices)
            ways = await self._ways(tx, request, wish, price, account or request.peer)
        whole = to_dcc(hold_for(wish.slices, price))
        answer: dict[str, Any] = {
            "slicePrice": to_dcc(price),
            "slices": wish.slices,
            "total": told["total"] if told else dict.fromkeys(("least", "expected", "most"), whole),
            "held": self._held(wish, price),
            "fees": to_dcc(sum(way.fee for way in ways)),
        }
        if ways:
            answer["groups"] = [way.told(price) for way in ways]
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

    async def _ways(self, tx: Transaction, request: Request, wish: Enquiry, price: int, payer: str) -> list[Way]:
        """What the groups ask for that the job is to join. Raises what joining them would."""
        named = fields(request).get("cgArray", [])
        if not isinstance(named, list) or len(named) > rules.MOST_JOINED:
            raise InvalidInput(f"cgArray must be a list of at most {rules.MOST_JOINED} compute groups")
        wanted = dict.fromkeys(parse_group(one, f"cgArray[{index}]") for index, one in enumerate(named))
        known = await groups.named(tx, [one for one in wanted if not one.is_public])
        addresses = request.authorized | {request.peer}
        payment = hold_for(wish.slices, price if wish.rule is None else price * wish.rule.of)
        ways: dict[str, Way] = {}
        for descriptor in wanted:
            if descriptor.is_public:
                ways[rules.PUBLIC_GROUP_ID] = Way(None, 0)
                continue
            group = joining.find(known, Knock(descriptor, addresses, request.connection.dcpsid))
            rules.check_job(group, payment=payment, before=await groups.use(tx, group.id))
            fee = joining.fee(group, payer, is_first=True)
            # The account has signed this question, not that the job may join.
            joining.check_fee(
                group, fee, payer, limit=self._core.settings.max_group_fee, is_signed=payer == request.peer
            )
            ways[group.id] = Way(group, fee)
        return list(ways.values())

    async def confidence(
        self, tx: Transaction, owner: str, rule: Rule | None, slice_price: int, slices: int
    ) -> dict[str, Any]:
        """What the agreement costs that a job asks for; empty when it asks for none."""
        if rule is None:
            return {}
        known = await opinions.all_trust(tx, owner, _WORKERS_KNOWN)
        price = confidence.price_of(rule, confidence.experience(known.values(), self._core.trust))
        return confidence.told(rule, price, slice_price, slices)
