"""A Scheduler, a Worker and a Docker Engine as processes of their own, made to be broken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self

import aiohttp

from tests.e2e import harness

SLICES = 200
PROGRAM = f"""
    const job = compute.for(1, {SLICES}, (i) => {{ progress(); const end = Date.now() + 40; while (Date.now() < end); return i * 2; }});
    job.on('result', (event) => say('result', event.sliceNumber));
    job.on('duplicate-result', (event) => say('duplicate', event));
    say('results', Array.from(await job.exec()));
"""


class Parts:
    """A Scheduler and a Worker as processes of their own, on a fixed port, with state that outlives them.

    `host` is where the Scheduler listens; `worker_prefix` a command that the Worker is run under (`ip netns exec …`).
    """

    def __init__(
        self, folder: pathlib.Path, port: int, env: Mapping[str, str] | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.folder = folder
        self.host = host
        self.url = f"http://{host}:{port}/"
        self.port = port
        self.env = dict(env or {})
        self.scheduler_env: dict[str, str] = {}
        self.worker_env: dict[str, str] = {}
        self.worker_prefix: Sequence[str] = ()
        self.worker_url = self.url
        self.watched = ""
        self.scheduler: harness.Command | None = None
        self.worker: harness.Command | None = None

    async def start_scheduler(self) -> None:
        self.scheduler = await harness.Command.start(
            "scheduler", "run", "--host", self.host, "--port", str(self.port), "--state", str(self.folder / "scheduler"),
            "--initial-credit", "1000", log=self.folder / "scheduler.log", env={**self.env, **self.scheduler_env},
        )  # fmt: skip
        try:
            await self.scheduler.wait_for_line("ready ")
        except BaseException:
            await self.scheduler.kill()
            raise

    async def start_worker(self, *arguments: str) -> None:
        self.worker = await harness.Command.start(
            "worker", "run", "--scheduler", self.worker_url, "--state", str(self.folder / "worker"), "--sandboxes", "2",
            *arguments, log=self.folder / "worker.log", env={**self.env, **self.worker_env},
            prefix=self.worker_prefix,
        )  # fmt: skip

    async def worker_ready(self) -> None:
        assert self.worker is not None
        await self.worker.wait_for_line("ready ")

    def logs(self) -> str:
        texts = [path.read_text()[-3000:] for path in sorted(self.folder.glob("*.log"))]
        return "\n----\n".join(texts)

    def worker_id(self) -> str:
        return (self.folder / "worker" / "worker-id").read_text().strip()

    def watch(self) -> None:
        """Let the Worker, when it starts, tell its health and metrics."""
        self.watched = f"127.0.0.1:{free_port()}"
        self.worker_env["DCP_ORCHESTRATOR_WORKER_METRICS_LISTEN"] = self.watched

    async def asked(self, path: str) -> tuple[int, str]:
        """Status and text of /readyz, /metrics or /healthz, after `watch`."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.watched}{path}") as response:
            return response.status, await response.text()

    async def explained(self) -> list[dict[str, Any]]:
        """The findings of `worker explain`."""
        process = await asyncio.create_subprocess_exec(
            str(harness.COMMAND), "worker", "explain", "--state", str(self.folder / "worker"), "--output", "json",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert process.returncode == 0, self.logs()
        findings: list[dict[str, Any]] = json.loads(out)["findings"]
        return findings

    async def wait_for_log(
        self, text: str, *, part: str = "worker", after: int = 0, within: float = harness.PATIENCE_S
    ) -> int:
        """Wait until a part has logged `text` beyond the first `after` characters; where the text ends."""
        path = self.folder / f"{part}.log"
        async with asyncio.timeout(within):
            while True:
                found = path.read_text().find(text, after)
                if found >= 0:
                    return found + len(text)
                await asyncio.sleep(0.05)  # a log file announces itself in no other way


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def running_parts(
    folder: pathlib.Path, env: Mapping[str, str] | None = None, *worker_arguments: str, watch: bool = False
) -> AsyncIterator[Parts]:
    parts = Parts(folder, free_port(), env)
    if watch:
        parts.watch()
    try:
        await parts.start_scheduler()
        await parts.start_worker(*worker_arguments)
        yield parts
    finally:
        await stop(parts)


async def stop(parts: Parts) -> None:
    """Stop both softly; what does not listen is killed."""
    for command in (parts.worker, parts.scheduler):
        if command is not None and command.process.returncode is None:
            try:
                await command.stop()
            except TimeoutError:
                await command.kill()
                raise


@contextlib.asynccontextmanager
async def deployed(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, program: str = PROGRAM
) -> AsyncIterator[harness.Client]:
    async with harness.client(
        program, scheduler=parts.url, wallet=wallet, node=node, npm_modules=npm_modules
    ) as client:
        yield client


async def assert_complete(
    client: harness.Client, parts: Parts, *, duplicates_allowed: bool = False, within: float = harness.PATIENCE_S
) -> None:
    """The job ends by itself with every result, each told once."""
    try:
        outcome = (await client.finish(within=within)).ok()
    except (AssertionError, TimeoutError) as error:
        raise AssertionError(f"{error}\n{client.said[-5:]}\n{parts.logs()}") from error
    assert outcome.one("results") == [2 * i for i in range(1, SLICES + 1)]
    if not duplicates_allowed:
        assert sorted(outcome.all("result")) == list(range(1, SLICES + 1))
        assert outcome.all("duplicate") == []


class Engine:
    """A Docker Engine of the tests' own. Blocking: it is started and stopped between the steps of a test."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/docker.sock"
        self.env = {"DOCKER_HOST": self.host}
        self.process: subprocess.Popen[bytes] | None = None
        self.options: list[str] = []
        """More options for it."""
        self.before: list[str] = []
        """A program that it is started by, such as `unshare`."""
        self._paused = False

    @classmethod
    def make(cls) -> Self:
        return cls(pathlib.Path(tempfile.mkdtemp(prefix="dcp-engine-")))  # a socket's path must be short

    def start(self) -> None:
        for stale in (self.folder / "pid", self.folder / "exec" / "containerd" / "containerd.pid"):
            stale.unlink(missing_ok=True)  # of an Engine that was killed
        with (self.folder / "dockerd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.before, shutil.which("dockerd") or "/usr/sbin/dockerd", *self.options, "--host", self.host,
                "--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec"),
                "--pidfile", str(self.folder / "pid"), "--bridge", "none", "--iptables=false", "--ip6tables=false"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.wait_until_up()

    def wait_until_up(self) -> None:
        assert self.process is not None
        end = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < end, self.log()
            time.sleep(0.1)  # the Engine announces itself in no other way

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            try:
                probe.connect(str(self.folder / "docker.sock"))
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return probe.recv(100).startswith(b"HTTP/1.0 200")
            except OSError:
                return False

    def load_image(self) -> None:
        subprocess.run(
            [sys.executable, "-m", "sandbox_image.build"],
            check=True, env={**os.environ, **self.env}, capture_output=True,
        )  # fmt: skip

    def log(self) -> str:
        return (self.folder / "dockerd.log").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the Engine; its containerd and shims live on."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.resume()
            self.process.send_signal(number)
            self.process.wait(60)

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        if self._paused and self.process is not None:
            self.process.send_signal(signal.SIGCONT)
        self._paused = False

    def ensure_running(self) -> None:
        self.resume()
        if self.process is None or self.process.poll() is not None:
            self.start()

    def dispose(self) -> None:
        """End it and all that belongs to it."""
        self.stop()
        containerd = self.folder / "exec" / "containerd" / "containerd.pid"
        if containerd.exists():  # left by a killed Engine
            with contextlib.suppress(OSError, ValueError):
                pid = int(containerd.read_text())
                if str(self.folder) in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGTERM)
        for mount in pathlib.Path("/proc/self/mounts").read_text().splitlines():
            target = mount.split()[1]
            if target.startswith(str(self.folder)):
                subprocess.run(["umount", "-l", target], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
