"""Deposits from a real EVM chain, over JSON-RPC."""

import pathlib
from collections.abc import AsyncIterator

import pytest

from orchestrator.bank import Bank
from orchestrator.bank.amounts import UNITS
from orchestrator.bank.ethereum.rpc import ChainAway, Rpc
from orchestrator.bank.ethereum.running import reserve_problem
from orchestrator.bank.ethereum.watch import Watch, find_place
from orchestrator.bank.kinds import CHAIN_RESERVE
from orchestrator.database import Database
from orchestrator.errors import InvalidInput
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey
from orchestrator.wallet.keystores import Keystore
from tests.ethereum import Chain

USER, BANK = PrivateKey(b"\x21" * 32), PrivateKey(b"\x22" * 32)
CONFIRMATIONS = 3


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    async with Chain() as chain:
        chain.give_gas(USER.address)
        chain.mint(USER.address, 100 * UNITS)
        chain.mine()
        yield chain


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    yield database
    await database.close()


@pytest.fixture
async def rpc(chain: Chain) -> AsyncIterator[Rpc]:
    async with Rpc(chain.rpc_url) as rpc:
        yield rpc


@pytest.fixture
async def watch(chain: Chain, database: Database, rpc: Rpc) -> Watch:
    return Watch(Bank(), database, rpc, await find_place(rpc, chain.contract, BANK.address, 0), CONFIRMATIONS)


async def follow(watch: Watch) -> None:
    while await watch.once():
        pass


async def balance(database: Database, account: str) -> int:
    async with database.snapshot() as tx:
        return await Bank().balance(tx, account)


async def test_credited_once_after_enough_confirmations(chain: Chain, watch: Watch, database: Database) -> None:
    chain.transfer(USER, BANK.address, 5 * UNITS)
    chain.mine(CONFIRMATIONS - 1)
    await follow(watch)
    assert await balance(database, USER.address) == 0
    chain.mine()
    await follow(watch)
    assert await balance(database, USER.address) == 5 * UNITS
    chain.transfer(USER, BANK.address, 1)
    chain.transfer(USER, BANK.address, 0)
    chain.mint(BANK.address, 7)
    chain.mine(CONFIRMATIONS)
    await follow(watch)
    assert await balance(database, USER.address) == 5 * UNITS + 1
    assert await balance(database, BANK.address) == 7, "what was made at the Bank is the Bank's own"
    assert -await balance(database, CHAIN_RESERVE) == chain.balance(BANK.address)
    async with database.snapshot() as tx:
        assert (await Bank().audit(tx)).problems == ()


async def test_a_reorganisation_removes_a_deposit_and_includes_it_again(
    chain: Chain, watch: Watch, database: Database
) -> None:
    before = chain.tester.take_snapshot()
    chain.transfer(USER, BANK.address, 5 * UNITS)
    deposit = chain.sent[-1]
    chain.mine(CONFIRMATIONS - 1)
    await follow(watch)
    chain.tester.revert_to_snapshot(before)
    chain.mine(CONFIRMATIONS + 2)
    await follow(watch)
    assert await balance(database, USER.address) == 0, "it is not in the chain"
    chain.pool.append(deposit)
    chain.mine(CONFIRMATIONS)
    await follow(watch)
    assert await balance(database, USER.address) == 5 * UNITS


async def test_a_credited_deposit_that_moves_to_another_block_is_not_credited_again(
    chain: Chain, watch: Watch, database: Database
) -> None:
    """Deeper than the confirmations, and at another place in its block's log."""
    before = chain.tester.take_snapshot()
    chain.transfer(USER, BANK.address, 5 * UNITS)
    deposit = chain.sent[-1]
    chain.mine(CONFIRMATIONS)
    await follow(watch)
    chain.tester.revert_to_snapshot(before)
    chain.mine(2)
    chain.mint(BANK.address, 1)
    chain.pool.append(deposit)
    chain.mine(CONFIRMATIONS)
    await follow(watch)
    assert await balance(database, USER.address) == 5 * UNITS
    assert -await balance(database, CHAIN_RESERVE) == chain.balance(BANK.address) == 5 * UNITS + 1


async def test_what_is_wrong_with_the_place_is_said(chain: Chain, rpc: Rpc) -> None:
    with pytest.raises(InvalidInput, match="there is no contract at"):
        await find_place(rpc, USER.address, BANK.address, 0)
    async with Rpc("http://127.0.0.1:9/?key=secret") as nobody:
        with pytest.raises(ChainAway) as error:
            await find_place(nobody, chain.contract, BANK.address, 0)
    assert "secret" not in error.value.message


async def test_the_audit_asks_the_contract(
    chain: Chain, watch: Watch, database: Database, tmp_path: pathlib.Path
) -> None:
    files.save(tmp_path / "bank.keystore", Keystore.encrypt(BANK, ""))
    settings = SchedulerSettings(
        chain_url=chain.rpc_url, chain_contract=chain.contract, chain_keystore=tmp_path / "bank.keystore"
    )
    chain.transfer(USER, BANK.address, 5 * UNITS)
    chain.mine(CONFIRMATIONS)
    await follow(watch)
    chain.transfer(USER, BANK.address, UNITS)
    chain.mine()
    async with database.snapshot() as tx:
        assert await reserve_problem(settings, Bank(), tx) is None, "what is not confirmed yet is in neither"
    async with database.transaction() as tx:
        await Bank().deposit(tx, deposit_id="invented", account=USER.address, amount=UNITS)
    async with database.snapshot() as tx:
        problem = await reserve_problem(settings, Bank(), tx)
    assert problem is not None
    assert "chain reserve is 6 DCC" in problem
    assert "the contract had 5 DCC" in problem
