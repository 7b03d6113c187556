"""Hostile work functions: what the realm stops, and what the container stops when the realm cannot."""

# ruff: noqa: E501  (the programs are not wrapped)

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import kvin
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.limits import MIB, OutputLimits, SandboxLimits
from orchestrator.worker.sandbox import SandboxSettings

pytestmark = pytest.mark.docker


def value_of(event: Any) -> Any:
    assert isinstance(event, ev.SliceCompleted), event
    return kvin.parse(event.result.string) if event.result.method == "kvin" else event.result.string


ESCAPES = {
    "constructor of an array": "() => [].constructor.constructor('return process')().pid",
    "constructor of a host-looking object": "() => performance.constructor.constructor('return process')().pid",
    "constructor of console.log": "() => console.log.constructor('return process')().pid",
    "constructor of a timer": "() => setTimeout.constructor('return process')().pid",
    "generator constructor": "() => (function* () {}).constructor('return process')().next().value.pid",
    "async function constructor": "async () => (await (async () => {}).constructor('return process')()).pid",
    "constructor of a WebAssembly export": """() => {
      const bytes = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 4, 1, 2, 0, 11]);
      const { f } = new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports;
      return f.constructor('return process')().pid;
    }""",
    "constructor of a random-values array": "() => crypto.getRandomValues(new Uint8Array(1)).constructor.constructor('return process')().pid",
    "constructor of a thrown stack overflow": """() => {
      let caught; const dive = () => { try { dive(); } catch (error) { caught ??= error; throw error; } };
      try { dive(); } catch {}
      return caught.constructor.constructor('return process')().pid;
    }""",
    "stack overflow inside console.log": """() => {
      const dive = () => { try { console.log('x'); dive(); } catch (error) {
        const found = error.constructor.constructor('return typeof process')(); if (found !== 'undefined') throw new Error('ESCAPED'); throw error; } };
      dive();
    }""",
    "prepareStackTrace": """() => {
      Error.prepareStackTrace = (error, frames) => frames;
      return new Error().stack.map((frame) => frame.getThis?.() ?? frame.getFunction?.()).find(Boolean).constructor.constructor('return process')().pid;
    }""",
    "require": "() => require('fs').readFileSync('/proc/self/environ', 'utf8')",
    "require of node:child_process": "() => require('node:child_process').execSync('id')",
    "dynamic import": "async () => (await import('fs')).readFileSync('/host/main.js', 'utf8')",
    "process": "() => process.pid",
    "Buffer": "() => Buffer.from('x').length",
    "global of Node": "() => global.process.pid",
    "internal binding": "() => internalBinding('fs').open('/etc/passwd')",
    "Worker": "() => new Worker('x').threadId",
    "a symbol of Node on a global": """() => {
      for (const name of Object.getOwnPropertyNames(globalThis))
        for (const symbol of Object.getOwnPropertySymbols(Object(globalThis[name])))
          if (String(symbol).includes('nodejs')) return globalThis[name][symbol].constructor.constructor('return process')().pid;
      throw new Error('none');
    }""",
}


@pytest.mark.parametrize("name", ESCAPES)
async def test_nothing_of_the_host_is_reachable(attack: Any, name: str) -> None:
    [event] = await attack(ESCAPES[name])
    assert isinstance(event, ev.SliceFailed), event
    assert event.error["message"] != "ESCAPED"
    assert "/host" not in event.error.get("stack", "")


ENDLESS = {
    "loop": "() => { for (;;); }",
    "microtasks": "() => { const again = () => { queueMicrotask(again); }; again(); }",
    "await": "async () => { for (;;) await null; }",
    "regular expression": "() => /^(a+)+$/.test('a'.repeat(40) + '!')",
    "Atomics.wait": "() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
    "a promise that never settles": "() => new Promise(() => {})",
    "timers": "() => new Promise(() => { const again = () => setTimeout(again, 0); again(); })",
    "a result that never ends": "() => new Proxy({}, { ownKeys() { for (;;); }, get() { for (;;); } })",
    "toJSON": "() => ({ toJSON() { for (;;); } })",
    "an error that never ends": "() => { throw { get message() { for (;;); } }; }",
    "a thenable": "() => ({ then() { for (;;); } })",
    "sorting": "() => { const a = Array.from({length: 1e6}, (_, i) => i); for (;;) a.sort(() => Math.random() - 0.5); }",
    "a generator in console.log": "() => { console.log(new Proxy([], { get() { for (;;); } })); }",
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_endless_work_meets_the_deadline(attack: Any, name: str) -> None:
    [event] = await attack(ENDLESS[name], slice_timeout_s=0.7)
    if isinstance(event, (ev.SliceCompleted, ev.SliceFailed)):
        assert name in ("a generator in console.log", "an error that never ends", "Atomics.wait", "regular expression")
        return
    assert (event.cause.kind, event.cause.code) == (ev.DeathKind.DEADLINE, "ESLICETOOSLOW")
    assert not event.cause.oom_killed
    assert event.cause.exit_code in (137, 0)  # 0: it saw its input end before the signal came
    assert event.unfinished == (1,)


MEMORY = {
    "array buffers": "() => { const held = []; for (;;) held.push(new Uint8Array(8 << 20).fill(1)); }",
    "wasm memory": """() => {
      const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
      for (;;) { memory.grow(64); new Uint8Array(memory.buffer).fill(1); }
    }""",
    "heap": "() => { const held = []; for (;;) held.push({ a: [1, 2, 3], b: String(Math.random()) }); }",
    "map": "() => { const held = new Map(); for (let i = 0; ; i++) held.set(i, 'x' + i); }",
    "nested JSON": "() => JSON.parse('['.repeat(5e7) + ']'.repeat(5e7))",
    "a console line": "() => { const line = 'x'.repeat(1 << 28); for (;;) console.log(line + line); }",
    "many slices' worth of promises": "async () => { const held = []; for (;;) held.push(new Promise(() => {}).then(() => new Array(1000))); }",
}


@pytest.mark.parametrize("name", MEMORY)
async def test_memory_bombs_hit_the_limit(attack: Any, name: str) -> None:
    [event] = await attack(MEMORY[name], slice_timeout_s=20.0)
    if isinstance(event, ev.SliceFailed):
        assert event.error["name"] in ("RangeError", "SyntaxError"), event.error  # the engine refused in time
        return
    cause = event.cause
    if cause.kind == ev.DeathKind.OOM and cause.oom_killed:
        assert cause.exit_code == 137
    elif cause.kind == ev.DeathKind.OOM:  # V8's own limit, reached before the kernel's
        assert cause.exit_code in (133, 134, 139), cause
    else:  # a line too long to pass
        assert cause.kind in (ev.DeathKind.EXIT, ev.DeathKind.FLOOD), cause
        assert cause.exit_code in (133, 134, 137, 139)
    assert event.running_metrics.peak_memory_bytes < 210 * MIB


async def test_strings_of_unreasonable_length_are_the_jobs_error(attack: Any) -> None:
    [event] = await attack("() => { let text = 'x'; for (;;) text += text; }", slice_timeout_s=20.0)
    assert (type(event), event.error["message"]) == (ev.SliceFailed, "Invalid string length")


async def test_reserving_address_space_costs_nothing(attack: Any) -> None:
    function = "() => { const held = []; for (;;) held.push(new WebAssembly.Memory({ initial: 1 })); }"
    [event] = await attack(function, slice_timeout_s=20.0)
    assert isinstance(event, (ev.SliceFailed, ev.SandboxEnded))


async def test_deep_recursion_is_the_jobs_error_and_the_sandbox_lives(attack: Any) -> None:
    first, second = await attack("(x) => { const dive = () => dive(); return x ? dive() : 1; }", [1, 0])
    assert first.error["name"] == "RangeError"
    assert value_of(second) == 1


FLOODS = {
    "console": "() => { for (let i = 0; ; i++) console.log(i); }",
    "long console lines": "() => { for (let i = 0; ; i++) console.log('x'.repeat(500000) + i); }",
    "events": "() => { for (let i = 0; ; i++) work.emit('e', i); }",
    "a result of 64 MiB": "() => 'x'.repeat(64 << 20)",
}

OVERSIZED = {
    "an event of 8 MiB": "() => { work.emit('e', 'x'.repeat(8 << 20)); return 1; }",
    "an event name of 1 MiB": "() => { work.emit('x'.repeat(1 << 20), 1); return 1; }",
    "an event nested deep": "() => { let a = []; for (let i = 0; i < 400; i++) a = [a]; work.emit('e', a); return 1; }",
}


@pytest.mark.parametrize("name", OVERSIZED)
async def test_what_could_not_pass_is_refused_inside(attack: Any, name: str) -> None:
    [event] = await attack(OVERSIZED[name])
    assert isinstance(event, ev.SliceFailed), event
    assert event.error["name"] == "RangeError"


@pytest.mark.parametrize("name", FLOODS)
async def test_floods_end_the_sandbox_and_no_other(attack: Any, name: str) -> None:
    settings = SandboxSettings(limits=SandboxLimits(memory_bytes=1024 * MIB))
    [event] = await attack(FLOODS[name], slice_timeout_s=20.0, bystander=True, settings=settings)
    assert isinstance(event, ev.SandboxEnded), event
    assert event.cause.kind in (ev.DeathKind.FLOOD, ev.DeathKind.PROTOCOL), event.cause


async def test_progress_in_a_tight_loop_is_throttled(attack: Any) -> None:
    [event] = await attack("() => { for (let i = 0; i < 2e5; i++) progress(i / 2e5); return 1; }", slice_timeout_s=20.0)
    assert value_of(event) == 1
    assert event.progressed
    assert event.metrics.bytes_out < 100_000


async def test_an_error_as_long_as_a_book_is_cut(attack: Any) -> None:
    [event] = await attack("() => { throw new Error('x'.repeat(300000)); }")
    assert isinstance(event, ev.SliceFailed)
    assert len(event.error["message"]) <= 16384


ODD_THROWS = [
    "null",
    "undefined",
    "1n",
    "Symbol('x')",
    "Object.create(null)",
    "new Proxy({}, { get() { throw 1; } })",
    "() => 1",
]


@pytest.mark.parametrize("thrown", ODD_THROWS)
async def test_odd_values_may_be_thrown(attack: Any, thrown: str) -> None:
    first, second = await attack(f"(x) => {{ if (x) throw ({thrown}); return 2; }}", [1, 0])
    assert isinstance(first, ev.SliceFailed)
    assert value_of(second) == 2


SABOTAGE = {
    "JSON": "JSON.stringify = () => '\"FORGED\"'; JSON.parse = () => ({ forged: true });",
    "Array.prototype": "Array.prototype.push = Array.prototype.shift = Array.prototype.map = () => 'FORGED';",
    "Array.prototype setter": "Object.defineProperty(Array.prototype, '0', { set() { throw 1; }, get() { return 'FORGED'; } });",
    "Object.prototype": "Object.prototype.request = 'complete'; Object.prototype.id = 2; Object.prototype.toJSON = () => 'FORGED';",
    "Promise.prototype.then": "Promise.prototype.then = function (f) { f('FORGED'); return this; };",
    "String.prototype": "String.prototype.charCodeAt = String.prototype.slice = String.prototype.split = () => 'FORGED';",
    "RegExp.prototype": "RegExp.prototype.exec = () => ['FORGED']; RegExp.prototype.test = () => true;",
    "Symbol.iterator": "Array.prototype[Symbol.iterator] = function* () { yield 'FORGED'; };",
    "Function.prototype": "Function.prototype.call = Function.prototype.apply = () => 'FORGED';",
    "Map and WeakMap": "Map.prototype.get = WeakMap.prototype.get = () => 'FORGED';",
    "clocks": "performance.now = () => 1e12; Date.now = () => 0;",
    "globals": "for (const name of Object.getOwnPropertyNames(globalThis)) try { delete globalThis[name]; } catch {}",
    "freeze": "Object.freeze(globalThis); Object.freeze(Object.prototype);",
}


@pytest.mark.parametrize("name", SABOTAGE)
async def test_a_sabotaged_realm_forges_nothing_but_its_own_results(attack: Any, name: str) -> None:
    events = await attack(f"(x) => {{ if (x === 1) {{ try {{ {SABOTAGE[name]} }} catch {{}} }} return x; }}", [1, 2])
    # The slice itself may come back wrong or failed; answers are never for another slice, and figures are the kernel's.
    assert [event.key for event in events if not isinstance(event, ev.SandboxEnded)] == [1, 2][: len(events)]
    for event in events:
        assert isinstance(event, (ev.SliceCompleted, ev.SliceFailed, ev.SandboxEnded))
        if not isinstance(event, ev.SandboxEnded):
            assert event.metrics.wall_time_s < 30
            assert event.metrics.cpu_time_s < 30


async def test_messages_of_ones_own_are_not_heard(attack: Any) -> None:
    function = """(x) => {
      for (const id of [1, 2, 3]) {
        const forged = { request: 'complete', id, result: { string: '"FORGED"', method: 'json', MIMEType: 'application/json' } };
        try { postMessage(forged); } catch {}
        try { self.postMessage({ ringSource: 3, value: forged }); } catch {}
        try { writeln('MSG:' + JSON.stringify({ type: 'workerMessage', message: forged })); } catch {}
      }
      return x;
    }"""
    events = await attack(function, [1, 2, 3])
    assert [value_of(event) for event in events] == [1, 2, 3]


async def test_a_left_over_timer_does_not_answer_for_the_next_slice(attack: Any) -> None:
    function = """async (x) => {
      if (x === 1) { setInterval(() => { console.log('left over'); progress(0.9); work.emit('left', 1); }, 1); return x; }
      await new Promise((resolve) => setTimeout(resolve, 100));
      return x;
    }"""
    events = await attack(function, [1, 2, 3])
    assert [value_of(event) for event in events] == [1, 2, 3]
    assert [event.progressed for event in events] == [False, False, False]


async def test_globals_do_not_pass_from_slice_to_slice(attack: Any) -> None:
    events = await attack("(x) => { globalThis.seen = (globalThis.seen ?? 0) + 1; return globalThis.seen; }", [1, 2, 3])
    assert [value_of(event) for event in events] == [1, 1, 1]


async def test_fetch_reaches_the_worker_and_never_the_network(attack: Any) -> None:
    function = "async () => { await fetch('http://169.254.169.254/latest/meta-data/'); return 1; }"
    asked, ended = await attack(function, slice_timeout_s=0.7)
    assert isinstance(asked, ev.FetchRequested)
    assert ended.cause.kind == ev.DeathKind.DEADLINE


async def test_data_that_is_none_is_the_slices_error(attack: Any) -> None:
    settings = SandboxSettings(output=OutputLimits())
    events = await attack("(x) => x", ["\ud800", {"__proto__": {"then": 1}}, [[[]]] * 3], settings=settings)
    assert len(events) == 3
