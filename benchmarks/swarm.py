"""Simulated workers over real sockets: what puts load on a Scheduler in `benchmarks.scheduler`.

    python -m benchmarks.swarm '{"url": "http://127.0.0.1:9001/", "workers": 50, …}'

Each worker is an identity with two sessions of our own protocol client, which speaks the native dialect. It asks for
work, computes nothing for as long as it is told, and sends its results together, as our Worker does. The process says
`ready` once all of them have sessions; a line `go` lets them work, a line `stop` makes it print what happened since.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import sys
import time
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.jobs import piles
from orchestrator.jobs.words import PUBLIC_JOIN_HASH, join_hash_hash
from orchestrator.protocol.client import DcpClient
from orchestrator.wallet.keys import PrivateKey

RESULT = {
    "_serializeVerId": "v9",
    "what": {
        "raw": {"string": '{"_serializeVerId":"v9","what":1}', "method": "kvin", "MIMEType": "application/x-kvin"}
    },
}


@dataclasses.dataclass(frozen=True)
class Orders:
    """`cores` is what a worker asks for; `slice_ms` the CPU time that it says a slice took; `pause_s` how long it
    computes a task. An `idle` worker only has its sessions. `singly`: each result is a request, as with official
    workers, though all of a task are in one message."""

    url: str
    workers: int
    cores: float = 1.0
    slice_ms: float = 100.0
    pause_s: float = 0.0
    idle: bool = False
    singly: bool = False


@dataclasses.dataclass
class Tally:
    slices: int = 0
    refused: int = 0
    tasks: int = 0
    empty: int = 0
    errors: int = 0
    task_s: list[float] = dataclasses.field(default_factory=list)
    """time of each `requestTask` that brought slices"""
    result_s: list[float] = dataclasses.field(default_factory=list)
    """time of each batch of results, from the first to the last acknowledgement"""


class SimulatedWorker:
    def __init__(self, client: DcpClient, orders: Orders, tally: Tally) -> None:
        self._orders = orders
        self.tally = tally
        self._id = client.identity.address[2:24]
        self._payee = client.identity.address
        self._tasks = client.connect(f"{orders.url}taskDistributor/")
        self._results = client.connect(f"{orders.url}resultSubmitter/")

    async def connect(self) -> None:
        await self._tasks.request("requestTask@3", {**self._request(), "fetchState": 0})
        if not self._orders.idle:
            await self._results.request("status", {"worker": self._id, "slices": []})

    def _request(self) -> dict[str, Any]:
        return {
            "targetLoad": {"cpu": self._orders.cores, "gpu": 0, "longSlices": 1},
            "coreStats": {"worker": self._id, "lCores": 4, "pCores": 4, "sandbox": 4},
            "capabilities": 80,
            "paymentAddress": self._payee,
            "jobIds": [],
            "workerComputeGroups": [
                {"joinKey": "public", "joinHashHash": join_hash_hash(self._tasks.dcpsid or "", PUBLIC_JOIN_HASH)}
            ],
            "worktimes": [{"name": "map-basic", "version": "1.0.0"}],
            "fetchState": 1,
        }

    async def serve(self) -> None:
        """Work until cancelled."""
        pause_s = self._orders.pause_s
        await asyncio.sleep(random.uniform(0, pause_s))
        while True:
            try:
                await self._once(pause_s)
            except OrchestratorError:
                self.tally.errors += 1
                await asyncio.sleep(0.1)

    async def _once(self, pause_s: float) -> None:
        asked = time.perf_counter()
        answer = await self._tasks.request("requestTask@3", self._request())
        task = answer["body"].get("task")
        if not task:
            self.tally.empty += 1
            return
        self.tally.task_s.append(time.perf_counter() - asked)
        self.tally.tasks += 1
        if pause_s:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
        proof = {name: answer[name] for name in ("owner", "signature", "auth")}
        sent = time.perf_counter()
        results = [
            [self._result(job, one["sliceNumber"], proof) for one in slices] for job, slices in task.items() if slices
        ]
        heard = await asyncio.gather(*(map(self._single if self._orders.singly else self._pile, results)))
        self.tally.result_s.append(time.perf_counter() - sent)
        heard = [one for group in heard for one in group]
        accepted = sum(one["accepted"] for one in heard)
        self.tally.slices += accepted
        self.tally.refused += len(heard) - accepted

    async def _single(self, results: list[dict[str, Any]]) -> list[Any]:
        return await asyncio.gather(*(self._results.request("result", one) for one in results))

    async def _pile(self, results: list[dict[str, Any]]) -> list[Any]:
        if len(results) == 1:
            return await self._single(results)
        answer = await self._results.request(piles.OPERATION, piles.fold(results))
        answers = piles.unfold_answers(answer, len(results))
        for one in answers:
            if isinstance(one, OrchestratorError):
                raise one
        return answers

    def _result(self, job: str, number: int, proof: dict[str, Any]) -> dict[str, Any]:
        slice_ms = self._orders.slice_ms
        return {
            "slice": number,
            "job": job,
            "worker": self._id,
            "paymentAddress": self._payee,
            "metrics": {"CPUTime": slice_ms, "GPUTime": 0, "CPUDensity": 1, "InDataSize": 10, "OutDataSize": 33},
            "authorizationMessage": proof,
            "resultV2": RESULT,
        }


async def swarm(orders: Orders) -> None:
    lines: asyncio.StreamReader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    tally = Tally()
    clients = [DcpClient(PrivateKey.generate()) for _ in range(orders.workers)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            await client.__aenter__()
        workers = [SimulatedWorker(client, orders, tally) for client in clients]
        for start in range(0, len(workers), 20):
            await asyncio.gather(*(worker.connect() for worker in workers[start : start + 20]))
        print("ready", flush=True)
        tasks: list[asyncio.Task[None]] = []
        begun, cpu = time.perf_counter(), time.process_time()
        while line := (await lines.readline()).decode().strip():
            if line == "go" and not tasks and not orders.idle:
                tasks = [group.create_task(worker.serve()) for worker in workers]
            if line in ("go", "mark"):
                begun, cpu = time.perf_counter(), time.process_time()
                tally = Tally()
                for worker in workers:
                    worker.tally = tally
            if line == "stop":
                told = {
                    **dataclasses.asdict(tally),
                    "seconds": time.perf_counter() - begun,
                    "cpu": time.process_time() - cpu,
                }
                print(json.dumps(told), flush=True)
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(swarm(Orders(**json.loads(sys.argv[1]))))
