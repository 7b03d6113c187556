"""The list of metrics: what is recorded can be read back, labels are bounded, parts use the labels declared."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

from orchestrator import telemetry

ROOT = pathlib.Path(__file__).parent.parent.parent / "orchestrator"


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setattr(telemetry, "METERS", list(telemetry.METERS))


def test_counters_over_all_labels():
    counter = telemetry.Counter("x", unit="s", description="", labels=["a"])
    readings = telemetry.Readings()
    counter.add(2, {"a": "1"})
    counter.add(0.5, {"a": "1"})
    counter.add(1, {"a": True})
    assert list(counter.series()) == [({"a": "1"}, 2.5), ({"a": "true"}, 1)]
    assert (counter.total, readings.total("x"), readings.total("none")) == (3.5, 3.5, 0)
    assert telemetry.Readings().total("x") == 0
    counter.set_total(9, {"a": "1"})
    assert counter.total == 10


def test_gauges():
    gauge = telemetry.Gauge("x", unit="", description="", labels=["a"])
    gauge.set(2, {"a": "1"})
    gauge.set(3, {"a": "1"})
    assert list(gauge.series()) == [({"a": "1"}, 3)]
    gauge.clear()
    assert list(gauge.series()) == []


def test_histograms_count_up_to_and_with_each_bound():
    histogram = telemetry.Histogram("x", unit="s", description="", bounds=[1, 2])
    for value in (0.5, 1, 1.5, 2, 7):
        histogram.record(value)
    assert list(histogram.series()) == [({}, [2, 2, 1], 12)]


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
def test_labels_are_bounded(kind):
    made = {
        "counter": lambda: telemetry.Counter("x", unit="", description="", labels=["a"]),
        "gauge": lambda: telemetry.Gauge("x", unit="", description="", labels=["a"]),
        "histogram": lambda: telemetry.Histogram("x", unit="", description="", labels=["a"], bounds=[1]),
    }[kind]()
    put = {"counter": "add", "gauge": "set", "histogram": "record"}[kind]
    for number in range(telemetry.MOST_SERIES + 50):
        getattr(made, put)(1, {"a": f"{number}" * 50})
    rows = list(made.series())
    assert len(rows) == telemetry.MOST_SERIES + 1
    assert rows[-1][0] == {"a": telemetry.OTHER}
    assert all(len(labels["a"]) <= 60 for labels, *_rest in rows)
    if kind == "counter":
        assert made.total == telemetry.MOST_SERIES + 50
    with pytest.raises(ValueError, match="has the labels"):
        getattr(made, put)(1, {})


def test_every_metric_is_named_and_described():
    names = [meter.name for meter in telemetry.METERS]
    assert len(set(names)) == len(names) > 30
    for meter in telemetry.METERS:
        assert re.fullmatch(r"dcp(\.[a-z_]+)+", meter.name)
        assert meter.description and not meter.description.endswith("."), meter.name
        assert re.fullmatch(r"s|By||\{[A-Za-z]+\}", meter.unit), meter.name
        assert not {"job", "slice", "sandbox", "worker"} & set(meter.labels), meter.name


def uses() -> list[tuple[str, ast.Attribute, ast.Call | None]]:
    """(place, `telemetry.name`, the call of its method) for every use in the package."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text())
        calls = {id(node.func.value): node for node in ast.walk(tree)
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "telemetry":
                found.append((f"{path.name}:{node.lineno}", node, calls.get(id(node))))
    return found


def test_parts_use_the_labels_that_are_declared():
    by_variable = {name: one for name, one in vars(telemetry).items() if isinstance(one, telemetry.Meter)}
    used = set()
    for place, name, call in uses():
        meter = by_variable.get(name.attr)
        if meter is None:
            continue
        used.add(name.attr)
        if call is None or call.func.attr == "clear":
            continue
        assert len(call.args) == (2 if meter.labels else 1), place
        if meter.labels:
            attributes = call.args[1]
            assert isinstance(attributes, ast.Dict), f"{place}: write the labels out"
            assert [key.value for key in attributes.keys] == list(meter.labels), place
    assert set(by_variable) == used, "metrics that nobody feeds"
