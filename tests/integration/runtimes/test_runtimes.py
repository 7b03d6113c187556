"""Sandboxes under other OCI runtimes, remapped users and an Engine without root: they work, are held, are metered."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import subprocess
import time
from typing import Any

import docker
import pytest

from orchestrator.settings import WorkerSettings
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker import self_check
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings, RuntimeUnavailable
from orchestrator.worker.docker_runtime.reaper import LABEL_WORKER
from orchestrator.worker.doctor import Check, Status, examine
from orchestrator.worker.limits import MIB, SandboxLimits, SliceLimits
from orchestrator.worker.sandbox import Sandbox
from tests.faults.parts import Engine
from tests.integration.runtimes.conftest import RootlessEngine

pytestmark = pytest.mark.docker

WALLS = [
    ("gvisor", "runsc", "gvisor"),
    ("crun", "crun", "runc-hardened"),
    ("remapped", "runc", "userns"),
]
#: What tells a wall that holds from one that does not, in as little time as can be.
CASES = (
    "kernel: network: a cloud's metadata", "kernel: network: listening on an abstract socket",
    "kernel: a child process", "kernel: executing a program", "kernel: killing pid 1", "kernel: becoming root",
    "kernel: mounts",
    "kernel: descriptors", "kernel: threads", "kernel: fork bomb", "protocol: forged Docker frames",
    "resources: memory: array buffers", "ends: loop", "forgery: a left-over timer", "conformance: WebAssembly",
)  # fmt: skip
BURN = """(ms) => {
    const held = new Uint8Array(64 << 20).fill(1), end = Date.now() + ms;
    while (Date.now() < end);
    return held.length;
}"""


async def computed(settings: RuntimeSettings, worker_id: str) -> tuple[ev.SliceCompleted, DockerRuntime, float]:
    """A slice that burns half a second and fills 64 MiB; the CPU seconds after the sandbox's end."""
    async with asyncio.timeout(60), DockerRuntime(worker_id, settings) as runtime:
        sandbox = await Sandbox.start(runtime)
        await sandbox.assign(ev.Assignment("job", BURN), SliceLimits(slice_timeout_s=20.0, progress_timeout_s=20.0))
        sandbox.submit(1, "data:application/json,500")
        async for event in sandbox.events():
            if isinstance(event, ev.SliceCompleted):
                break
            raise AssertionError(event)
        await sandbox.kill()
        assert runtime.statistics()["containers"] == 0
        return event, runtime, sandbox.totals().cpu_ns / 1e9


async def checks(settings: WorkerSettings) -> dict[str, Check]:
    return {check.name: check for check in (await examine(settings)).checks}


@pytest.mark.parametrize(("engine_name", "oci_runtime", "level"), WALLS)
async def test_sandboxes_work_and_are_metered(
    request: pytest.FixtureRequest, engine_name: str, oci_runtime: str, level: str, tmp_path: pathlib.Path
) -> None:
    engine: Engine = request.getfixturevalue(engine_name)
    settings = RuntimeSettings(docker_host=engine.host, runtime=oci_runtime, limits=SandboxLimits(256 * MIB))
    event, runtime, total_s = await computed(settings, f"test-{engine_name}")
    metrics = event.metrics
    # Busy for as long as it ran, less what others took of the machine: never more than there was.
    assert 0.05 < metrics.cpu_time_s < 1.5 * metrics.wall_time_s + 0.1
    assert metrics.peak_memory_bytes > 64 * MIB
    assert total_s >= metrics.cpu_time_s
    told = runtime.statistics()
    assert (told["isolation"], told["runtime"], told["metering"]) == (level, oci_runtime, "parent")
    told_by = await checks(
        WorkerSettings(
            docker_host=engine.host, oci_runtime=oci_runtime, state_dir=tmp_path, scheduler_url="http://127.0.0.1:9/"
        )
    )
    for name in ("runtime", "limits", "image", "sandbox", "metering"):
        assert told_by[name].status is Status.OK, told_by[name]
    assert level in told_by["runtime"].found
    assert (told_by["user namespaces"].status is Status.WARN) is (engine_name == "crun")


@pytest.mark.parametrize(("engine_name", "oci_runtime", "level"), WALLS)
async def test_the_walls_hold(request: pytest.FixtureRequest, engine_name: str, oci_runtime: str, level: str) -> None:
    engine: Engine = request.getfixturevalue(engine_name)
    cases = self_check.select(names=CASES)
    report = await self_check.check(cases, RuntimeSettings(docker_host=engine.host, runtime=oci_runtime))
    assert len(report.findings) >= len(CASES)
    assert [(one.case.id, str(one.verdict), one.seen) for one in report.findings if not one.good] == []


async def test_users_of_a_sandbox_are_nobody_outside(remapped: Engine) -> None:
    client = docker.DockerClient(base_url=remapped.host)
    try:
        async with DockerRuntime("test-remapped-users", RuntimeSettings(docker_host=remapped.host)) as runtime:
            sandbox = await Sandbox.start(runtime)
            [found] = client.api.containers(filters={"label": f"{LABEL_WORKER}=test-remapped-users"})
            pid = client.api.inspect_container(found["Id"])["State"]["Pid"]
            status = pathlib.Path("/proc", str(pid), "status").read_text()  # noqa: ASYNC240
            [real, *_] = status.partition("Uid:")[2].split()
            assert int(real) >= 100_000, "the host must see a user of the remapped range"
            await sandbox.kill()
    finally:
        client.close()


async def test_a_rootless_engine_without_cgroups_is_refused_unless_asked_for(
    rootless: RootlessEngine, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(RuntimeUnavailable) as refusal:
        async with DockerRuntime("test-rootless", RuntimeSettings(docker_host=rootless.host)):
            pass
    assert refusal.value.reason == "unlimited"
    assert "memory, cpu, pids" in refusal.value.message

    settings = RuntimeSettings(docker_host=rootless.host, require_limits=False)
    event, runtime, total_s = await computed(settings, "test-rootless")
    assert runtime.statistics()["metering"] == "process"
    assert runtime.statistics()["isolation"] == "userns"
    assert 0.05 < event.metrics.cpu_time_s < 1.5 * event.metrics.wall_time_s + 0.1  # not that of the whole machine
    assert 64 * MIB < event.metrics.peak_memory_bytes < 200 * MIB
    assert total_s >= event.metrics.cpu_time_s

    told = await checks(
        WorkerSettings(docker_host=rootless.host, state_dir=tmp_path, scheduler_url="http://127.0.0.1:9/")
    )
    assert told["cgroups"].status is told["limits"].status is Status.FAIL
    assert "Delegate" in told["cgroups"].remedy
    assert told["user namespaces"].status is Status.OK
    assert told["sandbox"].status is Status.SKIP


async def test_a_runtime_that_hangs_does_not_hang_us(hanging: tuple[Engine, pathlib.Path]) -> None:
    """Create or start never ends, and removal neither: every call has its limit."""
    engine, pids = hanging
    settings = RuntimeSettings(docker_host=engine.host, runtime="hang", call_timeout_s=1.0)
    began = time.monotonic()
    try:
        async with DockerRuntime("test-hanging", settings) as runtime:
            with pytest.raises(RuntimeUnavailable) as refusal:
                await Sandbox.start(runtime)
            assert refusal.value.reason == "silent"
        assert time.monotonic() - began < 60
    finally:
        for pid in pids.read_text().split():
            for number in (signal.SIGCONT, signal.SIGKILL):
                try:
                    os.kill(int(pid), number)
                except ProcessLookupError:
                    break


def test_fetching_a_second_time_is_quick_and_asks_nobody(gvisor: Engine) -> None:
    from tests.integration.runtimes.conftest import CACHE, ROOT

    nowhere: dict[str, Any] = {**os.environ, "http_proxy": "http://127.0.0.1:9/", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [ROOT / "scripts" / "fetch-trixie.sh", CACHE, "runsc"], capture_output=True, text=True, timeout=10, env=nowhere,
        check=True,
    )  # fmt: skip
    assert pathlib.Path(done.stdout.split()[0]).is_file()
