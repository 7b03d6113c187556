# ruff: noqa: E501
"""The KVIN codec of the realm: the known vectors, and the same text as the official package for generated values."""

from __future__ import annotations

import json
import pathlib
import subprocess

import pytest

HOST = pathlib.Path(__file__).parents[3] / "sandbox_image" / "host" / "realm"
VECTORS = pathlib.Path(__file__).parents[2] / "unit" / "kvin" / "vectors-v9.json"

LOAD = f"""
  const vm = require('vm'), fs = require('fs');
  const part = (name) => vm.runInThisContext(fs.readFileSync({json.dumps(str(HOST))} + '/' + name + '.js', 'utf8'));
  const lib = part('primordials')();
  lib.URL = URL;
  part('kvin')(lib);
  const ours = lib.kvin;
  const wrong = [];
"""
GENERATOR = """
  let state = 12345;
  const random = (n) => (state = (state * 1103515245 + 12345) % 2147483648) % n;
  const text = () => ['', 'a', 'é', '\\ud800', '\\u{1f600}', '__proto__', 'raw', 'x"y\\\\'][random(8)];
  const leaf = () => [() => random(100) - 50, () => -0, () => NaN, () => 1e21 / 3, () => Infinity, text, () => true, () => null,
    () => undefined, () => BigInt(random(1000)) ** 9n, () => new Date(random(1e9) * 1000), () => /a\\/b/gi, () => new Number(3),
    () => new Uint8Array(random(20)).fill(random(2)), () => new Float64Array([random(9), 0, 0]), () => new Error(text()),
    () => Symbol('s'), () => new String('boxed'), () => new DataView(new ArrayBuffer(3))][random(19)]();
  const value = (depth, known) => {
    if (depth === 0) return leaf();
    switch (random(9)) {
      case 0: { const o = {}; known.push(o); for (let n = random(4); n > 0; n--) o['k' + text()] = value(depth - 1, known); return o; }
      case 1: { const a = []; known.push(a); for (let n = random(12); n > 0; n--) a.push(value(depth - 1, known)); return a; }
      case 2: return Array.from({length: random(12)}, () => random(2));
      case 3: { const a = [1, 2]; a[4 + random(9)] = value(depth - 1, known); if (random(2)) a.name = text(); return a; }
      case 4: return new Set([value(depth - 1, known), random(5)]);
      case 5: { const s = {x: undefined}; return [s, {s}, [s]]; }
      case 6: return known.length > 0 && random(3) === 0 ? known[random(known.length)] : leaf();
      case 7: return new Map([[text(), random(9)], [random(9), value(depth - 1, [])]]);
      default: return leaf();
    }
  };
"""


def run(node: pathlib.Path, script: str) -> list[str]:
    done = subprocess.run([str(node), "-"], input=script, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_vectors(node):
    script = f"""
      {LOAD}
      const inspect = (value) => require('util').inspect(value, {{depth: 9}});
      const vectors = JSON.parse(fs.readFileSync({json.dumps(str(VECTORS))}));
      for (const {{js, text}} of vectors) {{
        const made = ours.stringify((0, eval)('(' + js + ')')).replace(/"stack":"(?:[^"\\\\]|\\\\.)*"/, '"stack":"<stack>"');
        if (made !== text) wrong.push(js + ' gives ' + made);
        if (/class |Buffer/.test(js) || text.includes('<stack>')) continue;
        const again = ours.stringify(ours.parse(text));
        if (again !== text && !/function|=>|Boolean|null\\)/.test(js)) wrong.push(js + ' comes back as ' + again);
      }}
      console.log(JSON.stringify(vectors.length < 100 ? ['too few'] : wrong));
    """
    assert run(node, script) == []


@pytest.mark.parametrize(
    "text",
    [
        "{}", '{"_serializeVerId":"v3","what":1}', '{"_serializeVerId":"v9","what":null}', '{"_serializeVerId":"v9","what":{"ctr":"process.exit"}}',
        '{"_serializeVerId":"v9","what":{"ctr":"Evil","ps":{}}}', '{"_serializeVerId":"v9","what":{"ctr":99}}', '{"_serializeVerId":"v9","what":{"seen":0}}',
        '{"_serializeVerId":"v9","what":{"ctr":"Function","arg":"x","ps":{}}}', '{"_serializeVerId":"v9","what":{"ctr":"Object","ab8":"x"}}',
    ],
)  # fmt: skip
def test_decoder_refuses_what_it_does_not_know(node, text):
    script = f"{LOAD} try {{ ours.parse({json.dumps(text)}); wrong.push('taken'); }} catch (e) {{ if (e.name !== 'TypeError') wrong.push(e.name); }} console.log(JSON.stringify(wrong));"
    assert run(node, script) == []


def test_names_from_outside_cannot_change_prototypes(node):
    text = '{"_serializeVerId":"v9","what":{"ctr":0,"ps":{"__proto__":{"raw":{"polluted":1}},"u":{"undefined":true}}}}'
    script = f"{LOAD} const o = ours.parse({json.dumps(text)}); console.log(JSON.stringify([o.polluted ?? 'clean', Object.keys(o).join()]));"
    assert run(node, script) == ["clean", "__proto__,u"]


@pytest.mark.npm
def test_generated_values_agree_with_the_official_package(node, npm_modules):
    script = f"""
      {LOAD}{GENERATOR}
      const official = new (require({json.dumps(str(npm_modules / "kvin"))}).KVIN)();
      const inspect = (value) => require('util').inspect(value, {{depth: 12, sorted: true}}).replace(/\\n/g, ' ');
      let compared = 0;
      for (let i = 0; i < 3000; i++) {{
        const made = value(3, []);
        let theirs;
        try {{ theirs = official.stringify(made); }} catch {{ continue; }}
        compared++;
        const mine = ours.stringify(made);
        if (mine !== theirs) wrong.push(`writes ${{mine}} instead of ${{theirs}}`);
        let back;
        try {{ back = official.parse(theirs); }} catch {{ continue; }}
        if (inspect(ours.parse(theirs)) !== inspect(back) && !/mapKeys|"set"/.test(theirs)) wrong.push('reads ' + theirs);
      }}
      console.log(JSON.stringify(compared < 2000 ? ['only ' + compared] : wrong.slice(0, 5)));
    """
    assert run(node, script) == []
