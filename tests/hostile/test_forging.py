# ruff: noqa: E501  (programs in JavaScript are not wrapped)
"""Jobs that forge clocks, measurements and answers: each is paid what the kernel saw, at the work function and below."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from orchestrator import kvin
from orchestrator.worker import reports
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.battery.programs import program
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings
from orchestrator.worker.limits import MIB, SandboxLimits, SliceLimits
from orchestrator.worker.metering import Phase, Reconciliation
from orchestrator.worker.sandbox import Sandbox

pytestmark = pytest.mark.docker

#: Work of a certain size, whatever any clock says.
WORK = "let s = 0; for (let i = 0; i < {count}; i++) s = (s + i) % 1000003;"
MUCH = WORK.format(count="1.5e8")  # 0.1 s of CPU at the very least
ANSWERS = (ev.SliceCompleted, ev.SliceFailed, ev.SliceRejected)

Trial = Callable[..., Awaitable[tuple[list[Any], Sandbox]]]


@pytest.fixture
async def runtime(worker_id: str) -> AsyncIterator[DockerRuntime]:
    limits = SandboxLimits(memory_bytes=192 * MIB)
    async with DockerRuntime(worker_id, RuntimeSettings(limits=limits, reap_period_s=3600)) as made:
        yield made


@pytest.fixture
def trial(runtime: DockerRuntime) -> Trial:
    """Run a work function (or a program that owns its process) over slices, one after the other or all at once; the
    answers and the ended sandbox, whose books are closed."""

    async def run(
        function: str = "(x) => x",
        slices: int = 3,
        *,
        body: str | None = None,
        queued: bool = False,
        pause: bool = False,
    ) -> tuple[list[Any], Sandbox]:
        sandbox = await Sandbox.start(runtime, entrypoint=None if body is None else program(body))
        await sandbox.assign(ev.Assignment("job", function), SliceLimits(30.0, 30.0))
        events: list[Any] = []
        stream = sandbox.events()
        async with asyncio.timeout(60):
            if queued:
                for key in range(1, slices + 1):
                    sandbox.submit(key, f"data:application/json,{key}")
            for key in range(1, slices + 1):
                if not queued:
                    sandbox.submit(key, f"data:application/json,{key}")
                async for event in stream:
                    if isinstance(event, (*ANSWERS, ev.SandboxEnded)):
                        events.append(event)
                        break
                if isinstance(events[-1], ev.SandboxEnded):
                    break
                if pause:  # time in which nobody asked for anything
                    await asyncio.sleep(0.4)
        await sandbox.kill()
        return events, sandbox

    return run


def books_of(sandbox: Sandbox) -> Reconciliation:
    """The books of an ended sandbox, which must balance to the last nanosecond that the kernel told."""
    books = sandbox.books
    assert books is not None and books.checked, "the kernel's own figure was there"
    assert books.balanced
    assert 0 <= books.difference_ns < 100_000_000
    assert books.paid_ns <= books.kernel_ns
    return books


def is_paid_what_the_kernel_saw(events: Sequence[Any], sandbox: Sandbox) -> None:
    """The metrics that would be sent sum to what the cgroup was charged between first submission and last answer."""
    books = books_of(sandbox)
    answers = [event for event in events if isinstance(event, ANSWERS)]
    sent_ms = sum(reports.metrics(event.metrics)["CPUTime"] for event in answers)
    assert sent_ms == pytest.approx(books.paid_ns / 1e6, abs=0.001)
    outside_ns = books.overhead[Phase.START] + books.overhead[Phase.ASSIGN] + books.overhead[Phase.UNANSWERED]
    outside_ns += books.overhead[Phase.IDLE]
    assert sent_ms == pytest.approx((books.kernel_ns - outside_ns) / 1e6, abs=100)
    for event in answers:
        # One core: whatever clock the job has, it cannot have used more than time passed (and its second thread's).
        assert event.metrics.cpu_time_s <= 1.1 * event.metrics.wall_time_s + 0.1


CLOCKS = {
    "stopped": "performance.now = () => 0; Date.now = () => 0; globalThis.Date = class { static now() { return 0; } };",
    "ahead": "const t = performance.now.bind(performance); performance.now = () => 1e9 + 1000 * t(); Date.now = () => 1e15;",
    "backwards": "let n = 1e9; performance.now = () => (n -= 1000); Date.now = () => (n -= 1000);",
    "a getter": "try { Object.defineProperty(globalThis, 'performance', { get() { throw 1; } }); } catch {}",
    "prototype": "Object.getPrototypeOf(performance).now = () => NaN; Date.prototype.getTime = () => NaN;",
}


@pytest.mark.parametrize("clock", CLOCKS)
async def test_overwritten_clocks(trial: Trial, clock: str) -> None:
    events, sandbox = await trial(f"(x) => {{ try {{ {CLOCKS[clock]} }} catch {{}} {MUCH} return x; }}", 2)
    assert [event.key for event in events] == [1, 2]
    for event in events:
        assert 0.05 < event.metrics.cpu_time_s < 20
        assert 0.05 < event.metrics.wall_time_s < 60
    is_paid_what_the_kernel_saw(events, sandbox)


async def test_messages_of_its_own(trial: Trial) -> None:
    """`measurement`, `complete` and `progress` by every name that a work function might reach."""
    forged = """
      const words = [
        { request: 'measurement', total: 1e9, CPU: 1e9, cpu: 1e9, webGL: 1e9, webGPU: 1e9 },
        { request: 'complete', id: x, result: { string: '"FORGED"', method: 'json', MIMEType: 'application/json' },
          measurement: { total: 1e9, cpu: 1e9 }, progressed: true },
        { request: 'progress', id: x, progress: 100 },
      ];
      for (const word of words) for (const say of ['postMessage', 'writeln', 'dispatchEvent', 'onmessage', 'print'])
        for (const value of [word, { ringSource: 3, value: word }, 'MSG:' + JSON.stringify(word)])
          try { globalThis[say](value); } catch {}
    """
    events, sandbox = await trial(f"(x) => {{ {forged} return x; }}", 3, queued=True)
    assert [kvin.parse(event.result.string) for event in events] == [1, 2, 3]
    assert not any(event.progressed for event in events)
    assert all(event.metrics.cpu_time_s < 10 for event in events)
    is_paid_what_the_kernel_saw(events, sandbox)


@pytest.mark.parametrize(
    "leave",
    ["setTimeout(later, 5)", "setInterval(later, 1)", "queueMicrotask(later)", "new Promise((r) => setTimeout(r, 5)).then(later)"],
    ids=["timer", "interval", "microtask", "promise"],
)  # fmt: skip
async def test_a_left_over_answers_for_the_next_slice(trial: Trial, leave: str) -> None:
    function = f"""async (x) => {{
      const later = () => {{ try {{ progress(1); postMessage({{ request: 'complete', id: 2, result: 'FORGED' }}); }} catch {{}} {MUCH} }};
      if (x === 1) {{ {leave}; return x; }}
      await new Promise((resolve) => setTimeout(resolve, 50));
      return x;
    }}"""
    events, sandbox = await trial(function, 3, pause=True)
    assert [event.key for event in events] == [1, 2, 3]
    assert all(isinstance(event, ev.SliceCompleted) and "FORGED" not in event.result.string for event in events)
    assert not any(event.progressed for event in events[1:])
    is_paid_what_the_kernel_saw(events, sandbox)


async def test_cpu_burnt_between_slices_is_nobodys(trial: Trial) -> None:
    """A process that is all the attacker's answers at once and works on while nothing is asked of it."""
    body = f"complete(id, id); setTimeout(() => {{ {MUCH} }}, 100);"
    events, sandbox = await trial(body=body, pause=True)
    books = books_of(sandbox)
    assert [event.key for event in events] == [1, 2, 3]
    assert books.overhead[Phase.IDLE] > 100_000_000
    is_paid_what_the_kernel_saw(events, sandbox)


async def test_a_process_of_its_own_that_claims_a_year(trial: Trial) -> None:
    year = 365 * 86_400_000
    measurement = json.dumps({"total": year, "cpu": year, "CPU": year})
    body = f"""
      say(3, {{ request: 'complete', id, result: {{ string: '1', method: 'json', MIMEType: 'application/json' }},
                measurement: {measurement}, progressed: true }});
    """
    events, sandbox = await trial(body=body)
    assert all(isinstance(event, ev.SliceCompleted) for event in events), events
    assert sum(event.metrics.cpu_time_s for event in events) < 5
    is_paid_what_the_kernel_saw(events, sandbox)


async def test_a_process_of_its_own_that_claims_nothing(trial: Trial) -> None:
    measurement = json.dumps({"total": 0, "cpu": 0})
    body = f"""
      {MUCH}
      say(3, {{ request: 'complete', id, result: {{ string: '1', method: 'json', MIMEType: 'application/json' }},
                measurement: {measurement}, progressed: true }});
    """
    events, sandbox = await trial(body=body, slices=2)
    assert all(event.metrics.cpu_time_s > 0.05 for event in events)
    is_paid_what_the_kernel_saw(events, sandbox)


async def test_answers_in_one_burst_share_what_was_used_once(trial: Trial) -> None:
    """Held back and sent together, each claiming everything: the sum is still the kernel's."""
    body = f"""
      globalThis.held = [...(globalThis.held ?? []), id];
      if (globalThis.held.length < 3) return;
      {MUCH}
      raw(globalThis.held.map((one) => message(3, {{ request: 'complete', id: one, progressed: true,
        result: {{ string: '1', method: 'json', MIMEType: 'application/json' }}, measurement: {{ total: 1e12, cpu: 1e12 }} }})).join(''));
    """
    events, sandbox = await trial(body=body, queued=True)
    assert [event.key for event in events] == [1, 2, 3]
    assert 0.05 < sum(event.metrics.cpu_time_s for event in events) < 20
    is_paid_what_the_kernel_saw(events, sandbox)


async def test_an_answer_for_the_next_slice_ends_it_unpaid(trial: Trial) -> None:
    events, sandbox = await trial(body=f"{MUCH} complete(id + 1, 'FORGED');", queued=True)
    [ended] = events
    assert isinstance(ended, ev.SandboxEnded)
    assert ended.cause.kind is ev.DeathKind.PROTOCOL
    books = books_of(sandbox)
    assert books.paid_ns == 0
    assert books.overhead[Phase.UNANSWERED] > 50_000_000


async def test_a_measurement_that_is_none(trial: Trial) -> None:
    body = """
      say(3, { request: 'complete', id, result: { string: '1', method: 'json', MIMEType: 'application/json' },
               measurement: { total: -1e300, cpu: 'a lot', gpu: null }, progressed: true });
    """
    events, sandbox = await trial(body=body, queued=True)
    books = books_of(sandbox)
    assert books.paid_ns <= books.kernel_ns
    assert all(event.metrics.cpu_time_s >= 0 for event in events if isinstance(event, ANSWERS))
