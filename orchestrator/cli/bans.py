"""`dcp-orchestrator scheduler bans`: which addresses and identities are banned, for the operator."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import click

from orchestrator.cli import books
from orchestrator.database import Database
from orchestrator.errors import InvalidInput
from orchestrator.protocol.bans import kind_of
from orchestrator.scheduler import shared_bans
from orchestrator.scheduler.store.peer_bans import BanRow

_SOON = f"A Scheduler that runs takes it up within {shared_bans.POLL_S + 0.5:g} s."


@click.group()
def command() -> None:
    """Who is banned: see it, lift it, add to it.

    The Scheduler bans by itself: an address that sends too much that no honest peer sends, and an identity that signs
    such things (see --address-offences-per-s and --identity-offences-per-s of `scheduler run`). A ban counts at every
    process on the same database, and outlives them.
    """


@command.command(name="list")
@books.options
def list_(*, output: str, **place: Any) -> None:
    """All bans of now, the last first."""
    now = time.time()
    found = books.with_database(place, lambda database: shared_bans.current(database, now))
    if output == "json":
        click.echo(json.dumps([_answer(one, now) for one in found]))
        return
    if not found:
        click.echo("Nobody is banned.")
        return
    rows = [(one.subject, kind_of(one.subject), books.moment(one.since), _left(one, now), one.reason) for one in found]
    books.print_table(("who", "kind", "since", "left", "reason"), rows)


@command.command()
@click.argument("who", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every ban there is.")
@books.options
def lift(*, who: tuple[str, ...], every: bool, output: str, **place: Any) -> None:
    """End the bans of WHO: network addresses and identities.

    What led to the ban is forgotten, too. The exit status is 1 when one of them was not banned.
    """
    if every == bool(who):
        raise click.UsageError("name who is to be let in again, or give --all")
    subjects = None if every else [shared_bans.subject_of(one) for one in who]
    now = time.time()
    lifted = books.with_database(place, lambda database: shared_bans.lift(database, subjects, now))
    missing = [one for one in subjects or () if one not in lifted]
    if output == "json":
        click.echo(json.dumps({"lifted": lifted, "not_banned": missing}))
    else:
        for one in lifted:
            click.echo(f"{one} is banned no more.")
        for one in missing:
            click.echo(f"{one} was not banned.", err=True)
        click.echo(_SOON if lifted else "Nothing was lifted.")
    if missing:
        raise SystemExit(1)


@command.command()
@click.argument("who")
@click.option("--hours", type=click.FloatRange(0, min_open=True), default=24.0, show_default=True, help="How long.")
@click.option("--reason", default="by the operator", show_default=True, help="What those who are refused are told.")
@books.options
def add(*, who: str, hours: float, reason: str, output: str, **place: Any) -> None:
    """Ban WHO: a network address (203.0.113.7; of IPv6 its /64), or an identity (0x…).

    An address opens no new connections, and those without a session are cut off; its sessions go on, because an address
    may be that of many. An identity loses its sessions and opens no new ones.
    """
    if not reason.isprintable() or len(reason) > 200:
        raise InvalidInput("--reason must be one line of at most 200 characters")
    now = time.time()
    row = BanRow(shared_bans.subject_of(who), now, now + hours * 3600, reason, now)

    async def work(database: Database) -> None:
        await shared_bans.add(database, [row])

    books.with_database(place, work)
    if output == "json":
        click.echo(json.dumps(_answer(row, now)))
    else:
        click.echo(f"{row.subject} is banned until {books.moment(row.until)}. {_SOON}")


def _answer(row: BanRow, now: float) -> dict[str, Any]:
    fields = dataclasses.asdict(row)
    del fields["changed_at"]
    return {**fields, "kind": kind_of(row.subject), "left_s": round(row.until - now, 1)}


def _left(row: BanRow, now: float) -> str:
    seconds = round(row.until - now)
    return f"{seconds} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"
