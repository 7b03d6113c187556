"""One sandbox in a real container: slices, figures, and every way to end."""

# ruff: noqa: ASYNC110, ASYNC240  (these tests poll the Engine and the kernel, which send no events)

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import pathlib
import time
from typing import Any

import pytest

from orchestrator import kvin
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.cgroups import CgroupTree
from orchestrator.worker.limits import MIB, OutputLimits, SandboxLimits, SliceLimits
from orchestrator.worker.sandbox import Sandbox, SandboxSettings, State

pytestmark = pytest.mark.docker

BURN = "(ms) => { const end = performance.now() + ms; while (performance.now() < end); progress(1); return ms; }"
#: Work of a certain size, whatever else the machine does meanwhile: about half a second of CPU for 10⁸.
WORK = "(n) => { let s = 0; for (let i = 0; i < n; i++) s = (s + i) % 1000003; progress(1); return s; }"


def datum(value: Any) -> str:
    return "data:application/json," + json.dumps(value)


def value_of(result: ev.ResultText) -> Any:
    return json.loads(result.string) if result.method == "json" else kvin.parse(result.string)


async def test_slices_come_back_in_order_with_their_values(runtime: Any, working: Any, take: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "(x, a, b) => x * a + b", datum(10), datum(5))
        for key in range(1000):
            sandbox.submit(key + 7, datum(key))
        assert sandbox.in_flight == 1000
        events = await take(sandbox, 1000)
        assert [event.key for event in events] == list(range(7, 1007))
        assert [value_of(event.result) for event in events] == [10 * key + 5 for key in range(1000)]
        assert sandbox.in_flight == 0
        assert not any(event.progressed for event in events)
        assert all(event.metrics.bytes_in > 100 and event.metrics.bytes_out > 100 for event in events)
        assert sum(event.metrics.bytes_in for event in events) < sandbox.statistics()["bytes_in"]
        assert sum(event.metrics.bytes_out for event in events) < sandbox.statistics()["bytes_out"]


async def test_cpu_time_is_the_kernels(runtime: Any, working: Any, take: Any, engine: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, WORK)
        figures = []
        for count in (10**8, 10**7, 1):
            sandbox.submit(1, datum(count))
            [event] = await take(sandbox, 1)
            figures.append(event.metrics)
            assert event.progressed
            # One core at most; a busy machine stretches the wall clock, never the CPU time.
            assert event.metrics.cpu_time_s <= event.metrics.wall_time_s + 0.05
        # The kernel books CPU time in steps: the shortest slice may come out as nothing.
        assert figures[0].cpu_time_s > 3 * figures[1].cpu_time_s > 6 * figures[2].cpu_time_s >= 0
        assert figures[0].cpu_time_s > 0.05
        container = engine.containers.get(sandbox._container.id)
        stats = await asyncio.to_thread(container.stats, stream=False)
        engine_ns = stats["cpu_stats"]["cpu_usage"]["total_usage"]
        sandbox._meter.mark()
        totals = sandbox.totals()
        assert totals.slices_cpu_ns == pytest.approx(sum(figure.cpu_time_s for figure in figures) * 1e9, abs=10)
        assert totals.slices_cpu_ns < engine_ns
        # The parent cgroup also holds what the runtime spent inside before the guest's first instruction.
        assert totals.cpu_ns >= engine_ns * 0.99
        assert totals.cpu_ns - engine_ns < 100_000_000


async def test_a_job_cannot_forge_its_figures(runtime: Any, working: Any, take: Any) -> None:
    forger = """(n) => {
      try { performance.now = () => 0; Date.now = () => 0; } catch {}
      let s = 0; for (let i = 0; i < n; i++) s = (s + i) % 1000003;
      return s;
    }"""
    async with runtime() as made:
        sandbox = await working(made, forger)
        sandbox.submit(1, datum(10**8))
        [event] = await take(sandbox, 1)
        assert 0.05 < event.metrics.cpu_time_s <= event.metrics.wall_time_s + 0.05


async def test_pipelined_slices_share_what_the_kernel_charged(runtime: Any, working: Any, take: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, BURN)
        for key in range(20):
            sandbox.submit(key, datum(10))
        events = await take(sandbox, 20)
        totals = sandbox.totals()
        assert sum(event.metrics.cpu_time_s for event in events) == pytest.approx(totals.slices_cpu_ns / 1e9)
        assert totals.slices_cpu_ns < totals.cpu_ns
        assert sum(event.metrics.wall_time_s for event in events) >= 0.2


async def test_peak_memory(runtime: Any, working: Any, take: Any) -> None:
    function = "(mib) => { const held = new Uint8Array(mib * 1048576).fill(1); return held.length; }"
    async with runtime() as made:
        sandbox = await working(made, function)
        sandbox.submit(1, datum(0))
        sandbox.submit(2, datum(0))
        before = (await take(sandbox, 2))[-1].metrics.peak_memory_bytes
        sandbox.submit(3, datum(100))
        [event] = await take(sandbox, 1)
        assert 95 * MIB < event.metrics.peak_memory_bytes - before < 130 * MIB
        assert sandbox.totals().peak_bytes == event.metrics.peak_memory_bytes


async def test_what_a_slice_says(runtime: Any, working: Any, take: Any) -> None:
    function = """async (x) => {
      console.log("one", {a: 1}); console.log("same"); console.log("same"); console.log("same");
      work.emit("tick", {n: x});
      await new Promise((resolve) => setTimeout(resolve, 150));
      progress(0.5);
      await new Promise((resolve) => setTimeout(resolve, 150));
      progress(0.75);
      return x;
    }"""
    async with runtime() as made:
        sandbox = await working(made, function)
        sandbox.submit(9, datum(3))
        events: list[Any] = []
        while not events or not isinstance(events[-1], ev.SliceCompleted):
            events += await take(sandbox, 1, every=True)
    assert {event.key for event in events} == {9}
    lines = [event for event in events if isinstance(event, ev.Console)]
    assert kvin.unmarshal(lines[0].message) == ["one", {"a": 1}]
    assert [(line.message is None, line.same) for line in lines] == [(False, 1), (False, 1), (True, 3)]
    [custom] = [event for event in events if isinstance(event, ev.CustomEvent)]
    assert (custom.name, custom.data) == ("tick", {"n": 3})
    assert [event.fraction for event in events if isinstance(event, ev.Progress)] == [0.5, 0.75]
    assert events[-1].progressed


async def test_a_slice_that_throws_and_one_that_is_rejected(runtime: Any, working: Any, take: Any) -> None:
    function = "(x) => { if (x === 1) throw new RangeError('no'); if (x === 2) work.reject('later'); return x; }"
    async with runtime() as made:
        sandbox = await working(made, function)
        for key in (1, 2, 3):
            sandbox.submit(key, datum(key))
        failed, rejected, completed = await take(sandbox, 3)
        assert isinstance(failed, ev.SliceFailed)
        assert (failed.error["name"], failed.error["message"]) == ("RangeError", "no")
        assert isinstance(rejected, ev.SliceRejected)
        assert (rejected.key, rejected.reason) == (2, "later")
        assert isinstance(completed, ev.SliceCompleted)


async def test_a_syntax_error_is_refused_at_once(runtime: Any, engine: Any) -> None:
    async with runtime() as made:
        sandbox = await Sandbox.start(made)
        with pytest.raises(ev.SandboxRefused) as caught:
            await sandbox.assign(ev.Assignment("job", "(x) => {"))
        assert caught.value.error["name"] == "SyntaxError"
        await sandbox.kill()
        assert sandbox.cause is not None
        assert sandbox.cause.code == "EASSIGN"


async def test_modules_are_asked_for_during_assignment(runtime: Any, take: Any) -> None:
    assignment = ev.Assignment(
        "job", "(x) => require('a.js').twice(x)", dependencies=("pkg/a.js",), require_path=("pkg",)
    )
    source = "module.declare([], (require, exports) => { exports.twice = (x) => 2 * x; });"
    async with runtime() as made:
        sandbox = await Sandbox.start(made)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sandbox.assign(assignment))
            [asked] = await take(sandbox, 1)
            assert asked.names == ("pkg/a.js",)
            sandbox.answer_modules(asked.request_id, {"pkg": {"a.js": source}})
        sandbox.submit(1, datum(21))
        [event] = await take(sandbox, 1)
        assert isinstance(event, ev.SliceCompleted), event
        assert value_of(event.result) == 42


async def test_fetches_are_answered(runtime: Any, working: Any, take: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "async (url) => (await fetch(url)).text()")
        sandbox.submit(1, datum("http://example.invalid/a"))
        [asked] = await take(sandbox, 1)
        assert (asked.key, asked.data["url"]) == (1, "http://example.invalid/a")
        data = {"url": asked.data["url"], "status": 200, "statusText": "OK", "headersEntries": [], "bodyBase64": "aGk="}
        sandbox.answer_fetch(asked.request_id, data)
        [event] = await take(sandbox, 1)
        assert value_of(event.result) == "hi"
        sandbox.submit(2, datum("http://example.invalid/b"))
        [asked] = await take(sandbox, 1)
        sandbox.answer_fetch(asked.request_id, None, {"message": "forbidden", "code": "EFETCH"})
        [event] = await take(sandbox, 1)
        assert event.error["message"] == "forbidden"


# -- ends


async def test_out_of_memory(runtime: Any, working: Any, take: Any) -> None:
    function = "() => { const held = []; for (;;) held.push(new Uint8Array(16 << 20).fill(1)); }"
    settings = SandboxSettings(limits=SandboxLimits(memory_bytes=128 * MIB))
    async with runtime() as made:
        sandbox = await working(made, function, settings=settings)
        sandbox.submit(1, datum(0))
        sandbox.submit(2, datum(0))
        [ended] = await take(sandbox)
        assert (ended.cause.kind, ended.cause.exit_code, ended.cause.oom_killed) == (ev.DeathKind.OOM, 137, True)
        assert ended.unfinished == (1, 2)
        assert ended.running_metrics.cpu_time_s > 0
        # A little above the limit: the parent cgroup also holds what the container runtime needs to start it.
        assert 64 * MIB < ended.running_metrics.peak_memory_bytes <= 130 * MIB


async def test_a_heap_that_is_full(runtime: Any, working: Any, take: Any) -> None:
    """Objects fill V8's heap, which knows its share of the limit: it ends before the kernel must step in."""
    function = "() => { const held = []; for (;;) held.push({ a: [held.length], b: String(held.length) }); }"
    async with runtime() as made:
        settings = SandboxSettings(limits=SandboxLimits(memory_bytes=256 * MIB))
        sandbox = await working(made, function, settings=settings)
        sandbox.submit(1, datum(0))
        [ended] = await take(sandbox)
        assert (ended.cause.kind, ended.cause.oom_killed) == (ev.DeathKind.OOM, False), ended.cause
        assert ended.cause.exit_code in (133, 134, 139)
        assert "heap" in ended.cause.detail
        assert ended.running_metrics.peak_memory_bytes < 256 * MIB


async def test_garbage_is_collected_before_the_limit(runtime: Any, working: Any, take: Any) -> None:
    """Without the share V8 takes the host's memory for its own, and garbage alone would exhaust the container."""
    function = """() => {
      const held = []; let sum = 0;
      for (let i = 0; i < 5e6; i++) {
        held[i % 400000] = { i, next: [i], text: 'x' + i };
        sum += held[i % 400000].i % 2;
      }
      return sum;
    }"""
    async with runtime() as made:
        settings = SandboxSettings(limits=SandboxLimits(memory_bytes=192 * MIB))
        sandbox = await working(made, function, settings=settings)
        sandbox.submit(1, datum(0))
        [event] = await take(sandbox, 1)
        assert isinstance(event, ev.SliceCompleted), event
        assert value_of(event.result) == 2_500_000


async def test_an_endless_loop_meets_the_deadline(runtime: Any, working: Any, take: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "() => { for (;;); }", limits=SliceLimits(slice_timeout_s=0.5))
        began = time.monotonic()
        sandbox.submit(5, datum(0))
        [ended] = await take(sandbox)
        assert 0.5 <= time.monotonic() - began < 5
        assert (ended.cause.kind, ended.cause.code, ended.cause.exit_code) == ("deadline", "ESLICETOOSLOW", 137)
        assert ended.running_metrics.cpu_time_s > 0.1


async def test_no_progress(runtime: Any, working: Any, take: Any) -> None:
    function = "async (x) => { for (;;) { await new Promise((r) => setTimeout(r, 150)); if (x) progress(0.1); } }"
    async with runtime() as made:
        sandbox = await working(made, function, limits=SliceLimits(slice_timeout_s=1.5, progress_timeout_s=0.6))
        sandbox.submit(1, datum(True))
        *_, ended = await take(sandbox)
        assert ended.cause.code == "ESLICETOOSLOW"
        sandbox = await working(made, function)
        sandbox.submit(1, datum(False), SliceLimits(slice_timeout_s=None, progress_timeout_s=0.5))
        [ended] = await take(sandbox)
        assert ended.cause.code == "ENOPROGRESS"


async def test_the_deadline_is_each_slices_own(runtime: Any, working: Any, take: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, BURN, limits=SliceLimits(slice_timeout_s=1.0))
        for key in range(8):
            sandbox.submit(key, datum(200))
        assert len(await take(sandbox, 8)) == 8  # together longer than the limit of one
        assert sandbox.alive


async def test_a_short_limit_after_a_long_one(runtime: Any, working: Any, take: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "(x) => { while (x); }", limits=SliceLimits(slice_timeout_s=3600.0))
        sandbox.submit(1, datum(0))
        [completed] = await take(sandbox, 1)
        assert isinstance(completed, ev.SliceCompleted)
        sandbox.submit(2, datum(1), SliceLimits(slice_timeout_s=0.5))
        [ended] = await take(sandbox)
        assert (ended.cause.code, ended.unfinished) == ("ESLICETOOSLOW", (2,))


async def test_descriptors_are_given_back(runtime: Any, working: Any) -> None:
    def open_now() -> int:
        """Files of cgroups; connections to the Engine are kept for the next call."""
        names = []
        for link in pathlib.Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                names.append(str(link.readlink()))
        return sum(name.startswith("/sys/fs/cgroup") for name in names)

    async with runtime() as made:
        sandbox = await working(made, "(x) => x")
        assert open_now() > 0
        await sandbox.kill()
        assert open_now() == 0
    async with runtime(own_cgroups=False) as made:
        sandbox = await working(made, "(x) => x")
        assert open_now() > 0
        await sandbox.kill()
        assert open_now() == 0


async def test_a_flood_ends_the_sandbox_and_no_other(runtime: Any, working: Any, take: Any) -> None:
    async with runtime() as made:
        bystander = await working(made, "(x) => x")
        flooder = await working(made, "() => { for (let i = 0; ; i++) console.log(i); }")
        flooder.submit(1, datum(0))
        *_, ended = await take(flooder)
        assert ended.cause.kind == ev.DeathKind.FLOOD
        bystander.submit(1, datum(8))
        [event] = await take(bystander, 1)
        assert value_of(event.result) == 8


async def test_an_oversized_result_is_a_flood(runtime: Any, working: Any, take: Any) -> None:
    settings = SandboxSettings(output=OutputLimits(line_bytes=MIB))
    async with runtime() as made:
        sandbox = await working(made, "(n) => 'x'.repeat(n)", settings=settings)
        sandbox.submit(1, datum(MIB // 2))
        [event] = await take(sandbox, 1)
        assert len(value_of(event.result)) == MIB // 2
        sandbox.submit(2, datum(2 * MIB))
        [ended] = await take(sandbox)
        assert (ended.cause.kind, ended.unfinished) == ("flood", (2,))


async def test_a_large_result(runtime: Any, working: Any, take: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "(n) => 'é\"'.repeat(n)")
        sandbox.submit(1, datum(3 * MIB))
        [event] = await take(sandbox, 1)
        assert value_of(event.result) == 'é"' * (3 * MIB)
        assert event.metrics.bytes_out > 9 * MIB


async def test_killed_from_outside(runtime: Any, working: Any, take: Any, engine: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "async () => new Promise(() => setTimeout(() => {}, 1e6))")
        for key in (4, 2, 9):
            sandbox.submit(key, datum(0))
        await asyncio.to_thread(engine.containers.get(sandbox._container.id).kill)
        [ended] = await take(sandbox)
        assert (ended.cause.kind, ended.cause.exit_code, ended.unfinished) == ("killed", 137, (4, 2, 9))


async def test_removed_from_outside(runtime: Any, working: Any, take: Any, engine: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "(x) => x")
        await asyncio.to_thread(engine.containers.get(sandbox._container.id).remove, force=True)
        [ended] = await take(sandbox)
        assert ended.cause.kind == "killed"
        await sandbox.kill()


async def test_killing_removes_everything(
    runtime: Any, working: Any, take: Any, containers: Any, worker_id: str
) -> None:
    async with runtime() as made:
        sandbox = await working(made, "() => { for (;;); }")
        sandbox.submit(1, datum(0))
        tree = CgroupTree.of_this_machine(worker_id)
        assert tree.sandboxes() == {sandbox.id}
        assert len(containers(worker_id)) == 1
        await asyncio.gather(sandbox.kill(), sandbox.kill(), sandbox.kill())
        assert sandbox.state is State.ENDED
        assert containers(worker_id) == []
        assert tree.sandboxes() == set()
        sandbox.submit(2, datum(0))  # too late, and harmless
        [ended] = await take(sandbox)
        assert (ended.cause.kind, ended.cause.exit_code, ended.unfinished) == ("killed", 137, (1,))
        assert made.statistics()["containers"] == 0


async def test_a_stalled_reader_does_not_hold_up_the_kill(runtime: Any, working: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "() => { for (let i = 0; ; i++) console.log('x'.repeat(10000) + i); }")
        sandbox._container.stream.pause()
        sandbox.submit(1, datum(0))
        usage = sandbox._container.usage
        seen = [-1, 0]
        while seen[-1] != seen[-2]:  # until the pipe is full and the guest blocks in its write
            await asyncio.sleep(0.1)
            seen.append(usage.read(0.0).cpu_ns)
        began = time.monotonic()
        await sandbox.kill()
        assert time.monotonic() - began < 3


async def test_the_figures_outlive_the_container(runtime: Any, working: Any, take: Any, engine: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, BURN)
        sandbox.submit(1, datum(5000))
        cpu = sandbox._container.usage.read(0.0).cpu_ns
        while sandbox._container.usage.read(0.0).cpu_ns < cpu + 200_000_000:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(engine.containers.get(sandbox._container.id).kill)
        [ended] = await take(sandbox)
        assert ended.running_metrics.cpu_time_s >= 0.2


async def test_the_kernel_sees_the_walls(runtime: Any, working: Any, engine: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "(x) => x")
        pid = (await sandbox._container.state()).pid
        status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["Seccomp"] == "2"
        assert status["NoNewPrivs"] == "1"
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert set(status["Uid"].split()) == {"65534"}
        assert set(status["Gid"].split()) == {"65534"}
        assert int(pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text()) == 500
        for namespace in ("net", "mnt", "ipc", "pid", "uts", "cgroup"):
            theirs = pathlib.Path(f"/proc/{pid}/ns/{namespace}").readlink()
            assert theirs != pathlib.Path(f"/proc/self/ns/{namespace}").readlink(), namespace
        environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        names = {entry.split(b"=")[0] for entry in environment if entry}
        assert names <= {b"PATH", b"HOSTNAME", b"HOME", b"NODE_OPTIONS"}
        interfaces = pathlib.Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


async def test_the_hot_path_is_cheap(runtime: Any, working: Any) -> None:
    async with runtime() as made:
        sandbox = await working(made, "(x) => x")
        count = 3000
        uris = [datum(number) for number in range(count)]
        began = time.process_time()
        for key, uri in enumerate(uris):
            sandbox.submit(key, uri)
        seen = 0
        async for batch in sandbox.batches():
            seen += len(batch)
            if seen == count:
                break
        spent_ms = (time.process_time() - began) * 1000 / count
        assert spent_ms < 0.15, f"{spent_ms:.3f} ms of CPU per slice"


async def test_without_own_cgroups_the_containers_is_read(runtime: Any, working: Any, take: Any) -> None:
    async with runtime(own_cgroups=False) as made:
        sandbox = await working(made, WORK)
        sandbox.submit(1, datum(10**8))
        [event] = await take(sandbox, 1)
        assert made.statistics()["own_cgroups"] is False
        assert sandbox._container.usage.exact
        assert 0.05 < event.metrics.cpu_time_s <= event.metrics.wall_time_s + 0.05


async def test_many_lives_leave_nothing(runtime: Any, containers: Any, worker_id: str) -> None:
    """Starts that are cancelled at every stage leave nothing that the reaper does not find."""
    started: list[Sandbox] = []
    async with runtime(reap_period_s=3600.0) as made:
        for delay in itertools.accumulate([0.004] + [0.012] * 14):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    started.append(await Sandbox.start(made))
        for sandbox in started:
            await sandbox.kill()
        async with asyncio.timeout(30):
            while containers(worker_id) or made.statistics()["containers"]:
                await asyncio.sleep(0.2)
                await made.reap()
        assert made.statistics()["leaked_cgroups"] == 0
    assert CgroupTree.of_this_machine(worker_id).sandboxes() == set()
