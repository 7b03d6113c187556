"""A native program inside the wall: what the kernel answers to it, with no JavaScript engine in between."""

from __future__ import annotations

import asyncio
import errno
import io
import pathlib
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.worker.docker_runtime import STDOUT, Container, ContainerState, DockerRuntime, RuntimeSettings
from orchestrator.worker.limits import MIB, SandboxLimits

SOURCE = pathlib.Path(__file__).with_name("attack.c")

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler to make the attacker with"),
]


class Collector:
    """Keeps what a container writes."""

    def __init__(self) -> None:
        self.text = b""
        self.over = asyncio.Event()
        self.some = asyncio.Event()

    def output(self, stream: int, data: bytes, frames: int) -> None:
        if stream == STDOUT:
            self.text += data
            self.some.set()

    def ended(self) -> None:
        self.over.set()

    def tries(self) -> list[tuple[str, int]]:
        return [(name, int(number)) for name, number in (line.split() for line in self.text.decode().splitlines())]


@pytest.fixture(scope="module")
def attacker(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image that holds one static program and nothing else."""
    binary = tmp_path_factory.mktemp("attacker") / "attack"
    subprocess.run(["gcc", "-O1", "-w", "-static", "-o", binary, SOURCE], check=True)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(binary, "attack")
    tag = "dcp-hostile-attacker:test"
    engine.api.import_image_from_data(archive.getvalue(), "dcp-hostile-attacker", "test")
    yield tag
    engine.images.remove(tag, force=True)


async def launch(runtime: DockerRuntime, attacker: str, what: str) -> tuple[Container, Collector]:
    collector = Collector()
    limits = SandboxLimits(memory_bytes=128 * MIB)
    entrypoint = ["/attack", what]
    container = await runtime.launch(f"native-{what}", collector, limits=limits, entrypoint=entrypoint, image=attacker)
    return container, collector


async def run(worker_id: str, attacker: str, what: str) -> tuple[list[tuple[str, int]], ContainerState]:
    """Let it run to its end; what it reported, and how it ended."""
    async with asyncio.timeout(30), DockerRuntime(worker_id, RuntimeSettings()) as runtime:
        container, collector = await launch(runtime, attacker, what)
        await collector.over.wait()
        await container.died.wait()
        state = await container.state()
        assert await container.remove()
        return collector.tries(), state


async def test_system_calls(worker_id: str, attacker: str) -> None:
    tries, state = await run(worker_id, attacker, "calls")
    assert len(tries) > 70
    assert state.exit_code == 0
    allowed = {errno.EPERM, errno.ENOSYS}
    assert [(name, errno.errorcode.get(number, "ALLOWED")) for name, number in tries if number not in allowed] == []


async def test_forks(worker_id: str, attacker: str) -> None:
    tries, state = await run(worker_id, attacker, "forks")
    assert tries == [("fork", errno.EPERM)] * 100
    assert state.exit_code == 0


async def test_an_exit_cannot_be_faked_by_trace_stop(worker_id: str, attacker: str) -> None:
    tries, state = await run(worker_id, attacker, "traceme")
    assert tries[0] == ("traceme", errno.EPERM)
    assert state.exit_code in (0, 128 + 5)


async def test_memory(worker_id: str, attacker: str) -> None:
    _, state = await run(worker_id, attacker, "memory")
    assert (state.exit_code, state.oom_killed) == (137, True)


async def test_descriptors(worker_id: str, attacker: str) -> None:
    tries, _ = await run(worker_id, attacker, "descriptors")
    [(_, count), (_, code)] = tries
    assert code == errno.EMFILE
    assert count < 256


async def test_a_crash(worker_id: str, attacker: str) -> None:
    _, state = await run(worker_id, attacker, "crash")
    assert (state.exit_code, state.oom_killed) == (139, False)


@pytest.mark.parametrize("what", ["signals", "stopped"])
async def test_what_does_not_listen_is_killed_all_the_same(worker_id: str, attacker: str, what: str) -> None:
    async with asyncio.timeout(30), DockerRuntime(worker_id, RuntimeSettings()) as runtime:
        container, collector = await launch(runtime, attacker, what)
        await collector.some.wait()
        began = time.monotonic()
        await container.kill()
        await container.died.wait()
        assert time.monotonic() - began < 5
        assert (await container.state()).exit_code == 137
        assert await container.remove()


async def test_the_same_program_without_the_lock_down_succeeds(attacker: str, engine: Any) -> None:
    """A control: the answers above are the lock-down's doing, not the machine's or the program's."""
    text = await asyncio.to_thread(
        engine.containers.run, attacker, entrypoint=["/attack", "calls"], network_mode="none", remove=True
    )
    succeeded = {line.split()[0] for line in text.decode().splitlines() if line.endswith(" 0")}
    assert {"socket", "chmod", "symlink", "setuid", "mknod", "chroot"} <= succeeded
