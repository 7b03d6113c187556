"""Simulated clients: they deploy jobs and move money. A client that crashed comes back and finishes what it began."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator import kvin
from orchestrator.database import DatabaseAway
from orchestrator.errors import OrchestratorError
from orchestrator.jobs.words import PUBLIC_GROUP
from tests.simulation.network import Connection, Network, NoAnswer
from tests.simulation.workers import Shared, group_descriptor, group_secret
from tests.simulation.world import World


@dataclasses.dataclass
class JobPlan:
    slices: int
    slice_s: float
    price: int
    """DCC per slice, in thousandths"""
    listed: bool = False
    cancels: bool = False
    starts_at: float = 0.0
    redundancy: Mapping[str, Any] | None = None
    groups: tuple[str, ...] = ("public",)
    """keys of compute groups"""


class Speaker:
    """Sends a request again until it is answered. After a lost answer it does so on a new session."""

    def __init__(self, world: World, network: Network, name: str) -> None:
        self.name = name
        self.address = world.new_address()
        self._world, self._network = world, network
        self._connection: Connection | None = None

    async def ask(self, service: str, operation: str, data: Any, *, repeatable: bool = True) -> Any:
        """`data` may be a function of the connection, for what is bound to it."""
        while True:
            await self._may_crash()
            connection = await self._connected()
            said = data(connection) if callable(data) else data
            try:
                answers = await self._network.ask(
                    connection, service, [(operation, said)],
                    authorized=frozenset({self.address}), patience_s=10.0, repeatable=repeatable,
                )  # fmt: skip
            except NoAnswer:
                connection.end()
                continue
            if isinstance(answers[0], OrchestratorError) and answers[0].code == DatabaseAway.code:
                # Nobody knows whether it was done: once more, over another session.
                connection.end()
                await asyncio.sleep(self._world.random.random())
                continue
            return answers[0]

    async def _connected(self) -> Connection:
        while self._connection is None or self._connection.closed.is_set():
            self._connection = self._network.connect(self.address, self.hear)
            if self._connection is None:
                await asyncio.sleep(1 + self._world.random.random())
            else:
                await self.welcome(self._connection)
        return self._connection

    async def welcome(self, connection: Connection) -> None:
        """A new session was opened."""

    async def hear(self, operation: str, data: Any) -> Any:
        return "success"

    async def _may_crash(self) -> None:
        if self._world.chance(self._world.faults.client_crash):
            self._world.note(self.name, "crashes")
            if self._connection is not None:
                self._connection.end()
            await asyncio.sleep(self._world.random.random() * 60)


class Client(Speaker):
    """Deploys one job and hears of it until it has ended."""

    def __init__(self, world: World, network: Network, shared: Shared, name: str, plan: JobPlan) -> None:
        super().__init__(world, network, name)
        self.plan = plan
        self.job = world.new_job_id()
        self.refused: str | None = None
        self.heard: set[int] = set()
        """slices whose result came as an event"""
        self.stopped = asyncio.Event()
        self.deployed = False
        self._poor = asyncio.Event()
        shared.slice_s[self.job] = plan.slice_s
        if plan.redundancy is not None:
            shared.compared.add(self.job)

    async def run(self) -> None:
        await asyncio.sleep(self.plan.starts_at)
        answer = await self.ask("jobSubmit", "submit@5", self._submission())
        if isinstance(answer, OrchestratorError):
            self.refused = answer.code
            self._world.note(self.name, f"is refused: {answer.code}")
            return
        self.deployed = True
        if self._connection is not None:
            await self.welcome(self._connection)
        await self._join()
        if self.plan.listed:
            await self._feed()
        if self.plan.cancels:
            await asyncio.sleep(self._world.random.random() * 60)
            await self.ask("jobSubmit", "cancelJob", {"job": self.job, "reason": "enough"})
        await self.stopped.wait()
        self._world.note(self.name, f"has heard the end of its job and {len(self.heard)} results")

    async def _join(self) -> None:
        """Into a group that there is not yet, or that is full, later; where it costs too much the job is given up."""
        while True:
            answer = await self.ask("computeGroups", "addJobToGroups", self._joining)
            if not isinstance(answer, dict) or (answer["success"] and "failed" not in answer):
                return
            code = answer["failed"][0]["code"] if answer["success"] else answer["code"]
            self._world.note(self.name, f"cannot join {self.plan.groups}: {code}")
            if code not in ("ENOTFOUND", "EGROUPLIMIT") or self.stopped.is_set():
                await self.ask("jobSubmit", "cancelJob", {"job": self.job, "reason": "no group"})
                return
            await asyncio.sleep(1 + 5 * self._world.random.random())

    def _joining(self, connection: Connection) -> dict[str, Any]:
        own = [group_descriptor(key, connection.dcpsid) for key in self.plan.groups if key != "public"]
        return {"job": self.job, "cgArray": [*([PUBLIC_GROUP] if "public" in self.plan.groups else []), *own]}

    def _submission(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "job": self.job,
            "paymentAccount": self.address,
            "workFunctionURI": "data:,(x)=>x",
            "mvMultSlicePayment": 0,
            "absoluteSlicePayment": self.plan.price / 1000,
            "requirements": 64,
            "worktime": {"name": "map-basic", "version": "^1.0.0"},
            "marshaledArguments": kvin.marshal([]),
        }
        if self.plan.redundancy is not None:
            data["redundancy"] = self.plan.redundancy
        if not self.plan.listed:
            data["dataRange"] = {"start": 1, "end": self.plan.slices, "step": 1}
        return data

    async def _feed(self) -> None:
        """Inputs in piles; then no more will come."""
        for start in range(0, self.plan.slices, 20):
            values = list(range(start, min(start + 20, self.plan.slices)))
            pile = {"job": self.job, "dataValues": kvin.marshal(values)}
            # A session delivers a request once; the same pile over the same session is another pile.
            answer = await self.ask("jobSubmit", "addSliceData", pile, repeatable=False)
            if isinstance(answer, OrchestratorError):
                self._world.note(self.name, f"cannot add slices: {answer.code}")
                break
        await self.ask("resultSubmitter", "closeJob", {"job": self.job})

    async def welcome(self, connection: Connection) -> None:
        if not self.deployed:
            return
        wish = {
            "reliableEvents": ["stop"],
            "optionalEvents": ["result", "error", "nofunds"],
            "options": {"filter": {"job": self.job}},
        }
        try:
            await self._network.ask(connection, "eventRouter", [("subscribeMany", wish)], patience_s=10.0)
        except NoAnswer:
            connection.end()

    async def hear(self, operation: str, data: Any) -> Any:
        event = data["event"]["data"]
        if event.get("eventName") == "result":
            self.heard.add(event["sliceNumber"])
        elif event.get("eventName") == "nofunds":
            self._poor.set()
        elif event.get("eventName") == "stop":
            self.stopped.set()
        return "success"

    async def fund(self) -> None:
        """A job that has used up its money gets more from a friend, a little at a time, or is given up."""
        friends, given = 0, 0.0
        rule = self.plan.redundancy
        slice_cost = self.plan.price / 1000 * (1 if rule is None else rule["of"])
        while True:
            await self._poor.wait()
            self._poor.clear()
            if self._world.random.random() < 0.2:
                await self.ask("jobSubmit", "cancelJob", {"job": self.job, "reason": "too dear"})
                return
            friends += 1
            friend = Speaker(self._world, self._network, f"friend {friends} of {self.name}")
            amount = {"amount": self._world.random.choice(["0.5", "2", "7"])}
            data = {"fromAccount": friend.address, "toAccount": self.address, "transferId": "gift", **amount}
            self._world.note(friend.name, f"gives {amount['amount']}")
            await friend.ask("bankTeller", "transfer@1", data)
            given += float(amount["amount"])
            if given < slice_cost:  # the job cannot go on with so little, and will not ask again
                self._poor.set()
            else:
                given = 0.0
            await asyncio.sleep(self._world.random.random() * 10)

    async def stay(self) -> None:
        """Keep a session open, so that events find their way after the last one was lost."""
        while not self.stopped.is_set():
            if self.deployed:
                await self._connected()
            await asyncio.sleep(5.0)


@dataclasses.dataclass(frozen=True)
class GroupPlan:
    """A compute group with a secret."""

    key: str
    commission: str
    fee: str
    jobs: int | None
    """the most that it takes at once"""


class GroupOwner(Speaker):
    def __init__(self, world: World, network: Network, plan: GroupPlan) -> None:
        super().__init__(world, network, f"owner of {plan.key}")
        self.plan = plan
        self.account = world.new_address()
        self.id = world.new_job_id()

    async def run(self) -> None:
        join = {"id": self.id, "joinKey": self.plan.key, "joinHash": group_secret(self.plan.key)}
        terms = {
            "commissionRate": self.plan.commission, "addJobFee": self.plan.fee, "maxConcurrentJobs": self.plan.jobs,
            "paymentAddress": self.account,
        }  # fmt: skip
        data = {"joinDescriptor": join, "otherProperties": terms}
        answer = await self.ask("computeGroups", "createGroup", data)
        self._world.note(self.name, f"has made it: {answer['success']}")


class Saver(Speaker):
    """Moves money about, each transfer under an id of its own, and says it again when in doubt."""

    def __init__(self, world: World, network: Network, name: str, friends: list[str], transfers: int) -> None:
        super().__init__(world, network, name)
        self.acknowledged: dict[str, int] = {}
        """posting id → units"""
        self._friends = friends
        self._transfers = transfers

    async def run(self) -> None:
        for index in range(self._transfers):
            await asyncio.sleep(self._world.random.random() * 10)
            target = self._world.random.choice(self._friends)
            if target == self.address:
                continue
            # Now and then more than there is.
            thousandths = self._world.random.randrange(1, self._world.random.choice([400, 50_000]))
            data = {
                "fromAccount": self.address, "toAccount": target, "amount": f"{thousandths / 1000:.3f}",
                "transferId": f"t{index}",
            }  # fmt: skip
            answer = await self.ask("bankTeller", "transfer@1", data)
            if not isinstance(answer, OrchestratorError):
                self.acknowledged[f"transfer:{self.address}:t{index}"] = thousandths * 10**15
