"""A client of the bank test, a process of its own: random transfers, each with an id, repeated until somebody answers.

Reads one line of JSON from stdin: {urls, keys, accounts, seed}. Each key's account sends money to random accounts.
Prints `asked`, `refused` or `posted`, then `id source target amount`, for every transfer; stops when stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

from orchestrator.bank.amounts import parse_amount
from orchestrator.errors import NetworkFailure, OrchestratorError
from orchestrator.protocol.client import ClientConnection, ClientLimits, DcpClient
from orchestrator.protocol.vocabulary import SessionLimits
from orchestrator.wallet.keys import PrivateKey

ANSWER_S = 1.0
"""then another Scheduler is asked the same"""
AGAIN = ("EDATABASE", "EINTERNAL", "ENOBUFS", "ECLOSING", "ENETWORK")
"""answers that leave open what happened"""


def say(what: str, *words: object) -> None:
    print(what, *words, flush=True)


async def move(tellers: list[ClientConnection], key: PrivateKey, target: str, amount: str, name: str) -> None:
    data = {"fromAccount": key.address, "toAccount": target, "amount": amount, "transferId": name}
    words = (name, key.address, target, parse_amount(amount))
    say("asked", *words)
    while True:
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await random.choice(tellers).request("transfer@1", data, authorize=[key])
            assert answer["amount"] == amount, answer
            say("posted", *words)
            return
        except (TimeoutError, NetworkFailure):
            await asyncio.sleep(0.05)
        except OrchestratorError as error:
            if error.code == "ENOFUNDS":
                say("refused", *words)
                return
            if error.code not in AGAIN:
                raise
            await asyncio.sleep(0.05)


async def work(urls: list[str], key: PrivateKey, accounts: list[str], seed: str, stop: asyncio.Event) -> None:
    choose = random.Random(seed)
    limits = ClientLimits(session=SessionLimits(close_timeout=1), first_delay=0.05, longest_delay=0.5, socket_timeout=2)
    client = DcpClient(PrivateKey.generate(), limits=limits)
    async with client:
        tellers = [client.connect(url) for url in urls]
        others = [account for account in accounts if account != key.address]
        number = 0
        while not stop.is_set():
            number += 1
            # Now and then more than there is.
            amount = str(choose.choice([1, 2, 3, 5, 250]))
            await move(tellers, key, choose.choice(others), amount, f"{seed}-{number}")


async def main() -> None:
    loop = asyncio.get_running_loop()
    given = json.loads(await asyncio.to_thread(sys.stdin.readline))
    stop = asyncio.Event()
    ended = loop.run_in_executor(None, sys.stdin.read)
    ended.add_done_callback(lambda _: stop.set())
    async with asyncio.TaskGroup() as group:
        for number, key in enumerate(given["keys"]):
            seed = f"{given['seed']}-{number}"
            group.create_task(work(given["urls"], PrivateKey.from_hex(key), given["accounts"], seed, stop))
    say("done")


if __name__ == "__main__":
    asyncio.run(main())
