"""bankTeller: the DCP service through which the owners of accounts look at them and move money.

An account is touched only when its own key signed the request (`allow` and `auth`, checked by the protocol layer and
handed over as `authorized`): that the peer may be trusted for other things does not count. New money is made, and fees
are paid out, by an operator's key alone.

`transfer`, `transferCredits`, `viewAccount` and `viewAccounts` are the operations of the official clients; the others,
and the field `transferId`, are ours.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from orchestrator import telemetry
from orchestrator.bank.amounts import format_amount, parse_amount
from orchestrator.bank.ethereum.withdrawals import Withdrawals
from orchestrator.bank.ethereum.withdrawals import answer as flight_answer
from orchestrator.bank.ledger import Wanted
from orchestrator.bank.pending import Pending
from orchestrator.bank.service import Bank, Line
from orchestrator.bank.transfers import Transfers
from orchestrator.database import Database, Transaction, retried
from orchestrator.errors import Fault, InvalidInput, NotPermitted, OrchestratorError
from orchestrator.wallet import addresses

MAX_ACCOUNTS = 1000
"""In one request."""
MAX_LINES = 1000
"""Of a statement in one answer."""
_OUTCOMES: Mapping[str, str] = {
    "transfer": "posted",
    "transferCredits": "posted",
    "postTransfer": "posted",
    "issueCredits": "posted",
    "payOutFees": "posted",
    "reserveTransfer": "pending",
    "withdrawToChain": "pending",
    "voidTransfer": "void",
    "cancelWithdrawal": "void",
}
"""What each operation that moves money does, for whoever counts."""
MAX_EXPIRY_S = 10 * 365 * 86_400


class Request(Protocol):
    """What the teller reads of a request."""

    @property
    def operation(self) -> str: ...

    @property
    def data(self) -> Any: ...

    @property
    def authorized(self) -> frozenset[str]:
        """Checksummed addresses whose keys signed this request."""


class Teller:
    """The service's requests, each in one transaction; transfers share theirs.

    `initial_credit` > 0 is for local computers: an account gets that many units when its owner first comes.
    `on_transfer` is called after each request that may have moved money. `operators` are the addresses whose keys may
    make money. `on_withdrawal` is called after each withdrawal that was asked for; without `withdrawals` none can be.
    """

    def __init__(
        self,
        bank: Bank,
        database: Database,
        *,
        initial_credit: int = 0,
        on_transfer: Callable[[], None] = lambda: None,
        operators: Collection[str] = (),
        withdrawals: Withdrawals | None = None,
        on_withdrawal: Callable[[], None] = lambda: None,
    ) -> None:
        self._withdrawals = withdrawals
        self._on_withdrawal = on_withdrawal
        self._on_transfer = on_transfer
        self._bank = bank
        self._database = database
        self._initial_credit = initial_credit
        self._operators = frozenset(operators)
        self._transfers = Transfers(bank, database, self._welcome_all)
        self._operations: dict[str, Callable[[Request, dict[str, Any]], Awaitable[Any]]] = {
            "transfer": self._transfer,
            "transferCredits": self._transfer_credits,
            "reserveTransfer": self._reserve,
            "postTransfer": self._post,
            "voidTransfer": self._void,
            "issueCredits": self._issue,
            "payOutFees": self._pay_out,
            "withdrawToChain": self._withdraw,
            "cancelWithdrawal": self._cancel_withdrawal,
            "viewWithdrawals": self._view_withdrawals,
            "viewPending": self._view_pending,
            "viewStatement": self._view_statement,
            "viewAccount": self._view_account,
            "viewAccounts": self._view_accounts,
        }

    async def handle(self, request: Request) -> Any:
        """The answer's payload.

        Raises `InvalidInput`, `NotPermitted`, `NotFound`, `NotEnoughFunds`, `IdReused`, `NotPending`, `DatabaseAway`
        (then it is not known whether anything happened), ENOSYS.
        """
        name, _, version = request.operation.partition("@")
        operation = self._operations.get(name)
        if operation is None or version not in ("", "1"):
            known = ", ".join(sorted(self._operations))
            raise OrchestratorError(
                f"the bank teller knows no operation {request.operation[:60]!r}; it has {known}", code="ENOSYS"
            )
        if not isinstance(request.data, dict):
            raise InvalidInput(f"{name}: data must be an object")
        data: dict[str, Any] = request.data
        if name.startswith("view"):
            return await retried(lambda: operation(request, data))
        outcome, began = "refused", time.perf_counter()
        try:
            answer = await retried(lambda: operation(request, data))
            outcome = _OUTCOMES[name]
        finally:
            telemetry.bank_transfers.add(1, {"outcome": outcome})
            telemetry.bank_transfer_time.record(time.perf_counter() - began)
        self._on_transfer()
        return answer

    async def _transfer(self, request: Request, data: dict[str, Any]) -> Any:
        """`{fromAccount, toAccount, amount | transferAll: true, transferId?}`.

        The optional `transferId` (ours; official clients send none) makes the request safe to repeat.
        """
        source = _authorized(request, data.get("fromAccount"), "fromAccount")
        target = _address(data.get("toAccount"), "toAccount")
        wanted = Wanted(_transfer_id(data), source, target, _amount_or_all(data))
        moved = await self._transfers.move(wanted)
        return {
            "transferId": wanted.transfer_id,
            "fromAccount": source,
            "toAccount": target,
            "amount": format_amount(moved.amount),
            "balance": format_amount(moved.balance),
        }

    async def _transfer_credits(self, request: Request, data: dict[str, Any]) -> Any:
        """`{fromAccount, toAccount, signingSource, amount}`: the elder form of `transfer`.

        An account has one key, so who signs must be who pays.
        """
        source, signer = _address(data.get("fromAccount"), "fromAccount"), data.get("signingSource")
        if signer is not None and _address(signer, "signingSource") != source:
            raise NotPermitted(
                f"signingSource {signer} may not move the money of fromAccount {source}: only its own key may"
            )
        return await self._transfer(request, data)

    async def _reserve(self, request: Request, data: dict[str, Any]) -> Any:
        """`{fromAccount, toAccount, amount | transferAll: true, transferId, expiresIn?}`: a transfer's first step.

        `expiresIn` (seconds) is when it becomes void by itself; without it waits for ever. The same again: how it
        stands.
        """
        source = _authorized(request, data.get("fromAccount"), "fromAccount")
        target = _address(data.get("toAccount"), "toAccount")
        amount, transfer_id, seconds = _amount_or_all(data), _own_id(data), data.get("expiresIn")
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MAX_EXPIRY_S
        ):
            raise InvalidInput(f"expiresIn must be a number of seconds, more than 0 and at most {MAX_EXPIRY_S}")
        async with self._database.transaction() as tx:
            await self._welcome(tx, source)
            made = await self._bank.reserve(
                tx, transfer_id=transfer_id, source=source, target=target, amount=amount, expires_in=seconds
            )
            return _pending_answer(transfer_id, made)

    async def _post(self, request: Request, data: dict[str, Any]) -> Any:
        """`{fromAccount, transferId}`: the money goes where it was meant for. By who pays."""
        source = _authorized(request, data.get("fromAccount"), "fromAccount")
        transfer_id = _given_id(data)
        async with self._database.transaction() as tx:
            return _pending_answer(
                transfer_id, await self._bank.post_pending(tx, source=source, transfer_id=transfer_id)
            )

    async def _void(self, request: Request, data: dict[str, Any]) -> Any:
        """`{fromAccount, transferId}`: the money goes back. By who pays, or by who would have got it."""
        source, transfer_id = _address(data.get("fromAccount"), "fromAccount"), _given_id(data)
        async with self._database.transaction() as tx:
            known = await self._bank.pending_transfer(tx, source=source, transfer_id=transfer_id)
            if source not in request.authorized and (known is None or known.target not in request.authorized):
                raise NotPermitted(
                    f"the request is signed neither by fromAccount {source} nor by who would get the money"
                )
            return _pending_answer(
                transfer_id, await self._bank.void_pending(tx, source=source, transfer_id=transfer_id)
            )

    async def _issue(self, request: Request, data: dict[str, Any]) -> Any:
        """`{toAccount, amount, transferId}`: new money. By an operator."""
        self._require_operator(request)
        target, amount, issue_id = _address(data.get("toAccount"), "toAccount"), _amount(data), _own_id(data)
        async with self._database.transaction() as tx:
            is_new = await self._bank.issue(tx, issue_id=issue_id, account=target, amount=amount)
            return await self._given(tx, target, amount, issue_id, is_new)

    async def _pay_out(self, request: Request, data: dict[str, Any]) -> Any:
        """`{toAccount, amount, transferId}`: out of the fees. By an operator."""
        self._require_operator(request)
        target, amount, payout_id = _address(data.get("toAccount"), "toAccount"), _amount(data), _own_id(data)
        async with self._database.transaction() as tx:
            is_new = await self._bank.pay_out(tx, payout_id=payout_id, account=target, amount=amount)
            return await self._given(tx, target, amount, payout_id, is_new)

    async def _given(self, tx: Transaction, account: str, amount: int, given_id: str, is_new: bool) -> Any:
        return {
            "transferId": given_id,
            "toAccount": account,
            "amount": format_amount(amount),
            "isNew": is_new,
            "balance": format_amount(await self._bank.balance(tx, account)),
        }

    def _require_operator(self, request: Request) -> None:
        if not self._operators & request.authorized:
            raise NotPermitted(
                "only an operator's key may do this: sign with the keystore of "
                + (" or ".join(sorted(self._operators)) or "an operator, of whom this Bank has none")
            )

    async def _withdraw(self, request: Request, data: dict[str, Any]) -> Any:
        """`{fromAccount, toAddress, amount | transferAll: true, transferId}`: to an address on the chain.

        The answer says how it stands; the same id again, too. `transferId` must be there: nobody is to pay twice.
        """
        source = _authorized(request, data.get("fromAccount"), "fromAccount")
        destination = _address(data.get("toAddress"), "toAddress")
        amount, transfer_id, withdrawals = _amount_or_all(data), _own_id(data), self._chain()
        async with self._database.transaction() as tx:
            made = await withdrawals.request(
                tx, transfer_id=transfer_id, source=source, destination=destination, amount=amount
            )
            answer = {**flight_answer(made), "balance": format_amount(await self._bank.balance(tx, source))}
        self._on_withdrawal()
        return answer

    async def _cancel_withdrawal(self, request: Request, data: dict[str, Any]) -> Any:
        """`{fromAccount, transferId}`: take a withdrawal back that was not sent yet."""
        source = _authorized(request, data.get("fromAccount"), "fromAccount")
        transfer_id, withdrawals = _own_id(data), self._chain()
        async with self._database.transaction() as tx:
            return flight_answer(await withdrawals.cancel(tx, source=source, transfer_id=transfer_id))

    async def _view_withdrawals(self, request: Request, data: dict[str, Any]) -> Any:
        """`{address}`: the account's withdrawals, the newest first."""
        account, withdrawals = _authorized(request, data.get("address"), "address"), self._chain()
        async with self._database.snapshot() as tx:
            return {"withdrawals": [flight_answer(one) for one in await withdrawals.of(tx, account)]}

    def _chain(self) -> Withdrawals:
        if self._withdrawals is None:
            raise OrchestratorError(
                "this Bank makes no withdrawals to a chain: its operator has not allowed them (chain_withdrawals)",
                code="ENOCHAIN",
                fault=Fault.USER,
            )
        return self._withdrawals

    async def _view_pending(self, request: Request, data: dict[str, Any]) -> Any:
        """`{address}`: the transfers of the account that wait."""
        account = _authorized(request, data.get("address"), "address")
        async with self._database.snapshot() as tx:
            waiting = await self._bank.pending_of(tx, account)
        return {"pending": [_pending_answer(one.id.removeprefix(f"{account}:"), one) for one in waiting]}

    async def _view_statement(self, request: Request, data: dict[str, Any]) -> Any:
        """`{address, limit?, before?}`: the newest postings of the account; `next` is the `before` of the rest."""
        account = _authorized(request, data.get("address"), "address")
        limit, before = data.get("limit", 100), data.get("before")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LINES:
            raise InvalidInput(f"limit must be a whole number from 1 to {MAX_LINES}")
        if before is not None and (isinstance(before, bool) or not isinstance(before, int) or before >= 2**63):
            raise InvalidInput("before must be the `next` of another answer")
        async with self._database.snapshot() as tx:
            lines = await self._bank.statement(tx, account, before=before, most=limit)
        return {"lines": [line_answer(line) for line in lines], "next": lines[-1].key if len(lines) == limit else None}

    async def _view_accounts(self, request: Request, data: dict[str, Any]) -> Any:
        """`{address}` or `{addresses}`, each a list or one address; the answer keeps their order."""
        given = data.get("addresses", data.get("address"))
        given = given if isinstance(given, list) else [given]
        if len(given) > MAX_ACCOUNTS:
            raise InvalidInput(f"at most {MAX_ACCOUNTS} addresses in one request, not {len(given)}")
        accounts = [_authorized(request, address, "address") for address in given]
        async with self._database.transaction() as tx:
            for account in dict.fromkeys(accounts):
                await self._welcome(tx, account)
            balances = await self._bank.balances(tx, accounts)
        return {"accounts": [{"address": account, "balance": format_amount(balances[account])} for account in accounts]}

    async def _view_account(self, request: Request, data: dict[str, Any]) -> Any:
        """`{address}`; `escrow` is what open holds of the account hold, and how many there are."""
        account = _authorized(request, data.get("address"), "address")
        async with self._database.transaction() as tx:
            await self._welcome(tx, account)
            balance = await self._bank.balance(tx, account)
            number, total = await self._bank.open_holds(tx, account)
        return {
            "address": account,
            "balance": format_amount(balance),
            "escrow": {"num": number, "total": format_amount(total)},
        }

    async def _welcome_all(self, tx: Transaction, accounts: Sequence[str]) -> None:
        for account in accounts:
            await self._welcome(tx, account)

    async def _welcome(self, tx: Transaction, account: str) -> None:
        if self._initial_credit > 0:
            await self._bank.open_account_with_credit(tx, account, self._initial_credit)


def line_answer(line: Line) -> dict[str, Any]:
    """One posting as its account sees it: `amount` is negative where it paid."""
    return {
        "time": line.posted_at,
        "kind": line.kind.value,
        "id": line.id,
        "other": line.other,
        "amount": format_amount(line.change),
        "balance": format_amount(line.balance),
    }


def _pending_answer(transfer_id: str, one: Pending) -> dict[str, Any]:
    return {
        "transferId": transfer_id,
        "fromAccount": one.source,
        "toAccount": one.target,
        "amount": format_amount(one.amount),
        "state": one.state.value,
        "expiresAt": one.expires_at,
        **({} if one.destination is None else {"toAddress": one.destination}),
    }


def _amount(data: dict[str, Any]) -> int:
    return parse_amount(data.get("amount"))


def _amount_or_all(data: dict[str, Any]) -> int | None:
    return None if data.get("transferAll") is True else _amount(data)


def _transfer_id(data: dict[str, Any]) -> str:
    return _given_id({"transferId": uuid.uuid4().hex, **data})


def _own_id(data: dict[str, Any]) -> str:
    if data.get("transferId") is None:
        raise InvalidInput("transferId is missing: give one of your own, and the same one when you repeat the request")
    return _given_id(data)


def _given_id(data: dict[str, Any]) -> str:
    transfer_id = data.get("transferId")
    if not isinstance(transfer_id, str):
        raise InvalidInput("transferId must be a string")
    return transfer_id


def _address(value: Any, field: str) -> str:
    if value is None:
        raise InvalidInput(f"{field} is missing")
    try:
        return addresses.checksum(value)
    except InvalidInput as error:
        raise InvalidInput(f"{field}: {error.message}") from error


def _authorized(request: Request, value: Any, field: str) -> str:
    account = _address(value, field)
    if account not in request.authorized:
        raise NotPermitted(f"the request is not signed by the key of {field} {account}: authorize it with its keystore")
    return account
