"""From nothing to a sandbox that answers, one at a time and many at once, and from the pool to a taker.

Five ways to the first line of the same evaluator from the same image, in turns, at each concurrency:

- `runc run`: the bare OCI runtime on an unpacked image, without any Engine;
- `docker run`: what a person types, the client program's own start included;
- by hand: `create`, `attach`, `start` through Docker's API with the body that our lock-down gives;
- ours: the runtime that the Worker uses (lock-down checked, cgroup of its own, attached, described);
- hand-out: `take` on a pool that has been given time to warm.

Ratios compare medians within one round; their median over the rounds is reported.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import pathlib
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import docker

from benchmarks import common
from orchestrator.worker import line_protocol as lines
from orchestrator.worker.docker_runtime import DockerRuntime
from orchestrator.worker.pool import PoolSettings, SandboxPool
from orchestrator.worker.sandbox import Sandbox

CONCURRENCIES = (1, 2, 8, 32)
COLD_GOAL = 1 / 1.1
NAMESPACE_FLOOR_MS = 2.4
"""Median of clone with new namespaces, pivot_root, setuid and exec of a static program, as measured on such a machine."""

DESCRIBE = lines.request_line({"request": "describe"})
_LOOK_S = 0.005

Start = Callable[[], Awaitable[float]]


class Bundle:
    """The image unpacked, for the bare OCI runtime."""

    def __init__(self, folder: pathlib.Path, image: str) -> None:
        self.folder = folder
        api = docker.APIClient(version="auto")
        made = api.create_container(image)["Id"]
        try:
            rootfs = folder / "rootfs"
            rootfs.mkdir()
            unpack = subprocess.Popen(["tar", "-x", "-C", str(rootfs)], stdin=subprocess.PIPE)
            assert unpack.stdin is not None
            for piece in api.export(made):
                unpack.stdin.write(piece)
            unpack.stdin.close()
            unpack.wait()
            entrypoint = api.inspect_image(image)["Config"]["Entrypoint"]
        finally:
            api.remove_container(made)
            api.close()
        subprocess.run(["runc", "spec"], cwd=folder, check=True)
        path = folder / "config.json"
        spec = json.loads(path.read_text())
        spec["process"] |= {"terminal": False, "args": entrypoint, "user": {"uid": 65534, "gid": 65534}, "cwd": "/"}
        spec["root"] = {"path": "rootfs", "readonly": True}
        path.write_text(json.dumps(spec))

    async def start(self) -> float:
        return await _until_it_speaks(["runc", "run", "--bundle", str(self.folder), f"bare-{secrets.token_hex(6)}"])


async def _until_it_speaks(command: list[str]) -> float:
    """Milliseconds from the command to the first line that answers; then its input ends, and with it the process."""
    begun = time.perf_counter()
    process = await common.LineProcess.start(*command)
    process.write(DESCRIBE)
    await process.line()
    took = (time.perf_counter() - begun) * 1000
    assert process.process.stdin is not None
    process.process.stdin.close()
    await process.process.wait()
    return took


class ByHand:
    """What a careful person would do, without the client program's own start-up time."""

    def __init__(self, runtime: DockerRuntime) -> None:
        self._runtime = runtime
        self._api = docker.APIClient(version="auto", num_pools=64)
        self._threads = concurrent.futures.ThreadPoolExecutor(max(CONCURRENCIES))

    async def start(self) -> float:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._start)

    def _start(self) -> float:
        """Milliseconds from `create` to the first line. The container is removed afterwards."""
        labels = self._runtime.owner.labels("by-hand", time.time() + 60)
        limits = self._runtime.settings.limits
        body = self._runtime.lockdown.create_body(image=self._runtime.image_id, labels=labels, limits=limits)
        # Our own reaper must not take it for one of its runtime's.
        body["Labels"] = {}
        begun = time.perf_counter()
        container = self._api.create_container_from_config(body, f"by-hand-{secrets.token_hex(6)}")["Id"]
        try:
            attached = self._api.attach_socket(container, {"stdin": 1, "stdout": 1, "stream": 1})
            self._api.start(container)
            connection: socket.socket = attached._sock
            connection.settimeout(60)
            connection.sendall(DESCRIBE)
            seen = b""
            while b"\n" not in seen and (piece := connection.recv(65536)):
                seen += piece
            if b"\n" not in seen:
                raise SystemExit("the container ended without a word")
            took = (time.perf_counter() - begun) * 1000
            attached.close()
            connection.close()
            return took
        finally:
            self._api.remove_container(container, force=True)

    def close(self) -> None:
        self._threads.shutdown()
        self._api.close()


@contextlib.asynccontextmanager
async def ways(runtime: DockerRuntime) -> AsyncIterator[dict[str, Start]]:
    """The cold ways, by name."""

    async def ours() -> float:
        begun = time.perf_counter()
        sandbox = await Sandbox.start(runtime)
        took = (time.perf_counter() - begun) * 1000
        await sandbox.kill()
        return took

    async def docker_run() -> float:
        return await _until_it_speaks(["docker", "run", "-i", "--rm", "--network", "none", runtime.image_id])

    with tempfile.TemporaryDirectory() as folder:
        bundle = await asyncio.to_thread(Bundle, pathlib.Path(folder), runtime.image_id)
        by_hand = ByHand(runtime)
        try:
            yield {"runc run": bundle.start, "docker run": docker_run, "by hand": by_hand.start, "ours": ours}
        finally:
            by_hand.close()


async def at_once(start: Start, concurrency: int) -> list[float]:
    """Milliseconds of each of so many starts that begin together."""
    return list(await asyncio.gather(*(start() for _ in range(concurrency))))


async def hand_outs(runtime: DockerRuntime, concurrency: int, rounds: int) -> list[float]:
    """Milliseconds of each of so many takes at once, while as many sandboxes are warm."""
    took: list[float] = []

    async def take(pool: SandboxPool) -> Sandbox:
        begun = time.perf_counter()
        sandbox = await pool.take()
        took.append((time.perf_counter() - begun) * 1000)
        return sandbox

    async with SandboxPool(runtime, PoolSettings(capacity=concurrency, warm=concurrency)) as pool:
        for _ in range(rounds):
            async with asyncio.timeout(180):
                while pool.ready < concurrency:  # noqa: ASYNC110  (it tells nobody of sandboxes that nobody waits for)
                    await asyncio.sleep(_LOOK_S)
            for sandbox in await asyncio.gather(*(take(pool) for _ in range(concurrency))):
                await sandbox.kill()
    return took


async def measure(starts: int, takes: int) -> dict[int, dict[str, list[list[float]]]]:
    """concurrency → way → rounds → milliseconds. `starts` and `takes` are for each concurrency, at least two rounds."""
    found: dict[int, dict[str, list[list[float]]]] = {}
    async with common.docker_runtime() as runtime, ways(runtime) as cold:
        for start in cold.values():
            await start()  # caches fill
        for concurrency in CONCURRENCIES:
            rounds = max(starts // concurrency, 2)
            found[concurrency] = {name: [] for name in cold}
            for number in range(rounds):
                # In turns who is first, so that none always follows another's removal.
                names = list(cold)[number % len(cold) :] + list(cold)[: number % len(cold)]
                for name in names:
                    found[concurrency][name].append(await at_once(cold[name], concurrency))
            found[concurrency]["hand-out"] = [await hand_outs(runtime, concurrency, max(takes // concurrency, 2))]
    return found


def _summary(rounds: list[list[float]]) -> dict[str, float]:
    figures = [figure for one in rounds for figure in one]
    return {
        "p50": common.median(figures),
        "p95": common.percentile(figures, 0.95),
        "p99": common.percentile(figures, 0.99),
        "count": len(figures),
    }


def _ratio(over: list[list[float]], under: list[list[float]]) -> float:
    return common.median(common.median(a) / common.median(b) for a, b in zip(over, under, strict=True))


def main() -> None:
    options = common.parse_options(__doc__)
    machine = common.machine()
    found = asyncio.run(measure(*((6, 20) if options.quick else (40, 100))))
    summary: dict[str, Any] = {str(n): {name: _summary(all) for name, all in ways.items()} for n, ways in found.items()}
    text, goals = [], []
    for concurrency, ways in found.items():
        text.append(f"{concurrency} at once, ms (p50 / p95 / p99):")
        for name, figures in summary[str(concurrency)].items():
            text.append(
                f"  {name:<10} {figures['p50']:8.3g} / {figures['p95']:.3g} / {figures['p99']:.3g}  n={figures['count']}"
            )
        goals.append(
            common.Goal(f"by hand / ours, {concurrency} at once", _ratio(ways["by hand"], ways["ours"]), COLD_GOAL)
        )
        goals.append(common.Goal(f"docker run / ours, {concurrency} at once", _ratio(ways["docker run"], ways["ours"])))
        goals.append(common.Goal(f"runc run / ours, {concurrency} at once", _ratio(ways["runc run"], ways["ours"])))
        floor = NAMESPACE_FLOOR_MS / summary[str(concurrency)]["hand-out"]["p50"]
        goals.append(common.Goal(f"namespace floor / hand-out from the pool, {concurrency} at once", floor, 1.0))
    common.report(options.output, {"machine": machine, "milliseconds": summary}, goals, text)


if __name__ == "__main__":
    main()
