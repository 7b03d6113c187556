"""bankTeller: the DCP service through which the owners of accounts look at them and move money.

An account is touched only when its own key signed the request (`allow` and `auth`, checked by the protocol layer and
handed over as `authorized`): that the peer may be trusted for other things does not count.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from orchestrator.bank.amounts import format_amount, parse_amount
from orchestrator.bank.service import Bank
from orchestrator.database import Database, Transaction
from orchestrator.errors import InvalidInput, NotPermitted, OrchestratorError
from orchestrator.wallet import addresses

MAX_ACCOUNTS = 1000
"""In one request."""


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
    """The service's requests, each in one transaction.

    `initial_credit` > 0 is for local computers: an account gets that many units when its owner first comes.
    `on_transfer` is called after each transfer that was committed.
    """

    def __init__(
        self,
        bank: Bank,
        database: Database,
        *,
        initial_credit: int = 0,
        on_transfer: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_transfer = on_transfer
        self._bank = bank
        self._database = database
        self._initial_credit = initial_credit
        self._operations: dict[str, Callable[[Request, dict[str, Any]], Awaitable[Any]]] = {
            "transfer": self._transfer,
            "transferCredits": self._transfer_credits,
            "viewAccount": self._view_account,
            "viewAccounts": self._view_accounts,
        }

    async def handle(self, request: Request) -> Any:
        """The answer's payload. Raises `InvalidInput`, `NotPermitted`, `NotEnoughFunds`, `IdReused`, ENOSYS."""
        name, _, version = request.operation.partition("@")
        operation = self._operations.get(name)
        if operation is None or version not in ("", "1"):
            known = ", ".join(sorted(self._operations))
            raise OrchestratorError(
                f"the bank teller knows no operation {request.operation[:60]!r}; it has {known}", code="ENOSYS"
            )
        if not isinstance(request.data, dict):
            raise InvalidInput(f"{name}: data must be an object")
        return await operation(request, request.data)

    async def _transfer(self, request: Request, data: dict[str, Any]) -> Any:
        """`{fromAccount, toAccount, amount | transferAll: true, transferId?}`.

        The optional `transferId` (ours; official clients send none) makes the request safe to repeat.
        """
        source = _authorized(request, data.get("fromAccount"), "fromAccount")
        target = _address(data.get("toAccount"), "toAccount")
        amount = None if data.get("transferAll") is True else parse_amount(data.get("amount"))
        transfer_id = data.get("transferId", uuid.uuid4().hex)
        if not isinstance(transfer_id, str):
            raise InvalidInput("transferId must be a string")
        async with self._database.transaction() as tx:
            await self._welcome(tx, source)
            posting = await self._bank.transfer(
                tx, transfer_id=transfer_id, source=source, target=target, amount=amount
            )
            balance = await self._bank.balance(tx, source)
        self._on_transfer()
        return {
            "transferId": transfer_id,
            "fromAccount": source,
            "toAccount": target,
            "amount": format_amount(posting.amount),
            "balance": format_amount(balance),
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

    async def _welcome(self, tx: Transaction, account: str) -> None:
        if self._initial_credit > 0:
            await self._bank.open_account_with_credit(tx, account, self._initial_credit)


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
