"""`worker top`: what it shows, in 80 columns, from snapshots of a worker."""

from __future__ import annotations

from typing import Any

from rich.cells import cell_len

from orchestrator.cli import phrases, top_view
from tests.unit.cli.snapshots import IDLE, OK, status


def history(*snapshots: dict[str, Any], finding: dict[str, Any] = OK) -> top_view.History:
    made = top_view.History()
    for snapshot in snapshots or (status(),):
        made.add(snapshot, {"findings": [finding]})
    return made


def text(lines: list[Any]) -> list[str]:
    return [line.plain.rstrip() for line in lines]


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_a_frame_of_80_columns():
    record = {"time": 1_000_099.0, "level": "info", "event": "worker_started", "sandboxes": 2}
    shown = text(top_view.frame(history(status(100.0), status(102.0, 1025)), [record], 80))
    assert all(cell_len(line) <= 80 for line in shown)
    assert shown[0].startswith(" 2KQN48w2Y1e9KAkntqnKkf  working  http://127.0.0.1:9001/") and "up 102 s" in shown[0]
    assert shown[1].split()[:2] == ["slices/s", "12.5"] and "1025 done  0 threw  12 returned" in shown[1]
    assert shown[2].split()[:2] == ["cpu", "1.50"] and "of 2 cores  worker 0.040  load 3.2" in shown[2]
    assert shown[3] == " memory    312 MiB in sandboxes, 82 MiB the worker, 18.0 GiB free"
    assert shown[4] == " pool      2 ready, 1 starting, 1 of 2 in use, 98% at once, in 0.04 ms (p50)"
    assert shown[5] == " earned    1.025 DCC, 45.0 an hour by the last 5 min"
    assert shown[6:9] == [
        "  box state        for   cpu   memory   slice queue   done  job",
        "    1 working    1.2 s  0.00   56 MiB      17     3    120  mandelbrot jjjjjjjj…",
        "    - empty                -        -  waits for work at the Scheduler",
    ]
    assert shown[10] == "       54        3        2    1025     0.21       0.076  mandelbrot jjjjjjjjjj…"
    assert shown[11] == " log" and shown[12].endswith("info    worker_started sandboxes=2")


def test_why_and_the_change_have_two_lines_each_at_most():
    lines = text(top_view.head(history(finding=IDLE), 80))
    assert lines[6:] == [
        " why       job one may not fetch from http://data.example:8080",
        " change    if you trust it: --allow-origin fetchData=http://data.example:8080",
    ]
    assert not [line for line in text(top_view.head(history(), 80)) if "why" in line]
    long = {**IDLE, "what": "word " * 200}
    assert len(text(top_view.head(history(finding=long), 80))) == 6 + 2 + 1


def test_what_jobs_call_themselves_cannot_move_the_cursor():
    hostile = "\x1b[2J\x1b]0;title\x07\n\r\t[bold]漢字" + "漢" * 90
    snapshot = status()
    snapshot["slots"][0]["job_name"] = hostile
    snapshot["supervisor"]["jobs"]["j" * 22]["name"] = hostile
    lines = top_view.frame(history(snapshot), [{"time": 0.0, "level": "info", "event": hostile, "x": hostile}], 80)
    for line in lines:
        assert cell_len(line.plain) <= 80 and all(letter.isprintable() for letter in line.plain)


def test_a_restarted_worker_begins_anew():
    made = history(status(100.0), status(101.0, 1010))
    assert made.rate("done") == 10.0
    made.add(status(1.0, 0, pid=8))
    assert made.rate("done") is None and made.earned_per_hour() is None


def test_earnings_are_those_of_the_last_five_minutes():
    made = history(status(0.0, 0), status(1000.0, 5000), status(1010.0, 5010))
    assert made.earned_per_hour() is not None and round(float(made.earned_per_hour() or 0), 6) == 3.6


def test_a_worker_that_has_hardly_started():
    usage = {**status()["usage"], "worker_memory_bytes": None, "memory_available_bytes": None}
    books = {"held": 0, "counts": {}, "jobs": {}}
    young = status(worker=None, state="connecting", pool={}, slots=[], supervisor=books, usage=usage)
    shown = text(top_view.frame(history(young), [], 80))
    assert "connecting" in shown[0] and "not started" in shown[4]


def test_phrases():
    assert [phrases.span(s) for s in (0.04, 9.94, 45, 125, 7300, 200_000)] == [
        "0.0 s", "9.9 s", "45 s", "2 min", "2 h", "2 d",
    ]  # fmt: skip
    assert [phrases.size(n) for n in (None, 2048, 57 << 20, 3 << 29)] == ["?", "2 KiB", "57 MiB", "1.5 GiB"]
    assert [phrases.rate(n) for n in (None, 0.0, 0.0421, 1.874, 12.44, 1234.4)] == [
        "-", "0.00", "0.042", "1.87", "12.4", "1234",
    ]  # fmt: skip
    assert (
        phrases.bars([0.0, 1.0, 4.0], 2) == "▂█" and phrases.bars([0.0, 0.0], 5) == "▁▁" and phrases.bars([], 5) == ""
    )
    assert phrases.plain("漢字漢字", 5) == "漢字…"
