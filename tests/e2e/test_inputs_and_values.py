"""Every kind of input set and value, deployed by the official client and computed in containers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest

from tests.e2e.harness import ClientRun

pytestmark = [pytest.mark.docker, pytest.mark.npm]

Run = Callable[..., Awaitable[ClientRun]]


async def results_of(run: Run, expression: str, *, prelude: str = "") -> list[object]:
    """Deploy `expression` (a Job) and return its results in slice order."""
    program = f"""
        {prelude}
        const job = {expression};
        const results = await job.exec();
        say('results', Array.from(results));
    """
    outcome = (await run(program)).ok()
    values = outcome.one("results")
    assert isinstance(values, list)
    return values


async def test_a_range(run: Run) -> None:
    values = await results_of(run, "compute.for(1, 10, (i) => { progress(1); return i * i; })")
    assert values == [i * i for i in range(1, 11)]


async def test_a_range_with_a_step(run: Run) -> None:
    assert await results_of(run, "compute.for(6, 16, 3, (i) => { progress(); return i; })") == [6, 9, 12, 15]


async def test_a_range_that_counts_down(run: Run) -> None:
    assert await results_of(run, "compute.for(3, 1, -1, (i) => { progress(); return i; })") == [3, 2, 1]


async def test_a_list_of_objects(run: Run) -> None:
    objects = [{"a": 1, "b": {"c": [1, 2, {"d": None}]}}, {"a": -0.5, "t": "x"}, {"10": 1, "2": 2, "z": True}]
    values = await results_of(
        run, f"compute.for({json.dumps(objects)}, (o) => {{ progress(); return {{ got: o, keys: Object.keys(o) }}; }})"
    )
    assert [value["got"] for value in values] == objects  # type: ignore[index]
    assert values[2]["keys"] == ["2", "10", "z"]  # type: ignore[index]


async def test_typed_arrays_both_ways(run: Run) -> None:
    program = """
        const inputs = [new Uint8Array([1, 2, 255]), new Float64Array([0.1, -0, NaN, Infinity]), new Int16Array(2000)];
        const job = compute.for(inputs, (a) => {
            progress();
            return { kind: a.constructor.name, doubled: a.map((x) => x * 2), length: a.length };
        });
        const results = Array.from(await job.exec());
        say('results', results.map((r) => [r.kind, r.doubled.constructor.name, r.length, Array.from(r.doubled.slice(0, 4)).map(String)]));
    """
    assert (await run(program)).ok().one("results") == [
        ["Uint8Array", "Uint8Array", 3, ["2", "4", "254"]],
        ["Float64Array", "Float64Array", 4, ["0.2", "0", "NaN", "Infinity"]],
        ["Int16Array", "Int16Array", 2000, ["0", "0", "0", "0"]],
    ]


async def test_strings_with_emoji_and_lone_surrogates(run: Run) -> None:
    program = r"""
        const inputs = ['plain', 'é中😀', '\ud83d alone', 'ends \ude00', 'a%20b#c?d&e,f', 'nul \u0000 \u2028', '', '\\"\n'];
        const job = compute.for(inputs, (s) => { progress(); return s + '|' + s.length; });
        const results = Array.from(await job.exec());
        say('same', results.map((r, i) => r === inputs[i] + '|' + inputs[i].length));
        say('results', results);
    """
    outcome = (await run(program)).ok()
    assert outcome.one("same") == [True] * 8, outcome.one("results")


async def test_five_thousand_listed_inputs_of_three_kilobytes(run: Run) -> None:
    program = """
        const inputs = Array.from({ length: 5000 }, (_, i) => String(i).padStart(6, '0') + 'x'.repeat(3000));
        const job = compute.for(inputs, (s) => { progress(); return [Number(s.slice(0, 6)), s.length]; });
        const results = Array.from(await job.exec());
        say('count', results.length);
        say('wrong', results.filter((r, i) => !r || r[0] !== i || r[1] !== 3006).length);
    """
    outcome = (await run(program, within=110)).ok()
    assert (outcome.one("count"), outcome.one("wrong")) == (5000, 0)


async def test_compute_do(run: Run) -> None:
    values = await results_of(run, "compute.do(7, (n) => { progress(); return n + 100; })")
    assert values == [100 + n for n in range(7)]


async def test_compute_do_once(run: Run) -> None:
    assert await results_of(run, "compute.do(() => { progress(); return 'once'; })") == ["once"]


async def test_an_empty_input_set(run: Run) -> None:
    assert await results_of(run, "compute.for([], (x) => { progress(); return x; })") == []


async def test_arguments(run: Run) -> None:
    program = """
        const job = compute.for(1, 3, (i, text, list, bytes, flag) => {
            progress();
            return [i, text, list, Array.from(bytes), bytes.constructor.name, flag];
        }, ['t😀', [1, { a: 2 }], new Uint8Array([7, 8]), true]);
        say('results', Array.from(await job.exec()));
    """
    assert (await run(program)).ok().one("results") == [
        [i, "t😀", [1, {"a": 2}], [7, 8], "Uint8Array", True] for i in (1, 2, 3)
    ]


async def test_an_async_work_function(run: Run) -> None:
    values = await results_of(
        run,
        "compute.for(1, 6, async (i) => { progress(0); await new Promise((r) => setTimeout(r, 20 * (7 - i))); progress(1); return -i; })",
    )
    assert values == [-i for i in range(1, 7)]


async def test_values_that_json_cannot_hold(run: Run) -> None:
    program = """
        const job = compute.for(1, 6, (i) => {
            progress();
            return [null, undefined, NaN, 12345678901234567890n, { when: new Date(86400000) }, new Map([['k', new Set([1])]]), /x/gi][i];
        });
        const r = Array.from(await job.exec());
        say('results', [r[0] === undefined, Number.isNaN(r[1]), typeof r[2], String(r[2]), r[3].when.toISOString(), r[4].get('k').has(1), String(r[5])]);
    """
    assert (await run(program)).ok().one("results") == [
        True, True, "bigint", "12345678901234567890", "1970-01-02T00:00:00.000Z", True, "/x/gi",
    ]  # fmt: skip


async def test_a_result_of_a_megabyte(run: Run) -> None:
    values = await results_of(run, "compute.for(1, 2, (i) => { progress(); return 'é'.repeat(1e6) + i; })")
    assert [(len(str(value)), str(value)[-1]) for value in values] == [(1_000_001, "1"), (1_000_001, "2")]


async def test_multi_and_sparse_ranges(run: Run) -> None:
    program = """
        const { RangeObject, MultiRangeObject, SparseRangeObject } = require('dcp/range-object');
        const work = (...a) => { progress(); return a.length === 1 ? a[0] : a; };
        const sparse = new SparseRangeObject(new RangeObject(1, 3), new RangeObject(10, 20, 5));
        say('sparse', Array.from(await compute.for(sparse, work).exec()));
        const multi = new MultiRangeObject([new RangeObject(1, 2), ['a', 'b']]);
        say('multi', Array.from(await compute.for(multi, work).exec()));
        const grouped = new RangeObject({ start: 1, end: 5, step: 1, group: 2 });
        say('grouped', Array.from(await compute.for(grouped, work).exec()));
    """
    outcome = (await run(program)).ok()
    assert outcome.one("sparse") == [1, 2, 3, 10, 15, 20]
    assert outcome.one("multi") == [[1, "a"], [1, "b"], [2, "a"], [2, "b"]]
    assert outcome.one("grouped") == [[1, 2], [3, 4], [5]]
