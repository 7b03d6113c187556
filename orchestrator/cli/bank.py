"""`dcp-orchestrator bank`: the Bank's books, for its operator; and the teller, for whoever has an account."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import pathlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from orchestrator.bank import Audit, Bank
from orchestrator.bank.amounts import format_amount, parse_amount
from orchestrator.bank.chain import Lane
from orchestrator.bank.ethereum import running as ethereum
from orchestrator.bank.kinds import AccountKind, kind_of
from orchestrator.bank.ledger import Account
from orchestrator.bank.service import Line
from orchestrator.bank.teller import line_answer
from orchestrator.cli import connection
from orchestrator.cli.options import given
from orchestrator.database import Database, Transaction, check_url, sqlite_url
from orchestrator.errors import InvalidInput, NetworkFailure, NotFound
from orchestrator.migrations import running
from orchestrator.settings import SchedulerSettings, load
from orchestrator.wallet import addresses, files
from orchestrator.wallet.keys import PrivateKey

_Result = TypeVar("_Result")
_PAGE = 1000
_SHOWN_PROBLEMS = 20


def _books(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the books are: what the Scheduler's settings say."""
    state = click.option(
        "--state", "state_dir", type=click.Path(path_type=pathlib.Path), metavar="PATH",
        help="State folder of the Scheduler.  [default: its settings]",
    )  # fmt: skip
    url = click.option("--database", "database_url", metavar="URL", help="Its database, when not in the state folder.")
    named = click.option(
        "--config", type=click.Path(path_type=pathlib.Path), metavar="FILE", help="Settings file of the Scheduler."
    )
    return state(url(named(connection.output_option(function))))


def _teller(function: Callable[..., Any]) -> Callable[..., Any]:
    transfer_id = click.option(
        "--id", "transfer_id", metavar="ID",
        help="What the transfer is called: the same id again moves nothing more. Made when not given, and printed.",
    )  # fmt: skip
    return connection.scheduler_option(transfer_id(connection.output_option(function)))


@click.group(name="bank")
def command() -> None:
    """Look into the Bank's books, check them, make credits, and move them.

    accounts, statement and audit read the Scheduler's database; transfer and issue ask a running Scheduler, and are
    signed with a keystore.
    """


@command.command()
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice([kind.value for kind in AccountKind]),
    help="Only these; may be repeated.  [default: all but the escrow accounts of jobs and pending transfers]",
)  # fmt: skip
@click.option("--all", "every", is_flag=True, help="Accounts of every kind.")
@_books
def accounts(*, kinds: tuple[str, ...], every: bool, output: str, **place: Any) -> None:
    """All accounts with their balances, as they were opened."""
    wanted = {AccountKind(kind) for kind in kinds} or set(AccountKind)
    if not every and not kinds:
        wanted -= {AccountKind.ESCROW, AccountKind.PENDING}

    async def read(tx: Transaction) -> list[Account]:
        return [account async for account in _all_accounts(tx, wanted)]

    found = _read(place, read)
    if output == "json":
        click.echo(json.dumps([_account_answer(one) for one in found]))
        return
    _table(("account", "kind", "balance, DCC"), [(one.name, one.kind, format_amount(one.balance)) for one in found])


@command.command()
@click.argument("account")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many, the newest.")
@click.option("--since", type=click.DateTime(), metavar="TIME", help="Not before this time (UTC): 2026-01-31T12:00:00.")
@click.option("--until", type=click.DateTime(), metavar="TIME", help="Before this time (UTC).")
@_books
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

    lines = _read(place, read)
    if output == "json":
        click.echo(json.dumps({"account": name, "lines": [line_answer(line) for line in lines]}))
        return
    if not lines:
        click.echo(f"No postings of {name}.")
        return
    rows = [
        (_moment(one.posted_at), one.kind, one.other, _signed(one.change), format_amount(one.balance)) for one in lines
    ]
    _table(("time", "kind", "other account", "amount, DCC", "balance, DCC"), rows)


@command.command()
@click.option(
    "--since", "noted", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path), metavar="FILE",
    help="The answer (--output json) of an earlier audit: nothing before it may have changed since.",
)  # fmt: skip
@click.option(
    "--adopt", is_flag=True,
    help="First chain the postings that an elder version made without a chain while it still ran beside this one.",
)  # fmt: skip
@_books
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
            problem = await ethereum.reserve_problem(settings, bank, tx)
        return adopted, found if problem is None else dataclasses.replace(found, problems=(*found.problems, problem))

    adopted, found = _with_database(place, work)
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
@_teller
def transfer(
    *, amount: str, target: str, keystore: str, scheduler_url: str, transfer_id: str | None, output: str
) -> None:
    """Move AMOUNT DCC, or `all` there is, to another account.

    KEYSTORE is a path (with a slash), or the name or label of one in $DCP_RESOURCE_DIR, else ~/.dcp, as in dcp-client.
    When the answer is lost, give the printed id again: nothing moves twice.
    """
    key = connection.unlock_file(files.find(keystore))
    moved = {"transferAll": True} if amount == "all" else {"amount": format_amount(parse_amount(amount))}
    data = {"fromAccount": key.address, "toAccount": _address(target), **moved}
    answer = _ask(scheduler_url, "transfer@1", data, key, transfer_id)
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
@_teller
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
    data = {"toAccount": _address(target), "amount": format_amount(parse_amount(amount))}
    answer = _ask(
        scheduler_url, "payOutFees" if from_fees else "issueCredits", data, connection.unlock_file(path), transfer_id
    )
    if output == "json":
        click.echo(json.dumps(answer))
        return
    once = "" if answer["isNew"] else " (was done before)"
    click.echo(
        f"{answer['amount']} DCC for {answer['toAccount']}, which has {answer['balance']} DCC{once}:"
        f" {answer['transferId']}"
    )


# --- the books


def _with_database(place: dict[str, Any], work: Callable[[Database], Coroutine[Any, Any, _Result]]) -> _Result:
    config = place.pop("config")
    settings = load(SchedulerSettings, given(place), config).settings
    url = settings.database_url
    if url is None:
        path = settings.state_dir / "scheduler.sqlite"
        if not path.is_file():
            raise NotFound(f"no books: there is no {path}; give --state or --database")
        url = sqlite_url(path)

    behind = running.look(check_url(url)).pending
    if behind:
        raise InvalidInput(
            f"the books are of an elder version (without {behind[0]}): start this version's Scheduler once, or run"
            " `dcp-orchestrator db migrate`"
        )

    async def run() -> _Result:
        database = await Database.open(url, migrate=False)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def _read(place: dict[str, Any], read: Callable[[Transaction], Coroutine[Any, Any, _Result]]) -> _Result:
    async def work(database: Database) -> _Result:
        async with database.snapshot() as tx:
            return await read(tx)

    return _with_database(place, work)


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
        click.echo(f"{adopted} postings were chained")
    for lane in found.lanes:
        click.echo(f"lane {lane.id} ends with number {lane.number}: {lane.digest.hex()}")
    click.echo(
        f"{found.postings} postings, {found.accounts} accounts, {format_amount(found.issued)} DCC issued,"
        f" {found.open_holds} open holds, {found.pending} pending transfers:"
        f" {'nothing is wrong' if not found.problems else f'{len(found.problems)} problems'}"
    )


def _account_answer(account: Account) -> dict[str, str]:
    return {"account": account.name, "kind": account.kind.value, "balance": format_amount(account.balance)}


def _signed(units: int) -> str:
    return format_amount(units) if units < 0 else f"+{format_amount(units)}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _seconds(moment: Any, otherwise: float) -> float:
    if moment is None:
        return otherwise
    return float(moment.replace(tzinfo=datetime.UTC).timestamp())


def _table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False, show_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name.endswith("DCC") else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    width = max((len(line) for row in rows for line in row), default=0) * len(names) + 40
    Console(highlight=False, soft_wrap=True, width=max(width, 80)).print(table)


# --- the teller


def _address(text: str) -> str:
    """An address, or the one of a keystore."""
    if text.startswith("0x") or addresses.is_address(text):
        return addresses.checksum(text)
    address = files.load(files.find(text)).address
    if address is None:
        raise InvalidInput(f"the keystore {text} does not say its address: give the address")
    return address


def _ask(scheduler: str, operation: str, data: dict[str, Any], key: PrivateKey, transfer_id: str | None) -> Any:
    transfer_id = transfer_id if transfer_id is not None else uuid.uuid4().hex
    # Whoever asks stays unknown: the account's signature is what counts.
    asker, data = PrivateKey.generate(), {**data, "transferId": transfer_id}
    try:
        return connection.ask(scheduler, asker, "bankTeller", operation, data, authorize=[key], of="bank")
    except NetworkFailure as error:
        unknown = f"{error.message}; whether it acted is not known: repeat it with --id {transfer_id}"
        raise NetworkFailure(unknown) from error
