# ruff: noqa: E501 (work functions in JavaScript stay on one line)
"""What a slice leaves behind is gone before the next; what belongs to the job stays."""

from __future__ import annotations

import pytest

TWICE = ("data:application/json,0", "data:application/json,1")

LEFTOVERS = {
    "global": ("globalThis.count = (globalThis.count ?? 0) + 1", "globalThis.count"),
    "var by eval": ("(0, eval)('var made = 1')", "typeof made"),
    "undeclared": ("leaked = 1", "typeof leaked"),
    "getter": ("Object.defineProperty(globalThis, 'spy', {get: () => 1, configurable: true})", "typeof spy"),
    "symbol": ("globalThis[Symbol.for('s')] = 1", "globalThis[Symbol.for('s')]"),
    "removed": ("delete globalThis.setTimeout", "typeof setTimeout"),
    "replaced": (
        "console.log = () => 'mine'; performance.now = () => 7; Date = null",
        "console.log() + typeof performance.now() + typeof Date",
    ),
    "random": ("Math.random = () => 4", "Math.random()  === 4"),
    "method": ("Array.prototype.map = () => 'mine'", "[1].map(x => x) + ''"),
    "polyfill": (
        "Array.prototype.extra = 1; String.extra = 1; Object.prototype.everywhere = 1",
        "[].extra + String.extra + ({}).everywhere",
    ),
    "hidden polyfill": (
        "Object.defineProperty(Array.prototype, 'hidden', {value: 1, configurable: true})",
        "[].hidden",
    ),
    "accessor": ("Object.defineProperty(Map.prototype, 'size', {get: () => 99, configurable: true})", "new Map().size"),
    "iterator": ("Array.prototype[Symbol.iterator] = function* () { yield 9 }", "[...[1, 2]].join()"),
    "rare built-in": (
        "Intl.NumberFormat.prototype.format = 1; WebAssembly.compile = 1",
        "typeof new Intl.NumberFormat().format + typeof WebAssembly.compile",
    ),
    "prototype": ("Object.setPrototypeOf(Map.prototype, {odd: 1})", "new Map().odd"),
    "global prototype": ("Object.setPrototypeOf(globalThis, {odd: 1})", "typeof odd"),
    "error hook": (
        "Error.prepareStackTrace = () => 'mine'; Error.stackTraceLimit = 0",
        "typeof Error.prepareStackTrace + Error.stackTraceLimit",
    ),
    "throwing getter": ("Object.defineProperty(Math, 'abs', {get() { throw 1 }, configurable: true})", "Math.abs(-1)"),
    "public job": ("work.job.public.name = 'mine'", "work.job.public.name"),
}


@pytest.mark.parametrize(("act", "look"), LEFTOVERS.values(), ids=LEFTOVERS.keys())
def test_changes_are_undone(evaluator, value_of, act, look):
    work = f"x => {{ const look = () => String({look}); const seen = look(); {act}; return seen }}"
    first, second = (value_of(end) for end in evaluator.run(work, *TWICE))
    assert second == first


def test_permanent_globals_are_emptied(evaluator, value_of):
    work = "x => { const seen = globalThis.fixed; if (x === 0) Object.defineProperty(globalThis, 'fixed', {value: 1, writable: true}); return seen === undefined }"
    assert [value_of(end) for end in evaluator.run(work, *TWICE)] == [True, True]


def test_what_the_job_set_up_stays(evaluator, value_of):
    """Code around the work function runs once, at assignment; its globals and changes belong to the job."""
    work = """(() => {
      globalThis.table = [1, 2, 3];
      Array.prototype.sum = function () { return this.reduce((a, b) => a + b, 0) };
      let calls = 0;
      return (x) => { if (x === 0) { delete globalThis.table; delete Array.prototype.sum; return 'broke it' } return [table.sum(), ++calls] };
    })()"""
    ends = evaluator.run(work, *TWICE, "data:application/json,1")
    assert [value_of(end) for end in ends] == ["broke it", {"arr": [6, 1]}, {"arr": [6, 2]}]


def test_first_run_of_a_module_in_a_slice_keeps_its_changes_and_drops_the_slices(evaluator, value_of):
    asked = evaluator.assign(
        "x => { const before = [typeof fromModule, typeof fromSlice]; globalThis.fromSlice = 1; Array.prototype.slices = 1; require('p/m');"
        " return before.concat([typeof [].modules, typeof [].slices, require('p/m').runs]).join() }",
        dependencies=["p/m"],
    )
    source = "module.declare([], (require, exports) => { globalThis.fromModule = 1; Array.prototype.modules = 1; exports.runs = (exports.runs ?? 0) + 1 })"
    evaluator.send({"request": "moduleGroup", "id": asked["id"], "data": {"p": {"m": source}}})
    evaluator.until("assigned")
    evaluator.submit(*TWICE)
    first, second = (value_of(evaluator.slice()[0]) for _ in TWICE)
    assert first == "undefined,undefined,number,number,1"
    assert second == "number,undefined,number,number,1"


LATE = {
    "timeout": "setTimeout(late, 1)",
    "interval": "setInterval(late, 1)",
    "immediate": "setImmediate(late)",
    "timer of a timer": "setTimeout(() => setTimeout(late, 1), 1)",
    "chain of promises": "new Promise(r => setTimeout(r, 1)).then(late)",
    "waitAsync": "Atomics.waitAsync(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1).value.then(late)",
    "fetch": "fetch('http://x').then(late, late)",
}


@pytest.mark.parametrize("leave", LATE.values(), ids=LATE.keys())
def test_nothing_of_a_finished_slice_runs_later(evaluator, value_of, leave):
    work = f"""(() => {{
      const ran = [];
      return async x => {{
        const late = () => {{ ran.push(x); console.log('late'); progress(1); work.emit('late', x); work.reject('late') }};
        if (x === 0) {{ {leave}; return 'left' }}
        await new Promise(r => setTimeout(r, 25));
        return ran.length;
      }};
    }})()"""
    evaluator.assign(work)
    evaluator.submit(*TWICE)
    first, before_first = evaluator.slice()
    second, before_second = evaluator.slice()
    assert (value_of(first), value_of(second)) == ("left", 0)
    assert [m for m in before_first + before_second if m["request"] != "fetchRequest"] == []


def test_timers_of_the_set_up_run_in_the_first_slice(evaluator, value_of):
    work = "(() => { let ran = 0; setInterval(() => { ran++ }, 1); return async () => { ran = 0; await new Promise(r => setTimeout(r, 20)); return ran > 0 } })()"
    assert [value_of(end) for end in evaluator.run(work, *TWICE)] == [True, False]


def test_promise_jobs_that_are_ready_run_before_the_slice_ends(evaluator, value_of):
    work = "(() => { let n = 0; return async x => { const was = n; const step = k => Promise.resolve().then(() => { n++; if (k) step(k - 1) }); step(50); return was } })()"
    assert [value_of(end) for end in evaluator.run(work, *TWICE)] == [0, 51]


def test_a_slice_that_was_rejected_cannot_answer_later(evaluator, value_of):
    work = "async x => { if (x === 0) { work.reject('r'); await null; return 'late answer' } await new Promise(r => setTimeout(r, 5)); return x }"
    first, second = evaluator.run(work, *TWICE)
    assert first["request"] == "workReject"
    assert value_of(second) == 1


def test_post_message_answers_nothing(evaluator, value_of):
    work = "x => { postMessage({request: 'complete', result: 'forged'}); self.postMessage({ringSource: 3, value: {request: 'complete'}}); return x }"
    assert [value_of(end) for end in evaluator.run(work, *TWICE)] == [0, 1]


def test_plain_dialect_puts_back_as_well(evaluator):
    evaluator.send(
        {
            "request": "assign",
            "job": {
                "workFunction": "x => { const was = typeof left; left = 1; setTimeout(() => { postMessage(1); console.log('late') }, 1); return was }",
                "arguments": [],
            },
        }
    )
    evaluator.until("assigned")
    for _ in range(2):
        evaluator.send({"request": "main", "data": 1})
        evaluator.until("measurement")
        assert evaluator.next()["ps"]["value"]["ps"]["result"] == {"raw": "undefined"}
