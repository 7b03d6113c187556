"""Withdrawals to a real EVM chain, over JSON-RPC: sent once, whatever is killed and whatever the chain does."""

import asyncio
import contextlib
import itertools
import logging
import pathlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.bank import Bank, IdReused, NotPending
from orchestrator.bank.amounts import UNITS
from orchestrator.bank.ethereum import sending, store
from orchestrator.bank.ethereum.abi import NOBODY
from orchestrator.bank.ethereum.flights import Flight, State
from orchestrator.bank.ethereum.rpc import ChainAway, Rpc
from orchestrator.bank.ethereum.running import Chain as ChainSide
from orchestrator.bank.ethereum.running import problems
from orchestrator.bank.ethereum.sending import Sender
from orchestrator.bank.ethereum.watch import Place, Watch, find_place
from orchestrator.bank.ethereum.withdrawals import ReserveTooLow, Withdrawals
from orchestrator.bank.kinds import CHAIN_RESERVE, PostingKind
from orchestrator.bank.teller import Teller
from orchestrator.database import Database, back_up, check_url, put_back, sqlite_url
from orchestrator.errors import InvalidInput, NotEnoughFunds, NotPermitted, OrchestratorError
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey
from orchestrator.wallet.keystores import Keystore
from tests.ethereum import GWEI, Chain
from tests.integration.bank.test_teller import Asked
from tests.postgres import PostgresServer

USER, BANK, THERE = (PrivateKey(bytes([number]) * 32) for number in (0x21, 0x22, 0x23))
CONFIRMATIONS = 3
RESEND_S = 60.0
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Of what is between the Bank and its node alone. Kills, reorganisations and what money does run on both databases."""


class Killed(BaseException):
    """The process ends here."""


class Fuse:
    """Kills whoever takes the step of that number; never, when it is None."""

    def __init__(self, at: int | None = None) -> None:
        self.steps = 0
        self.at = at

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            raise Killed


class FragileRpc(Rpc):
    def __init__(self, url: str, fuse: Fuse) -> None:
        super().__init__(url)
        self.fuse = fuse

    async def call(self, method: str, *parameters: Any) -> Any:
        answer = await super().call(method, *parameters)
        self.fuse.step()
        return answer


class FragileDatabase:
    """What a `Database` does, with a fuse after each commit. (Before one, nothing has happened since an answer.)"""

    def __init__(self, database: Database, fuse: Fuse) -> None:
        self.snapshot = database.snapshot
        self.database, self.fuse = database, fuse

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self.database.transaction() as tx:
            yield tx
        self.fuse.step()


class World:
    """A Bank beside a chain. `process()` starts it (anew); `now` is its clock."""

    def __init__(self, chain: Chain, database: Database, settings: SchedulerSettings, place: Place) -> None:
        self.chain, self.database, self.settings, self.place = chain, database, settings, place
        self.now = 1000.0
        self.bank = Bank(clock=lambda: self.now)
        self.withdrawals = Withdrawals(self.bank, place, UNITS)
        self.rpcs: list[FragileRpc] = []

    @contextlib.asynccontextmanager
    async def process(self, fuse: Fuse | None = None) -> AsyncIterator[ChainSide]:
        fuse = fuse or Fuse()
        async with FragileRpc(self.chain.rpc_url, fuse) as rpc:
            self.rpcs.append(rpc)
            database: Any = FragileDatabase(self.database, fuse)
            watch = Watch(self.bank, database, rpc, self.place, CONFIRMATIONS)
            sender = Sender(
                self.bank, database, rpc, self.place, BANK,
                resend_s=RESEND_S, most_fee=100 * GWEI, clock=lambda: self.now,
            )  # fmt: skip
            yield ChainSide(watch, 1.0, self.withdrawals, sender)

    async def ask(self, name: str, amount: int | None = UNITS, to: str = THERE.address, database: Any = None) -> Flight:
        async with (database or self.database).transaction() as tx:
            return await self.withdrawals.request(
                tx, transfer_id=name, source=USER.address, destination=to, amount=amount
            )

    async def flight(self, name: str) -> Flight:
        async with self.database.snapshot() as tx:
            found = await store.flight(tx, f"{USER.address}:{name}")
        assert found is not None
        found.validate()
        return found

    async def balance(self, account: str = USER.address) -> int:
        async with self.database.snapshot() as tx:
            return await self.bank.balance(tx, account)

    async def check(self) -> None:
        """The books are right, and the reserve is what the contract had at the block carried over."""
        async with self.database.snapshot() as tx:
            assert (await self.bank.audit(tx)).problems == ()
            assert await problems(self.settings, self.bank, tx) == []


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    async with Chain() as chain:
        for key in (USER, BANK):
            chain.give_gas(key.address)
        chain.mint(USER.address, 1000 * UNITS)
        chain.mine()
        yield chain


@pytest.fixture
async def world(chain: Chain, database_url: str, tmp_path: Any) -> AsyncIterator[World]:
    files.save(tmp_path / "bank.keystore", Keystore.encrypt(BANK, ""))
    settings = SchedulerSettings(
        chain_url=chain.rpc_url, chain_contract=chain.contract, chain_keystore=tmp_path / "bank.keystore"
    )
    async with Rpc(chain.rpc_url) as rpc:
        place = await find_place(rpc, chain.contract, BANK.address, 0)
    database = await Database.open(database_url)
    world = World(chain, database, settings, place)
    chain.transfer(USER, BANK.address, 100 * UNITS)
    chain.mine(CONFIRMATIONS)
    async with world.process() as side:
        await side.once()
    assert await world.balance() == 100 * UNITS
    yield world
    await database.close()


async def test_it_is_sent_once_and_posted_after_enough_confirmations(world: World) -> None:
    chain = world.chain
    assert (await world.ask("w", 5 * UNITS)).state is State.WAITING
    assert await world.balance() == 95 * UNITS
    async with world.process() as side:
        for _ in range(3):
            await side.once()
        assert len(chain.pool) == 1
        assert (await world.flight("w")).state is State.SENT
        chain.mine(CONFIRMATIONS - 1)
        await side.once()
        assert chain.balance(THERE.address) == 5 * UNITS
        assert ((await world.flight("w")).state, await world.balance(CHAIN_RESERVE)) == (State.SENT, -100 * UNITS)
        await world.check()
        chain.mine()
        await side.once()
        assert ((await world.flight("w")).state, await world.balance(CHAIN_RESERVE)) == (State.DONE, -95 * UNITS)
        await world.check()
        again = await world.ask("w", 5 * UNITS)
        assert again == await world.flight("w"), "the same request again is answered, and asks for nothing"
        await side.once()
        chain.mine(CONFIRMATIONS)
        await side.once()
    assert chain.balance(THERE.address) == 5 * UNITS
    assert -await world.balance(CHAIN_RESERVE) == chain.balance(BANK.address) == 95 * UNITS
    story = [told for _, told in again.story()]
    assert story == [
        f"asked for, to {THERE.address}",
        f"signed as {again.transaction}, nonce 0, at most {story[1].split()[-2]} gwei",
    ]


@pytest.mark.parametrize(("database_url", "stride"), [("sqlite", 1), ("postgres", 4)], indirect=["database_url"])
async def test_killed_between_any_two_steps_it_pays_once(world: World, stride: int) -> None:
    """Each time the Bank is killed one step later, or some; then it is started again, and its client asks again."""
    chain = world.chain
    for at in itertools.count(1, stride):
        name, to, fuse = f"w{at}", PrivateKey(at.to_bytes(32)).address, Fuse(at)

        async def asked_and_sent(side: ChainSide, database: Any, name: str = name, to: str = to) -> None:
            await world.ask(name, to=to, database=database)
            await side.once()
            chain.mine(CONFIRMATIONS)
            await side.once()

        async with world.process(fuse) as side:
            with contextlib.suppress(Killed):
                await asked_and_sent(side, FragileDatabase(world.database, fuse))
        if fuse.steps < at:
            break
        async with world.process() as side:
            await asked_and_sent(side, world.database)
        assert (await world.flight(name)).state is State.DONE
        assert chain.balance(to) == UNITS, f"killed at step {at}"
    assert at > 15
    nonces = [(await world.flight(f"w{number}")).nonce for number in range(1, at + 1, stride)]
    assert sorted(nonces) == list(range(len(nonces))), "none is left out, either"
    await world.check()


@pytest.mark.parametrize(
    ("database_url", "seed"), [("sqlite", 0), ("sqlite", 1), ("postgres", 2)], indirect=["database_url"]
)
async def test_whatever_happens_in_whatever_order(world: World, seed: int) -> None:
    """Kills, waiting, dear gas, blocks, and blocks that never were, by the dice."""
    chain, dice = world.chain, random.Random(seed)
    asked: dict[str, int] = {}
    before: list[Any] = []
    for _ in range(60):
        match dice.choice(("ask", "again", "go on", "go on", "mine", "mine", "reorganise", "wait", "gas", "forget")):
            case "ask":
                name = str(len(asked))
                asked[name] = dice.randint(1, 3) * UNITS
                await world.ask(name, asked[name])
            case "again" if asked:
                name = dice.choice(sorted(asked))
                await world.ask(name, asked[name])
            case "go on":
                fuse = Fuse(dice.randint(1, 30))
                async with world.process(fuse) as side:
                    with contextlib.suppress(Killed):
                        await side.once()
            case "mine":
                before.append(chain.tester.take_snapshot())
                chain.mine()
            case "reorganise" if before:
                # Never as deep as what is final, and the new branch is as long: the last block carried over stays.
                depth = dice.randint(1, min(CONFIRMATIONS - 1, len(before)))
                chain.reorganise(before[-depth])
                del before[-depth:]
                for _ in range(depth):
                    before.append(chain.tester.take_snapshot())
                    chain.mine()
            case "wait":
                world.now += dice.choice((10.0, 40.0, RESEND_S))
            case "gas":
                chain.least_fee = dice.choice((0, 4 * GWEI, 8 * GWEI))
            case "forget":
                chain.pool.clear()
    chain.least_fee = 0
    for _ in range(CONFIRMATIONS + 2):
        world.now += RESEND_S
        async with world.process() as side:
            await side.once()
            chain.mine(CONFIRMATIONS)
            await side.once()
    flights = [await world.flight(name) for name in asked]
    assert [one.state for one in flights] == [State.DONE] * len(asked)
    assert sorted(one.nonce for one in flights if one.nonce is not None) == list(range(len(asked)))
    assert chain.balance(THERE.address) == sum(asked.values())
    assert await world.balance() == 100 * UNITS - sum(asked.values())
    await world.check()


async def test_a_higher_fee_takes_the_place_of_one_that_waits_too_long(world: World) -> None:
    chain = world.chain
    chain.least_fee = 12 * GWEI
    await world.ask("w")
    await world.ask("v")
    async with world.process() as side:
        await side.once()
        chain.mine()
        world.now += RESEND_S - 1
        await side.once()
        assert len((await world.flight("w")).attempts) == 1, "not yet"
        fees = []
        for _ in range(40):
            world.now += RESEND_S
            await side.once()
            fees.append((await world.flight("w")).last.fees)
            if fees[-1].most >= chain.least_fee:
                break
        assert all(later.most > fee.most * 1.1 for fee, later in itertools.pairwise(fees))
        assert len(chain.pool) == 2, "each in place of the one before"
    async with world.process() as side:  # whoever comes later knows what was sent
        chain.mine(CONFIRMATIONS)
        await side.once()
    done = await world.flight("w")
    assert (done.state, done.transaction) == (State.DONE, done.last.transaction)
    assert {done.nonce, (await world.flight("v")).nonce} == {0, 1}
    assert chain.balance(THERE.address) == 2 * UNITS
    await world.check()


async def test_an_earlier_attempt_may_be_the_one_that_is_mined(world: World) -> None:
    await world.ask("w")
    async with world.process() as side:
        await side.once()
        first = world.chain.pool[0]
        world.now += RESEND_S
        await side.once()
        assert world.chain.pool != [first]
        world.chain.pool[:] = [first]
        world.chain.mine(CONFIRMATIONS)
        await side.once()
    done = await world.flight("w")
    assert (done.state, done.transaction) == (State.DONE, done.attempts[0].transaction)
    assert world.chain.balance(THERE.address) == UNITS
    await world.check()


@SQLITE
async def test_no_more_is_paid_for_gas_than_is_allowed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.chain.least_fee = 10_000 * GWEI
    await world.ask("w")
    async with world.process() as side:
        for _ in range(60):
            await side.once()
            world.now += RESEND_S
    one = await world.flight("w")
    assert 85 * GWEI < one.last.fees.most <= 100 * GWEI
    assert "cost more than chain_max_fee_gwei allows (100)" in caplog.text


async def test_what_a_reorganisation_takes_away_is_sent_again_with_its_nonce(world: World) -> None:
    chain = world.chain
    await world.ask("w")
    async with world.process() as side:
        await side.once()
        before = chain.tester.take_snapshot()
        chain.mine(CONFIRMATIONS - 1)
        await side.once()
        assert chain.balance(THERE.address) == UNITS
        chain.reorganise(before)
        chain.mine()
        assert chain.balance(THERE.address) == 0
        await side.once()
        assert len(chain.pool) == 1
        chain.mine(CONFIRMATIONS)
        await side.once()
    done = await world.flight("w")
    assert (done.state, done.nonce, len(done.attempts)) == (State.DONE, 0, 1)
    assert chain.balance(THERE.address) == UNITS
    await world.check()


async def test_a_reorganisation_deeper_than_the_confirmations(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What was done is under way again, and is not posted twice."""
    chain = world.chain
    await world.ask("w")
    await world.ask("v")
    async with world.process() as side:
        await side.once()
        before = chain.tester.take_snapshot()
        chain.mine(CONFIRMATIONS)
        await side.once()
        assert (await world.flight("w")).state is State.DONE
        chain.reorganise(before)
        chain.mine(CONFIRMATIONS)
        await side.once()
        assert (await world.flight("w")).state is State.SENT
        assert "reorganised deeper than 3 confirmations" in caplog.text
        assert len(chain.pool) == 2
        chain.mine(CONFIRMATIONS)
        await side.once()
    assert [(await world.flight(name)).state for name in "wv"] == [State.DONE] * 2
    assert (chain.balance(THERE.address), await world.balance()) == (2 * UNITS, 98 * UNITS)
    await world.check()


async def test_what_the_contract_reverts_goes_back(world: World) -> None:
    """The estimate was right when it was made; then the Bank's credits were gone."""
    chain = world.chain
    chain.send(
        BANK, chain.contract, bytes.fromhex("095ea7b3") + bytes(12) + bytes.fromhex(USER.address[2:]) + b"\xff" * 32
    )
    chain.mine()
    await world.ask("w", 5 * UNITS)
    async with world.process() as side:
        await side.once()
        words = b"".join(bytes(12) + bytes.fromhex(one.address[2:]) for one in (BANK, USER))
        chain.send(USER, chain.contract, bytes.fromhex("23b872dd") + words + (98 * UNITS).to_bytes(32))
        chain.pool.reverse()
        chain.mine(CONFIRMATIONS)
        await side.once()
        failed = await world.flight("w")
        assert (failed.state, failed.nonce) == (State.FAILED, 1)
        assert failed.reason == f"the contract reverted it: transaction {failed.transaction} in block {failed.block}"
        assert (await world.balance(), chain.balance(THERE.address)) == (100 * UNITS, 0)
        # What is refused before it is sent takes no nonce.
        await world.ask("v", 5 * UNITS)
        await side.once()
    refused = await world.flight("v")
    assert (refused.state, refused.nonce) == (State.FAILED, None)
    assert refused.reason is not None
    assert "the contract refuses it" in refused.reason
    assert await world.balance() == 100 * UNITS
    async with world.database.snapshot() as tx:
        (problem,) = await problems(world.settings, world.bank, tx)
    assert "the chain reserve is 100 DCC, but at block" in problem, "it was robbed"


async def test_a_nonce_that_somebody_else_used(world: World, caplog: pytest.LogCaptureFixture) -> None:
    chain = world.chain
    await world.ask("w")
    async with world.process() as side:
        await side.once()
        chain.pool.clear()
        chain.send(BANK, USER.address, b"", value=1)
        chain.mine(CONFIRMATIONS)
        await side.once()
        assert (await world.flight("w")).state is State.SENT, "not for sure yet"
        chain.mine(CONFIRMATIONS)
        await side.once()
    failed = await world.flight("w")
    assert failed.reason is not None
    assert (failed.state, "took its nonce, 0: the key is used elsewhere" in failed.reason) == (State.FAILED, True)
    assert await world.balance() == 100 * UNITS
    await world.ask("v")
    async with world.process() as side:
        await side.once()
        chain.mine(CONFIRMATIONS)
        await side.once()
    assert ((await world.flight("v")).nonce, chain.balance(THERE.address)) == (1, UNITS)
    await world.check()
    chain.transfer(BANK, USER.address, UNITS)
    chain.mine(CONFIRMATIONS)
    async with world.process() as side:
        await side.once()
    assert "credits left the Bank's address in transaction" in caplog.text


def copied(url: str, folder: pathlib.Path, request: pytest.FixtureRequest) -> str:
    """A backup that was put back: the URL of the database that it is in."""
    file = folder / "copy.sqlite"
    back_up(check_url(url), file)
    if check_url(url).get_backend_name() == "sqlite":
        return sqlite_url(file)
    server: PostgresServer = request.getfixturevalue("postgres_server")
    new = server.create(migrated=False)
    request.addfinalizer(lambda: server.drop(new))
    put_back(check_url(new), file)
    return new


async def test_a_backup_that_was_put_back_pays_nothing_again(
    world: World, database_url: str, tmp_path: Any, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """When it was made one withdrawal waited and the other was sent; a third was asked for later."""
    chain, newer = world.chain, world.database
    await world.ask("sent")
    async with world.process() as side:
        await side.once()
        await world.ask("waiting", 2 * UNITS)
        copy = await asyncio.to_thread(copied, database_url, tmp_path, request)
        world.now += RESEND_S
        await side.once()
        chain.mine(CONFIRMATIONS - 1)
    assert chain.balance(THERE.address) == 3 * UNITS
    world.database = await Database.open(copy)
    async with world.process() as side:
        await world.ask("later")
        await side.once()
        assert not chain.pool, "what is known to the chain alone is not final"
        assert "the chain has 1 transactions of the Bank's key that this database does not know" in caplog.text
        chain.mine()
        await side.once()
        assert [(await world.flight(name)).state for name in ("sent", "waiting")] == [State.DONE] * 2
        assert len((await world.flight("sent")).attempts) == 1, "the one that was mined is not among them"
        chain.mine(CONFIRMATIONS)
        await side.once()
        later = await world.flight("later")
        assert (later.state, later.nonce) == (State.DONE, 2)
        await world.check()
    assert chain.balance(THERE.address) == 4 * UNITS
    await world.database.close()
    world.database = newer


async def test_several_at_once_have_nonces_of_their_own(world: World) -> None:
    chain = world.chain
    await asyncio.gather(*(world.ask(str(number)) for number in range(5)), world.ask("4"))
    async with world.process() as one, world.process() as other:
        await asyncio.gather(one.once(), other.once())
        assert len(chain.pool) == 5
        sent = [await world.flight(str(number)) for number in range(5)]
        assert sorted(one.nonce for one in sent if one.nonce is not None) == [0, 1, 2, 3, 4]
        world.now += RESEND_S
        await asyncio.gather(one.once(), other.once())
        assert [len((await world.flight(str(number))).attempts) for number in range(5)] == [2] * 5
        chain.mine(CONFIRMATIONS)
        await asyncio.gather(one.once(), other.once())
    assert chain.balance(THERE.address) == 5 * UNITS
    assert await world.balance() == 95 * UNITS
    await world.check()


@SQLITE
async def test_nodes_have_only_so_many_of_ours_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending.flights, "MOST_IN_FLIGHT", 2)
    for number in range(3):
        await world.ask(str(number))
    async with world.process() as side:
        await side.once()
        await side.once()
        assert len(world.chain.pool) == 2
        world.chain.mine()
        await side.once()
        assert len(world.chain.pool) == 1


async def test_what_a_node_forgot_is_sent_again(world: World) -> None:
    await world.ask("w")
    async with world.process() as side:
        await side.once()
        world.chain.pool.clear()
        await side.once()
        assert not world.chain.pool
        world.now += sending.REPEAT_S
        await side.once()
    assert len(world.chain.pool) == 1


async def test_a_node_that_does_not_take_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It is sent when the node takes it, with the same nonce."""
    take, answers = world.chain._take, ["insufficient funds for gas * price + value"]

    def refusing(text: str) -> str:
        if answers:
            raise ValueError(answers.pop())
        return take(text)

    world.chain.methods["eth_sendRawTransaction"] = refusing
    await world.ask("w")
    async with world.process() as side:
        await side.once()
        assert "cannot be sent now" in caplog.text
        assert f"the Bank's address {BANK.address} needs ether for gas" in caplog.text
        world.now += sending.REPEAT_S
        await side.once()
        assert len(world.chain.pool) == 1
    assert (await world.flight("w")).nonce == 0


async def test_what_is_refused(world: World) -> None:
    await world.ask("w", 2 * UNITS)
    for error, says, name, amount, to in (
        (NotEnoughFunds, "has 98 DCC but 99", "a", 99 * UNITS, THERE.address),
        (InvalidInput, "too small: withdraw at least 1 DCC", "a", UNITS - 1, THERE.address),
        (InvalidInput, "toAddress 0x0000000000000000000000000000000000000000 cannot be paid", "a", UNITS, NOBODY),
        (InvalidInput, "the contract's", "a", UNITS, world.chain.contract),
        (InvalidInput, "or the Bank's own", "a", UNITS, BANK.address),
        (IdReused, "exists with another", "w", 2 * UNITS, USER.address),
        (IdReused, "exists with another", "w", UNITS, THERE.address),
        (InvalidInput, "printable", "", UNITS, THERE.address),
    ):
        with pytest.raises(error, match=says):
            await world.ask(name, amount, to)
    async with world.database.transaction() as tx:  # more credits than there are on the chain
        await world.bank.issue(tx, issue_id="i", account=USER.address, amount=50 * UNITS)
    with pytest.raises(ReserveTooLow, match="amount 99 DCC is more than the 98 DCC") as caught:
        await world.ask("a", 99 * UNITS)
    assert caught.value.info == {"available": "98"}
    assert (await world.ask("all", 98 * UNITS)).amount == 98 * UNITS
    with pytest.raises(ReserveTooLow, match="more than the 0 DCC"):
        await world.ask("b", None)
    await world.check()


async def test_only_the_chain_decides_about_a_withdrawal(world: World) -> None:
    await world.ask("w")
    whose = {"source": USER.address, "transfer_id": "w"}
    async with world.database.transaction() as tx:
        for end in (world.bank.post_pending, world.bank.void_pending):
            with pytest.raises(NotPermitted, match="is a withdrawal, not a transfer"):
                await end(tx, **whose)
        with pytest.raises(IdReused):
            await world.bank.reserve(tx, transfer_id="w", source=USER.address, target=THERE.address, amount=UNITS)
        await world.bank.reserve(tx, transfer_id="t", source=USER.address, target=THERE.address, amount=UNITS)
    with pytest.raises(IdReused):
        await world.ask("t")


async def test_the_teller(world: World) -> None:
    teller = Teller(world.bank, world.database, withdrawals=world.withdrawals)
    whose = frozenset({USER.address})
    data = {"fromAccount": USER.address.lower(), "toAddress": THERE.address.lower(), "amount": "2.5", "transferId": "w"}
    asked = Asked("withdrawToChain", data, whose)
    answer = await teller.handle(asked)
    expected = {"transferId": "w", "fromAccount": USER.address, "toAddress": THERE.address, "amount": "2.5"}
    assert {name: answer[name] for name in expected} == expected
    assert (answer["state"], answer["balance"], answer["nonce"], answer["reason"]) == ("waiting", "97.5", None, None)
    assert await teller.handle(asked) == answer
    bad = THERE.address[:-1] + ("0" if THERE.address[-1] != "0" else "1")
    for change, error, says in (
        ({"fromAccount": THERE.address}, NotPermitted, "not signed by the key of fromAccount"),
        ({"toAddress": bad}, InvalidInput, f"toAddress: Bad checksum for address {bad}: a digit is wrong"),
        ({"toAddress": "0x12"}, InvalidInput, "toAddress: '0x12' is not an address: expected 0x and 40 hex digits"),
        ({"toAddress": None}, InvalidInput, "toAddress is missing"),
        ({"transferId": None}, InvalidInput, "transferId is missing: give one of your own"),
        ({"amount": "0.5", "transferId": "x"}, InvalidInput, "amount 0.5 DCC is too small: withdraw at least 1 DCC"),
        ({"amount": None}, InvalidInput, "amount must be decimal text"),
    ):
        with pytest.raises(error, match=says):
            await teller.handle(Asked("withdrawToChain", {**data, **change}, whose))
    for operation in ("voidTransfer", "postTransfer"):
        with pytest.raises(NotPermitted, match="is a withdrawal"):
            await teller.handle(Asked(operation, {"fromAccount": USER.address, "transferId": "w"}, whose))
    (shown,) = (await teller.handle(Asked("viewWithdrawals", {"address": USER.address}, whose)))["withdrawals"]
    assert shown == {name: value for name, value in answer.items() if name != "balance"}
    cancel = Asked("cancelWithdrawal", {"fromAccount": USER.address, "transferId": "w"}, whose)
    for _ in range(2):
        taken = await teller.handle(cancel)
        assert (taken["state"], taken["reason"]) == ("failed", "taken back by its payer")
    assert await world.balance() == 100 * UNITS
    all_of_it = {**data, "amount": None, "transferAll": True, "transferId": "all"}
    assert (await teller.handle(Asked("withdrawToChain", all_of_it, whose)))["amount"] == "100"
    async with world.process() as side:
        await side.once()
    assert len(world.chain.pool) == 1, "what was taken back is not sent"
    with pytest.raises(NotPending, match="is sent: only one that waits can be taken back"):
        await teller.handle(Asked("cancelWithdrawal", {"fromAccount": USER.address, "transferId": "all"}, whose))
    with pytest.raises(OrchestratorError) as caught:
        await Teller(world.bank, world.database).handle(asked)
    assert caught.value.code == "ENOCHAIN"


async def test_the_audit_looks_at_withdrawals(world: World) -> None:
    await world.ask("w")
    async with world.database.snapshot() as tx:
        audit = await world.bank.audit(tx)
    assert (audit.withdrawing, audit.reserve) == (UNITS, 100 * UNITS)
    async with world.database.transaction() as tx:
        kind = PostingKind.WITHDRAWAL
        await world.bank.void_pending(tx, source=USER.address, transfer_id="w", kind=kind)
    async with world.database.snapshot() as tx:
        (problem,) = await problems(world.settings, world.bank, tx)
    assert problem == f"withdrawal {USER.address}:w is waiting, but its pending transfer void"


@SQLITE
async def test_a_chain_that_is_away_is_asked_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.ask("w")
    async with world.process() as side, asyncio.TaskGroup() as group:
        call, away = world.rpcs[-1].call, asyncio.Event()

        async def none(method: str, *_: Any) -> Any:
            away.set()
            raise ChainAway("nobody")

        world.rpcs[-1].call = none  # type: ignore[method-assign]
        running = group.create_task(side.run())
        await away.wait()
        world.rpcs[-1].call = call  # type: ignore[method-assign]
        while not world.chain.pool:
            side.wake()
            await asyncio.sleep(0)
        running.cancel()
    assert "the chain: nobody" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING
