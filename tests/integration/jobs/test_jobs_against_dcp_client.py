"""Ranges and URIs mean to us what they mean to the unmodified dcp-client 5.6.1, asked in one Node process."""

from __future__ import annotations

import json
import math
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import kvin
from orchestrator.errors import InvalidInput
from orchestrator.jobs import data_uris, ranges, values

pytestmark = pytest.mark.npm
HERE = pathlib.Path(__file__).parent
SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Client:
    def __init__(self, node: pathlib.Path, modules: pathlib.Path, home: pathlib.Path) -> None:
        environment = os.environ | {
            "DCP_CONFIG_LOCATION": "",  # no remote configuration: nothing is sent
            "DCP_SCHEDULER_LOCATION": "http://127.0.0.1:1/",
            "DCP_CLIENT_NO_PARSE_ARGV": "1",
            "DCP_RESOURCE_DIR": str(home),
        }
        self._process = subprocess.Popen(
            [node, HERE / "dcp_client_bridge.js", modules / "dcp-client"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        reply: dict[str, Any] = json.loads(self._process.stdout.readline())
        return reply

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def client(node: pathlib.Path, npm_modules: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(node, npm_modules, tmp_path_factory.mktemp("dcp"))
    yield client
    client.close()


def neutral(value: Any) -> Any:
    """What the bridge says of the same value."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        if value == 0 and math.copysign(1, value) < 0:
            return "-0"
        return value if math.isfinite(value) else kvin.number_text(value)
    if isinstance(value, kvin.TypedArray):
        return {"bytes": value.data.hex()}
    if value is kvin.UNDEFINED:
        return {"undefined": True}
    if isinstance(value, list):
        return [neutral(item) for item in value]
    return {key: neutral(item) for key, item in value.items()}


def compare(client: Client, form: Any, *, tolerance: float = 0) -> None:
    reply = client.ask(range=form, indices=[])
    try:
        ours = ranges.parse_input_set({"dataRange": form})
    except InvalidInput:
        assert "error" in reply, form
        return
    assert reply.get("ok", {}).get("length") == ours.length, (form, reply)
    indices = sorted({i for i in (0, 1, 2, 3, 5, 8, 13, ours.length // 2, ours.length - 1) if i < ours.length})
    theirs = client.ask(range=form, indices=indices)["ok"]["values"]
    mine = [neutral(ours.value(index)) for index in indices]
    if tolerance:
        assert mine == pytest.approx(theirs, rel=tolerance, nan_ok=True)
    else:
        assert mine == theirs


NUMBERS = st.one_of(
    st.integers(-50, 50),
    st.integers(-(2**53), 2**53),
    st.floats(-1000, 1000).map(lambda x: round(x, 3)),
    st.sampled_from([0.1, 1e-3, 1 / 3]),
)
STEPS = st.one_of(st.integers(1, 9), st.sampled_from([0.1, 0.25, 1 / 3, 2.5]))


@st.composite
def range_objects(draw: st.DrawFn, group: Any = None) -> dict[str, Any]:
    # `or 0`: JavaScript's JSON has no -0
    start, step = draw(NUMBERS) or 0, draw(STEPS) * draw(st.sampled_from([1, -1]))
    end = start + step * draw(st.floats(0, 40)) or 0
    form: dict[str, Any] = {"start": start, "end": end}
    if start == end:
        step = 0  # with another step only we take it: one value, whatever the step
    if draw(st.booleans()):
        form["step"] = step
    if draw(st.booleans()):
        form["group"] = group or draw(st.integers(1, 7))
    return form


SPARSE = st.integers(1, 5).flatmap(
    lambda group: st.lists(range_objects(group), min_size=1, max_size=4).map(lambda r: {"sparse": True, "ranges": r})
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda c: st.lists(c, max_size=3) | st.dictionaries(st.sampled_from("abc"), c, max_size=2),
    max_leaves=4,
)
MEMBERS = st.one_of(
    range_objects(),
    st.lists(JSON, min_size=1, max_size=4),
    st.booleans(),
    st.builds(lambda n: {"length": n, "dist": "identity", "params": []}, st.integers(1, 5)),
)
MULTI = st.lists(MEMBERS, min_size=1, max_size=4).map(lambda members: {"ranges": members})


@SETTINGS
@given(form=st.one_of(range_objects(), SPARSE, MULTI, st.lists(JSON, min_size=1, max_size=5)))
def test_ranges_have_the_clients_values(client: Client, form: Any) -> None:
    compare(client, form)


@pytest.mark.parametrize(
    "form",
    [
        {"start": 0, "end": 9_999_999, "step": 1},
        {"start": 0, "end": 1, "step": 0.1},
        {"start": 1, "end": 10, "step": 3, "group": 2},
        {"start": 5, "end": 5, "step": 0},
        {"start": 0, "end": 10, "step": -1},
        {"start": 0, "end": 10, "step": 0},
        {"start": 0, "end": 10, "step": 1, "group": 0},
        {"start": 0, "end": 10, "step": 1, "group": 1.5},
        {"start": 0, "end": "10"},
        {"sparse": True, "ranges": [{"start": 0, "end": 3, "group": 2}, {"start": 5, "end": 9}]},
        {"ranges": [{"start": 0, "end": 999}, {"start": 0, "end": 9999}, [1, 2], {"start": 0, "end": 99}]},
        {"ranges": [{"sparse": True, "ranges": []}, 7]},
        {"length": 3, "dist": "nothing", "params": []},
        {"some": "thing"},
    ],
)
def test_these_ranges_agree_or_are_refused_by_both(client: Client, form: Any) -> None:
    compare(client, form)


@pytest.mark.parametrize(
    ("dist", "params"),
    [
        ("identity", []),
        ("poisson", [1, None]),
        ("poisson", [7.5]),
        ("binomial", [0.5, None]),
        ("binomial", [0.125]),
        ("normal", [0, 1, None, None, None]),
        ("normal", [3, 0.5]),
        ("normal", [5, 0.25, 1, 9]),
    ],
)
def test_computed_distributions_agree(client: Client, dist: str, params: list[Any]) -> None:
    compare(client, {"length": 20, "dist": dist, "params": params}, tolerance=1e-9)


@SETTINGS
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_escaping_is_encode_uri(client: Client, text: str) -> None:
    assert data_uris.escape_uri(text) == client.ask(encode=text)["ok"]


PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@SETTINGS
@given(text=PLAIN, mime=st.sampled_from(["text/plain", "application/octet-stream", "image/png"]), data=st.binary())
def test_the_client_reads_our_text_and_bytes(client: Client, text: str, mime: str, data: bytes) -> None:
    assert client.ask(uri=values.encode_data_uri(text))["ok"] == text
    if mime != "text/plain":
        assert client.ask(uri=values.encode_data_uri(data, mime))["ok"] == {"bytes": data.hex()}


VALUE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.text(st.characters(codec=None), max_size=9),
        st.integers(-(2**53), 2**53),
        st.binary(max_size=40).map(lambda data: kvin.TypedArray("Uint8Array", data)),
    ),
    lambda c: st.lists(c, max_size=3) | st.dictionaries(st.sampled_from(["a", "é", "%3A", "\ud800"]), c, max_size=3),
    max_leaves=8,
)


@SETTINGS
@given(value=VALUE, version=st.sampled_from([8, 9]), compact=st.booleans())
def test_the_client_reads_our_values(client: Client, value: Any, version: Any, compact: bool) -> None:
    wrapped = values.encode_data_uri(kvin.stringify(value, version=version), "application/x-kvin", compact=compact)
    for uri in (values.uri_of_value(value, version), wrapped):
        assert client.ask(uri=uri)["ok"] == neutral(value)
        assert neutral(values.value_of_uri(uri)) == neutral(value)
        assert values.is_emittable_result(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "data:,a%3Ab%2Fc%20%E2%82%AC%25",
        "data:text/plain,%3a%2c",
        "data:,",
        "data:;base64,/+8",
        "data:;charset=utf-8;base64,YeKCrDo=",
        "data:text/plain;base64,YeKCrDo=",
        "data:text/plain;charset=latin1,%C3%A9",
        "data:text/plain;charset=UTF-8,%C3%A9",
        "data:text/plain;charset=utf-8;base64,YeKCrDo7LD8mPUAvKyQj",
        "data:application/json,%7B%22a%22:1%7D",
        "data:application/json;base64,eyJhIjoi/yJ9",
        "data:application/json,1e400",
        "data:application/json,-0",
        "data:application/x-kvin,%7B%22_serializeVerId%22:%22v8%22,%22what%22:5%7D",
        "data:image/png,%C3%BF",
        "data:application/JSON,5",
        # and what ends a client
        "data:application/json,%7B%22a%22%3A1%7D",
        "data:application/json,NaN",
        "data:application/json,",
        "data:application/json;charset=utf-16,5",
        "data:text/plain;charset=koi8-r,x",
        "data:,%",
        "data:,%C3",
        "data:,%ED%A0%80",
        "data:application/json;base64,%%",
        "data:application/x-kvin,5",
        "data:application/x-kvin,%7B%22_serializeVerId%22:%22v9%22,%22what%22:%7B%22ctr%22:%22Foo%22,%22ps%22:%7B%7D%7D%7D",
        "data:application/x-kvin;charset=utf-8;base64,eyJfc2VyaWFsaXplVmVySWQiOiJ2OSIsIndoYXQiOjV9",
    ],
)
def test_uris_are_read_as_the_client_reads_them(client: Client, uri: str) -> None:
    reply = client.ask(uri=uri)
    assert values.is_emittable_result(uri) == ("ok" in reply), reply
    if "ok" in reply:
        value = values.value_of_uri(uri)
        value = kvin.TypedArray("Uint8Array", value) if isinstance(value, bytes) else value
        assert neutral(value) == reply["ok"]


def test_a_hostile_result_would_run_in_the_client_and_is_not_emitted(client: Client) -> None:
    """The reference decoder applies whatever a class name evaluates to; such a text must never reach a client."""
    what = {"ctr": "eval", "args": ["globalThis.ranInClient = 7"]}
    uri = values.encode_data_uri(json.dumps({"_serializeVerId": "v9", "what": what}), "application/x-kvin")
    assert not values.is_emittable_result(uri)
    client.ask(uri=uri)
    assert client.ask(global_="ranInClient")["ok"] == 7
