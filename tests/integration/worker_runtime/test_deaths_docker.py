"""Out of memory told from a crash, an exit and a kill, each caused for real in a container."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.worker import supervisor_events as sev
from orchestrator.worker.battery.programs import program
from orchestrator.worker.limits import MIB, SandboxLimits, SliceLimits
from orchestrator.worker.metering import Phase
from orchestrator.worker.sandbox import SandboxSettings
from orchestrator.worker.seats import death_of

pytestmark = pytest.mark.docker

SETTINGS = SandboxSettings(limits=SandboxLimits(memory_bytes=160 * MIB))
#: What is no heap needs its quarter, or the kernel may be faster than V8.
ROOMY = SandboxSettings(limits=SandboxLimits(memory_bytes=256 * MIB))
CRASHES = (132, 133, 134, 139)
FULL_HEAP = "const held = []; for (;;) held.push({ a: [held.length], b: String(held.length) });"
BUFFERS = "const held = []; for (;;) held.push(new Uint8Array(8 << 20).fill(1));"


async def death(
    made: Any, working: Any, take: Any, function: str, body: str | None = None, settings: SandboxSettings = SETTINGS
) -> Any:
    """How a sandbox ends that runs a work function, or a program that owns its process."""
    entrypoint = None if body is None else program(body)
    limits = SliceLimits(slice_timeout_s=30.0, progress_timeout_s=None)
    sandbox = await working(made, function, settings=settings, entrypoint=entrypoint, limits=limits)
    sandbox.submit(1, "data:application/json,0")
    [ended] = await take(sandbox)
    assert ended.unfinished == (1,)
    await sandbox.kill()
    assert sandbox.books is not None and sandbox.books.checked and sandbox.books.balanced
    # The slice was never answered: what it used is told, and paid to nobody.
    assert sandbox.books.paid_ns == 0
    assert sandbox.books.overhead[Phase.UNANSWERED] == pytest.approx(ended.running_metrics.cpu_time_s * 1e9, abs=10)
    return ended


@pytest.mark.parametrize("where", ["work function", "process"])
async def test_the_kernel_ends_it_at_the_limit(runtime: Any, working: Any, take: Any, where: str) -> None:
    async with runtime() as made:
        body = BUFFERS if where == "process" else None
        ended = await death(made, working, take, f"() => {{ {BUFFERS} }}", body)
    assert (ended.cause.kind, ended.cause.exit_code, ended.cause.oom_killed) == ("oom", 137, True)
    assert death_of(ended.cause) is sev.Death.OUT_OF_MEMORY
    assert ended.running_metrics.peak_memory_bytes > 80 * MIB


@pytest.mark.parametrize("where", ["work function", "process"])
async def test_v8_ends_it_at_the_limit_of_its_heap(runtime: Any, working: Any, take: Any, where: str) -> None:
    async with runtime() as made:
        body = FULL_HEAP if where == "process" else None
        ended = await death(made, working, take, f"() => {{ {FULL_HEAP} }}", body, ROOMY)
    assert (ended.cause.kind, ended.cause.oom_killed) == ("oom", False)
    assert ended.cause.exit_code in CRASHES
    assert "heap" in ended.cause.detail
    assert death_of(ended.cause) is sev.Death.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("body", "codes", "words"),
    [
        ("process.abort();", CRASHES, "aborted or crashed"),
        ("process.reallyExit(134);", (134,), "aborted or crashed"),
        ("process.reallyExit(3);", (3,), "exited by itself"),
        ("process.reallyExit(0);", (0,), "exited by itself"),
        ("throw new Error('uncaught');", (1,), "exited by itself"),
    ],
    ids=["abort", "code of an abort", "code 3", "code 0", "uncaught"],
)
async def test_a_crash_or_an_exit_is_no_lack_of_memory(
    runtime: Any, working: Any, take: Any, body: str, codes: tuple[int, ...], words: str
) -> None:
    async with runtime() as made:
        ended = await death(made, working, take, "x => x", body)
    assert (ended.cause.kind, ended.cause.oom_killed) == ("exit", False)
    assert ended.cause.exit_code in codes
    assert words in ended.cause.detail
    assert death_of(ended.cause) is sev.Death.EXIT


async def test_a_kill_from_outside_is_not_the_jobs_fault(runtime: Any, working: Any, take: Any, engine: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "() => new Promise(() => {})", settings=SETTINGS)
        sandbox.submit(1, "data:application/json,0")
        await asyncio.to_thread(engine.containers.get(sandbox._container.id).kill)
        [ended] = await take(sandbox)
    assert (ended.cause.kind, ended.cause.exit_code, ended.cause.oom_killed) == ("killed", 137, False)
    assert death_of(ended.cause) in sev.INNOCENT


async def test_the_books_of_a_runtime_add_up(runtime: Any, working: Any, take: Any) -> None:
    """Start, assignment, slices, idling and an unanswered slice: what the kernel charged is accounted for."""
    async with runtime() as made:
        sandbox = await working(made, "(n) => { let s = 0; for (let i = 0; i < n; i++) s += i % 7; return s; }")
        for key in range(20):
            sandbox.submit(key, "data:application/json,1000000")
        answered = await take(sandbox, 20)
        sandbox.submit(99, "data:application/json,1e15")
        await asyncio.sleep(0.2)  # it must have used something to be told of
        await sandbox.kill()
        other = await working(made, "x => x")
        await other.kill()
        told = made.statistics()["accounts"]
    assert (told["sandboxes"], told["slices"], told["mismatches"], told["unchecked"]) == (2, 20, 0, 0)
    assert told["slices_cpu_s"] == pytest.approx(sum(one.metrics.cpu_time_s for one in answered), abs=1e-6)
    assert all(told["overhead_s"][phase] > 0 for phase in ("start", "assign", "unanswered"))
    assert told["cpu_s"] == pytest.approx(told["slices_cpu_s"] + sum(told["overhead_s"].values()), abs=0.2)
