"""Work functions that attack from inside of the realm: what it stops, and what the container stops when it cannot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator import kvin
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.battery.case import Area, Case, expect
from orchestrator.worker.battery.ground import Ground
from orchestrator.worker.battery.programs import ended
from orchestrator.worker.limits import MIB, SandboxLimits
from orchestrator.worker.sandbox import SandboxSettings
from orchestrator.worker.sandbox_events import DeathKind

Run = Callable[[Ground], Awaitable[str]]


def value_of(event: Any) -> Any:
    """The result of a completed slice, KVIN decoded. Raises `NotContained` for any other event."""
    expect(isinstance(event, ev.SliceCompleted), event)
    return kvin.parse(event.result.string) if event.result.method == "kvin" else event.result.string


def _values(events: list[Any]) -> list[Any]:
    return [value_of(event) for event in events]


# -- reaching out ------------------------------------------------------------------------------------------------------

_ESCAPES = {
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


def _unreachable(function: str) -> Run:
    async def run(ground: Ground) -> str:
        [event] = await ground.attack(function, slice_timeout_s=10.0)
        expect(isinstance(event, ev.SliceFailed), event)
        expect(event.error["message"] != "ESCAPED", event)
        expect("/host" not in event.error.get("stack", ""), "the stack names files of the host program")
        return f"{event.error.get('name')}: {str(event.error.get('message'))[:80]}"

    return run


# -- more than its share -----------------------------------------------------------------------------------------------

_ENDLESS = {
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
#: Some engines find an end to these; then the slice is answered.
_MAY_END = ("a generator in console.log", "an error that never ends", "Atomics.wait", "regular expression")


def _endless(name: str) -> Run:
    async def run(ground: Ground) -> str:
        events = await ground.attack(_ENDLESS[name], slice_timeout_s=0.7)
        if isinstance(events[-1], (ev.SliceCompleted, ev.SliceFailed)):
            expect(name in _MAY_END, events)
            return "the engine found an end"
        cause = ended(events)
        expect((cause.kind, cause.code) == (DeathKind.DEADLINE, "ESLICETOOSLOW") and not cause.oom_killed, cause)
        # 0: it saw its input end before the signal came.
        expect(cause.exit_code in (137, 0) and events[-1].unfinished == (1,), cause)
        return str(cause)

    return run


_MEMORY = {
    "array buffers": "() => { const held = []; for (;;) held.push(new Uint8Array(8 << 20).fill(1)); }",
    "wasm memory": """() => {
      const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
      for (;;) { memory.grow(64); new Uint8Array(memory.buffer).fill(1); }
    }""",
    "heap": "() => { const held = []; for (;;) held.push({ a: [1, 2, 3], b: String(Math.random()) }); }",
    "map": "() => { const held = new Map(); for (let i = 0; ; i++) held.set(i, 'x' + i); }",
    "nested JSON": "() => JSON.parse('['.repeat(5e7) + ']'.repeat(5e7))",
    "a console line": "() => { const line = 'x'.repeat(1 << 28); for (;;) console.log(line + line); }",
    "promises": "async () => { const held = []; for (;;) held.push(new Promise(() => {}).then(() => new Array(1000))); }",
}


def _memory(function: str) -> Run:
    async def run(ground: Ground) -> str:
        [event] = await ground.attack(function, slice_timeout_s=30.0)
        if isinstance(event, ev.SliceFailed):  # the engine refused in time
            expect(event.error["name"] in ("RangeError", "SyntaxError"), event.error)
            return f"{event.error['name']}: {event.error['message']}"
        cause = ended([event])
        if cause.kind is DeathKind.OOM:  # V8's own limit may be reached before the kernel's
            expect(cause.exit_code in ((137,) if cause.oom_killed else (133, 134, 139)), cause)
        else:  # a line too long to pass
            expect(cause.kind in (DeathKind.EXIT, DeathKind.FLOOD), cause)
            expect(cause.exit_code in (133, 134, 137, 139), cause)
        peak = event.running_metrics.peak_memory_bytes
        expect(peak < 210 * MIB, f"{peak} bytes at its peak")
        return f"{cause}; {peak // MIB} MiB at its peak"

    return run


_OVERSIZED = {
    "an event of 8 MiB": "() => { work.emit('e', 'x'.repeat(8 << 20)); return 1; }",
    "an event name of 1 MiB": "() => { work.emit('x'.repeat(1 << 20), 1); return 1; }",
    "an event nested deep": "() => { let a = []; for (let i = 0; i < 400; i++) a = [a]; work.emit('e', a); return 1; }",
}


def _refused_inside(function: str) -> Run:
    async def run(ground: Ground) -> str:
        [event] = await ground.attack(function, slice_timeout_s=10.0)
        expect(isinstance(event, ev.SliceFailed) and event.error["name"] == "RangeError", event)
        return f"RangeError: {event.error['message'][:80]}"

    return run


_FLOODS = {
    "console": "() => { for (let i = 0; ; i++) console.log(i); }",
    "long console lines": "() => { for (let i = 0; ; i++) console.log('x'.repeat(500000) + i); }",
    "events": "() => { for (let i = 0; ; i++) work.emit('e', i); }",
    "a result of 64 MiB": "() => 'x'.repeat(64 << 20)",
}


def _flood(function: str) -> Run:
    async def run(ground: Ground) -> str:
        roomy = SandboxSettings(limits=SandboxLimits(memory_bytes=1024 * MIB))
        cause = ended(await ground.attack(function, slice_timeout_s=30.0, bystander=True, settings=roomy))
        expect(cause.kind in (DeathKind.FLOOD, DeathKind.PROTOCOL), cause)
        return str(cause)

    return run


async def _long_string(ground: Ground) -> str:
    [event] = await ground.attack("() => { let text = 'x'; for (;;) text += text; }", slice_timeout_s=20.0)
    expect(isinstance(event, ev.SliceFailed) and event.error["message"] == "Invalid string length", event)
    return "RangeError: Invalid string length"


async def _address_space(ground: Ground) -> str:
    function = "() => { const held = []; for (;;) held.push(new WebAssembly.Memory({ initial: 1 })); }"
    [event] = await ground.attack(function, slice_timeout_s=30.0, bystander=True)
    expect(isinstance(event, (ev.SliceFailed, ev.SandboxEnded)), event)
    return str(event.cause) if isinstance(event, ev.SandboxEnded) else f"{event.error['name']}"


async def _recursion(ground: Ground) -> str:
    first, second = await ground.attack("(x) => { const dive = () => dive(); return x ? dive() : 1; }", [1, 0])
    expect(isinstance(first, ev.SliceFailed) and first.error["name"] == "RangeError", first)
    expect(value_of(second) == 1, second)
    return "RangeError; the next slice is answered"


async def _progress(ground: Ground) -> str:
    function = "() => { for (let i = 0; i < 2e5; i++) progress(i / 2e5); return 1; }"
    [event] = await ground.attack(function, slice_timeout_s=20.0)
    expect(value_of(event) == 1 and event.progressed, event)
    expect(event.metrics.bytes_out < 100_000, f"{event.metrics.bytes_out} bytes")
    return f"200,000 calls, {event.metrics.bytes_out} bytes"


async def _long_error(ground: Ground) -> str:
    [event] = await ground.attack("() => { throw new Error('x'.repeat(300000)); }")
    expect(isinstance(event, ev.SliceFailed), event)
    length = len(event.error["message"])
    expect(length <= 16384, f"{length} characters")
    return f"cut to {length} characters"


# -- forgery -----------------------------------------------------------------------------------------------------------

_SABOTAGE = {
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


def _sabotage(body: str) -> Run:
    async def run(ground: Ground) -> str:
        events = await ground.attack(f"(x) => {{ if (x === 1) {{ try {{ {body} }} catch {{}} }} return x; }}", [1, 2])
        # The slice itself may come back wrong or failed; answers are never for another slice, figures are the kernel's.
        answers = [event for event in events if not isinstance(event, ev.SandboxEnded)]
        expect(all(isinstance(event, (ev.SliceCompleted, ev.SliceFailed)) for event in answers), events)
        expect([event.key for event in answers] == [1, 2][: len(answers)], events)
        expect(all(max(event.metrics.wall_time_s, event.metrics.cpu_time_s) < 30 for event in answers), events)
        return f"{len(answers)} answers, each for its own slice"

    return run


_ODD_THROWS = {
    "null": "null",
    "undefined": "undefined",
    "a big integer": "1n",
    "a symbol": "Symbol('x')",
    "an object without prototype": "Object.create(null)",
    "a proxy that throws": "new Proxy({}, { get() { throw 1; } })",
    "a function": "() => 1",
}


def _odd_throw(thrown: str) -> Run:
    async def run(ground: Ground) -> str:
        events = await ground.attack(f"(x) => {{ if (x) throw ({thrown}); return 2; }}", [1, 0])
        expect(isinstance(events[0], ev.SliceFailed) and len(events) == 2, events)
        expect(value_of(events[1]) == 2, events)
        return "the slice failed; the next one is answered"

    return run


async def _own_messages(ground: Ground) -> str:
    function = """(x) => {
      for (const id of [1, 2, 3]) {
        const forged = { request: 'complete', id, result: { string: '"FORGED"', method: 'json', MIMEType: 'application/json' } };
        try { postMessage(forged); } catch {}
        try { self.postMessage({ ringSource: 3, value: forged }); } catch {}
        try { writeln('MSG:' + JSON.stringify({ type: 'workerMessage', message: forged })); } catch {}
      }
      return x;
    }"""
    events = await ground.attack(function, [1, 2, 3])
    expect(_values(events) == [1, 2, 3], events)
    return "not heard; the slices answered for themselves"


async def _left_over_timer(ground: Ground) -> str:
    function = """async (x) => {
      if (x === 1) { setInterval(() => { console.log('left over'); progress(0.9); work.emit('left', 1); }, 1); return x; }
      await new Promise((resolve) => setTimeout(resolve, 100));
      return x;
    }"""
    events = await ground.attack(function, [1, 2, 3])
    expect(_values(events) == [1, 2, 3] and not any(event.progressed for event in events), events)
    return "the timer was gone with its slice"


async def _globals(ground: Ground) -> str:
    function = "(x) => { globalThis.seen = (globalThis.seen ?? 0) + 1; return globalThis.seen; }"
    events = await ground.attack(function, [1, 2, 3])
    expect(_values(events) == [1, 1, 1], events)
    return "each slice found none of the others' globals"


async def _fetch(ground: Ground) -> str:
    function = "async () => { await fetch('http://169.254.169.254/latest/meta-data/'); return 1; }"
    events = await ground.attack(function, slice_timeout_s=0.7)
    expect(isinstance(events[0], ev.FetchRequested), events)
    cause = ended(events)
    expect(cause.kind is DeathKind.DEADLINE, cause)
    return "only the Worker was asked"


def _case(area: Area, name: str, tries: str, wall: str, run: Run) -> Case:
    return Case(area, name, " ".join(tries.split())[:100], wall, run)


CASES = (
    *(_case(Area.REALM, name, function, "a realm without anything of Node's", _unreachable(function))
      for name, function in _ESCAPES.items()),
    *(_case(Area.RESOURCES, f"endless: {name}", function, "a deadline outside", _endless(name))
      for name, function in _ENDLESS.items()),
    *(_case(Area.RESOURCES, f"memory: {name}", function, "the kernel's memory limit", _memory(function))
      for name, function in _MEMORY.items()),
    *(_case(Area.RESOURCES, f"oversized: {name}", function, "bounds inside", _refused_inside(function))
      for name, function in _OVERSIZED.items()),
    *(_case(Area.RESOURCES, f"flood: {name}", function, "bounds on lines and bytes", _flood(function))
      for name, function in _FLOODS.items()),
    _case(Area.RESOURCES, "a string of unreasonable length", "doubles a string", "the engine", _long_string),
    _case(Area.RESOURCES, "address space", "reserves WebAssembly memories", "the engine", _address_space),
    _case(Area.RESOURCES, "deep recursion", "recurses for ever", "the engine; the sandbox lives on", _recursion),
    _case(Area.RESOURCES, "progress in a tight loop", "calls progress 200,000 times", "throttled inside", _progress),
    _case(Area.RESOURCES, "an error as long as a book", "throws a message of 300 kB", "cut inside", _long_error),
    *(_case(Area.FORGERY, f"sabotage: {name}", body, "primordials kept from the work function", _sabotage(body))
      for name, body in _SABOTAGE.items()),
    *(_case(Area.FORGERY, f"throws {name}", thrown, "errors are read with care", _odd_throw(thrown))
      for name, thrown in _ODD_THROWS.items()),
    _case(Area.FORGERY, "messages of its own", "posts answers itself", "no channel but the evaluator's", _own_messages),
    _case(Area.FORGERY, "a left-over timer", "speaks in the next slice", "timers end with their slice",
          _left_over_timer),
    _case(Area.FORGERY, "globals", "passes a global on to the next slice", "a clean state per slice", _globals),
    _case(Area.FORGERY, "fetch", "fetches a cloud's metadata", "no network; the Worker decides", _fetch),
)  # fmt: skip
