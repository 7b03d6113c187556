"""How withdrawals ended on the chain, and what follows for the ledger.

What is not final yet is still in the reserve: money put aside is posted in the transaction that carries its block over.
So the reserve is at any time what the contract said the Bank had at the last block carried over.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from orchestrator.bank.ethereum import abi, store
from orchestrator.bank.ethereum.flights import Flight, Outcome, State
from orchestrator.bank.ethereum.rpc import Refused, Rpc
from orchestrator.bank.kinds import PostingKind
from orchestrator.bank.pending import PendingState
from orchestrator.bank.service import Bank
from orchestrator.database import Transaction

log = logging.getLogger(__name__)


async def outcomes(
    rpc: Rpc, flying: Iterable[Flight], *, contract: str, bank: str, last: int, confirmations: int
) -> list[Outcome]:
    """Of withdrawals that are sent: those that ended in block `last` or before it. Raises what `Rpc.call` raises."""
    found, used = list[Outcome](), -1
    for one in flying:
        receipt, transaction = await _receipt(rpc, one, contract)
        if receipt is None:
            if used < 0:
                used = await _used_nonces(rpc, bank, last - confirmations)
            if one.nonce is not None and one.nonce < used:
                reason = f"another transaction of the Bank's key took its nonce, {one.nonce}: the key is used elsewhere"
                found.append(Outcome(one, None, last, reason))
        elif receipt.block <= last:
            ended = _outcome(one, receipt, transaction, bank)
            if ended is not None:
                found.append(ended)
    return found


async def settle(tx: Transaction, bank: Bank, ended: Outcome) -> bool:
    """Post or void the pending transfer. False when another process did."""
    one = await store.flight(tx, ended.flight.id, lock=True)
    if one is None or one.state is not State.SENT:
        return False
    source, transfer_id, kind = one.source, one.transfer_id, PostingKind.WITHDRAWAL
    known = await bank.pending_transfer(tx, source=source, transfer_id=transfer_id)
    assert known is not None
    if ended.reason is None:
        await bank.post_pending(tx, source=source, transfer_id=transfer_id, kind=kind)
    elif known.state is PendingState.POSTED:
        # It was paid, and final; then the chain went back further than that, and now it failed.
        await bank.deposit(tx, deposit_id=f"returned:{one.id}", account=source, amount=one.amount)
    else:
        await bank.void_pending(tx, source=source, transfer_id=transfer_id, kind=kind)
    if ended.reason is not None:
        log.error("withdrawal %s: %s; the money went back", one.id, ended.reason, extra={"action": "chain"})
    await store.settle(tx, one, ended)
    return True


async def recognised(tx: Transaction, place: str, went: abi.Transfer, nonce: int) -> Outcome | None:
    """The withdrawal that was paid by a transaction of which the database does not know, as after a backup was put
    back. None when there is none: then the reserve is wrong by that, and the log says so."""
    one = await store.twin(tx, place, went.target, went.amount, nonce)
    if one is None:
        log.error(
            "credits left the Bank's address in transaction %s, which is no withdrawal that stands: the chain reserve"
            " is no longer what the contract holds; use the Bank's key for nothing else",
            went.transaction,
            extra={"action": "chain"},
        )
        return None
    if one.state is State.WAITING:
        await store.adopt(tx, one, went.transaction, nonce)
    return Outcome(one, went.transaction, went.block)


async def _receipt(rpc: Rpc, one: Flight, contract: str) -> tuple[abi.Receipt | None, str]:
    """Of whichever of its transactions is in a block."""
    for attempt in reversed(one.attempts):
        receipt = abi.receipt(await rpc.call("eth_getTransactionReceipt", attempt.transaction), contract)
        if receipt is not None:
            return receipt, attempt.transaction
    return None, ""


def _outcome(one: Flight, receipt: abi.Receipt, transaction: str, bank: str) -> Outcome | None:
    moved = sum(transfer.amount for transfer in receipt.transfers if transfer.source == bank)
    if receipt.succeeded and moved == one.amount:
        return Outcome(one, transaction, receipt.block)
    if moved:
        log.error(
            "withdrawal %s moved another amount than it should, in transaction %s: such a contract cannot be used",
            one.id,
            transaction,
            extra={"action": "chain"},
        )
        return None
    reason = "the contract moved nothing" if receipt.succeeded else "the contract reverted it"
    return Outcome(one, transaction, receipt.block, f"{reason}: transaction {transaction} in block {receipt.block}")


async def _used_nonces(rpc: Rpc, bank: str, block: int) -> int:
    """How many nonces of the Bank were used up to a block: twice as deep as what is final, since all depends on it that
    none of ours was among them. 0 when the node no longer knows."""
    if block < 0:
        return 0
    try:
        return abi.number(await rpc.call("eth_getTransactionCount", bank, hex(block)), "nonce")
    except Refused:
        return 0
