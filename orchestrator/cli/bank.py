"""`dcp-orchestrator bank`: the Bank's books, for its operator; and the teller, for whoever has an account."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
import time
from collections.abc import AsyncIterator
from typing import Any

import click

from orchestrator.bank import Audit, Bank
from orchestrator.bank.amounts import format_amount, parse_amount
from orchestrator.bank.chain import Lane
from orchestrator.bank.ethereum import running as ethereum
from orchestrator.bank.kinds import AccountKind, kind_of
from orchestrator.bank.ledger import Account
from orchestrator.bank.service import Line
from orchestrator.bank.teller import line_answer
from orchestrator.cli import books, connection, withdrawals
from orchestrator.cli.options import given
from orchestrator.database import Database, Transaction
from orchestrator.errors import InvalidInput, NotFound
from orchestrator.settings import SchedulerSettings, load
from orchestrator.wallet import addresses, files

_PAGE = 1000
_SHOWN_PROBLEMS = 20


@click.group(name="bank")
def command() -> None:
    """Look into the Bank's books, check them, make credits, and move them.

    accounts, statement, audit and withdrawals read the Scheduler's database; transfer, withdraw, cancel-withdrawal and
    issue ask a running Scheduler, and are signed with a keystore.
    """


for _command in (withdrawals.withdraw, withdrawals.cancel_withdrawal, withdrawals.withdrawals):
    command.add_command(_command)


@command.command()
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice([kind.value for kind in AccountKind]),
    help="Only these; may be repeated.  [default: all but the escrow accounts of jobs and pending transfers]",
)  # fmt: skip
@click.option("--all", "every", is_flag=True, help="Accounts of every kind.")
@books.options
def accounts(*, kinds: tuple[str, ...], every: bool, output: str, **place: Any) -> None:
    """All accounts with their balances, as they were opened."""
    wanted = {AccountKind(kind) for kind in kinds} or set(AccountKind)
    if not every and not kinds:
        wanted -= {AccountKind.ESCROW, AccountKind.PENDING}

    async def read(tx: Transaction) -> list[Account]:
        return [account async for account in _all_accounts(tx, wanted)]

    found = books.read(place, read)
    if output == "json":
        click.echo(json.dumps([_account_answer(one) for one in found]))
        return
    books.print_table(
        ("account", "kind", "balance, DCC"), [(one.name, one.kind, format_amount(one.balance)) for one in found]
    )


@command.command()
@click.argument("account")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many, the newest.")
@click.option("--since", type=click.DateTime(), metavar="TIME", help="Not before this time (UTC): 2026-01-31T12:00:00.")
@click.option("--until", type=click.DateTime(), metavar="TIME", help="Before this time (UTC).")
@books.options
def statement(*, account: str, limit: int, since: Any, until: Any, output: str, **place: Any) -> None:
    """What went into and out of an ACCOUNT, the newest first, with its balance after each.

    ACCOUNT is an address, or the name of one of the Bank's own accounts as `bank accounts --all` shows it.
    """
    name = addresses.checksum(account) if kind_of(account) is AccountKind.ADDRESS else account
    first, end = _seconds(since, 0.0), _seconds(until, float("inf"))

    async def read(tx: Transaction) -> list[Line]:
        lines: list[Line] = []
        async for line in _all_lines(tx, name):
            if first <= line.posted_at < end:
                lines.append(line)
            if len(lines) == limit:
                break
        return lines

    lines = books.read(place, read)
    if output == "json":
        click.echo(json.dumps({"account": name, "lines": [line_answer(line) for line in lines]}))
        return
    if not lines:
        click.echo(f"No postings of {name}.")
        return
    rows = [
        (books.moment(one.posted_at), one.kind, one.other, _signed(one.change), format_amount(one.balance))
        for one in lines
    ]
    books.print_table(("time", "kind", "other account", "amount, DCC", "balance, DCC"), rows)


@command.command()
@click.option(
    "--since", "noted", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path), metavar="FILE",
    help="The answer (--output json) of an earlier audit: nothing before it may have changed since.",
)  # fmt: skip
@click.option(
    "--adopt", is_flag=True,
    help="First chain the postings and empty holds that an elder version made without a chain while it still ran"
    " beside this one.",
)  # fmt: skip
@books.options
def audit(*, noted: pathlib.Path | None, adopt: bool, output: str, **place: Any) -> None:
    """Compute every balance anew from the postings, follow the chain of their hashes, and check every rule.

    The exit status is 0 when nothing is wrong and 1 otherwise. Keep the answer of each audit (--output json) where
    nobody who can write to the database can write, and give the last one to the next: so it is proved that nothing was
    rewritten in between.

    Where a chain is configured, the contract there must hold for the Bank what the ledger says.
    """
    ends = _noted(noted) if noted is not None else []
    settings = load(SchedulerSettings, given(place | {"config": None}), place["config"]).settings

    async def work(database: Database) -> tuple[int, Audit]:
        bank, adopted = Bank(), 0
        if adopt:
            async with database.transaction() as tx:
                adopted = await bank.adopt(tx)
        async with database.snapshot() as tx:
            found = await bank.audit(tx, ends)
            more = await ethereum.problems(settings, bank, tx)
        return adopted, dataclasses.replace(found, problems=(*found.problems, *more))

    adopted, found = books.with_database(place, work)
    if output == "json":
        click.echo(json.dumps(_audit_answer(found, adopted)))
    else:
        _print_audit(found, adopted)
    if found.problems:
        raise SystemExit(1)


@command.command()
@click.argument("amount")
@click.option("--to", "target", required=True, metavar="ADDRESS", help="Address, or keystore, of who gets it.")
@click.option("--from", "keystore", default=files.DEFAULT, show_default=True, metavar="KEYSTORE", help="Who pays.")
@connection.teller_options
def transfer(
    *, amount: str, target: str, keystore: str, scheduler_url: str, transfer_id: str | None, output: str
) -> None:
    """Move AMOUNT DCC, or `all` there is, to another account.

    KEYSTORE is a path (with a slash), or the name or label of one in $DCP_RESOURCE_DIR, else ~/.dcp, as in dcp-client.
    When the answer is lost, give the printed id again: nothing moves twice.
    """
    key = connection.unlock_file(files.find(keystore))
    moved = {"transferAll": True} if amount == "all" else {"amount": format_amount(parse_amount(amount))}
    data = {"fromAccount": key.address, "toAccount": connection.address_of(target), **moved}
    answer = connection.ask_once(
        scheduler_url, key, "bankTeller", "transfer@1", data, transfer_id=transfer_id, of="bank"
    )
    if output == "json":
        click.echo(json.dumps(answer))
        return
    click.echo(f"{answer['amount']} DCC to {answer['toAccount']}, {answer['balance']} DCC left: {answer['transferId']}")


@command.command()
@click.argument("amount")
@click.option("--to", "target", required=True, metavar="ADDRESS", help="Address, or keystore, of who gets it.")
@click.option("--from-fees", is_flag=True, help="Pay it out of the fees, instead of making new credits.")
@click.option(
    "--key", "keystore", metavar="KEYSTORE",
    help="Keystore of the operator.  [default: scheduler.keystore in the Scheduler's state folder]",
)  # fmt: skip
@click.option(
    "--state", "state_dir", type=click.Path(path_type=pathlib.Path), metavar="PATH",
    help="State folder of the Scheduler, for its keystore.  [default: its settings]",
)  # fmt: skip
@click.option(
    "--config", type=click.Path(path_type=pathlib.Path), metavar="FILE", help="Settings file of the Scheduler."
)
@connection.teller_options
def issue(
    *,
    amount: str,
    target: str,
    from_fees: bool,
    keystore: str | None,
    state_dir: pathlib.Path | None,
    config: pathlib.Path | None,
    scheduler_url: str,
    transfer_id: str | None,
    output: str,
) -> None:
    """Make AMOUNT DCC for an account. Only an operator's key can.

    Operators are the addresses of the setting bank_operator; when there is none, it is the Scheduler's own key.
    """
    if keystore is None:
        settings = load(SchedulerSettings, given({"state_dir": state_dir}), config).settings
        path = settings.state_dir / "scheduler.keystore"
        if not path.is_file():
            raise NotFound(f"no operator's keystore: there is no {path}; give --state or --key")
    else:
        path = files.find(keystore)
    data = {"toAccount": connection.address_of(target), "amount": format_amount(parse_amount(amount))}
    key, operation = connection.unlock_file(path), "payOutFees" if from_fees else "issueCredits"
    answer = connection.ask_once(scheduler_url, key, "bankTeller", operation, data, transfer_id=transfer_id, of="bank")
    if output == "json":
        click.echo(json.dumps(answer))
        return
    once = "" if answer["isNew"] else " (was done before)"
    click.echo(
        f"{answer['amount']} DCC for {answer['toAccount']}, which has {answer['balance']} DCC{once}:"
        f" {answer['transferId']}"
    )


# --- the books


async def _all_accounts(tx: Transaction, kinds: set[AccountKind]) -> AsyncIterator[Account]:
    after = 0
    while page := await Bank().accounts(tx, kinds, after=after, most=_PAGE):
        for account in page:
            yield account
        after = page[-1].key


async def _all_lines(tx: Transaction, account: str) -> AsyncIterator[Line]:
    before = None
    while page := await Bank().statement(tx, account, before=before, most=_PAGE):
        for line in page:
            yield line
        before = page[-1].key


def _noted(path: pathlib.Path) -> list[Lane]:
    try:
        lanes = json.loads(path.read_text(encoding="utf-8"))["lanes"]
        return [Lane(int(lane["lane"]), int(lane["number"]), bytes.fromhex(lane["digest"])) for lane in lanes]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is not the answer of `bank audit --output json`: {error}") from error


def _audit_answer(found: Audit, adopted: int) -> dict[str, Any]:
    return {
        "time": time.time(),
        "accounts": found.accounts,
        "postings": found.postings,
        "openHolds": found.open_holds,
        "pending": found.pending,
        "issued": format_amount(found.issued),
        "reserve": format_amount(found.reserve),
        "withdrawing": format_amount(found.withdrawing),
        "lanes": [{"lane": one.id, "number": one.number, "digest": one.digest.hex()} for one in found.lanes],
        "adopted": adopted,
        "problems": list(found.problems),
    }


def _print_audit(found: Audit, adopted: int) -> None:
    for problem in found.problems[:_SHOWN_PROBLEMS]:
        click.echo(f"problem: {problem}")
    if len(found.problems) > _SHOWN_PROBLEMS:
        click.echo(f"… and more (--output json has {len(found.problems)} of them)")
    if adopted:
        click.echo(f"{adopted} postings and empty holds were chained")
    for lane in found.lanes:
        click.echo(f"lane {lane.id} ends with number {lane.number}: {lane.digest.hex()}")
    if found.reserve or found.withdrawing:
        reserve, going = format_amount(found.reserve), format_amount(found.withdrawing)
        click.echo(f"{reserve} DCC lie on the chain, of which {going} DCC are on their way to who withdrew them")
    click.echo(
        f"{found.postings} postings, {found.accounts} accounts, {format_amount(found.issued)} DCC issued,"
        f" {found.open_holds} open holds, {found.pending} pending transfers:"
        f" {'nothing is wrong' if not found.problems else f'{len(found.problems)} problems'}"
    )


def _account_answer(account: Account) -> dict[str, str]:
    return {"account": account.name, "kind": account.kind.value, "balance": format_amount(account.balance)}


def _signed(units: int) -> str:
    return format_amount(units) if units < 0 else f"+{format_amount(units)}"


def _seconds(moment: Any, otherwise: float) -> float:
    if moment is None:
        return otherwise
    return float(moment.replace(tzinfo=datetime.UTC).timestamp())
