"""Slices per second of one Worker with 1, 2, 8 and 64 sandboxes, against a Scheduler that answers at once.

The Scheduler is a double: our protocol server, which signs and verifies as the real one does, but hands out slices of one
job without end and takes results without looking. It runs in this process, the Worker in its own. Slices are empty, so
what is measured is the Worker's own way: fetch, hand to a sandbox, meter, sign, submit.
"""

from __future__ import annotations

import asyncio
import pathlib
import tempfile
import time
from typing import Any

from benchmarks import common
from orchestrator.jobs import piles
from orchestrator.protocol.config import build_config, config_text
from orchestrator.protocol.server import DcpServer, Request
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness
from tests.faults.parts import free_port

SANDBOXES = (1, 2, 8, 64)
MANY = 500
ANSWER = {"accepted": True, "metrics": {}, "slicePaymentAmount": "0.001"}
JOB = {
    "jobId": "rate", "jobCgId": "rate-public", "public": {"name": "rate", "description": "", "link": ""},
    "codeLocation": "data:,(x) => { progress(); return x }", "argumentsLocation": [], "dependencies": [],
    "requirePath": [], "modulePath": [], "worktime": {"name": "map-basic", "version": "1.0.0"}, "needCapabilities": 64,
    "useStrict": True, "workerConsole": True,
}  # fmt: skip


class Instant:
    """Slices without end, results taken unseen."""

    def __init__(self) -> None:
        self.identity = PrivateKey.generate()
        self.number = 0
        self.results = 0
        self.first = asyncio.Event()

    async def handle(self, request: Request) -> Any:
        match request.operation:
            case "requestTask@3":
                return self._task(request.data)
            case piles.OPERATION:
                members = piles.unfold(request.data)
                self.results += len(members)
                self.first.set()
                return piles.fold_answers([ANSWER] * len(members))
            case "result":
                self.results += 1
                self.first.set()
                return ANSWER
            case "subscribeMany":
                return {"tokens": [{"event": label, "token": label} for label in request.data["schedmsgEvents"]]}
        return {"success": True}

    def _task(self, data: Any) -> Any:
        authorization = {"owner": self.identity.address, "auth": {"lease": 1, "authSlices": {}}}
        if not data["fetchState"] & 1:
            return {**authorization, "body": {}}
        numbers = range(self.number + 1, self.number + MANY + 1)
        self.number += MANY
        slices = [
            {"jobId": "rate", "sliceNumber": n, "resultStorageType": "values", "datumUri": "data:application/json,1"}
            for n in numbers
        ]
        return {**authorization, "body": {"newJobs": {"rate": JOB}, "task": {"rate": slices}}}


async def measure(sandboxes: int, seconds: float) -> dict[str, float]:
    """Results per second once they flow, and the Worker's own CPU share meanwhile."""
    instant, port = Instant(), free_port()
    names = ("taskDistributor", "resultSubmitter", "eventRouter")
    config = build_config(f"http://127.0.0.1:{port}/", services=names)
    config["scheduler"]["services"]["resultSubmitter"]["tuning"] = {"resultsInPile": piles.MOST}
    services = dict.fromkeys((*names, "packageManager"), instant)
    with tempfile.TemporaryDirectory() as folder:
        state = pathlib.Path(folder)
        async with DcpServer(
            instant.identity, services, lambda version, _origin: config_text(config, version)
        ) as server:
            await server.listen("127.0.0.1", port)
            worker = await harness.Command.start(
                "worker", "run", "--scheduler", f"http://127.0.0.1:{port}/", "--state", str(state / "worker"), "--sandboxes",
                str(sandboxes), "--warm", str(sandboxes), "--max-sandboxes", str(sandboxes), "--memory", "64",
                "--stop-timeout", "3", log=state / "worker.log",
            )  # fmt: skip
            try:
                await worker.wait_for_line("ready ", within=120)
                async with asyncio.timeout(60):
                    await instant.first.wait()
                await asyncio.sleep(min(seconds, 1 + sandboxes / 8))  # until all of them are at work
                before, begun, cpu = instant.results, time.perf_counter(), common.cpu_seconds(worker.process.pid)
                await asyncio.sleep(seconds)
                took = time.perf_counter() - begun
                used = common.cpu_seconds(worker.process.pid) - cpu
                return {
                    "rate": (instant.results - before) / took,
                    "cpu": used / took,
                    "cpu_us": used / max(instant.results - before, 1) * 1e6,
                }
            finally:
                worker.process.terminate()
                await worker.stop()


async def measure_all(rounds: int, seconds: float) -> dict[int, list[dict[str, float]]]:
    found: dict[int, list[dict[str, float]]] = {sandboxes: [] for sandboxes in SANDBOXES}
    for _ in range(rounds):
        for sandboxes in SANDBOXES:
            found[sandboxes].append(await measure(sandboxes, seconds))
    return found


def main() -> None:
    options = common.parse_options(__doc__)
    machine = common.machine()
    found = asyncio.run(measure_all(*((1, 4.0) if options.quick else (3, 10.0))))
    middle = {
        sandboxes: {name: common.median(one[name] for one in rounds) for name in ("rate", "cpu", "cpu_us")}
        for sandboxes, rounds in found.items()
    }
    text = [
        f"{sandboxes:>2} sandboxes: {figures['rate']:.0f} slices/s, {figures['cpu']:.2f} cores of the Worker ({figures['cpu_us']:.0f} µs a slice)"
        for sandboxes, figures in middle.items()
    ]
    one = middle[SANDBOXES[0]]["rate"]
    goals = [common.Goal(f"{n} sandboxes / 1 sandbox", middle[n]["rate"] / one) for n in SANDBOXES[1:]]
    common.report(options.output, {"machine": machine, "workers": {str(n): f for n, f in middle.items()}}, goals, text)


if __name__ == "__main__":
    main()
