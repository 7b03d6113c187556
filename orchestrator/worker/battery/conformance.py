"""What an honest work function may rely on, checked in the sandboxes of this machine.

That these answers are those of the official sandbox scripts is tested elsewhere, against the scripts themselves; here a
fleet operator sees that *this* machine's sandboxes give them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator import kvin
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.battery.case import Area, Case, NotContained, expect
from orchestrator.worker.battery.functions import value_of
from orchestrator.worker.battery.ground import Ground


def plain(event: Any) -> Any:
    """A result as JSON would have it."""
    value = value_of(event)
    return json.loads(value) if isinstance(value, str) and event.result.method == "json" else value


@dataclass(frozen=True)
class _Answers:
    """`function` over `data` gives `values`."""

    function: str
    data: Sequence[Any]
    values: Sequence[Any]

    async def run(self, ground: Ground) -> str:
        events = await ground.everything(self.function, self.data)
        found = [plain(event) for event in events if isinstance(event, ev.SliceCompleted)]
        expect(found == list(self.values), found or events)
        return json.dumps(found)[:200]


_VALUES = {
    "a value per slice, in order": _Answers("(x) => x * x", [1, 2, 3, 4], [1, 4, 9, 16]),
    "async work functions": _Answers("async (x) => { await null; return x + 1 }", [1, 2], [2, 3]),
    "timers": _Answers(
        "async () => { const o = []; setTimeout(() => o.push('late'), 20); setTimeout(() => o.push('soon'), 1); await new Promise(r => setTimeout(r, 60)); return o }",
        [0], [["soon", "late"]],
    ),
    "text": _Answers("() => new TextDecoder().decode(new TextEncoder().encode('aé😀'))", [0], ["aé😀"]),
    "base64": _Answers("() => [btoa('abc'), atob('YWI=')]", [0], [["YWJj", "ab"]]),
    "URLs": _Answers("() => new URL('../x?y#z', 'http://h:81/a/b/c').href", [0], ["http://h:81/a/x?y#z"]),
    "WebAssembly": _Answers(
        "async () => (await WebAssembly.instantiate(new Uint8Array([0,97,115,109,1,0,0,0,1,5,1,96,0,1,127,3,2,1,0,7,5,1,1,102,0,0,10,6,1,4,0,65,42,11]))).instance.exports.f()",
        [0], [42],
    ),
    "shared memory": _Answers(
        "() => { const s = new Int32Array(new SharedArrayBuffer(8)); Atomics.add(s, 0, 5); return Atomics.load(s, 0) }",
        [0], [5],
    ),
    "real randomness": _Answers(
        "() => new Set(Array.from(crypto.getRandomValues(new Uint32Array(64)))).size > 60", [0], [True]
    ),
    "what is not there": _Answers(
        "() => ['process', 'Buffer', 'KVIN', 'XMLHttpRequest', 'WebSocket', 'indexedDB', 'Worker', 'global'].filter(name => typeof globalThis[name] !== 'undefined')",
        [0], [[]],
    ),
    "its job": _Answers("() => work.job.public.name", [0], ["a job"]),
}  # fmt: skip


async def _speaks(ground: Ground) -> str:
    events = await ground.everything(
        "() => { console.log('a', 1); console.warn('b'); work.emit('e', { n: 1 }); progress(0.5); return 0 }"
    )
    kinds = [type(event).__name__ for event in events]
    levels = [event.level for event in events if isinstance(event, ev.Console)]
    names = [event.name for event in events if isinstance(event, ev.CustomEvent)]
    expect(levels == ["log", "warn"] and names == ["e"] and events[-1].progressed, kinds)
    return ", ".join(kinds)


async def _repeats(ground: Ground) -> str:
    events = await ground.everything("() => { for (let i = 0; i < 50; i++) console.log('same'); return 0 }")
    lines = [event for event in events if isinstance(event, ev.Console)]
    expect(len(lines) < 50 and sum(line.same for line in lines) >= 49, lines)
    return f"50 equal lines as {len(lines)} messages"


async def _throws(ground: Ground) -> str:
    [event] = await ground.everything("() => { const e = new TypeError('m'); e.code = 'C'; throw e }")
    expect(isinstance(event, ev.SliceFailed), event)
    told = {name: event.error.get(name) for name in ("name", "message", "code")}
    expect(told == {"name": "TypeError", "message": "m", "code": "C"}, told)
    return str(told)


async def _rejects(ground: Ground) -> str:
    [event] = await ground.everything("() => { work.reject('why', 3) }")
    expect(isinstance(event, ev.SliceRejected) and (event.reason, event.retries) == ("why", 3), event)
    return "reason and retries arrive"


async def _values_of_every_kind(ground: Ground) -> str:
    function = "() => [new Date(0), 10n, /a/g, new Map([[1, 2]]), new Uint8Array([1, 2]), undefined, NaN, [1, , 3]]"
    [event] = await ground.everything(function)
    expect(isinstance(event, ev.SliceCompleted) and event.result.method == "kvin", event)
    decoded = kvin.parse(event.result.string)
    expect(isinstance(decoded, list) or hasattr(decoded, "__len__"), decoded)
    return str(event.result.string)[:200]


async def _syntax_error(ground: Ground) -> str:
    try:
        await ground.everything("() => {")
    except ev.SandboxRefused as refused:
        expect(refused.error.get("name") == "SyntaxError", refused.error)
        return f"refused at once: {refused.error.get('message')}"
    raise NotContained("it was accepted")


async def _metered(ground: Ground) -> str:
    function = "() => { const end = Date.now() + 300; while (Date.now() < end); return 0 }"
    [event] = await ground.everything(function)
    expect(isinstance(event, ev.SliceCompleted), event)
    metrics = event.metrics
    # Shared machines give less than a core; nobody gets more than the time that went by.
    expect(0.03 < metrics.cpu_time_s <= metrics.wall_time_s * 1.2 + 0.1, metrics)
    return f"{metrics.cpu_time_s:.3f} s of CPU in {metrics.wall_time_s:.3f} s, {metrics.peak_memory_bytes} bytes"


def _case(name: str, tries: str, run: Any) -> Case:
    return Case(Area.CONFORMANCE, name, " ".join(tries.split())[:100], "the evaluator", run)


CASES = (
    *(_case(name, answers.function, answers.run) for name, answers in _VALUES.items()),
    _case("console, events, progress", "says something of each kind", _speaks),
    _case("repeated lines", "logs the same line 50 times", _repeats),
    _case("errors", "throws a TypeError with a code", _throws),
    _case("rejection", "calls work.reject('why', 3)", _rejects),
    _case("values of every kind", "returns what JSON cannot say", _values_of_every_kind),
    _case("a syntax error", "is no function", _syntax_error),
    _case("metering", "computes for 0.3 s", _metered),
)
