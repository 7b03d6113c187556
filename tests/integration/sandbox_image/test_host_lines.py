# ruff: noqa: E501 (work functions in JavaScript stay on one line)
"""The host program's line protocol, both dialects, over plain pipes."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import socket
import subprocess

import pytest

JSON_1 = "data:application/json,1"


def message_of(value):
    return {"type": "workerMessage", "message": {"_serializeVerId": "v9", "what": {"raw": value}}}


def test_describe_offers_the_extension(evaluator):
    evaluator.send({"request": "describe"})
    value = evaluator.until("describe")
    assert value["worktimes"] == [{"name": "map-basic", "version": "1.0.0"}]
    assert value["capabilities"] == {
        "environment": {"webgpu": False, "offscreenCanvas": False, "fdlibm": True},
        "useStrict": True,
    }
    assert value["extensions"] == {"pipeline": {"version": 1, "depth": 256}}


def test_starts_without_its_flags_by_replacing_itself(start, value_of):
    assert value_of(start(flags=[]).run("x => x + 1", JSON_1)[0]) == 2


def test_slices_queue_up_and_are_answered_in_order(evaluator, value_of):
    ends = evaluator.run(
        "async x => { await new Promise(r => setTimeout(r, x % 3)); return x * 2 }",
        *(f"data:application/json,{n}" for n in range(256)),
    )
    assert [end["id"] for end in ends] == list(range(256))
    assert [value_of(end) for end in ends] == [2 * n for n in range(256)]
    assert all(end["measurement"]["total"] >= 0 and end["measurement"]["CPU"] >= 0 for end in ends)


@pytest.mark.parametrize(
    ("expression", "method", "text"),
    [
        ("'a\"b'", "json", '"a\\"b"'),
        ("true", "json", "true"),
        ("-0", "json", "-0"),
        ("new Date(0)", "json", '"1970-01-01T00:00:00.000Z"'),
        ("({toJSON() { return [1] }})", "json", "[1]"),
        ("0", "kvin", '{"_serializeVerId":"v9","what":0}'),
        ("NaN", "kvin", '{"_serializeVerId":"v9","what":{"number":"NaN"}}'),
        ("null", "kvin", '{"_serializeVerId":"v9","what":{"raw":null}}'),
        ("undefined", "kvin", '{"_serializeVerId":"v9","what":{"undefined":true}}'),
        ("[1, , 'x']", "kvin", '{"_serializeVerId":"v9","what":{"arr":[1],"ps":{"0":1,"2":"x"},"len":3}}'),
        ("new Uint8Array([1, 2])", "kvin", '{"_serializeVerId":"v9","what":{"ctr":2,"ab8":"\\u0001\\u0002"}}'),
        ("new (class Foo { a = 1 })()", "kvin", '{"_serializeVerId":"v9","what":{"ctr":0,"ps":{"a":1}}}'),
        (
            "(() => { const o = {}; o.o = o; return o })()",
            "kvin",
            '{"_serializeVerId":"v9","what":{"ctr":0,"ps":{"o":{"seen":0}}}}',
        ),
    ],
)
def test_rule_of_results(evaluator, expression, method, text):
    result = evaluator.run(f"() => ({expression})", JSON_1)[0]["result"]
    mime = "application/json" if method == "json" else "application/x-kvin"
    assert result == {"string": text, "method": method, "MIMEType": mime}


@pytest.mark.parametrize(
    ("uri", "check", "expected"),
    [
        ("data:,a%20b%25;/?", "x => x", "a b%;/?"),
        ("data:text/plain;charset=utf-8;base64,w6k=", "x => x", "é"),
        ("data:text/plain;base64,6Q==", "x => x", "é"),
        ("data:application/json,%22%5Cud800%22", "x => x.charCodeAt(0)", 0xD800),
        (
            "data:text/html;charset=utf-8,%3Cp%3E",
            "x => [typeof x, `${x}`, x.contentType].join()",
            "object,<p>,text/html",
        ),
        (
            "data:image/png;base64,AAH/",
            "x => x.constructor.name + [...x] + x.contentType",
            "Uint8Array0,1,255image/png",
        ),
        ("data:application/octet-stream,%00a%FF", "x => [...x].join()", "0,97,255"),
        (
            'data:application/x-kvin,{"_serializeVerId":"v9","what":{"ctr":8,"ab8":"\\u0000\\u0000%C3%80?"}}',
            "x => x.constructor.name + x[0]",
            "Float32Array1.5",
        ),
        (
            'data:application/x-kvin,{"_serializeVerId":"v8","what":{"mapKeys":{"arr":["a"]},"mapVals":{"arr":[1]}}}',
            "x => x.get('a')",
            1,
        ),
    ],
)
def test_data_uris(evaluator, value_of, uri, check, expected):
    assert value_of(evaluator.run(check, uri)[0]) == expected


def test_bad_data_fail_their_slice_only(evaluator, value_of):
    ends = evaluator.run("x => x", "data:application/json,{", "http://x/", "data:application/x-kvin,{}", JSON_1)
    assert [end["request"] for end in ends] == ["workError"] * 3 + ["complete"]
    assert value_of(ends[3]) == 1


def test_surrogates_survive_in_both_directions(evaluator, value_of):
    text = "\ud83d\ude00 \udc00 \ud800 é"
    evaluator.assign("x => x + x.length")
    evaluator.submit("data:application/json," + json.dumps(text))
    end, _ = evaluator.slice()
    assert value_of(end) == json.loads(json.dumps(text)) + "8"


def test_arguments_are_decoded_once_and_passed_after_the_datum(evaluator, value_of):
    arguments = ["data:,text", 'data:application/x-kvin,{"_serializeVerId":"v9","what":{"arr":[1,{"undefined":true}]}}']
    ends = evaluator.run("(x, a, b) => [x, a, b.length, b[1] === undefined]", JSON_1, arguments=arguments)
    assert value_of(ends[0]) == {"arr": [1, "text", 2, True]}


def test_work_function_is_strict_when_asked(start, value_of):
    source = "function () { return this === null }"
    assert value_of(start().run(source, JSON_1, useStrict=True)[0]) is True
    assert value_of(start().run(source, JSON_1)[0]) is False


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("function ( {", "SyntaxError"),
        ("42", "TypeError"),
        ("missing", "ReferenceError"),
        ("(() => { throw new RangeError('x') })()", "RangeError"),
    ],
)
def test_errors_of_the_work_function_text_are_reported_at_once(evaluator, source, name):
    answer = evaluator.assign(source)
    assert answer["request"] == "reject"
    assert answer["error"]["name"] == name
    assert answer["error"]["message"]


#: What the official client could not read either.
BAD_URIS = [
    "data:nonsense",
    "https://a.example/",
    "data:application/json,{",
    "data:application/json;base64,ew==",
    "data:application/x-kvin,{}",
    "data:application/x-kvin,nonsense",
    "data:,%ZZ",
    "data:application/json,%C3",
    "data:image/png,%zz",
    "data:image/png,abc%2",
    "data:image/png;base64,A!==",
    "data:image/png;base64,AAAAA",
    "data:text/plain;base64,=AAA",
    "data:text/plain;charset=utf-8;base64,/w==",
    "data:text/plain;charset=windows-1252,x",
]
GOOD_URIS = {
    "data:,%C2%BD": "½",
    "data:text/plain;charset=UTF-8;base64,wr0=": "½",
    "data:text/plain;base64,wr0": "Â½",
    "data:text/plain;base64,w r0\n=": "Â½",
    "data:text/plain;charset=latin1;base64,vQ==": "½",
    "data:text/plain;base64,": "",
    "data:application/json;base64,WzFd": [1],
    "data:application/json,%5B1%5D": [1],
}


FEIGN = "(x) => { if (x === 'feign') throw Object.assign(new Error('datum'), { code: 'EBADDATUM', badDatum: true }); return x; }"


def test_a_datum_that_cannot_be_decoded_fails_its_slice_in_a_way_that_no_job_can_feign(evaluator):
    *failed, feigned, fine = evaluator.run(FEIGN, *BAD_URIS, "data:,feign", "data:,fine")
    for uri, end in zip(BAD_URIS, failed, strict=True):
        assert (end["request"], end["badDatum"], end["error"]["code"]) == ("workError", True, "EBADDATUM"), uri
        assert end["error"]["message"].startswith("datum: "), uri
    assert (feigned["request"], feigned["badDatum"]) == ("workError", False)
    assert fine["request"] == "complete"


def test_data_uris_that_can_just_be_decoded(evaluator):
    ends = evaluator.run("x => JSON.stringify(x)", *GOOD_URIS)
    decoded = [json.loads(json.loads(end["result"]["string"])) for end in ends]
    assert decoded == list(GOOD_URIS.values())


def test_wrong_worktime_bad_argument_and_second_job_are_refused(start):
    assert start().assign("x => x", worktime={"name": "pyodide", "version": "0.28.0"})["error"]["code"] == "EWORKTIME"
    for argument in ("nonsense", *BAD_URIS):
        error = start().assign("x => x", arguments=[argument])["error"]
        assert error["code"] == "EBADARG" and error["message"].startswith("argument: ")
    evaluator = start()
    evaluator.assign("x => x")
    assert evaluator.assign("x => x")["error"]["code"] == "EASSIGNED"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "() => { throw Object.assign(new TypeError('m'), {code: 'EX'}) }",
            {"name": "TypeError", "message": "m", "code": "EX"},
        ),
        ("async () => { await null; throw 'text' }", {"name": "Error", "message": "text"}),
        ("() => { throw undefined }", {"name": "Error", "message": "undefined"}),
        ("() => { throw {get message() { throw 1 }} }", {"name": "Error", "message": "[object Object]"}),
        (
            "() => new Promise(() => setTimeout(() => { throw new Error('late') }, 1))",
            {"name": "Error", "message": "late"},
        ),
        ("() => new WeakMap()", {"name": "TypeError", "message": "a WeakMap cannot be serialised"}),
        ("() => ({toJSON() { throw new Error('no') }})", {"name": "Error", "message": "no"}),
        ("function f() { f() }", {"name": "RangeError", "message": "Maximum call stack size exceeded"}),
    ],
)
def test_errors_of_slices(evaluator, value_of, source, error):
    end = evaluator.run(source, JSON_1)[0]
    assert end["request"] == "workError"
    assert error.items() <= end["error"].items()
    assert isinstance(end["error"]["stack"], str)


def test_stack_shows_the_job_and_not_the_host(evaluator):
    stack = evaluator.run("function named() { throw new Error('m') }", JSON_1)[0]["error"]["stack"]
    assert "named" in stack
    assert "work-function.js:1" in stack
    assert not any(word in stack for word in ("node:", "evaluator:", "main.js", "/host"))


def test_reject_ends_the_slice_whatever_the_function_does_next(evaluator, value_of):
    source = "x => { if (x === 1) { work.reject('not mine', 2); return new Promise(() => {}) } if (x === 2) work.reject(false); return x }"
    ends = evaluator.run(source, JSON_1, "data:application/json,2", "data:application/json,3")
    assert (ends[0]["request"], ends[0]["reason"], ends[0]["retries"]) == ("workReject", "not mine", 2)
    assert (ends[1]["request"], ends[1]["reason"], ends[1]["retries"]) == ("workReject", "false", 1)
    assert value_of(ends[2]) == 3


def test_progress_is_throttled_and_a_short_slice_sends_none(evaluator):
    evaluator.assign(
        "x => { const end = performance.now() + x; do progress(0.25); while (performance.now() < end); }",
        config={"progressThrottle": 0.05},
    )
    evaluator.submit("data:application/json,0", "data:application/json,120")
    end, before = evaluator.slice()
    assert (before, end["progressed"]) == ([], True)
    end, before = evaluator.slice()
    assert 1 <= len(before) <= 3
    assert all(
        m["request"] == "progress" and m["id"] == 1 and m["progress"] == 25 and m["value"] == 0.25 for m in before
    )
    assert before[0]["throttledReports"] > 0


def test_progress_says_nothing_until_called(evaluator):
    assert evaluator.run("x => x", JSON_1)[0]["progressed"] is False


def test_finished_slices_and_progress_are_out_before_a_long_slice_ends(evaluator):
    """A synchronous slice blocks the host; what came before must not wait for its end."""
    evaluator.assign("x => { while (x) progress(0.5); return x }", config={"progressThrottle": 0.01})
    evaluator.submit("data:application/json,0", "data:application/json,0", "data:application/json,1")
    assert [evaluator.slice()[0]["id"] for _ in range(2)] == [0, 1]
    assert evaluator.until("progress")["id"] == 2


def test_console_counts_repeats_and_events_carry_their_value(evaluator):
    evaluator.assign(
        "x => { console.log('a', 1); console.log('a', 1); console.log('a', 1); console.warn('a', [undefined]); work.emit('e', {a: [1, undefined]}); work.emit('e', 10n) }"
    )
    evaluator.submit(JSON_1)
    _, before = evaluator.slice()
    assert all(m["id"] == 0 for m in before)
    payloads = [m["payload"] for m in before]
    assert payloads == [
        {"level": "log", "message": {"_serializeVerId": "v9", "what": {"arr": ["a", 1]}}, "same": 1},
        {"level": "log", "same": 3},
        {
            "level": "warn",
            "message": {"_serializeVerId": "v9", "what": {"arr": ["a", {"arr": [{"undefined": True}]}]}},
            "same": 1,
        },
        # As a client gets it, which is JSON; KVIN is for what JSON cannot hold.
        {"eventName": "custom", "customEvent": "e", "data": {"a": [1, None]}},
        {"eventName": "custom", "customEvent": "e", "data": {"_serializeVerId": "v9", "what": {"bigint": "10"}}},
    ]


def test_messages_stay_small(evaluator, value_of):
    """A reader takes a huge or very deep message for an attack; the honest program sends none."""
    evaluator.assign(
        "() => { let deep = 1; for (let i = 0; i < 200; i++) deep = [deep]; console.log('y'.repeat(2e6)); console.log(deep);"
        " const said = []; for (const v of ['y'.repeat(2e6), deep]) try { work.emit('e', v) } catch (e) { said.push(e.name) }"
        " return said.join() }"
    )
    evaluator.submit(JSON_1)
    end, before = evaluator.slice()
    assert value_of(end) == "RangeError,RangeError"
    assert [m["request"] for m in before] == ["console", "console"]
    assert all(len(json.dumps(m)) < 10_000 for m in before)


def test_fetch_goes_out_and_its_answer_comes_back(evaluator, value_of):
    evaluator.assign(
        "async () => { const r = await fetch('http://h/p', {method: 'post', body: 'é', headers: {a: 'b'}}); return [r.status, r.ok, r.url, r.headers.get('X'), await r.text()].join() }"
    )
    evaluator.submit(JSON_1)
    asked = evaluator.until("fetchRequest")
    assert (asked["id"], asked["data"]["url"], asked["data"]["method"]) == (0, "http://h/p", "POST")
    assert asked["data"]["bodyBase64"] == "w6k="
    assert ["a", "b"] in asked["data"]["headersEntries"]
    answer = {
        "url": "http://h/q",
        "status": 201,
        "statusText": "",
        "headersEntries": [["x", "y"]],
        "bodyBase64": "w6k=",
    }
    evaluator.send({"request": "fetchResponse", "fetchId": asked["fetchId"], "data": answer})
    assert value_of(evaluator.slice()[0]) == "201,true,http://h/q,y,é"


def test_fetch_can_fail_and_answers_to_finished_slices_are_dropped(evaluator, value_of):
    evaluator.assign(
        "async x => { const p = fetch('http://h/' + x); return x ? 'left' : p.catch(e => e.message + e.code) }"
    )
    evaluator.submit(JSON_1, "data:application/json,0")
    first, second = evaluator.until("fetchRequest"), None
    assert value_of(evaluator.slice()[0]) == "left"
    second = evaluator.until("fetchRequest")
    evaluator.send({"request": "fetchError", "fetchId": first["fetchId"], "error": {"message": "late"}})
    evaluator.send(
        {"request": "fetchError", "fetchId": second["fetchId"], "error": {"message": "denied ", "code": "EPERM_ORIGIN"}}
    )
    assert value_of(evaluator.slice()[0]) == "denied EPERM_ORIGIN"


# ------------------------------------------------------------------------------------------------- modules

GROUP = {
    "testpkg": {
        "a.js": "module.declare(['./lib/b', {label: './lib/c.js'}], function (require, exports, module) { exports.sum = x => x + require('./lib/b.js').n + require('label').n; globalThis.loads = (globalThis.loads ?? 0) + 1; })",
        "lib/b.js": "module.declare([], function (require, exports, module) { exports.n = 10; })",
        "lib/c.js": "module.declare(function (require, exports, module) { module.exports = {n: 100}; })",
    }
}


def test_dependencies_are_asked_for_and_required(evaluator, value_of):
    asked = evaluator.assign(
        "x => [require('a.js').sum(x), require('testpkg/a.js') === require('a.js'), loads]",
        dependencies=["testpkg/a.js"],
        requirePath=["testpkg"],
    )
    assert (asked["request"], asked["data"]) == ("dependency", ["testpkg/a.js"])
    evaluator.send({"request": "moduleGroup", "id": asked["id"], "data": GROUP})
    evaluator.until("assigned")
    evaluator.submit(JSON_1, JSON_1)
    # The module ran in the first slice; what it did to the globals belongs to the job and is there in the second.
    assert [value_of(evaluator.slice()[0]) for _ in range(2)] == [{"arr": [111, True, 1]}] * 2


def test_missing_and_broken_modules_are_refused(start):
    evaluator = start()
    asked = evaluator.assign("x => x", dependencies=["p/f.js"])
    evaluator.send({"request": "moduleGroupError", "id": asked["id"], "message": "gone"})
    error = evaluator.until("reject")["error"]
    assert error["code"] == "ENOMODULE"
    assert "gone" in error["message"]
    evaluator = start()
    asked = evaluator.assign("x => x", dependencies=["p/f.js"])
    evaluator.send({"request": "moduleGroup", "id": asked["id"], "data": {"p": {"f.js": "module.declare(["}}})
    assert evaluator.until("reject")["error"]["name"] == "SyntaxError"


# ------------------------------------------------------------------------------------------- the plain dialect


def kvin(value_text: str) -> bytes:
    return b'{"type":"workerMessage","message":{"_serializeVerId":"v9","what":%s}}\n' % value_text.encode()


PLAIN_ASSIGN = (
    '{"ctr":0,"ps":{"request":{"raw":"assign"},"job":{"ctr":0,"ps":{"id":{"raw":"j"},"workFunction":{"raw":"(x, a) => { progress(); console.log(x); return [x, a.size, a] }"},'
    '"arguments":{"arr":[{"set":{"arr":[1,2]}}]},"dependencies":{"raw":[]},"requirePath":{"raw":[]},"modulePath":{"raw":[]},"public":{"raw":{}},'
    '"worktime":{"raw":{"name":"map-basic","version":"1.0.0"}}}},"sandboxConfig":{"raw":{}}}}'
)


def test_plain_dialect(evaluator):
    evaluator.send({"request": "describe"}, {"request": "applyRequirements", "worktime": "map-basic"})
    evaluator.until("applyRequirementsDone")
    evaluator.write(kvin(PLAIN_ASSIGN))
    evaluator.until("assigned")
    for _ in range(2):
        evaluator.send({"request": "resetState"})
        evaluator.until("resetStateDone")
        evaluator.write(
            kvin('{"ctr":0,"ps":{"request":{"raw":"main"},"data":{"ctr":19,"ps":{},"arg":"1970-01-01T00:00:00.000Z"}}}')
        )
        progress, console, measurement, complete = (evaluator.next() for _ in range(4))
        assert progress["value"] == {"request": "progress", "progress": 0, "indeterminate": True, "throttledReports": 0}
        date = {"ctr": 19, "ps": {}, "arg": "1970-01-01T00:00:00.000Z"}
        assert console["ps"]["value"]["ps"]["payload"] == {
            "ctr": 0,
            "ps": {"level": {"raw": "log"}, "message": {"arr": [date]}, "same": 1},
        }
        assert measurement["value"].keys() == {"request", "total", "CPU", "webGL", "webGPU"}
        assert complete["ps"]["value"]["ps"] == {
            "request": {"raw": "complete"},
            "result": {"arr": [date, 2, {"set": {"arr": [1, 2]}}]},
        }


def test_plain_reject_ends_the_sandbox(evaluator):
    evaluator.write(kvin(PLAIN_ASSIGN.replace("progress();", "work.reject('r', 1);")))
    evaluator.until("assigned")
    evaluator.send({"request": "main", "data": 1})
    assert evaluator.until("workReject")["workRejectData"] == {"reason": "r", "retries": 1}
    assert evaluator.next() == {"text": "DIE: worker close called"}
    assert evaluator.next() is None
    assert evaluator.process.wait(timeout=10) == 0


def test_every_plain_line_is_acknowledged_and_pipelined_slices_are_not(evaluator):
    lines = iter(evaluator.line, None)
    assert "scriptLoaded" in next(lines)
    assert "__sandboxLoaded" in next(lines)
    evaluator.send({"request": "describe"})
    assert '"describe"' in next(lines)
    assert json.loads(next(lines)[4:]) == {
        "type": "result",
        "step": "workerMessage",
        "success": True,
        "origin": "workerMessage",
    }
    evaluator.write(b"nonsense\n")
    assert json.loads(next(lines)[4:])["success"] is False
    evaluator.write(b'{"type":"newSerializer","payload":"process.exit()"}\n')
    assert json.loads(next(lines)[4:])["exception"]["name"] == "TypeError"


def test_eval_before_the_job(evaluator):
    evaluator.send({"request": "eval", "data": "Promise.resolve([typeof process, 6 * 7])", "msgId": 5})
    evaluator.next(), evaluator.next()
    answer = evaluator.next()["ps"]["value"]["ps"]
    assert answer == {"request": {"raw": "evalResult::5"}, "data": {"arr": ["undefined", 42]}}


# ------------------------------------------------------------------------------------------------ ends and pipes


def test_die_ends_it_at_once(evaluator):
    evaluator.assign("x => x")
    evaluator.write(b'{"type":"die"}\n')
    assert evaluator.process.wait(timeout=10) == 0


def test_end_of_input_ends_it_even_with_a_slice_that_waits(evaluator):
    evaluator.assign("() => new Promise(() => { console.log('on'); setInterval(() => {}, 1) })")
    evaluator.submit(JSON_1)
    evaluator.until("console")
    assert evaluator.close() == 0


def test_die_is_read_while_timers_spin(evaluator):
    evaluator.assign("() => new Promise(() => { console.log('on'); const spin = () => setTimeout(spin, 0); spin() })")
    evaluator.submit(JSON_1)
    evaluator.until("console")
    evaluator.write(b'{"type":"die"}\n')
    assert evaluator.process.wait(timeout=10) == 0


def test_large_lines_in_and_out(evaluator, value_of):
    size = 24 << 20
    evaluator.assign("x => x")
    evaluator.submit("data:," + "y" * size)
    assert len(value_of(evaluator.slice()[0])) == size


NONSENSE = [
    b"", b"null", b"1", b"[]", b'"x"', b"\xff\xfe\x00", b"[" * 100_000, b"{}",
    b'{"type":"workerMessage"}', b'{"type":"workerMessage","message":null}', b'{"type":"workerMessage","message":{}}',
    b'{"type":"workerMessage","message":{"what":{"raw":null}}}', b'{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"raw":{"request":"assign"}}}}',
    b'{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"raw":{"request":"assign","job":{"argumentUris":5,"dependencies":7}}}}}',
    b'{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"raw":{"request":"main","id":1,"datumUri":"data:,"}}}}',
    b'{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"raw":{"request":"main"}}}}',
    b'{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"raw":{"request":"moduleGroup","data":{"a":{"b":"c"}}}}}}',
    b'{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"raw":{"request":"fetchResponse","fetchId":1}}}}',
    b'{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"raw":{"request":"__proto__"}}}}',
]  # fmt: skip


def test_nonsense_breaks_nothing(evaluator):
    evaluator.write(b"\n".join(NONSENSE) + b"\n")
    evaluator.send({"request": "describe"})
    assert evaluator.until("describe")["extensions"]


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_lines_may_be_cut_anywhere(evaluator, value_of, size):
    """Chunks respect neither lines nor characters."""
    evaluator.assign("x => x")
    text = "é😀" * 500
    line = json.dumps(
        message_of(
            {"request": "main", "id": 0, "datumUri": "data:application/json," + json.dumps(text, ensure_ascii=False)}
        ),
        ensure_ascii=False,
    )
    data = (line + "\n" + line + "\n").encode()
    for at in range(0, len(data), size):
        evaluator.write(data[at : at + size])
    assert [value_of(evaluator.slice()[0]) for _ in range(2)] == [text] * 2


def test_long_results_keep_pairs_of_surrogates_together(evaluator, value_of):
    evaluator.assign("x => x + '😀'.repeat(1.2e6)")
    evaluator.submit("data:,a", "data:,ab")
    assert [value_of(evaluator.slice()[0]) for _ in range(2)] == [odd + "😀" * 1_200_000 for odd in ("a", "ab")]


def test_a_full_pipe_that_does_not_block_loses_nothing(node: pathlib.Path, start):
    """Standard output of an asyncio parent is a socket in non-blocking mode: the host meets EAGAIN and has to wait."""
    ours, theirs = socket.socketpair()
    fcntl.fcntl(theirs, fcntl.F_SETFL, fcntl.fcntl(theirs, fcntl.F_GETFL) | os.O_NONBLOCK)
    evaluator = start()
    command = evaluator.process.args
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=theirs) as process, ours:
        theirs.close()
        job = {"id": "j", "workFunction": "x => 'z'.repeat(3e6) + x", "argumentUris": []}
        values = [
            {"request": "assign", "job": job},
            *({"request": "main", "id": n, "datumUri": f"data:,{n}"} for n in range(4)),
        ]
        for value in values:
            process.stdin.write(
                json.dumps(
                    {"type": "workerMessage", "message": {"_serializeVerId": "v9", "what": {"raw": value}}}
                ).encode()
                + b"\n"
            )
        process.stdin.flush()
        ends: list[bytes] = []
        with ours.makefile("rb") as stream:
            for line in stream:
                if b'"complete"' in line:
                    ends.append(line)
                if len(ends) == 4:
                    break
        process.stdin.close()
        assert process.wait(timeout=10) == 0
    assert [json.loads(line[4:])["message"]["what"]["raw"]["value"]["result"]["string"] for line in ends] == [
        '"' + "z" * 3_000_000 + f'{n}"' for n in range(4)
    ]
