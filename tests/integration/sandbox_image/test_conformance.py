# ruff: noqa: E501, SIM905 (work functions in JavaScript stay on one line)
"""The same work functions through the official sandbox scripts and through ours: what can be observed is the same.

Both speak the plain dialect here, line for line. Where we differ, it is meant, and stands in DIFFERENT_GLOBALS or in
`test_meant_differences` with the reason.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator import kvin

pytestmark = pytest.mark.npm

#: The order of the official definitions for Node, without the 16 MB of Pyodide.
SCRIPTS = """sa-ww-simulation script-load-wrapper timer-classes wrap-event-listeners event-loop-virtualization lift-webgl
    lift-wasm lift-webgpu url polyfills access-lists fetch-factory bravojs-init bravo bravojs-env worktimes
    map-basic-worktime calculate-capabilities bootstrap""".split()

Observed = list[tuple[Any, ...]]


@pytest.fixture
def both(node: pathlib.Path, npm_modules: pathlib.Path, start: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Runs a work function in both evaluators: two lists of what each slice showed."""
    evaluators: list[Any] = []

    def run(work_function: str, data: Any = (0,), arguments: Any = (), **job: Any) -> tuple[Observed, Observed]:
        official = official_evaluator(node, npm_modules, type(start()))
        evaluators.append(official)
        return tuple(observe(evaluator, work_function, data, arguments, job) for evaluator in (official, start()))

    yield run
    for evaluator in evaluators:
        evaluator.kill()


def official_evaluator(node: pathlib.Path, npm_modules: pathlib.Path, make: Any) -> Any:
    scripts = npm_modules / "dcp-client" / "libexec"
    files = [npm_modules / "kvin" / "kvin.js"]
    files += [
        npm_modules / "bravojs" / "bravo.js" if name == "bravo" else scripts / "sandbox" / f"{name}.js"
        for name in SCRIPTS
    ]
    # The official Node evaluator refuses to run as root.
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    return make([str(node), str(scripts / "evaluator-node.js"), *map(str, files)], **user)


def observe(evaluator: Any, work_function: str, data: Any, arguments: Any, job: dict[str, Any]) -> Observed:
    def value() -> dict[str, Any]:
        found = evaluator.next()
        assert found is not None, "the evaluator ended"
        contents = found if "ringSource" in found else kvin.unmarshal({"_serializeVerId": "v9", "what": found})
        return contents["value"]

    def until(request: str) -> dict[str, Any]:
        while (found := value())["request"] not in (request, "dependency"):
            assert found["request"] not in ("reject", "error"), found
        return found

    details = {
        "id": "j",
        "workFunction": work_function,
        "arguments": list(arguments),
        "dependencies": [],
        "requirePath": [],
        "modulePath": [],
        "public": {"name": "N"},
        "worktime": {"name": "map-basic", "version": "1.0.0"},
    }
    job = dict(job)
    modules = job.pop("modules", None)
    evaluator.send({"request": "applyRequirements", "worktime": "map-basic"})
    until("applyRequirementsDone")
    evaluator.send({"request": "assign", "job": details | job, "sandboxConfig": {}})
    if (answer := until("assigned"))["request"] == "dependency":
        evaluator.send({"request": "moduleGroup", "id": answer["id"], "data": modules})
        until("assigned")
    shown: Observed = []
    for datum in data:
        evaluator.send({"request": "resetState"}, {"request": "main", "data": datum})
        while True:
            found = value()
            if (fact := fact_of(found)) is not None:
                shown.append(fact)
            if found["request"] in ("complete", "workError", "workReject"):
                break
    return shown


def fact_of(value: dict[str, Any]) -> tuple[Any, ...] | None:
    """What has to agree: no times, no numbering, no stacks."""
    match value["request"]:
        case "progress":
            return ("progress", value["progress"], bool(value["indeterminate"]))
        case "console":
            return (
                "console",
                value["payload"]["level"],
                repr(value["payload"].get("message")),
                value["payload"]["same"],
            )
        case "emitEvent":
            return ("emit", repr(value["payload"]))
        case "complete":
            return ("complete", repr(value["result"]))
        case "workError":
            error = value["error"]
            return ("error", error.message, error.properties.get("name"), error.properties.get("code"))
        case "workReject":
            return ("reject", value["workRejectData"]["reason"], value["workRejectData"]["retries"])
        case "fetchRequest":
            asked = value["data"]
            return (
                "fetch",
                asked["url"],
                asked["method"],
                asked["mode"],
                asked["credentials"],
                asked.get("bodyBuffer"),
            )
        case "resetStateDone" | "measurement":
            return None
    return ("other", value["request"])


SAME = {
    "number": "x => x + 1",
    "values": "() => [1, 'é\\ud800', true, null, undefined, NaN, -Infinity, 10n, new Date(0), /a/g, new Map([[1, {a: [2]}]]), new Set(['x'])]",
    "binary": "() => [new Uint8Array([1, 2]), new Float64Array([1.5]), new Uint8Array(64), new Uint8Array([0, 0, 0, 0, 0, 0, 0, 0, 9])]",
    "sparse": "() => { const a = [1, , 3]; a.p = 1; return a }",
    "cycle": "() => { const o = {n: undefined}; o.self = o; return [o, o] }",
    "nothing": "() => {}",
    "boxed": "() => [new Number(1), new String('s')]",
    "function": "() => function named(a) { return a }",
    "arguments": "(x, a, b) => [x, a, b]",
    "async": "async x => { await null; return x }",
    "promise": "x => new Promise(r => setTimeout(() => r(x), 3))",
    "thenable": "x => ({then(f) { f(x) }})",
    "generator step": "() => [...(function* () { yield 1; yield 2 })()]",
    "closure state": "(() => { let n = 0; return () => ++n })()",
    "console": "x => { console.log('a'); console.debug(1, {b: 2}); console.info(undefined); console.warn([1]); console.error('e', null) }",
    "console repeats": "x => { for (let i = 0; i < 5; i++) console.log('same', 1); console.log('other'); console.log('other'); console.warn('other') }",
    "console repeats and progress": "x => { console.log(1); console.log(1); progress(0.5); console.log(1); console.log(1) }",
    "console objects differ": "x => { console.log({}); console.log({}) }",
    "console in later tasks": "async x => { console.log(1); await null; console.log(1); await new Promise(r => setTimeout(r, 2)); console.log(1) }",
    "console before the first slice": "(() => { console.log('early'); return () => console.log('now') })()",
    "progress": "x => progress()",
    "progress number": "x => progress(0.25)",
    "progress percent": "x => progress('30%')",
    "progress text": "x => progress('soon')",
    "progress of one": "x => progress(1)",
    "emit": "x => { work.emit('name', {a: [1, undefined]}); work.emit('', null) }",
    "emit without a name": "x => { try { work.emit(5) } catch (e) { return [e.constructor === Error, e.message] } }",
    "job": "() => [work.job.public.name, work.job.public.description, work.job.public.link]",
    "error": "() => { throw new Error('m') }",
    "type error": "() => { throw new TypeError('m') }",
    "own error": "() => { class Mine extends Error { constructor() { super('m'); this.name = 'Mine'; this.code = 'E1' } } throw new Mine() }",
    "object error": "() => { throw {message: 'm', name: 'N', code: 'C'} }",
    "rejection": "() => Promise.reject(new RangeError('r'))",
    "native error": "() => null.x",
    "order": "async () => { const o = []; setTimeout(() => o.push('t2'), 6); setTimeout(() => o.push('t1'), 0); Promise.resolve().then(() => o.push('m')); queueMicrotask(() => o.push('q')); o.push('s'); await new Promise(r => setTimeout(r, 20)); return o }",
    "timer arguments": "() => new Promise(r => setTimeout((a, b) => r([a, b]), 1, 'a', 'b'))",
    "timer text": "async () => { setTimeout('globalThis.byText = 1', 0); await new Promise(r => setTimeout(r, 10)); return globalThis.byText }",
    "interval": "() => new Promise(r => { let n = 0; const i = setInterval(() => { if (++n === 3) { clearInterval(i); r(n) } }, 2) })",
    "cleared timer": "async () => { let ran = false; clearTimeout(setTimeout(() => { ran = true }, 1)); await new Promise(r => setTimeout(r, 10)); return ran }",
    "immediate": "() => new Promise(r => setImmediate(r, 'x'))",
    "text": "() => [...new TextEncoder().encode('aé😀')].concat(new TextDecoder().decode(new Uint8Array([0xc3, 0xa9, 0xf0, 0x9f, 0x98, 0x80])))",
    "base64": "() => [btoa('abc'), btoa('ab'), atob('YWJj'), atob('YWI=')]",
    "blob": "async () => { const b = new Blob(['ab', new Uint8Array([99])], {type: 'text/x'}); return [b.size, b.type, await b.text(), await b.slice(1, 2).text(), (await b.arrayBuffer()).byteLength] }",
    "url": "() => { const u = new URL('http://u:p@h:81/p/q?a=1&b=2#f'); return [u.href, u.protocol, u.hostname, u.port, u.pathname, u.search, u.hash, u.searchParams.get('b'), String(u)] }",
    "relative url": "() => [new URL('../x?y', 'http://h/a/b/c').href, new URL('/z', 'http://h/a').href]",
    "bad url": "() => { try { new URL('nonsense') } catch (e) { return e.name } }",
    "headers": "() => { const h = new Headers({A: '1'}); h.append('a', '2'); h.set('b', '3'); return [h.get('A'), h.has('B'), [...h.entries()]] }",
    "response": "async () => { const r = new Response('text', {status: 201, statusText: 'S', headers: {x: 'y'}}); return [r.status, r.ok, r.statusText, r.headers.get('x'), await r.text(), r.bodyUsed] }",
    "request": "() => { const r = new Request('http://h/', {method: 'post', body: 'b'}); return [r.url, r.method, r.headers.get('content-type')] }",
    "strange places": "() => [navigator.userAgent, location.href, location.search, typeof performance.now(), self === globalThis, typeof WorkerGlobalScope]",
    "importScripts": "() => { try { importScripts('x') } catch (e) { return e.message } }",
    "wasm": "async () => { const b = new Uint8Array([0,97,115,109,1,0,0,0,1,5,1,96,0,1,127,3,2,1,0,7,5,1,1,102,0,0,10,6,1,4,0,65,42,11]); const {instance, module} = await WebAssembly.instantiate(b); return [instance.exports.f(), (await WebAssembly.instantiate(module)).exports.f(), (await WebAssembly.compile(b)) instanceof WebAssembly.Module, WebAssembly.validate(b)] }",
    "eval": "x => [eval('x + 1'), (0, eval)('typeof x'), new Function('return 5')()]",
    "sloppy this": "function () { return this === globalThis }",
    "shared memory": "() => { const s = new Int32Array(new SharedArrayBuffer(8)); Atomics.add(s, 0, 5); return Atomics.load(s, 0) }",
    "nowhere": "() => [typeof process, typeof Buffer, typeof KVIN, typeof XMLHttpRequest, typeof WebSocket, typeof indexedDB, typeof Worker, typeof global]",
    "reject": "() => { work.reject('why', 3) }",
    "reject without": "() => { work.reject('why') }",
    "reject false": "() => { work.reject(false) }",
}  # fmt: skip


@pytest.mark.parametrize("work_function", SAME.values(), ids=SAME.keys())
def test_same(both, work_function):
    slices = (1,) if "reject" in work_function else (1, 2)
    official, ours = both(work_function, slices, ("arg", {"o": [1]}))
    assert ours == official


def test_same_when_strict(both):
    official, ours = both("function () { return this === null }", (1,), useStrict=True)
    assert ours == official


def test_same_modules(both):
    modules = {"pkg": {
        "a.js": "module.declare(['./b'], function (require, exports, module) { exports.id = module.id; exports.b = require('./b').n; })",
        "b": "module.declare([], function (require, exports, module) { module.exports = {n: 7}; })",
    }}  # fmt: skip
    work = "() => { const caught = (f) => { try { return f() } catch (e) { return e.message } }; return [require('a.js').b, require('pkg/a.js') === require('a.js'), require('a.js').id, require('pkg/b').n, caught(() => require('none')), require.id('a.js'), require.paths] }"
    official, ours = both(work, (1,), dependencies=["pkg/a.js", "pkg/b"], requirePath=["pkg"], modules=modules)
    assert ours == official


# -------------------------------------------------------------------------------------------------------- globals

#: Globals whose type differs from the official evaluator's: (official, ours) and why.
DIFFERENT_GLOBALS = {
    "Intl": ("undefined", "object", "hidden there by a list; harmless"),
    "Iterator": ("undefined", "function", "a newer built-in than their list"),
    "URLSearchParams": ("undefined", "function", "belongs to URL"),
    "DOMException": ("undefined", "function", "on their list, missing in Node's contexts"),
    "clearImmediate": ("undefined", "function", "belongs to setImmediate"),
    "crypto": ("undefined", "object", "comes there with the Pyodide scripts, which this test leaves out"),
    "onerror": ("function", "object", "there the module system's own handler"),
    "onmessage": ("undefined", "object", "null, as in a worker that has set none"),
}
NAMES = """AbortController AggregateError Array ArrayBuffer Atomics BigInt BigInt64Array BigUint64Array Blob Boolean Buffer
    CustomEvent DOMException DataView Date Error EvalError Event EventTarget FinalizationRegistry Float32Array Float64Array
    FormData Function GPU Headers Infinity Int16Array Int32Array Int8Array Intl Iterator JSON KVIN Map Math MessageChannel NaN
    Number Object OffscreenCanvas Promise Proxy RangeError ReferenceError Reflect RegExp Request Response Set
    SharedArrayBuffer String Symbol SyntaxError TextDecoder TextEncoder TypeError URIError URL URLSearchParams Uint16Array
    Uint32Array Uint8Array Uint8ClampedArray WeakMap WeakRef WeakSet WebAssembly WebSocket Worker WorkerGlobalScope
    XMLHttpRequest _console addEventListener atob bravojs btoa caches clearImmediate clearInterval clearTimeout close console
    crypto decodeURI decodeURIComponent die dispatchEvent encodeURI encodeURIComponent escape eval fetch getWorktimeList
    global globalThis importScripts indexedDB isFinite isNaN isSecureContext location module name navigator nextTimer
    onerror onmessage onreadln ontimer parseFloat parseInt performance postMessage process progress queueMicrotask
    removeEventListener reportError require requestAnimationFrame scheduler self setImmediate setInterval setTimeout
    structuredClone unescape undefined work wrapScriptLoading writeln""".split()


def test_globals(both):
    listing = f"() => {NAMES!r}.map(name => name + ' ' + typeof globalThis[name])"
    official, ours = ([entry.split() for entry in eval(shown[0][1])] for shown in both(listing, (0,)))
    differences = {
        name: (theirs, our) for (name, theirs), (_, our) in zip(official, ours, strict=True) if theirs != our
    }
    assert differences == {name: (theirs, our) for name, (theirs, our, _) in DIFFERENT_GLOBALS.items()}


def test_every_own_global_is_named(both):
    listing = "() => Reflect.ownKeys(globalThis).map(String).filter(name => globalThis[name] !== undefined)"
    for shown in both(listing, (0,)):
        unknown = set(eval(shown[0][1])) - set(NAMES)
        assert unknown <= {"constructor", "hasOwnProperty"}, unknown


# ----------------------------------------------------------------------------------------------- meant differences

DIFFERENT = {
    "globals of a slice are gone": ("() => { globalThis.n = (globalThis.n ?? 0) + 1; return n }", ["1", "2"], ["1", "1"]),
    "left-over timers do not run": ("(() => { let ran = 0; return async () => { const was = ran; setTimeout(() => { ran++ }, 0); return was } })()", ["0", "1"], ["0", "0"]),
    "a falsy thrown value is an error": ("() => { throw 0 }", ["complete"], ["error"]),
    "a thrown text is its message": ("() => { throw 'text' }", ["initial state"], ["text"]),
    "an interval without a period repeats": ("() => new Promise(r => { let n = 0; const i = setInterval(() => { if (++n === 2) { clearInterval(i); r('twice') } }); setTimeout(() => r('once'), 60) })", ["'once'"], ["'twice'"]),
    "timers are numbers": ("() => { const t = setTimeout(() => {}, 0); clearTimeout(t); return typeof t }", ["'object'"], ["'number'"]),
    "messages cannot be forged": ("() => { postMessage({request: 'console', payload: {level: 'log', message: ['forged'], same: 1}}); return 1 }", ["forged"], ["1"]),
    "invalid base64 is refused": ("() => { try { return atob('*') } catch (e) { return e.name } }", None, ["InvalidCharacterError"]),
    "the host is out of reach": ("() => performance.constructor.constructor('return typeof process')()", ["'object'"], ["'undefined'"]),
    "request bodies are sent": ("async () => { fetch('http://h/', {method: 'POST', body: 'b'}); return 1 }", None, ["POST"]),
}  # fmt: skip


@pytest.mark.parametrize(("work_function", "official", "ours"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_meant_differences(both, work_function, official, ours):
    shown_official, shown_ours = both(work_function, (1, 2))
    for shown, expected in ((shown_official, official), (shown_ours, ours)):
        text = [repr(fact) for fact in shown]
        assert expected is None or all(part in fact for part, fact in zip(expected, text, strict=False)), text
    assert shown_ours != shown_official
