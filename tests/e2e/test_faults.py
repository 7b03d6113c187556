"""Parts are killed in the middle of a job: it completes, no result comes twice, no container is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import docker
import pytest

from tests.e2e import harness

pytestmark = [pytest.mark.docker, pytest.mark.npm]

SLICES = 200
PROGRAM = f"""
    const job = compute.for(1, {SLICES}, (i) => {{ progress(); const end = Date.now() + 40; while (Date.now() < end); return i * 2; }});
    job.on('result', (event) => say('result', event.sliceNumber));
    job.on('duplicate-result', (event) => say('duplicate', event));
    say('results', Array.from(await job.exec()));
"""


class Parts:
    """A Scheduler and a Worker as processes of their own, on a fixed port, with state that outlives them."""

    def __init__(self, folder: pathlib.Path, port: int, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}/"
        self.port = port
        self.env = env or {}
        self.scheduler: harness.Command | None = None
        self.worker: harness.Command | None = None

    async def start_scheduler(self) -> None:
        self.scheduler = await harness.Command.start(
            "scheduler", "run", "--port", str(self.port), "--state", str(self.folder / "scheduler"),
            "--initial-credit", "1000", log=self.folder / "scheduler.log", env=self.env,
        )  # fmt: skip
        await self.scheduler.wait_for_line("ready ")

    async def start_worker(self) -> None:
        self.worker = await harness.Command.start(
            "worker", "run", "--scheduler", self.url, "--state", str(self.folder / "worker"), "--sandboxes", "2",
            log=self.folder / "worker.log", env=self.env,
        )  # fmt: skip

    def logs(self) -> str:
        texts = [path.read_text()[-3000:] for path in sorted(self.folder.glob("*.log"))]
        return "\n----\n".join(texts)

    def worker_id(self) -> str:
        return (self.folder / "worker" / "worker-id").read_text().strip()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def containers_of(worker_id: str, docker_host: str | None = None) -> list[str]:
    """Ids of the containers, running or not, that carry the worker's label."""
    client = docker.DockerClient(base_url=docker_host or "unix:///var/run/docker.sock")
    try:
        found = client.api.containers(all=True, filters={"label": f"dcp-orchestrator.worker={worker_id}"})
        return [entry["Id"] for entry in found]
    finally:
        client.close()


@contextlib.asynccontextmanager
async def running_parts(folder: pathlib.Path, env: dict[str, str] | None = None) -> AsyncIterator[Parts]:
    parts = Parts(folder, free_port(), env)
    try:
        await parts.start_scheduler()
        await parts.start_worker()
        yield parts
    finally:
        for command in (parts.worker, parts.scheduler):
            if command is not None and command.process.returncode is None:
                await command.stop()


@pytest.fixture
async def parts(tmp_path: pathlib.Path) -> AsyncIterator[Parts]:
    async with running_parts(tmp_path) as running:
        yield running
    assert containers_of(running.worker_id()) == []


@contextlib.asynccontextmanager
async def deployed(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, program: str = PROGRAM
) -> AsyncIterator[harness.Client]:
    async with harness.client(
        program, scheduler=parts.url, wallet=wallet, node=node, npm_modules=npm_modules
    ) as client:
        yield client


async def assert_complete(client: harness.Client, parts: Parts, *, duplicates_allowed: bool = False) -> None:
    try:
        outcome = (await client.finish(within=100)).ok()
    except (AssertionError, TimeoutError) as error:
        raise AssertionError(f"{error}\n{client.said[-5:]}\n{parts.logs()}") from error
    assert outcome.one("results") == [2 * i for i in range(1, SLICES + 1)]
    if not duplicates_allowed:
        assert sorted(outcome.all("result")) == list(range(1, SLICES + 1))
        assert outcome.all("duplicate") == []


async def test_the_worker_is_killed_and_restarted(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    async with deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        assert parts.worker
        await parts.worker.kill()
        assert containers_of(parts.worker_id()), "the crash should have left containers for the reaper"
        await parts.start_worker()
        await assert_complete(client, parts)


async def test_the_scheduler_is_killed_and_restarted(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    async with deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        assert parts.scheduler
        await parts.scheduler.kill()
        await parts.start_scheduler()
        # An event whose acknowledgement died with the Scheduler comes again: the client tells such repeats apart.
        await assert_complete(client, parts, duplicates_allowed=True)


async def test_a_sandbox_is_killed_from_outside(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    async with deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        for container in containers_of(parts.worker_id()):
            subprocess.run(["docker", "kill", container], check=False, capture_output=True)
        await assert_complete(client, parts)


class Engine:
    """A Docker Engine of the test's own, so that restarting it disturbs nobody."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/docker.sock"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with (self.folder / "dockerd.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                shutil.which("dockerd") or "/usr/sbin/dockerd", "--host", self.host,
                "--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec"),
                "--pidfile", str(self.folder / "pid"), "--bridge", "none", "--iptables=false", "--ip6tables=false",
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        async with asyncio.timeout(60):
            while not await self._answers():
                await asyncio.sleep(0.1)  # the Engine announces itself in no other way
                assert self.process.returncode is None, (self.folder / "dockerd.log").read_text()[-3000:]

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self.folder / "docker.sock")
        except OSError:
            return False
        writer.write(b"GET /_ping HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer.startswith(b"HTTP/1.0 200")

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                await self.process.wait()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    import tempfile

    if os.geteuid() != 0:
        pytest.skip("a Docker Engine of the test's own needs root")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dcp-engine-"))  # a socket's path must be short
    own = Engine(folder)
    try:
        await own.start()
        yield own
    finally:
        await own.stop()
        for mount in pathlib.Path("/proc/self/mounts").read_text().splitlines():
            target = mount.split()[1]
            if target.startswith(str(folder)):
                subprocess.run(["umount", "-l", target], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(240)
async def test_the_docker_engine_is_restarted(
    engine: Engine, tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    env = {"DOCKER_HOST": engine.host}
    subprocess.run(
        [sys.executable, "-m", "sandbox_image.build"], check=True, env={**os.environ, **env}, capture_output=True
    )
    async with running_parts(tmp_path, env) as parts, deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        await engine.stop()
        await engine.start()
        await assert_complete(client, parts)
    assert containers_of(parts.worker_id(), engine.host) == []
