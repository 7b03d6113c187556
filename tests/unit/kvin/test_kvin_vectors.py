"""Every vector that the real kvin 9.0.0 and 1.2.17 produced is read, and written again byte for byte."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from orchestrator import kvin

HERE = pathlib.Path(__file__).parent


def vectors(version: int) -> list[Any]:
    entries = json.loads((HERE / f"vectors-v{version}.json").read_text())
    return [pytest.param(version, entry, id=f"v{version}-{entry['js'][:50]}") for entry in entries]


@pytest.mark.parametrize(("version", "vector"), vectors(9) + vectors(8))
def test_vector_is_read_and_written_as_the_reference_does(version: Any, vector: dict[str, Any]) -> None:
    value = kvin.parse(vector["text"])
    if vector["js"] == "new Boolean(false)":  # the reference itself reads this back as true
        assert value == kvin.Boxed(True)
        value = kvin.Boxed(False)
    assert kvin.stringify(value, version=version) == vector["text"]
    assert kvin.marshal(value, version=version) == vector["kvin"]


DATE = kvin.JsDate(1767323045678)


@pytest.mark.parametrize(
    ("js", "value"),
    [
        ("undefined", kvin.UNDEFINED),
        ("null", None),
        ("1", 1),
        ("1e21", 1e21),
        ('"\\ud800"', "\ud800"),
        ("-123456789012345678901234567890n", kvin.BigInt(-123456789012345678901234567890)),
        ('Symbol("abc")', kvin.JsSymbol("abc")),
        ("{a:-0}", {"a": 0}),
        ("[1,1,1,1,1,1,1,1,2,2,2]", [1] * 8 + [2] * 3),
        ("[1,,3]", kvin.SparseArray(3, {0: 1, 2: 3})),
        ("new Array(5)", kvin.SparseArray(5)),
        ("[1,2,3,,,,7]", kvin.SparseArray(7, {0: 1, 1: 2, 2: 3, 6: 7})),
        ('(()=>{let a=[1,2,3];a.foo="bar";return a})()', kvin.SparseArray(3, {0: 1, 1: 2, 2: 3}, {"foo": "bar"})),
        ('new Date("2026-01-02T03:04:05.678Z")', DATE),
        ("/ab+c/gi", kvin.JsRegExp("ab+c", "gi")),
        ('new Map([["a",1],["b",{c:2}]])', kvin.JsMap([("a", 1), ("b", {"c": 2})])),
        ("new Set([1,2,3])", kvin.JsSet([1, 2, 3])),
        ("new Number(5)", kvin.Boxed(5)),
        ('Buffer.from("hello")', kvin.TypedArray("Buffer", b"hello")),
        ("new Uint8Array(64)", kvin.TypedArray("Uint8Array", bytes(64))),
        ("new Float64Array([1.5,Math.PI])", kvin.TypedArray.of("Float64Array", [1.5, 3.141592653589793])),
        ('{u:new URL("http://127.0.0.1:9000/")}', {"u": kvin.Url("http://127.0.0.1:9000/")}),
        ('{a:1,b:"x",c:null,d:true}', {"a": 1, "b": "x", "c": None, "d": True}),
        ("{undefined:true}", {"undefined": True}),
        ("function add(a,b){return a+b}", kvin.JsFunction("add", "function add(a,b){return a+b}")),
    ],
)
def test_vector_means_this_value(js: str, value: object) -> None:
    (vector,) = [entry for entry in json.loads((HERE / "vectors-v9.json").read_text()) if entry["js"] == js]
    decoded = kvin.parse(vector["text"])
    assert decoded == value
    assert type(decoded) is type(value)


def test_minus_zero_keeps_its_sign_at_the_top() -> None:
    assert str(kvin.parse('{"_serializeVerId":"v9","what":{"json":"-0"}}')) == "-0.0"


def test_cycles_come_back_as_cycles() -> None:
    value = kvin.parse('{"_serializeVerId":"v9","what":{"ctr":0,"ps":{"a":{"ctr":0,"ps":{"up":{"seen":0}}}}}}')
    assert value["a"]["up"] is value
