"""The evaluator's lines: bounded, parsed with limits, and refused when they are not what the protocol allows."""

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import kvin
from orchestrator.worker import evaluator_messages as said
from orchestrator.worker import evaluator_parsing
from orchestrator.worker import line_protocol as lp
from orchestrator.worker.limits import MIB, OutputLimits

LIMITS = OutputLimits()


def message(value: Any, ring: int = 3) -> bytes:
    what = {"raw": {"ringSource": ring, "value": value}}
    envelope = {"type": "workerMessage", "message": {"_serializeVerId": "v9", "what": what}}
    return b"MSG:" + json.dumps(envelope, separators=(",", ":")).encode()


def complete(identifier: Any = 1, string: str = "1", **more: Any) -> dict[str, Any]:
    result = {"string": string, "method": "json", "MIMEType": "application/json"}
    return {"request": "complete", "id": identifier, "result": result, **more}


def parse(line: bytes, limits: OutputLimits = LIMITS) -> Any:
    return evaluator_parsing.parse(line, limits, kvin.unmarshal)


# -- lines


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=10), st.lists(st.integers(1, 25), max_size=40))
def test_any_chunking_gives_the_same_lines(parts: list[bytes], sizes: list[int]) -> None:
    data = b"\n".join(parts)
    splitter, lines, position = lp.LineSplitter(10_000), [], 0
    for size in [*sizes, len(data)]:
        lines += splitter.feed(data[position : position + size])
        position += size
    *expected, rest = data.split(b"\n")
    assert lines == expected
    assert splitter.held == len(rest)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.lists(st.integers(1, 9), max_size=20))
def test_a_line_over_the_limit_is_a_flood_however_it_is_cut(length: int, sizes: list[int]) -> None:
    data, splitter, position = b"x" * length + b"\n", lp.LineSplitter(30), 0
    chunks = []
    for size in [*sizes, len(data)]:
        chunks.append(data[position : position + size])
        position += size
    if length <= 30:
        assert [line for chunk in chunks for line in splitter.feed(chunk)] == [b"x" * length]
        return
    with pytest.raises(said.Violation) as caught:
        for chunk in chunks:
            splitter.feed(chunk)
    assert caught.value.kind == "flood"


def test_a_line_that_never_ends_holds_no_more_than_the_limit() -> None:
    splitter = lp.LineSplitter(1000)
    with pytest.raises(said.Violation):
        for _ in range(1000):
            splitter.feed(b"x" * 100)
    assert splitter.held <= 1100


# -- budgets


def test_a_bucket_fills_with_time() -> None:
    bucket = lp.Bucket(10.0, 20.0)
    assert bucket.take(20, 0.0)
    assert not bucket.take(1, 0.0)
    assert bucket.take(9, 1.0)
    assert not bucket.take(5, 1.0)


def test_a_bucket_holds_no_more_than_its_burst() -> None:
    bucket = lp.Bucket(10.0, 20.0)
    assert bucket.take(0, 0.0)
    assert not bucket.take(21, 1e6)


def test_a_clock_that_goes_back_fills_nothing() -> None:
    bucket = lp.Bucket(1e9, 5.0)
    assert bucket.take(5, 100.0)
    assert not bucket.take(1, 50.0)


def reader(**limits: Any) -> lp.OutputReader:
    return lp.OutputReader(replace(LIMITS, **limits), kvin.unmarshal)


def feed_until_flood(output: lp.OutputReader, chunk: bytes, frames: int, step_s: float, rounds: int) -> int:
    for number in range(rounds):
        try:
            output.feed(chunk, frames, number * step_s)
        except said.Violation as violation:
            assert violation.kind == "flood"
            return number
    return rounds


def test_a_flood_of_lines() -> None:
    assert feed_until_flood(reader(lines_per_s=10, lines_burst=100), b"x\n" * 50, 1, 0.1, 1000) in range(2, 5)


def test_a_flood_of_one_byte_writes() -> None:
    assert feed_until_flood(reader(frames_per_s=100, frames_burst=1000), b"x", 1, 0.0001, 5000) < 1100


def test_slow_one_byte_writes_are_no_flood() -> None:
    assert feed_until_flood(reader(), b"x", 1, 0.005, 2000) == 2000


def test_a_flood_of_bytes_without_a_result() -> None:
    assert feed_until_flood(reader(slice_bytes=MIB), b"x" * 65535 + b"\n", 2, 1.0, 100) == 16


def test_a_flood_over_the_life() -> None:
    assert feed_until_flood(reader(total_bytes=MIB), message(complete()) + b"\n", 1, 1.0, 100_000) < 8000


def test_a_flood_of_messages_that_have_to_be_parsed() -> None:
    progress = message({"request": "progress", "id": 1, "progress": 1, "pad": "x" * 100_000}) + b"\n"
    limits = {"message_bytes_per_s": 1e6, "message_bytes_burst": 2e6}
    assert feed_until_flood(reader(**limits), progress, 25, 0.01, 1000) in range(20, 30)


def test_answers_cost_no_lines() -> None:
    output = reader(lines_per_s=0.001, lines_burst=1, frames_per_s=0.001, frames_burst=1)
    for number in range(5000):
        [(answer, size)] = output.feed(message(complete(number)) + b"\n", 1, 0.0)
        assert isinstance(answer, said.Completed)
        assert size == len(message(complete(number))) + 1


# -- messages


def test_describe_with_pipelining() -> None:
    value = {"request": "describe", "capabilities": {"a": 1}, "worktimes": [{"name": "map-basic"}]}
    value["extensions"] = {"pipeline": {"version": 1, "depth": 256}}
    described = parse(message(value, 2))
    assert described == said.Described({"a": 1}, [{"name": "map-basic"}], 256)


@pytest.mark.parametrize(
    "extensions", [None, {}, {"pipeline": 3}, {"pipeline": {"version": 2, "depth": 9}}, {"pipeline": {"version": 1}}]
)
def test_describe_without_pipelining(extensions: Any) -> None:
    assert parse(message({"request": "describe", "extensions": extensions}, 2)).pipeline_depth == 0


def test_the_base_dialect_is_kvin() -> None:
    data = kvin.marshal({"ringSource": 3, "value": {"request": "complete", "result": [1, kvin.UNDEFINED]}})
    answer = parse(b"MSG:" + json.dumps({"type": "workerMessage", "message": data}).encode())
    assert isinstance(answer, said.Completed)
    assert answer.id is None
    assert answer.value == [1, kvin.UNDEFINED]


def test_complete() -> None:
    value = complete(7, "héllo \ud800", measurement={"total": 2.5, "CPU": 1.5}, progressed=True)
    assert parse(message(value)) == said.Completed(
        7, "héllo \ud800", "json", "application/json", said.Measurement(2.5, 1.5), True
    )


@pytest.mark.parametrize("forged", [float("1e300"), -1, "9", None, True, [1], {"a": 1}, 10**400])
def test_a_forged_measurement_is_a_harmless_figure(forged: Any) -> None:
    value = complete(measurement={"total": forged, "CPU": forged})
    measurement = parse(message(value)).measurement
    assert 0 <= measurement.total < 1e15
    assert 0 <= measurement.cpu < 1e15


def test_other_slice_messages() -> None:
    assert parse(message({"request": "progress", "id": 3, "progress": 40})) == said.Progressed(3, 0.4)
    assert parse(message({"request": "progress", "id": 3, "progress": 1e9})) == said.Progressed(3, 1.0)
    assert parse(message({"request": "progress", "id": 3})) == said.Progressed(3, None)
    console = {"request": "console", "id": 3, "payload": {"level": "warn", "message": ["a"], "same": 4}}
    assert parse(message(console)) == said.ConsoleWritten(3, "warn", ["a"], 4)
    repeated = {"request": "console", "id": 3, "payload": {"level": "log", "same": 7}}
    assert parse(message(repeated)) == said.ConsoleWritten(3, "log", None, 7)
    event = {
        "request": "emitEvent",
        "id": 3,
        "payload": {"eventName": "custom", "customEvent": "tick", "data": {"a": 1}},
    }
    assert parse(message(event)) == said.Emitted(3, "tick", {"a": 1})
    asked = {"request": "fetchRequest", "id": 3, "fetchId": 9, "data": {"url": "u"}}
    assert parse(message(asked)) == said.FetchAsked(3, 9, {"url": "u"})
    assert parse(message({"request": "fetchRequest", "id": 9, "data": {}}, 2)) == said.FetchAsked(None, 9, {})
    failed = parse(message({"request": "workError", "id": 3, "error": {"name": "TypeError", "message": "m", "x": 1}}))
    assert failed == said.Failed(3, {"name": "TypeError", "message": "m"}, said.NO_MEASUREMENT, False)
    rejected = parse(message({"request": "workReject", "id": 3, "reason": "r", "retries": 2}))
    assert rejected == said.Rejected(3, "r", 2, said.NO_MEASUREMENT)
    base_reject = {"request": "workReject", "workRejectData": {"reason": "r", "retries": 2}}
    assert parse(message(base_reject)) == said.Rejected(None, "r", 2, said.NO_MEASUREMENT)


def test_lines_without_meaning() -> None:
    assert parse(b"anything at all") is None
    assert parse(b"\xff\xfe") is None
    assert parse(b'MSG:{"type":"nop"}') is None
    assert parse(b'MSG:{"type":"result","step":1,"success":true}') is None
    assert parse(b"DIE: out of luck") == said.Noted("die", "out of luck")


VIOLATIONS = {
    "not json": b"MSG:{",
    "not utf-8": b'MSG:{"type":"nop","x":"\xff"}',
    "not an object": b"MSG:[1]",
    "utf-16 is not guessed": 'MSG:{"type":"nop"}'[4:].encode("utf-16"),
    "another type": b'MSG:{"type":"newSerializer","payload":"x"}',
    "no contents": b'MSG:{"type":"workerMessage"}',
    "no ring": message({"request": "progress"}).replace(b'"ringSource":3,', b""),
    "ring -1": message({"request": "complete"}, -1),
    "ring 3 may not describe": message({"request": "describe"}, 3),
    "ring 2 may not complete": message(complete(), 2),
    "ring true": message(complete()).replace(b'"ringSource":3', b'"ringSource":true'),
    "no request": message({}),
    "result without text": message({"request": "complete", "id": 1, "result": {}}),
    "result of an unknown method": message(complete()).replace(b'"method":"json"', b'"method":"eval"'),
    "id that is text": message(complete("1")),
    "id that is a float": message(complete(1.5)),
    "NaN": message({"request": "progress", "id": 1, "progress": 5}).replace(b":5", b":NaN"),
    "an integer of 5000 digits": message({"request": "progress", "id": 1, "progress": 5}).replace(
        b":5", b":" + b"5" * 5000
    ),
    "deep": message(
        {"request": "emitEvent", "payload": {"eventName": "custom", "customEvent": "x", "data": 0}}
    ).replace(b'"data":0', b'"data":' + b"[" * 500 + b"]" * 500),
    "very deep": b"MSG:" + b"[" * 500_000,
    "kvin that is none": b'MSG:{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"ctr":"nope"}}}',
    "console level": message({"request": "console", "id": 1, "level": "shout", "message": []}),
    "event name": message({"request": "emitEvent", "id": 1, "name": 3}),
    "modules": message({"request": "dependency", "data": [1]}, 2),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_what_the_protocol_does_not_allow(name: str) -> None:
    line = VIOLATIONS[name]
    if not line.startswith(b"MSG:"):
        line = b"MSG:" + line
    with pytest.raises(said.Violation) as caught:
        parse(line)
    assert caught.value.kind == "protocol"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_violation(data: bytes) -> None:
    with contextlib.suppress(said.Violation):
        parse(b"MSG:" + data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=10,
)
fields = ["request", "id", "result", "progress", "error", "measurement", "level", "message", "same", "payload", "data"]
requests = st.sampled_from(sorted({request for allowed in evaluator_parsing.RINGS.values() for request in allowed}))


@settings(max_examples=300, deadline=None)
@given(requests, st.dictionaries(st.sampled_from(fields), json_values, max_size=6), st.integers(-1, 4))
def test_no_message_raises_anything_but_a_violation(request_name: str, value: dict[str, Any], ring: int) -> None:
    with contextlib.suppress(said.Violation):
        parse(message({**value, "request": request_name}, ring))


# -- long lines


def test_a_long_result_is_lifted_out() -> None:
    text = 'say "x"\n' * 300_000
    assert parse(message(complete(5, text))).string == text


def test_a_long_line_that_is_no_result() -> None:
    with pytest.raises(said.Violation) as caught:
        parse(message({"request": "emitEvent", "id": 1, "name": "x", "data": "y" * (2 * MIB)}))
    assert caught.value.kind == "protocol"


def test_a_long_line_of_brackets_is_never_parsed() -> None:
    bomb = message({"request": "emitEvent", "id": 1, "data": 0}).replace(b":0}", b":[" + b"[]," * MIB + b"0]}")
    with pytest.raises(said.Violation):
        parse(bomb)


def test_a_long_structure_around_a_result() -> None:
    with pytest.raises(said.Violation):
        parse(message({**complete(1, "x"), "pad": "y" * (2 * MIB)}))


# -- requests


@given(st.integers(0, 2**53), st.text())
def test_main_line_is_what_the_generic_encoder_writes(identifier: int, uri: str) -> None:
    line = lp.main_line(identifier, uri)
    assert line == lp.request_line({"request": "main", "id": identifier, "datumUri": uri})
    assert line.count(b"\n") == 1
    assert line.isascii()
    raw = json.loads(line)["message"]["what"]["raw"]
    assert raw == {"request": "main", "id": identifier, "datumUri": uri}
