"""From nothing to a sandbox that answers, and from the pool to a taker.

Our runtime (lock-down checked, attached, described) against the bare steps by hand: `create`, `attach`, `start` of the
same image with the same body through Docker's API, and `describe` written until the first line is there. Both are
asked in turns, ratios are medians over the rounds. Hand-out is the time of `take` on a pool with a warm sandbox.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from typing import Any

import docker

from benchmarks import common
from orchestrator.worker import line_protocol as lines
from orchestrator.worker.docker_runtime import DockerRuntime
from orchestrator.worker.pool import PoolSettings, SandboxPool
from orchestrator.worker.sandbox import Sandbox

_LOOK_S = 0.005


class ByHand:
    """What a person would type, without the client program's own start-up time."""

    def __init__(self, runtime: DockerRuntime) -> None:
        self._runtime = runtime
        self._api = docker.APIClient(version="auto")

    def start(self) -> float:
        """Milliseconds from `create` to the first line. The container is removed afterwards."""
        labels = self._runtime.owner.labels("by-hand", time.time() + 60)
        limits = self._runtime.settings.limits
        body = self._runtime.lockdown.create_body(image=self._runtime.image_id, labels=labels, limits=limits)
        begun = time.perf_counter()
        container = self._api.create_container_from_config(body, f"by-hand-{secrets.token_hex(4)}")["Id"]
        try:
            attached = self._api.attach_socket(container, {"stdin": 1, "stdout": 1, "stream": 1})
            self._api.start(container)
            connection: socket.socket = attached._sock
            connection.settimeout(30)
            connection.sendall(lines.request_line({"request": "describe"}))
            if b"\n" not in _read_until_newline(connection):
                raise SystemExit("the container ended without a word")
            took = (time.perf_counter() - begun) * 1000
            attached.close()
            connection.close()
            return took
        finally:
            self._api.remove_container(container, force=True)

    def close(self) -> None:
        self._api.close()


def _read_until_newline(connection: socket.socket) -> bytes:
    seen = b""
    while b"\n" not in seen and (piece := connection.recv(65536)):
        seen += piece
    return seen


async def ours(runtime: DockerRuntime) -> float:
    """Milliseconds until a sandbox is ready. It is removed afterwards."""
    begun = time.perf_counter()
    sandbox = await Sandbox.start(runtime)
    took = (time.perf_counter() - begun) * 1000
    await sandbox.kill()
    return took


async def hand_outs(runtime: DockerRuntime, count: int) -> list[float]:
    """Milliseconds of each `take` while a sandbox is warm."""
    took = []
    async with SandboxPool(runtime, PoolSettings(capacity=1, warm=1)) as pool:
        for _ in range(count):
            async with asyncio.timeout(60):
                while not pool.ready:  # noqa: ASYNC110  (the pool tells nobody of sandboxes that nobody waits for)
                    await asyncio.sleep(_LOOK_S)
            begun = time.perf_counter()
            sandbox = await pool.take()
            took.append((time.perf_counter() - begun) * 1000)
            await sandbox.kill()
    return took


async def measure(rounds: int, takes: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"by hand": [], "ours": []}
    async with common.docker_runtime() as runtime:
        by_hand = ByHand(runtime)
        try:
            for number in range(rounds + 1):
                # In turns who is first, so that neither always follows the other's removal.
                for name in sorted(times, reverse=number % 2 == 1):
                    took = await (ours(runtime) if name == "ours" else asyncio.to_thread(by_hand.start))
                    if number:  # the first round fills caches
                        times[name].append(took)
        finally:
            by_hand.close()
        return times | {"hand-out": await hand_outs(runtime, takes)}


def main() -> None:
    options = common.parse_options(__doc__)
    machine = common.machine()
    times = asyncio.run(measure(*((8, 20) if options.quick else (40, 100))))
    summary: dict[str, Any] = {
        name: {"p50": common.median(figures), "p95": common.percentile(figures, 0.95)}
        for name, figures in times.items()
    }
    ratio = common.median(hand / mine for hand, mine in zip(times["by hand"], times["ours"], strict=True))
    text = [f"{name}: {figures['p50']:.3g} ms (p95 {figures['p95']:.3g})" for name, figures in summary.items()]
    goals = [
        common.Goal("by hand / ours, create to ready", ratio),
        common.Goal(
            "ours, create to ready / hand-out from the pool", summary["ours"]["p50"] / summary["hand-out"]["p50"]
        ),
    ]
    common.report(options.output, {"machine": machine, "milliseconds": summary}, goals, text)


if __name__ == "__main__":
    main()
