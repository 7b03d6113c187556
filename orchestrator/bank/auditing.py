"""The audit: everything that the ledger says, computed anew from its postings.

It reads the whole ledger once and changes nothing. Memory grows with accounts, not with postings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence

from orchestrator.bank import store
from orchestrator.bank.amounts import format_amount
from orchestrator.bank.chain import Chained, Lane, Opening, Posting, Verifier
from orchestrator.bank.kinds import AccountKind, PostingKind, kind_of, may_move
from orchestrator.bank.ledger import Account
from orchestrator.bank.pending import Pending, PendingState
from orchestrator.database import Transaction

MOST_PROBLEMS = 1000
"""kept of each kind of check, and told apart; what follows from one cause can be endless"""


@dataclasses.dataclass(frozen=True)
class Audit:
    """What a recomputation of the whole ledger found."""

    accounts: int
    postings: int
    open_holds: int
    pending: int
    """Transfers that wait to be posted or void."""
    withdrawing: int
    """Units on their way to the outside chain: put aside, and in the reserve until they are final there."""
    issued: int
    """Units of all money that was made, less what lies nowhere any more."""
    reserve: int
    """Units that the outside chain must hold for us."""
    lanes: tuple[Lane, ...]
    """The ends of the chain; noted somewhere else, they prove later that nothing before them was changed."""
    problems: tuple[str, ...]
    """Empty when every balance is the sum of its postings and every rule holds. The first is the first in the chain."""


async def audit(tx: Transaction, noted: Sequence[Lane] = ()) -> Audit:
    """`noted` are ends of lanes of an earlier audit. Run it in a snapshot, so that it sees one moment."""
    accounts = {account.key: account async for account in store.all_accounts(tx)}
    lanes = await store.all_lanes(tx)
    proved = _Proved()
    problems, expected, count = await _postings(tx, accounts, lanes, noted, proved)
    problems += _balances(accounts, expected)
    escrow_problems, open_holds = await _holds(tx, accounts, proved)
    pending_problems, pending, withdrawing = await _pending(tx, accounts, proved)
    owed = {
        kind: -sum(one.balance for one in accounts.values() if one.kind is kind)
        for kind in (AccountKind.ISSUANCE, AccountKind.CHAIN_RESERVE)
    }
    return Audit(
        accounts=len(accounts),
        postings=count,
        open_holds=open_holds,
        pending=pending,
        withdrawing=withdrawing,
        issued=owed[AccountKind.ISSUANCE],
        reserve=owed[AccountKind.CHAIN_RESERVE],
        lanes=tuple(lanes[key] for key in sorted(lanes)),
        problems=tuple(problems + escrow_problems + pending_problems),
    )


class _Proved:
    """What the chain of postings says of holds and pending transfers, by the numbers of their accounts' rows."""

    def __init__(self) -> None:
        self.owners: dict[int, set[int]] = {}
        """Of holds: who opened an empty one, who filled them, and who got the rest."""
        self.reserved: dict[int, tuple[Posting, int]] = {}
        """Of pending transfers: what put the money aside, and whose it was."""
        self.settled: dict[int, tuple[PostingKind, int]] = {}
        """How they ended, and who got it."""

    def opened(self, hold: int, owner: int) -> None:
        self.owners.setdefault(hold, set()).add(owner)

    def note(self, posting: Posting, source: int, target: int) -> None:
        match posting.kind:
            case PostingKind.HOLD:
                self.owners.setdefault(target, set()).add(source)
            case PostingKind.RELEASE:
                self.owners.setdefault(source, set()).add(target)
            case PostingKind.RESERVE:
                self.reserved[target] = posting, source
            case _ if kind_of(posting.source) is AccountKind.PENDING:
                self.settled[source] = posting.kind, target


async def _postings(
    tx: Transaction, accounts: dict[int, Account], lanes: dict[int, Lane], noted: Sequence[Lane], proved: _Proved
) -> tuple[list[str], dict[int, int], int]:
    """Follow the chain; add up what each account (by its row's number) got."""
    names = {key: account.name for key, account in accounts.items()}
    verifier, problems, count = Verifier(noted), list[str](), 0
    expected: dict[int, int] = {}
    async for row, source, target in _entries(tx, names):
        found = verifier.check(row)
        if isinstance(row.entry, Opening):
            proved.opened(source, target)
        else:
            count += 1
            posting = row.entry
            expected[source] = expected.get(source, 0) - posting.amount
            expected[target] = expected.get(target, 0) + posting.amount
            proved.note(posting, source, target)
            if not may_move(posting.kind, kind_of(posting.source), kind_of(posting.target)):
                found.append(
                    f"posting {posting.id!r}: {posting.kind} from {posting.source} to {posting.target} is not possible"
                )
        if found and len(problems) < MOST_PROBLEMS:
            problems += found
    return problems + verifier.finish(lanes), expected, count


async def _entries(tx: Transaction, names: dict[int, str]) -> AsyncIterator[tuple[Chained, int, int]]:
    """Postings and openings in the order of the chain, each with the numbers of its two accounts."""
    openings = (await store.all_openings(tx))[::-1]
    async for row, source, target in store.all_postings(tx, names):
        while openings and _place(openings[-1][0]) < _place(row):
            yield openings.pop()
        yield row, source, target
    while openings:
        yield openings.pop()


def _place(row: Chained) -> tuple[int, int]:
    return row.lane or 0, row.number or 0


def _balances(accounts: dict[int, Account], expected: dict[int, int]) -> list[str]:
    problems = []
    for key, account in accounts.items():
        said, sum_of_postings = format_amount(account.balance), expected.get(key, 0)
        if account.balance != sum_of_postings:
            problems.append(
                f"account {account.name} says {said} DCC, its postings {format_amount(sum_of_postings)} DCC"
            )
        if account.kind is not kind_of(account.name):
            problems.append(
                f"account {account.name} is of the kind {account.kind}, its name of {kind_of(account.name)}"
            )
        if not account.kind.allows(account.balance):
            wrong = "above zero" if account.kind.may_owe else "below zero"
            problems.append(f"account {account.name} is {wrong}: {said} DCC")
    problems.extend(
        f"postings name account number {key}, which does not exist" for key in sorted(set(expected) - set(accounts))
    )
    total = sum(account.balance for account in accounts.values())
    if total != 0:
        problems.append(f"all accounts together hold {format_amount(total)} DCC, not 0")
    return problems


async def _holds(tx: Transaction, accounts: dict[int, Account], proved: _Proved) -> tuple[list[str], int]:
    problems, open_holds = list[str](), 0
    escrows = {key for key, account in accounts.items() if account.kind is AccountKind.ESCROW}
    for hold_id, key, owner, is_open in await store.all_holds(tx):
        open_holds += is_open
        if key not in escrows:
            problems.append(f"hold {hold_id} has no escrow account of its own")
        elif not is_open and accounts[key].balance != 0:
            problems.append(f"hold {hold_id} is released but holds {format_amount(accounts[key].balance)} DCC")
        if key not in proved.owners:
            problems.append(f"hold {hold_id} is in no chain: nothing proves that {_name(accounts, owner)} is its owner")
        problems.extend(
            f"hold {hold_id} says that {_name(accounts, owner)} is its owner, the chain {_name(accounts, other)}"
            for other in sorted(proved.owners.get(key, set()) - {owner})
        )
        escrows.discard(key)
    problems.extend(f"escrow account {accounts[key].name} belongs to no hold" for key in sorted(escrows))
    return problems, open_holds


async def _pending(tx: Transaction, accounts: dict[int, Account], proved: _Proved) -> tuple[list[str], int, int]:
    problems, waiting, withdrawing = list[str](), 0, 0
    unowned = {key for key, account in accounts.items() if account.kind is AccountKind.PENDING}
    for one, key in await store.all_pending(tx):
        is_pending = one.state is PendingState.PENDING
        waiting += is_pending
        withdrawing += one.amount if is_pending and one.kind is PostingKind.WITHDRAWAL else 0
        if key not in unowned:
            problems.append(f"pending transfer {one.id} has no account of its own")
        elif accounts[key].balance != (one.amount if is_pending else 0):
            held = format_amount(accounts[key].balance)
            problems.append(f"pending transfer {one.id} is {one.state} but {held} DCC are put aside for it")
        unowned.discard(key)
        problems.extend(_terms(one, key, accounts, proved))
    problems.extend(f"account {accounts[key].name} belongs to no pending transfer" for key in sorted(unowned))
    return problems, waiting, withdrawing


def _terms(one: Pending, key: int, accounts: dict[int, Account], proved: _Proved) -> list[str]:
    """How a pending transfer differs from what the chain says of it. Of one that an elder version made the chain has no
    terms: then only who paid and how it ended is proved."""
    problems = []
    posting, source = proved.reserved.get(key, (None, 0))
    if posting is None:
        problems.append(f"pending transfer {one.id} is in no chain: nothing was put aside for it")
    elif (_name(accounts, source), posting.amount) != (one.source, one.amount):
        problems.append(f"pending transfer {one.id} does not say what was put aside for it, and by whom")
    elif posting.detail not in (None, one.terms):
        problems.append(f"pending transfer {one.id} says {one.terms}, the chain {posting.detail}")
    kind, target = proved.settled.get(key, (None, 0))
    ends = {PendingState.PENDING: None, PendingState.POSTED: one.kind, PendingState.VOID: PostingKind.VOID}
    receiver = one.source if one.state is PendingState.VOID else one.target
    if kind is not ends[one.state] or (kind is not None and _name(accounts, target) != receiver):
        problems.append(f"pending transfer {one.id} is {one.state}, but that is not how it ended in the chain")
    return problems


def _name(accounts: dict[int, Account], key: int) -> str:
    return accounts[key].name if key in accounts else f"number {key}"
