"""`dcp-orchestrator bank withdraw` and its relatives: credits go to an address on the chain."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from orchestrator.bank.amounts import format_amount, parse_amount
from orchestrator.bank.ethereum import store
from orchestrator.bank.ethereum.flights import Flight, State
from orchestrator.bank.ethereum.withdrawals import answer as flight_answer
from orchestrator.cli import books, connection
from orchestrator.database import Transaction
from orchestrator.errors import InvalidInput, NetworkFailure
from orchestrator.wallet import addresses, files
from orchestrator.wallet.keys import PrivateKey

_POLL_S = 2.0
_OVER = (State.DONE, State.FAILED)


@click.command()
@click.argument("amount")
@click.option("--to", "target", required=True, metavar="ADDRESS", help="Address on the chain, with its checksum.")
@click.option("--from", "keystore", default=files.DEFAULT, show_default=True, metavar="KEYSTORE", help="Who pays.")
@click.option("--wait", is_flag=True, help="Until it is final there; the exit status is 1 when the money went back.")
@connection.teller_options
def withdraw(
    *, amount: str, target: str, keystore: str, wait: bool, scheduler_url: str, transfer_id: str | None, output: str
) -> None:
    """Send AMOUNT DCC, or `all` there is, to an address on the Ethereum chain that the Bank follows.

    The amount is put aside at once. It is sent within seconds, and final once the chain has enough blocks on top of
    it; when the chain refuses it, the amount goes back. When the answer is lost, give the printed id again: it is sent
    once.
    """
    key = connection.unlock_file(files.find(keystore))
    moved = {"transferAll": True} if amount == "all" else {"amount": format_amount(parse_amount(amount))}
    data = {"fromAccount": key.address, "toAddress": _checked(target), **moved}
    told = connection.ask_once(
        scheduler_url, key, "bankTeller", "withdrawToChain", data, transfer_id=transfer_id, of="bank"
    )
    if wait:
        told = _until_over(scheduler_url, key, told)
    click.echo(json.dumps(told) if output == "json" else _sentence(told))
    if wait and told["state"] == State.FAILED:
        raise SystemExit(1)


@click.command()
@click.argument("transfer_id", metavar="ID")
@click.option("--from", "keystore", default=files.DEFAULT, show_default=True, metavar="KEYSTORE", help="Who paid.")
@connection.scheduler_option
@connection.output_option
def cancel_withdrawal(*, transfer_id: str, keystore: str, scheduler_url: str, output: str) -> None:
    """Take the withdrawal ID back, which works until it is sent. The amount goes back to its account."""
    key = connection.unlock_file(files.find(keystore))
    data = {"fromAccount": key.address, "transferId": transfer_id}
    told = _ask(scheduler_url, key, "cancelWithdrawal", data)
    click.echo(json.dumps(told) if output == "json" else _sentence(told))


@click.command()
@click.argument("account", required=False)
@click.option("--open", "only_open", is_flag=True, help="Only those that wait or are sent.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many, the newest.")
@books.options
def withdrawals(*, account: str | None, only_open: bool, limit: int, output: str, **place: Any) -> None:
    """Withdrawals to the chain, the newest first: all, or those of an ACCOUNT, with what happened to each."""
    name = addresses.checksum(account) if account is not None else None

    async def read(tx: Transaction) -> list[Flight]:
        return await store.flights_of(tx, name, only_open=only_open, most=limit)

    found = books.read(place, read)
    if output == "json":
        shown = [
            {**flight_answer(one), "story": [{"time": at, "what": what} for at, what in one.story()]} for one in found
        ]
        click.echo(json.dumps(shown))
        return
    if not found:
        click.echo("no withdrawals")
    for one in found:
        click.echo(f"{one.source}: {_sentence(flight_answer(one))}")
        for at, what in one.story():
            click.echo(f"    {books.moment(at)}  {what}")


def _checked(target: str) -> str:
    try:
        return addresses.checksum(target)
    except InvalidInput as error:
        raise InvalidInput(f"--to: {error.message}") from error


def _ask(scheduler_url: str, key: PrivateKey, operation: str, data: Any) -> Any:
    asker = PrivateKey.generate()
    return connection.ask(scheduler_url, asker, "bankTeller", operation, data, authorize=[key], of="bank")


def _until_over(scheduler_url: str, key: PrivateKey, told: dict[str, Any]) -> dict[str, Any]:
    while told["state"] not in _OVER:
        time.sleep(_POLL_S)
        try:
            answer = _ask(scheduler_url, key, "viewWithdrawals", {"address": key.address})
        except NetworkFailure:
            continue  # a Scheduler that is started anew
        told = next((one for one in answer["withdrawals"] if one["transferId"] == told["transferId"]), told)
    return told


def _sentence(told: dict[str, Any]) -> str:
    what = {
        State.WAITING: "put aside, and about to be sent",
        State.SENT: f"sent in transaction {told['transaction']}, which is not final yet",
        State.DONE: f"paid in transaction {told['transaction']}, block {told['block']}",
        State.FAILED: f"given back: {told['reason']}",
    }[State(told["state"])]
    return f"{told['amount']} DCC to {told['toAddress']} on the chain: {what}; its id is {told['transferId']}"
