"""The Docker Engine stops, freezes, is slow, runs out of disk, fails in the middle: jobs complete, nothing is left.

Stated: work goes on within 15 s of the Engine's return, and no container outlives the Worker.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pathlib
import subprocess
from collections.abc import AsyncIterator, Callable

import docker
import pytest

from tests.e2e import harness
from tests.faults.parts import PROGRAM, Engine, Parts, assert_complete, deployed, running_parts
from tests.parts.containers import containers_of
from tests.parts.docker_proxy import DockerProxy

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.timeout(600)]

BACK_S = 15.0


@pytest.fixture
async def on_engine(engine: Engine, tmp_path: pathlib.Path) -> AsyncIterator[Parts]:
    """Parts on the test's own Engine, whose calls are given up after 3 s."""
    async with running_parts(tmp_path, {**engine.env, "DCP_ORCHESTRATOR_WORKER_DOCKER_TIMEOUT_S": "3"}) as parts:
        yield parts
        engine.ensure_running()
    assert containers_of(parts.worker_id(), engine.host) == []


async def test_stopped(
    on_engine: Parts, engine: Engine, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path,
    lasting: Callable[..., float],
) -> None:  # fmt: skip
    """Slices go back while it is away; the Worker says so, lives, and takes them again."""
    async with deployed(on_engine, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        await asyncio.to_thread(engine.stop)
        await on_engine.wait_for_log("docker_lost", within=10)
        await asyncio.sleep(lasting(30, least=2))
        assert on_engine.worker is not None
        assert on_engine.worker.process.returncode is None, on_engine.logs()
        await asyncio.to_thread(engine.start)
        await on_engine.wait_for_log("docker_is_back", within=BACK_S)
        await assert_complete(client, on_engine)


async def test_killed(
    on_engine: Parts, engine: Engine, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    """SIGKILL to dockerd: containerd and the shims live on, and with them containers that nobody may forget."""
    async with deployed(on_engine, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        await asyncio.to_thread(engine.kill)
        await asyncio.to_thread(engine.start)
        await assert_complete(client, on_engine)


async def test_frozen(
    on_engine: Parts, engine: Engine, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path,
    lasting: Callable[..., float],
) -> None:  # fmt: skip
    """SIGSTOP: connections stay open and nothing is answered, beyond the limit of a call."""
    async with deployed(on_engine, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        engine.pause()
        await asyncio.sleep(lasting(30, least=5))
        engine.resume()
        seen = len(client.said)
        await client.wait_for(
            "result", count=min(sum(name == "result" for name, _ in client.said) + 1, 200), within=BACK_S
        )
        assert len(client.said) > seen
        await assert_complete(client, on_engine)


async def test_frozen_when_the_worker_starts(engine: Engine, tmp_path: pathlib.Path) -> None:
    """It waits, says so, and starts when the Engine answers."""
    env = {**engine.env, "DCP_ORCHESTRATOR_WORKER_DOCKER_TIMEOUT_S": "1"}
    engine.pause()
    try:
        async with running_parts(tmp_path, env) as parts:
            await parts.wait_for_log("docker_silent")
            engine.resume()
            await parts.wait_for_log("worker_started")
            assert "worker_started" not in parts.logs().partition("docker_silent")[0]
    finally:
        engine.ensure_running()


FROZEN_LONG = """
    const job = compute.for(1, 4, (i) => { progress(); const end = Date.now() + 8000; while (Date.now() < end) progress(); return i * 2; });
    job.on('error', (event) => say('error', event));
    job.on('noprogress', (event) => say('noprogress', event));
    say('results', Array.from(await job.exec()));
"""


async def test_frozen_is_not_the_jobs_fault(
    engine: Engine, tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    """While the Engine is frozen no progress can be heard: no slice may be blamed for that."""
    env = {
        **engine.env,
        "DCP_ORCHESTRATOR_WORKER_DOCKER_TIMEOUT_S": "3",
        "DCP_ORCHESTRATOR_WORKER_PROGRESS_TIMEOUT_S": "2",
    }
    async with running_parts(tmp_path, env) as parts, deployed(parts, wallet, node, npm_modules, FROZEN_LONG) as client:
        await parts.wait_for_log("worker_started")
        await _containers_at_work(parts, engine)
        engine.pause()
        await asyncio.sleep(5)
        engine.resume()
        outcome = (await client.finish(within=100)).ok()
        assert outcome.one("results") == [2, 4, 6, 8]
        assert outcome.all("noprogress") == outcome.all("error") == [], parts.logs()
    assert containers_of(parts.worker_id(), engine.host) == []


async def _containers_at_work(parts: Parts, engine: Engine) -> None:
    """Until two are at work and two warm ones stand ready in their place: no call to the Engine is under way then."""
    client = docker.DockerClient(base_url=engine.host)
    try:
        async with asyncio.timeout(30):
            while len(client.containers.list(filters={"label": f"dcp-orchestrator.worker={parts.worker_id()}"})) < 4:
                await asyncio.sleep(0.1)
    finally:
        client.close()


@pytest.mark.parametrize("how", ["stop", "pause"])
async def test_the_worker_is_stopped_meanwhile(
    engine: Engine, tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path,
    how: str, lasting: Callable[..., float],
) -> None:  # fmt: skip
    """It ends, though at full length the Engine does not come back before; its next start removes what it could not."""
    env = {
        **engine.env,
        "DCP_ORCHESTRATOR_WORKER_DOCKER_TIMEOUT_S": "3",
        "DCP_ORCHESTRATOR_WORKER_PROGRESS_TIMEOUT_S": "2",
    }
    async with running_parts(tmp_path, env) as parts, deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        await asyncio.to_thread(getattr(engine, how))
        assert parts.worker is not None
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(parts.worker.stop())
            ended, _ = await asyncio.wait([stopping], timeout=lasting(150, least=5))
            await asyncio.to_thread(engine.ensure_running)
        assert ended or lasting(1, least=0) < 1, "it waited for the Engine"
        assert stopping.result() == 0, parts.logs()
        await parts.start_worker()
        await assert_complete(client, parts)
    assert containers_of(parts.worker_id(), engine.host) == []


async def test_slow(
    engine: Engine, tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    """Every call takes 700 ms longer: the job takes longer, and that is all."""
    proxy = DockerProxy(engine.folder / "docker.sock", tmp_path / "p.sock")
    proxy.delay = lambda _line: 0.7
    async with proxy.serve(), running_parts(tmp_path, {"DOCKER_HOST": proxy.host}) as parts:
        async with deployed(parts, wallet, node, npm_modules) as client:
            await assert_complete(client, parts)
        assert "sandbox_start_failed" not in (tmp_path / "worker.log").read_text()
        assert len(proxy.requests) > 6
    assert containers_of(parts.worker_id(), engine.host) == []


@pytest.mark.parametrize("what", ["create", "attach", "start", "kill", "DELETE"])
async def test_calls_that_fail_now_and_then(
    engine: Engine, tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path,
    what: str,
) -> None:  # fmt: skip
    """Every other call of a kind is answered with 500: nothing is left and the job completes."""
    proxy = DockerProxy(engine.folder / "docker.sock", tmp_path / "p.sock")
    calls = itertools.count()
    failed = 0

    def refuse(line: str) -> bool:
        nonlocal failed
        if not (f"/{what}" in line or line.startswith(what)):
            return False
        refused = next(calls) % 2 == 0
        failed += refused
        return refused

    proxy.refuse = refuse
    async with proxy.serve(), running_parts(tmp_path, {"DOCKER_HOST": proxy.host}) as parts:
        async with deployed(parts, wallet, node, npm_modules) as client:
            await client.wait_for("result", count=20)
            for container in containers_of(parts.worker_id(), engine.host)[:2]:  # some must end before the job does
                subprocess.run(
                    ["docker", "kill", container], check=False, capture_output=True, env={**os.environ, **engine.env}
                )
            await assert_complete(client, parts)
        await harness_stop(parts)
        assert failed, f"no {what} was asked for: {proxy.requests}"
    assert containers_of(parts.worker_id(), engine.host) == []


async def harness_stop(parts: Parts) -> None:
    assert parts.worker is not None
    assert await parts.worker.stop() == 0, parts.logs()


async def test_attach_streams_that_break(
    engine: Engine, tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    """The first streams are cut in the middle of the slices' answers; their containers live on and must be ended."""
    proxy = DockerProxy(engine.folder / "docker.sock", tmp_path / "p.sock")
    limits = itertools.chain([2500, 4000, 6000, 700, 30, 5000], itertools.repeat(None))
    proxy.attach_bytes = lambda: next(limits)
    async with proxy.serve(), running_parts(tmp_path, {"DOCKER_HOST": proxy.host}) as parts:
        async with deployed(parts, wallet, node, npm_modules) as client:
            await assert_complete(client, parts)
        assert proxy.cuts >= 4, proxy.cuts
    assert containers_of(parts.worker_id(), engine.host) == []


async def test_no_disk_left_for_containers(
    engine: Engine, tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    """The Engine's disk is full: no sandbox can be made; the Worker says why, and goes on when there is room."""
    own = Engine.make()
    try:
        data = own.folder / "data"
        data.mkdir()
        await asyncio.to_thread(
            subprocess.run, ["mount", "-t", "tmpfs", "-o", "size=400m", "none", str(data)], check=True
        )
        await asyncio.to_thread(own.start)
        await asyncio.to_thread(own.load_image)
        async with running_parts(tmp_path, own.env, "--warm", "0") as parts:
            await parts.worker_ready()
            ballast = data / "ballast"
            free = os.statvfs(data)
            with ballast.open("wb") as file:
                left = free.f_bavail * free.f_frsize
                while left > 0:
                    try:
                        left -= file.write(b"\0" * min(left, 1 << 20))
                        file.flush()
                    except OSError:
                        break
            async with deployed(parts, wallet, node, npm_modules, PROGRAM) as client:
                await parts.wait_for_log("no space left on device", within=harness.PATIENCE_S)
                ballast.unlink()
                await assert_complete(client, parts)
        assert containers_of(parts.worker_id(), own.host) == []
    finally:
        await asyncio.to_thread(own.dispose)
