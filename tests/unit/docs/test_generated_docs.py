"""What documentation says of settings is what the models say: `make docs` rewrites what is stale."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from orchestrator import telemetry
from orchestrator.configuration import file
from orchestrator.exporting.text import prometheus_name
from orchestrator.settings import COMPONENTS
from scripts import grafana, log_events, write_docs

PAGES = sorted((write_docs.ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_generated_parts_are_fresh(path):
    remedy = "run `make docs`, or python -m scripts.write_docs"
    text = path.read_text()
    assert _without_log_events(write_docs.rewritten(text)) == _without_log_events(text), remedy


def _without_log_events(text):
    """That table follows with the next `make docs`: it is wrong only when it has what there is no more."""
    return re.sub(r"(<!-- generated: log events -->).*?(<!-- end -->)", r"\1\2", text, flags=re.DOTALL)


def test_documented_log_events_exist():
    text = (write_docs.ROOT / "docs" / "observability.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \| (?:debug|info|warning|error|varies)", text, re.MULTILINE))
    events = {call.event for call in log_events.calls()}
    assert documented and documented <= events
    assert len(events - documented) < 20, "run `make docs`"


def test_every_part_is_on_a_page():
    text = "".join(path.read_text() for path in PAGES)
    assert set(re.findall("<!-- generated: (.+?) -->", text)) == set(write_docs.PARTS)


def test_the_example_is_a_settings_file(tmp_path):
    text = (write_docs.ROOT / "docs" / "settings.md").read_text()
    [example] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "config.toml"
    path.write_text(example)
    path.chmod(0o600)
    read = file.read(path, COMPONENTS)
    for table, keys in tomllib.loads(example).items():
        assert COMPONENTS[table](**keys)
    assert set(read.tables) == {"worker", "scheduler"}


BOARDS = pytest.mark.parametrize("path", write_docs.DASHBOARDS, ids=lambda path: path.stem)


@BOARDS
def test_a_dashboard_is_fresh(path):
    assert path.read_text() == grafana.text(write_docs.DASHBOARDS[path]), "run `make docs`"


@BOARDS
def test_a_dashboard_is_one_that_grafana_takes(path):
    board = json.loads(path.read_text())
    assert board["title"] and board["uid"] and board["schemaVersion"] >= 36
    variables = {one["name"] for one in board["templating"]["list"]}
    ids, taken = set(), set()
    for panel in board["panels"]:
        assert panel["id"] not in ids and panel["title"] and panel["targets"]
        ids.add(panel["id"])
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) <= variables | {"__rate_interval"}
            assert target["expr"].count("(") == target["expr"].count(")")


@BOARDS
def test_every_query_asks_for_metrics_and_labels_that_there_are(path):
    series = {}
    for meter in telemetry.METERS:
        name = prometheus_name(meter)
        if isinstance(meter, telemetry.Histogram):
            series |= {name + suffix: meter for suffix in ("_sum", "_count")}
            series[name + "_bucket"] = meter
        else:
            series[name] = meter
    board = json.loads(path.read_text())
    used = set()
    for panel in board["panels"]:
        for target in panel["targets"]:
            names = re.findall(r"\bdcp_\w+", target["expr"])
            assert names, target
            for name in names:
                meter = series[name]
                used.add(meter.name)
                labels = {*meter.labels, "instance", "le"}
                groups = {
                    label.strip() for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in by.split(",")
                }
                assert groups <= labels, target
                assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= groups, target
                if name.endswith(("_total", "_bucket", "_sum", "_count")) and panel["title"] != "Earned":
                    assert f"rate({name}" in target["expr"], target
    of = ("dcp.worker.",) if path.stem == "worker" else ("dcp.scheduler.", "dcp.bank.")
    all_of_them = {meter.name for meter in telemetry.METERS if meter.name.startswith(of)}
    assert used <= all_of_them
    assert len(used) > (0.7 if path.stem == "worker" else 0.95) * len(all_of_them)
