"""Clients and workers that speak the protocol with our own client shell, against a real Scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import string
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from orchestrator import kvin
from orchestrator.jobs.values import value_of_uri
from orchestrator.jobs.words import PUBLIC_GROUP, PUBLIC_JOIN_HASH, join_hash_hash
from orchestrator.protocol import js_json
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.signing import signature_text
from orchestrator.wallet.keys import PrivateKey

_random = random.Random(1)


def new_id() -> str:
    return "".join(_random.choices(string.ascii_letters + string.digits, k=22))


class Deployer:
    """A client: an identity, an account, and a connection to each service."""

    def __init__(self, client: DcpClient, url: str, account: PrivateKey) -> None:
        self.account = account
        self.url = url
        self.client = client
        self.events: list[dict[str, Any]] = []
        self.arrived = asyncio.Condition()
        self.submit_service = client.connect(f"{url}jobSubmit/")
        self.results = client.connect(f"{url}resultSubmitter/")
        self.groups = client.connect(f"{url}computeGroups/")
        self.pheme = client.connect(f"{url}pheme/")
        self.router = client.connect(f"{url}eventRouter/", on_request=self._on_request)

    async def _on_request(self, operation: str, data: Any) -> Any:
        assert operation == "event"
        async with self.arrived:
            self.events.append(data)
            self.arrived.notify_all()
        return "success"

    def of(self, label: str) -> list[dict[str, Any]]:
        return [one["event"]["data"] for one in self.events if one["event"]["data"]["eventName"] == label]

    async def wait_for(self, label: str, count: int = 1, within: float = 20.0) -> list[dict[str, Any]]:
        async with asyncio.timeout(within), self.arrived:
            await self.arrived.wait_for(lambda: len(self.of(label)) >= count)
        return self.of(label)

    async def submit(self, **fields: Any) -> Any:
        data = {
            "job": new_id(),
            "paymentAccount": self.account.address,
            "workFunctionURI": "data:,(x)=>x",
            "mvMultSlicePayment": 1,
            "absoluteSlicePayment": 0,
            "requirements": 64,
            "worktime": {"name": "map-basic", "version": "^1.0.0"},
            "marshaledArguments": kvin.marshal([]),
            **fields,
        }
        answer = await self.submit_service.request("submit@5", data, authorize=[self.account])
        return data["job"], answer

    async def subscribe(self, job: str, *labels: str) -> Any:
        return await self.router.request(
            "subscribeMany",
            {"reliableEvents": ["stop"], "optionalEvents": list(labels), "options": {"filter": {"job": job}}},
        )

    async def join(self, job: str) -> Any:
        return await self.groups.request("addJobToGroups", {"job": job, "cgArray": [PUBLIC_GROUP]})

    async def deploy(self, *labels: str, **fields: Any) -> str:
        job, _ = await self.submit(**fields)
        await self.subscribe(job, *(labels or ("result", "status", "error", "console", "noprogress", "custom")))
        assert (await self.join(job))["success"]
        return str(job)

    async def listed(self, values: list[Any], pile: int = 100, **fields: Any) -> str:
        job = await self.deploy(**fields)
        for start in range(0, len(values), pile):
            answer = await self.add(job, values[start : start + pile])
            assert answer["success"]
        await self.results.request("closeJob", {"job": job})
        return job

    async def add(self, job: str, values: list[Any]) -> Any:
        return await self.submit_service.request("addSliceData", {"job": job, "dataValues": kvin.marshal(values)})

    def decoded(self) -> dict[int, Any]:
        return {one["sliceNumber"]: value_of_uri(one["result"]["result"]) for one in self.of("result")}


@contextlib.asynccontextmanager
async def deployer(
    url: str, account: PrivateKey | None = None, identity: PrivateKey | None = None
) -> AsyncIterator[Deployer]:
    async with DcpClient(identity or PrivateKey.generate()) as client:
        yield Deployer(client, url, account or PrivateKey.generate())


Work = Callable[[Any, int], Any]


class FakeWorker:
    """Takes tasks and computes in Python: `work(datum, slice number)` gives the result."""

    def __init__(self, client: DcpClient, url: str, work: Work, *, load: float = 2.0) -> None:
        self.client = client
        self.work = work
        self.load = load
        self.id = new_id()
        self.payment = PrivateKey.generate()
        self.tasks = client.connect(f"{url}taskDistributor/")
        self.results = client.connect(f"{url}resultSubmitter/")
        self.router = client.connect(f"{url}eventRouter/")
        self.answers: list[Any] = []
        self.taken: list[tuple[str, int]] = []

    def request(self, **more: Any) -> dict[str, Any]:
        proof = join_hash_hash(self.tasks.dcpsid or "", PUBLIC_JOIN_HASH)
        return {
            "targetLoad": {"cpu": self.load, "gpu": 0, "longSlices": 1},
            "coreStats": {"worker": self.id, "lCores": 2, "pCores": 2, "sandbox": 2},
            "capabilities": 80,
            "paymentAddress": self.payment.address,
            "jobIds": [],
            "workerComputeGroups": [{"joinKey": "public", "joinHashHash": proof}],
            "worktimes": [{"name": "map-basic", "version": "1.0.0"}],
            "fetchState": 1,
            **more,
        }

    async def take(self, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self.tasks.request("requestTask@3", self.request(**more))
        for job, slices in answer["body"].get("task", {}).items():
            self.taken.extend((job, one["sliceNumber"]) for one in slices)
        return answer

    async def serve(self) -> None:
        """Work until cancelled."""
        while True:
            answer = await self.take()
            await self.compute(answer)

    async def compute(self, answer: Mapping[str, Any]) -> None:
        authorization = authorization_of(answer)
        async with asyncio.TaskGroup() as group:
            for job, slices in answer["body"].get("task", {}).items():
                for one in slices:
                    group.create_task(self.report(job, one, authorization))

    async def report(self, job: str, one: Mapping[str, Any], authorization: Any) -> None:
        datum = value_of_uri(one["datumUri"])
        outcome = self.work(datum, one["sliceNumber"])
        if isinstance(outcome, Awaitable):
            outcome = await outcome
        self.answers.append(await self.result(job, one["sliceNumber"], outcome, authorization))

    async def result(self, job: str, number: int, value: Any, authorization: Any) -> Any:
        return await self.results.request(
            "result",
            {
                "slice": number,
                "job": job,
                "worker": self.id,
                "paymentAddress": self.payment.address,
                "metrics": {"CPUTime": 1, "GPUTime": 0, "CPUDensity": 1, "InDataSize": 10, "OutDataSize": 10},
                "authorizationMessage": authorization,
                "resultV2": kvin.marshal(
                    {"string": kvin.stringify(value), "method": "kvin", "MIMEType": "application/x-kvin"}
                ),
            },
        )

    async def give_back(self, job: str, numbers: list[int], reason: Any, authorization: Any) -> Any:
        entry = {
            "sliceNumbers": numbers,
            "job": job,
            "status": "return",
            "reason": reason,
            "authorizationMessage": authorization,
        }
        return await self.results.request("status", {"worker": self.id, "slices": [entry]})

    async def emit(self, job: str, number: int, name: str, payload: Any, authorization: Any) -> Any:
        return await self.router.request(
            "workEmit",
            {
                "eventName": name,
                "payload": payload,
                "job": job,
                "slice": number,
                "worker": self.id,
                "authorizationMessage": authorization,
            },
        )

    def holds_nothing(self) -> str:
        body = {"id": self.id}
        key = self.client.identity
        signature = json.loads(signature_text(key, js_json.dumps(body)))
        return js_json.dumps({"owner": key.address, "signature": signature, "body": body})


def authorization_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "body"}


def thrown(message: str) -> kvin.JsError:
    return kvin.JsError(message, {"errorCode": "EUNCAUGHT"})


@contextlib.asynccontextmanager
async def fake_worker(url: str, work: Work = lambda datum, number: datum, **more: Any) -> AsyncIterator[FakeWorker]:
    async with DcpClient(PrivateKey.generate()) as client:
        yield FakeWorker(client, url, work, **more)


@contextlib.asynccontextmanager
async def serving(url: str, work: Work = lambda datum, number: datum, **more: Any) -> AsyncIterator[FakeWorker]:
    """A worker that is at work while the block runs."""
    async with fake_worker(url, work, **more) as worker:
        task = asyncio.ensure_future(worker.serve())
        try:
            yield worker
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(holds: Callable[[], bool], within: float = 20.0) -> None:
    """Let others run until something is so."""
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 — what is waited for has no event of its own
            await asyncio.sleep(0)
