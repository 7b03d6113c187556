# ruff: noqa: E501 (work functions in JavaScript stay on one line)
"""Nothing of the host's realm is reachable from the work function.

`attacks/*.js` are programs that try. Each gets `check`, which records every object whose prototype chain does not end
in the realm's own Object.prototype: one such object is an escape (its constructor's constructor is the host's Function).
"""

from __future__ import annotations

import json
import pathlib
import subprocess

import pytest

ATTACKS = sorted((pathlib.Path(__file__).parent / "attacks").glob("*.js"))
PRELUDE = """
  const found = [];
  const top = Object.prototype;
  const parent = Object.getPrototypeOf;
  function foreign(x) {
    if (x === null || (typeof x !== 'object' && typeof x !== 'function')) return false;
    let last = x;
    try {
      for (let next; (next = parent(last)); ) last = next;
    } catch (e) {
      return foreign(e);
    }
    return last !== top && !(last === x && parent(x) === null);
  }
  function check(x, where) {
    if (foreign(x)) found.push(where);
    return x;
  }
"""


def program(attack: str) -> str:
    """Slice 0 attacks and returns what it found, every other slice says whether all is well."""
    return f"""async function (slice) {{
  if (slice > 0) return typeof process + typeof globalThis.leak;
  {PRELUDE}
  {attack}
  try {{
    const last = await attack(check, found, foreign);
    if (typeof last === 'object' && last !== null) return last;
  }} catch (e) {{
    found.push('uncaught ' + (foreign(e) ? 'of the host: ' : '') + (e && e.message));
  }}
  return JSON.stringify(found.slice(0, 10));
}}"""


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda path: path.stem)
def test_attack_finds_nothing(evaluator, value_of, attack):
    ends = evaluator.run(program(attack.read_text()), *(f"data:application/json,{n}" for n in range(3)))
    found = value_of(ends[0])
    assert found == ("ok" if attack.stem == "getters_on_result" else "[]")
    assert [value_of(end) for end in ends[1:]] == ["undefinedundefined"] * 2


@pytest.mark.parametrize("attack", ["walk", "constructors", "import", "symbol_name", "timers"])
def test_attacks_find_the_holes_of_a_plain_context(node, attack):
    """The control: the same programs in a context made the usual way, with functions of the host in it."""
    source = next(path for path in ATTACKS if path.stem == attack).read_text()
    script = f"""
      const vm = require('vm');
      const shared = {{performance, console: {{log() {{}}}}, setTimeout, TextDecoder, URL, found: [], result: ''}};
      const context = vm.createContext(shared);
      vm.runInContext({json.dumps(f"globalThis.work = {program(source)}")}, context);
      vm.runInContext('work(0)', context).then((found) => process.stdout.write(String(found)));
    """
    done = subprocess.run([str(node), "-e", script], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout), done.stderr


ESCAPES = {
    "global": "globalThis.constructor.constructor('return process')()",
    "this": "(function () { return this })().constructor.constructor('return process')()",
    "function": "Function('return process')()",
    "async function": "(async () => {}).constructor('return process')()",
    "generator": "(function* () {}).constructor('return process')().next()",
    "console": "console.log.constructor('return process')()",
    "performance": "performance.constructor.constructor('return process')()",
    "timer": "setTimeout.constructor('return process')()",
    "host error": "(() => { try { new URL('x') } catch (e) { return e.constructor.constructor('return process')() } })()",
    "import": "import('fs').constructor.constructor('return process')()",
    "import error": "import('fs').catch(e => e.constructor.constructor('return process')())",
    "require": "require('fs')",
    "process.binding": "process.binding('fs')",
    "main module": "module.constructor._load('fs')",
    "import of data": "import('data:text/javascript,export default process')",
    "internal": "internalBinding('fs')",
    "indirect eval": "(0, eval)('process')",
    "timer text": "new Promise((r, j) => { globalThis.j = j; setTimeout('try { r2 = process } catch (e) { j(e) }', 0) })",
}


@pytest.mark.parametrize("expression", ESCAPES.values(), ids=ESCAPES.keys())
def test_ways_to_process_fail_with_errors_of_the_realm(evaluator, value_of, expression):
    work = f"async () => {{ try {{ return 'reached ' + await {expression} }} catch (e) {{ return e instanceof Error && e.constructor.constructor === Function }} }}"
    assert value_of(evaluator.run(work, "data:,")[0]) is True


def test_the_host_cannot_make_code_from_text(node, flags):
    """The second wall: were an object of the host to leak, its Function constructor would refuse."""
    script = "try { (() => {}).constructor('return 1')() } catch (e) { process.stdout.write(e.name) }"
    done = subprocess.run([str(node), *flags, "-e", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "EvalError"
