"""Sends withdrawals to the chain, each with one nonce for good. Any number of processes may do so side by side.

Nonce and signed transaction are in the database before anything is sent, so whoever is killed, wherever it was, is
followed by somebody who sends the very same bytes: the chain takes a nonce once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from orchestrator import telemetry
from orchestrator.bank.ethereum import abi, flights, store
from orchestrator.bank.ethereum.flights import GWEI, Attempt, Flight, State
from orchestrator.bank.ethereum.rpc import Refused, Rpc
from orchestrator.bank.ethereum.transactions import Call, Fees, hash_of, signed
from orchestrator.bank.ethereum.watch import Place
from orchestrator.bank.ethereum.withdrawals import give_back
from orchestrator.bank.service import Bank
from orchestrator.database import Database, persistently
from orchestrator.wallet.keys import PrivateKey

log = logging.getLogger(__name__)

REPEAT_S = 30.0
"""after which a transaction that is in no block is sent again: nodes forget"""
TELL_S = 600.0
"""how often the log says of a withdrawal that it cannot be sent"""
_USUAL_TIP = GWEI
_MORE_GAS = (5, 4)
_HARMLESS = ("already known", "known transaction", "already imported", "already in", "nonce too low")
"""nodes that have it, or have it in a block"""


class Sender:
    """`resend_s` is how long a transaction may be in no block before one with higher fees takes its place; `most_fee`
    is the most that is paid per gas, in wei. `clock` gives seconds since 1970."""

    def __init__(
        self,
        bank: Bank,
        database: Database,
        rpc: Rpc,
        place: Place,
        key: PrivateKey,
        *,
        resend_s: float,
        most_fee: int,
        clock: Callable[[], float],
    ) -> None:
        self._bank = bank
        self._database = database
        self._rpc = rpc
        self._place = place
        self._key = key
        self._resend_s = resend_s
        self._most_fee = most_fee
        self._clock = clock
        self._sent: dict[str, float] = {}
        """When this process sent each transaction that is in no block yet."""
        self._told: dict[str, float] = {}

    async def once(self) -> None:
        """Give new withdrawals their nonces and send what is in no block.

        Raises what `Rpc.call` raises. Cancelled at any moment it leaves nothing half done.
        """
        waiting, flying, following = await persistently(self._open)
        if not waiting and not flying:
            self._sent.clear()
            self._told.clear()
            return
        mined = abi.number(await self._rpc.call("eth_getTransactionCount", self._place.bank, "latest"), "nonce")
        outside = [one for one in flying if one.nonce is not None and one.nonce >= mined]
        self._forget_all_but(outside)
        for one in outside:
            await self._send(await self._renewed(one))
        room = flights.MOST_IN_FLIGHT - len(outside)
        if waiting and room > 0 and await self._knows_all(waiting[0], following, mined):
            for one in waiting[:room]:
                await self._launch(one, mined)

    async def _open(self) -> tuple[list[Flight], list[Flight], int | None]:
        """What waits, what is sent, and the nonce that is next."""
        async with self._database.snapshot() as tx:
            waiting = await store.open_flights(tx, self._place.key, State.WAITING, flights.MOST_IN_FLIGHT)
            flying = await store.open_flights(tx, self._place.key, State.SENT)
            return waiting, flying, await store.next_nonce(tx, self._place.sender)

    async def _knows_all(self, first: Flight, following: int | None, mined: int) -> bool:
        """Whether nothing was sent of which this database does not know, but what is final and was looked at.

        A backup that was put back may show as waiting what was sent long ago.
        """
        if following is None or mined <= following:
            return True
        async with self._database.snapshot() as tx:
            cursor = await store.cursor(tx, self._place.key)
        seen = 0
        if cursor is not None:
            answer = await self._rpc.call("eth_getTransactionCount", self._place.bank, hex(max(cursor.number, 0)))
            seen = abi.number(answer, "nonce")
        if seen < mined:
            self._tell(
                first,
                f"waits: the chain has {mined - following} transactions of the Bank's key that this database does not"
                " know, and the last of them is not final yet; was a backup put back, or is the key used elsewhere?",
            )
        return seen >= mined

    def _forget_all_but(self, outside: list[Flight]) -> None:
        """What got into a block is sent at once when it is in none any more."""
        names = {one.last.transaction for one in outside}
        self._sent = {name: at for name, at in self._sent.items() if name in names}

    # --- the first time

    async def _launch(self, one: Flight, mined: int) -> None:
        data = abi.transfer_call(one.destination, one.amount)
        asked = {"from": self._place.bank, "to": self._place.contract, "data": data}
        try:
            needed = abi.number(await self._rpc.call("eth_estimateGas", asked), "gas")
        except Refused as error:
            if "revert" not in error.message.lower():
                self._cannot(one, error)
                return
            reason = f"the contract refuses it: {error.message}"
            await persistently(lambda: self._give_back(one, reason))
            return
        gas, fees = needed * _MORE_GAS[0] // _MORE_GAS[1], await self._fees()

        async def launch() -> Flight | None:
            async with self._database.transaction() as tx:
                found = await store.flight(tx, one.id, lock=True)
                if found is None or found.state is not State.WAITING:
                    return None  # another process was faster, or it was taken back
                nonce = await store.take_nonce(tx, self._place.sender, mined)
                attempt = self._signed(found, nonce, 1, gas, fees)
                await store.launch(tx, found, self._place.sender, nonce, attempt)
                return await store.flight(tx, one.id)

        launched = await persistently(launch)
        if launched is not None:
            await self._send(launched)

    async def _give_back(self, one: Flight, reason: str) -> None:
        async with self._database.transaction() as tx:
            found = await store.flight(tx, one.id, lock=True)
            if found is None or found.state is not State.WAITING:
                return  # another process was faster, or it was taken back
            await give_back(tx, self._bank, found, reason)
        telemetry.chain_withdrawals.add(1, {"outcome": "failed"})
        log.warning("withdrawal %s: %s", one.id, reason, extra={"action": "chain"})

    # --- again

    async def _renewed(self, one: Flight) -> Flight:
        """The withdrawal with one more attempt, when the last has waited for too long."""
        if self._clock() - one.last.signed_at < self._resend_s:
            return one
        fees = flights.raised(one.last.fees, await self._fees(), self._most_fee)
        if fees is None:
            allowed = f"chain_max_fee_gwei allows ({self._most_fee / GWEI:g}): raise it, or wait"
            self._tell(one, f"is in no block yet, and to send it again would cost more than {allowed}")
            return one

        async def renew() -> Flight:
            async with self._database.transaction() as tx:
                found = await store.flight(tx, one.id, lock=True)
                assert found is not None
                if found.state is not State.SENT or found.last.number != one.last.number:
                    return found  # another process was faster
                assert found.nonce is not None
                attempt = self._signed(found, found.nonce, found.last.number + 1, found.last.gas, fees)
                await store.add_attempt(tx, found, attempt)
                renewed = await store.flight(tx, one.id)
                assert renewed is not None
                return renewed

        return await persistently(renew)

    async def _send(self, one: Flight) -> None:
        """Errors of the node are logged: what is wrong now may be right in a minute, and the nonce is taken."""
        name, now = one.last.transaction, self._clock()
        if one.state is not State.SENT or now - self._sent.get(name, float("-inf")) < REPEAT_S:
            return
        try:
            await self._rpc.call("eth_sendRawTransaction", "0x" + one.last.raw.hex())
        except Refused as error:
            if not any(word in error.message.lower() for word in _HARMLESS):
                self._cannot(one, error)
        self._sent[name] = now

    def _signed(self, one: Flight, nonce: int, number: int, gas: int, fees: Fees) -> Attempt:
        data = abi.transfer_call(one.destination, one.amount)
        raw = signed(Call(self._place.chain_id, nonce, self._place.contract, data, gas, fees), self._key)
        return Attempt(number, hash_of(raw), raw, gas, fees, self._clock())

    async def _fees(self) -> Fees:
        """What is usual now."""
        block = await self._rpc.call("eth_getBlockByNumber", "latest", False)
        base = block.get("baseFeePerGas") if isinstance(block, dict) else None
        if base is None:
            return flights.limited(
                Fees(abi.number(await self._rpc.call("eth_gasPrice"), "gas price"), None), self._most_fee
            )
        try:
            tip = abi.number(await self._rpc.call("eth_maxPriorityFeePerGas"), "tip")
        except Refused:
            tip = _USUAL_TIP
        # The base fee can double in six blocks.
        return flights.limited(Fees(2 * abi.number(base, "baseFeePerGas") + tip, tip), self._most_fee)

    def _cannot(self, one: Flight, error: Refused) -> None:
        poor = "insufficient funds" in error.message.lower()
        remedy = f": the Bank's address {self._place.bank} needs ether for gas" if poor else ""
        self._tell(one, f"cannot be sent now, and is tried again: {error.message}{remedy}")

    def _tell(self, one: Flight, what: str) -> None:
        now = self._clock()
        if now - self._told.get(one.id, float("-inf")) >= TELL_S:
            self._told[one.id] = now
            log.warning("withdrawal %s %s", one.id, what, extra={"action": "chain"})
