"""Simulated workers: honest ones, and what can be wrong with them as long as faults are on."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.jobs.words import PUBLIC_JOIN_HASH, join_hash_hash
from orchestrator.protocol import js_json
from orchestrator.protocol.signing import signature_text
from orchestrator.wallet.keys import PrivateKey
from tests.simulation.network import Connection, Network, NoAnswer
from tests.simulation.world import World

BEACON_S = 20.0
REMEMBERED_LEASES = 200


class Crash(Exception):
    """The worker's process is gone, with all that it held."""


@dataclasses.dataclass
class Traits:
    cores: int
    speed: float
    liar: bool = False
    deceives: bool = False
    """gives wrong results where workers must agree; fewer than must agree do so"""
    leaves: bool = False
    """gone for good at the end of the faults"""
    group: str = ""
    """the key of a compute group that it is in, besides the public one"""


@dataclasses.dataclass
class Shared:
    """What the simulation knows and no worker is told: how long slices take, and leases that somebody has seen."""

    slice_s: dict[str, float] = dataclasses.field(default_factory=dict)
    seen: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
    compared: set[str] = dataclasses.field(default_factory=set)
    """jobs whose workers must agree: what is right does not depend on who computes it"""
    members: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    """identities of the workers of each compute group"""
    over: bool = False

    def remember(self, auth: Mapping[str, Any]) -> None:
        self.seen.append(auth)
        if len(self.seen) > REMEMBERED_LEASES:
            del self.seen[0]


def right_value(number: int) -> str:
    """What all honest workers find in a job whose workers must agree."""
    return f"data:,right-{number}"


def wrong_value(number: int) -> str:
    return f"data:,wrong-{number}"


def group_secret(key: str) -> str:
    """The join hash of a group."""
    return f"eh1-{hashlib.sha256(key.encode()).hexdigest()}"


def group_descriptor(key: str, dcpsid: str) -> dict[str, str]:
    return {"joinKey": key, "joinHashHash": join_hash_hash(dcpsid, group_secret(key))}


class Worker:
    def __init__(
        self, world: World, network: Network, shared: Shared, name: str, traits: Traits, lease_s: float
    ) -> None:
        self.name = name
        self._world, self._network, self._shared, self._traits = world, network, shared, traits
        self._lease_s = lease_s
        self._key = PrivateKey(world.random.getrandbits(248).to_bytes(32, "big"))
        if traits.group:
            shared.members.setdefault(traits.group, set()).add(self._key.address)
        self.payee = world.new_address()
        self._connection: Connection | None = None
        self._old: list[tuple[str, dict[str, Any]]] = []
        """reports that were sent, for saying them again"""

    async def run(self) -> None:
        world = self._world
        await asyncio.sleep(world.random.random() * 5)
        while not self._gone:
            try:
                if self._connection is not None and world.random.random() < 0.7:
                    await self._return_all()
                await self._serve()
            except Crash:
                world.note(self.name, "crashes")
                self._hang_up()
                self._old.clear()
                await asyncio.sleep(world.random.random() * 2 * self._lease_s)

    @property
    def _gone(self) -> bool:
        return self._shared.over or (self._traits.leaves and self._world.calm)

    async def _serve(self) -> None:
        while not self._gone:
            self._may_crash()
            if self._traits.liar and not self._world.calm:
                await self._lie()
            answer = await self._ask("taskDistributor", "requestTask@3", self._wish(self._traits.cores))
            body = answer.get("body", {}) if isinstance(answer, dict) else {}
            task = body.get("task") or {}
            if not task:
                await asyncio.sleep(0.5 + 3 * self._world.random.random())
                continue
            auth = {field: answer[field] for field in ("owner", "signature", "auth")}
            self._shared.remember(auth)
            held = [(job, one["sliceNumber"]) for job, slices in task.items() for one in slices]
            self._world.note(self.name, f"has {len(held)} slices under lease {auth['auth']['lease']['id']}")
            await self._compute(auth, held)

    # --- computing

    async def _compute(self, auth: Mapping[str, Any], held: list[tuple[str, int]]) -> None:
        """As many slices at a time as there are cores; results leave in batches."""
        world = self._world
        ready: list[tuple[str, dict[str, Any]]] = []
        silent_s = 0.0
        while held:
            self._may_crash()
            now, held = held[: self._traits.cores], held[self._traits.cores :]
            if world.chance(world.faults.worker_stall):
                world.note(self.name, "stalls")
                await asyncio.sleep(self._lease_s * (1 + 2 * world.random.random()))
            spent_s = max(self._shared.slice_s.get(job, 1.0) for job, _ in now) / self._traits.speed
            silent_s += await self._wait(spent_s, now + held)
            for job, number in now:
                if not world.chance(world.faults.worker_forget):
                    ready.append(self._outcome(auth, job, number, spent_s))
            if silent_s > 1.0 or len(ready) > 50 or not held:
                await self._report(ready)
                ready, silent_s = [], 0.0

    async def _wait(self, seconds: float, held: Sequence[tuple[str, int]]) -> float:
        left = seconds
        while left > BEACON_S:
            await asyncio.sleep(BEACON_S)
            self._may_crash()
            left -= BEACON_S
            await self._ask("taskDistributor", "requestTask@3", self._wish(0, held))
        await asyncio.sleep(left)
        return seconds

    def _outcome(self, auth: Mapping[str, Any], job: str, number: int, spent_s: float) -> tuple[str, dict[str, Any]]:
        world = self._world
        if world.chance(world.faults.slice_fails):
            reason = world.random.choice(["ENOPROGRESS", "EUNCAUGHT", "ESANDBOXKILLED", "EWORKERSTOPPING", "ENETWORK"])
            entry = {"sliceNumbers": [number], "job": job, "status": "return", "reason": reason}
            return "status", {"worker": self.name, "slices": [entry | {"authorizationMessage": auth}]}
        return "result", self._result(auth, job, number, spent_s)

    def _result(self, auth: Mapping[str, Any], job: str, number: int, spent_s: float) -> dict[str, Any]:
        return {
            "job": job,
            "slice": number,
            "worker": self.name,
            "authorizationMessage": auth,
            "paymentAddress": self.payee,
            "metrics": {"CPUTime": spent_s * 1000, "CPUDensity": 1, "InDataSize": 10, "OutDataSize": 20},
            "result": self._value(job, number),
        }

    def _value(self, job: str, number: int) -> str:
        """Liars tell the same lie."""
        if job not in self._shared.compared:
            return f"data:,{number}-{self.name}"
        if self._traits.deceives and not self._world.calm and self._world.random.random() < 0.5:
            return wrong_value(number)
        return right_value(number)

    async def _report(self, reports: list[tuple[str, dict[str, Any]]]) -> None:
        """Sent again until answered, as an outbox does; never for longer than anybody could want it."""
        if not reports:
            return
        self._old = (self._old + reports)[-50:]
        for _ in range(20):
            connection = await self._connected()
            try:
                answers = await self._network.ask(connection, "resultSubmitter", reports, patience_s=10.0)
            except NoAnswer:
                self._may_crash()
                self._hang_up()
                continue
            if all(not isinstance(one, OrchestratorError) or not one.retryable for one in answers):
                return

    # --- talking

    async def _ask(self, service: str, operation: str, data: Any) -> Any:
        connection = await self._connected()
        try:
            return (await self._network.ask(connection, service, [(operation, data)], patience_s=20.0))[0]
        except NoAnswer:
            self._hang_up()
            return None

    async def _connected(self) -> Connection:
        while self._connection is None or self._connection.closed.is_set():
            self._connection = self._network.connect(self._key.address, self._hear)
            if self._connection is None:
                await asyncio.sleep(1 + self._world.random.random())
        return self._connection

    async def _hear(self, operation: str, data: Any) -> Any:
        return "success"

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.end()

    def _wish(self, cores: int, held: Sequence[tuple[str, int]] = ()) -> dict[str, Any]:
        by_job: dict[str, list[int]] = {}
        for job, number in held:
            by_job.setdefault(job, []).append(number)
        dcpsid = self._connection.dcpsid if self._connection else ""
        groups = [{"joinKey": "public", "joinHashHash": join_hash_hash(dcpsid, PUBLIC_JOIN_HASH)}]
        if self._traits.group:
            groups.append(group_descriptor(self._traits.group, dcpsid))
        return {
            "targetLoad": {"cpu": cores, "gpu": 0, "longSlices": 1},
            "coreStats": {"worker": self.name, "lCores": self._traits.cores, "pCores": self._traits.cores},
            "capabilities": 80,
            "paymentAddress": self.payee,
            "jobIds": [],
            "workerComputeGroups": groups,
            "worktimes": [{"name": "map-basic", "version": "1.0.0"}],
            "fetchState": 1 if cores else 0,
            "soteriaJobs": by_job,
        }

    async def _return_all(self) -> None:
        body = {"id": self.name}
        signature = json.loads(signature_text(self._key, js_json.dumps(body)))
        statement = js_json.dumps({"owner": self._key.address, "signature": signature, "body": body})
        wish = self._wish(0) | {"fetchState": 16, "returnAllSlices": statement}
        await self._ask("taskDistributor", "requestTask@3", wish)

    def _may_crash(self) -> None:
        if self._world.chance(self._world.faults.worker_crash):
            raise Crash

    # --- lying

    async def _lie(self) -> None:
        """Say something that must neither pay nor harm anybody."""
        world = self._world
        if not self._shared.seen or not world.chance(world.faults.worker_lie):
            return
        auth = world.random.choice(self._shared.seen)
        jobs = auth["auth"]["authSlices"] or {world.new_job_id(): [1]}
        job = world.random.choice(sorted(jobs))
        number = world.random.choice([*jobs[job], world.random.randrange(1, 500)])
        kind = world.random.randrange(6)
        report: tuple[str, dict[str, Any]] = "result", self._result(auth, job, number, 0.001)
        if kind == 1:
            fence = {"id": auth["auth"]["lease"]["id"] + world.random.randrange(3), "token": "guessed"}
            report[1]["authorizationMessage"] = {**auth, "auth": {**auth["auth"], "lease": fence}}
        elif kind == 2:
            entry = {"sliceNumbers": [number, number + 1], "job": job, "status": "return", "reason": "ENOPROGRESS"}
            report = "status", {"worker": self.name, "slices": [entry | {"authorizationMessage": auth}]}
        elif kind == 3 and self._old:
            operation, said = world.random.choice(self._old)
            report = operation, {**said, "result": "data:,changed", "paymentAddress": world.new_address()}
        elif kind == 4:
            report[1]["metrics"] = {"CPUTime": float("nan"), "CPUDensity": -1, "WallTime": 1e300, "InDataSize": True}
        elif kind == 5:
            report[1]["paymentAddress"] = world.random.choice(["nobody", None, 7])
            report[1]["result"] = world.random.choice([None, "data:application/x-kvin,{", f"data:,{number}"])
        if report[0] == "result" and report[1]["job"] in self._shared.compared and not self._traits.deceives:
            report[1]["result"] = right_value(report[1]["slice"])
        world.note(self.name, f"lies about slice {number} of {job[:6]}, in way {kind}")
        await self._ask("resultSubmitter", *report)
