"""Docker missing, too old, refusing, silent, gone and back; owners, leases and the reaper."""

# ruff: noqa: ASYNC110, ASYNC240  (these tests poll the Engine and the kernel, which send no events)

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.cgroups import CgroupTree
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings, RuntimeUnavailable
from orchestrator.worker.docker_runtime.reaper import LABEL_SANDBOX, Labelled, Owner, Verdict, container_name, judge
from orchestrator.worker.sandbox import Sandbox

pytestmark = pytest.mark.docker

ENGINE = "/var/run/docker.sock"
ROOT = pathlib.Path(__file__).parents[3]


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


class Proxy:
    """A Docker Engine that can go away: everything passes through to the real one until `stop`."""

    def __init__(self, path: pathlib.Path | None) -> None:
        self.path = path
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        if self.path is not None:
            self._server = await asyncio.start_unix_server(self._serve, self.path)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        # Aborted rather than cancelled: asyncio's streams log a cancelled handler as an error.
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._handlers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        there_reader, there = await asyncio.open_unix_connection(ENGINE)
        self._writers |= {writer, there}
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(pump(reader, there))
                both.create_task(pump(there_reader, writer))
        finally:
            self._writers -= {writer, there}
            writer.transport.abort()
            there.transport.abort()
            self._handlers.discard(handler)


@pytest.fixture
async def proxy(tmp_path: pathlib.Path) -> AsyncIterator[Proxy]:
    made = Proxy(tmp_path / "docker.sock")
    await made.start()
    yield made
    await made.stop()


Answer = Callable[[str], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def fake_engine(path: pathlib.Path, answer: Answer) -> AsyncIterator[str]:
    """Something that answers HTTP at a unix socket, but is no good Docker Engine."""

    handlers: set[Any] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await answer(head.decode().split(" ")[1])
                writer.write(body)
                await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield f"unix://{path}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*handlers)


def http(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


async def enter(address: str, **changes: Any) -> RuntimeUnavailable:
    with pytest.raises(RuntimeUnavailable) as caught:
        async with DockerRuntime("nobody", RuntimeSettings(docker_host=address, **changes)):
            raise AssertionError("it must not work")
    return caught.value


async def test_missing(tmp_path: pathlib.Path) -> None:
    failure = await enter(f"unix://{tmp_path}/docker.sock")
    assert failure.reason == "missing"
    assert "systemctl start docker" in str(failure)


async def test_nobody_listens_on_tcp() -> None:
    assert (await enter("tcp://127.0.0.1:1")).reason == "missing"


async def test_too_old(tmp_path: pathlib.Path) -> None:
    async def answer(path: str) -> bytes:
        return http("200 OK", '{"ApiVersion":"1.38","Version":"18.06"}' if path.endswith("version") else "{}")

    async with fake_engine(tmp_path / "s", answer) as address:
        failure = await enter(address)
    assert failure.reason == "too-old"
    assert "18.06" in str(failure)
    assert "20.10" in failure.remedy


async def test_refusing(tmp_path: pathlib.Path) -> None:
    async def answer(_path: str) -> bytes:
        return http("500 Internal Server Error", '{"message":"disk is on fire"}')

    async with fake_engine(tmp_path / "s", answer) as address:
        failure = await enter(address)
    assert failure.reason == "refusing"
    assert "disk is on fire" in str(failure)


async def test_something_else_listens(tmp_path: pathlib.Path) -> None:
    async def answer(_path: str) -> bytes:
        return http("404 Not Found", "<html>\n<p>no such page</p>\n</html>")

    async with fake_engine(tmp_path / "s", answer) as address:
        failure = await enter(address)
    assert failure.reason == "refusing"
    assert "\n" not in str(failure)


async def test_silent(tmp_path: pathlib.Path) -> None:
    released = asyncio.Event()

    async def answer(_path: str) -> bytes:
        await released.wait()
        return b""

    async with fake_engine(tmp_path / "s", answer) as address:
        failure = await enter(address, call_timeout_s=0.3)
        released.set()
    assert failure.reason == "silent"


async def test_image_missing(runtime: Any) -> None:
    with pytest.raises(RuntimeUnavailable) as caught:
        async with runtime(image="dcp-evaluator:no-such-tag"):
            pass
    assert caught.value.reason == "image-missing"
    assert "make image" in caught.value.remedy


async def test_runtime_missing(runtime: Any) -> None:
    with pytest.raises(RuntimeUnavailable, match="no runtime kata"):
        async with runtime(runtime="kata"):
            pass


# The docker SDK drops a socket without closing it when it cannot connect.
@pytest.mark.filterwarnings("ignore:.*unclosed <socket.socket .*family=1:ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*<socket.socket .*family=1:pytest.PytestUnraisableExceptionWarning")
async def test_the_engine_goes_away_and_comes_back(
    runtime: Any, working: Any, take: Any, proxy: Proxy, containers: Any, worker_id: str
) -> None:
    async with runtime(docker_host=f"unix://{proxy.path}", call_timeout_s=5.0) as made:
        sandbox = await working(made, "() => { for (;;); }")
        for key in (3, 1):
            sandbox.submit(key, "data:,")
        await proxy.stop()
        [ended] = await take(sandbox)
        assert (ended.cause.kind, ended.unfinished) == (ev.DeathKind.DAEMON_LOST, (3, 1))
        await sandbox.kill()
        assert not made.available
        with pytest.raises(RuntimeUnavailable):
            await Sandbox.start(made)
        assert len(containers(worker_id)) == 1  # it ran on behind our back
        waiting = asyncio.ensure_future(made.wait_until_available())
        await asyncio.sleep(0)
        assert not waiting.done()
        await proxy.start()
        async with asyncio.timeout(20):
            await waiting
            fresh = await working(made, "(x) => x")
            fresh.submit(1, "data:application/json,1")
            assert len(await take(fresh, 1)) == 1
            # The one that was lost is removed as soon as the Engine is back, the new one stays.
            while len(containers(worker_id)) != 1:
                await asyncio.sleep(0.05)
        assert fresh.alive
        assert made.statistics()["engine_losses"] == 1


async def test_over_tcp_with_figures_from_the_engine(runtime: Any, working: Any, take: Any, worker_id: str) -> None:
    """An Engine elsewhere: no cgroup files, so the statistics stream is the source, coarse but conserved."""
    remote = Proxy(None)
    await remote.start()
    burn = "(ms) => { const end = performance.now() + ms; while (performance.now() < end); return 1; }"
    try:
        async with runtime(docker_host=f"tcp://127.0.0.1:{remote.port}") as made:
            sandbox = await working(made, burn)
            assert not sandbox._container.usage.exact
            sandbox.submit(1, "data:application/json,2500")
            [event] = await take(sandbox, 1)
            assert 0.3 < event.metrics.cpu_time_s <= 2.7
            assert event.metrics.peak_memory_bytes > 1_000_000
            await sandbox.kill()
    finally:
        await remote.stop()


async def test_two_workers_do_not_touch_each_others(runtime: Any, worker_id: str, working: Any, take: Any) -> None:
    async with runtime() as one, runtime(worker_id + "-other") as other:
        mine, theirs = await working(one, "(x) => x"), await working(other, "(x) => x")
        assert await one.reap() == 0
        assert await other.reap() == 0
        await mine.kill()
        theirs.submit(1, "data:application/json,1")
        assert len(await take(theirs, 1)) == 1
    assert CgroupTree.of_this_machine(worker_id).sandboxes() == set()


async def test_two_runs_of_one_worker_in_one_process_do_not_touch_each_others(runtime: Any, working: Any) -> None:
    async with runtime() as one, runtime() as other:
        mine, theirs = await working(one, "(x) => x"), await working(other, "(x) => x")
        assert await one.reap() == await other.reap() == 0
        assert mine.alive
        assert theirs.alive


CRASHING = """
import asyncio, sys
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings
from orchestrator.worker.sandbox import Sandbox

async def main():
    async with DockerRuntime(sys.argv[1], RuntimeSettings()) as runtime:
        sandboxes = [await Sandbox.start(runtime) for _ in range(2)]
        print("started", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def crashing(worker_id: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process with two sandboxes of that worker, for a test to kill."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(CRASHING), worker_id, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"started\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("by_another", [False, True])
async def test_the_next_run_removes_what_a_crash_left(
    runtime: Any, containers: Any, worker_id: str, by_another: bool
) -> None:
    async with asyncio.timeout(60), crashing(worker_id) as process:
        async with runtime():  # its maker is alive: not ours to remove
            assert len(containers(worker_id)) == 2
        process.send_signal(signal.SIGKILL)
        await process.wait()
        async with runtime(worker_id + "-other" if by_another else worker_id):
            assert containers(worker_id) == []
    assert CgroupTree.of_this_machine(worker_id).sandboxes() == set()


async def test_the_sweep_removes_what_crashed_workers_left(containers: Any, worker_id: str) -> None:
    async with crashing(worker_id) as process:
        assert await asyncio.to_thread(sweep, "--worker", worker_id) == (0, "")
        assert len(containers(worker_id)) == 2
        process.send_signal(signal.SIGKILL)
        await process.wait()
        status, said = await asyncio.to_thread(sweep, "--worker", worker_id)
        # A living worker of somebody else at this Engine may have come first.
        assert status == 0 and (said == "" or said.endswith(" removed\n"))
        assert containers(worker_id) == []


async def test_the_sweep_of_everything(containers: Any, worker_id: str, runtime: Any, working: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "(x) => x")
        assert await asyncio.to_thread(sweep, "--all", "--worker", worker_id) == (0, "sweep: 1 container removed\n")
        assert containers(worker_id) == []
        await sandbox.kill()


def sweep(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "orchestrator.worker.docker_runtime.sweep", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_the_sweep_without_docker(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    status, said = sweep()
    assert status == 1 and said.startswith("sweep: No Docker Engine answers") and said.count("\n") == 1


async def test_an_expired_lease_of_an_unknown_owner(runtime: Any, containers: Any, worker_id: str, engine: Any) -> None:
    def create(sandbox: str, until: float, renewed: float | None = None) -> Any:
        return engine.containers.create(
            "dcp-evaluator:local",
            labels=Owner(worker_id, "another-boot/1/1/1").labels(sandbox, until),
            name=container_name(secrets.token_hex(8), renewed),
        )

    expired = create("01", 1.0)
    valid, renewed = create("02", 4e9), create("03", 1.0, 4e9)
    alien = engine.containers.create("dcp-evaluator:local", labels={LABEL_SANDBOX: "x"})
    try:
        async with runtime(worker_id + "-other", lease_patience_s=0.2) as made:
            assert len(containers(worker_id)) == 3, "the owner may be about to renew it"
            await asyncio.sleep(0.25)
            await made.reap()
            assert {container.id for container in containers(worker_id)} == {valid.id, renewed.id}
            alien.reload()
    finally:
        for container in (valid, renewed, alien):
            container.remove(force=True)
    assert expired.id


async def test_leases_are_renewed_while_their_owner_lives(runtime: Any, working: Any, take: Any, engine: Any) -> None:
    """A worker that lives for weeks, as it looks from another machine at the same Engine."""
    async with runtime(lease_s=60.0) as made:
        sandbox = await working(made, "(x) => x")
        container = engine.containers.get(sandbox._container.id)
        await made.renew_leases()
        container.reload()
        assert container.name == f"dcp-sandbox-{sandbox.id}", "there is time enough"
        sandbox._container.lease_until -= 31.0
        before = time.time()
        await made.renew_leases()
        container.reload()
        [listed] = [Labelled.listed(item) for item in engine.api.containers(filters={"id": container.id})]
        assert listed.expires is not None and before + 59.0 <= listed.expires <= time.time() + 60.0
        unseen: Any = lambda _process, _instance: None  # noqa: E731
        assert judge(listed, None, set(), before + 58.0, unseen) is Verdict.OWNED
        assert judge(listed, None, set(), before + 62.0, unseen) is Verdict.LEASE_OVER
        sandbox.submit(1, "data:application/json,1")
        assert len(await take(sandbox, 1)) == 1
        await sandbox.kill()


async def test_leaving_removes_what_is_left(runtime: Any, working: Any, containers: Any, worker_id: str) -> None:
    with pytest.raises(KeyError, match="body"):
        async with runtime() as made:
            await working(made, "(x) => x")
            await working(made, "(x) => x")
            assert len(containers(worker_id)) == 2
            raise KeyError("body")
    assert containers(worker_id) == []
    assert list(pathlib.Path("/sys/fs/cgroup").glob(f"**/{worker_id}")) == []


async def test_the_engine_accepts_the_lock_down_without_warnings(runtime: Any, working: Any, engine: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "(x) => x")
        assert made.create_warnings == set()
        host = engine.containers.get(sandbox._container.id).attrs["HostConfig"]
        assert host["NetworkMode"] == "none"
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert host["LogConfig"]["Type"] == "none"
        assert host["Memory"] == host["MemorySwap"] == made.settings.limits.memory_bytes
