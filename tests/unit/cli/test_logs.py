"""The log of a command: our own lines at the level that was asked for, libraries only when something is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from orchestrator.cli import logs
from scripts import log_events


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("orchestrator")
    before = root.handlers[:], root.level, ours.level
    yield
    for handler in root.handlers[:]:
        if handler not in before[0]:
            root.removeHandler(handler)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_debug_is_for_our_own_loggers(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug")
    logging.getLogger("orchestrator.worker").debug("sandbox_closed", extra={"sandbox": 3})
    for name in ("aiosqlite", "urllib3.connectionpool", "asyncio", "aiohttp.access"):
        logging.getLogger(name).debug("chatter")
        logging.getLogger(name).info("chatter")
    logging.getLogger("aiohttp.server").error("broken")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["DEBUG sandbox_closed sandbox=3", "ERROR broken"]


def test_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("error")
    logging.getLogger("orchestrator.worker").warning("no")
    logging.getLogger("aiohttp.server").warning("no")
    logging.getLogger("orchestrator.worker").error("yes")
    assert capsys.readouterr().err.endswith("ERROR yes\n")


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        raise ValueError("reason")
    except ValueError:
        logging.getLogger("orchestrator").exception("failed", extra={"job": "j", "path": object})
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["event"], line["job"]) == ("error", "failed", "j")
    assert "ValueError: reason" in line["exception"]


def test_a_sentence_with_a_tag(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logging.getLogger("orchestrator").info("the session with %s ended", "x", extra={"action": "session-lost"})
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["message"]) == ("session_lost", "the session with x ended")


def test_values_stay_one_value_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    extra = {"error": "two words\nlevel=ERROR", "empty": "", "number": 3}
    logging.getLogger("orchestrator").warning("x", extra=extra)
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(r'x error="two words\nlevel=ERROR" empty="" number=3')


def record(event: str = "x", level: int = logging.WARNING, at: float = 0.0, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "orchestrator", "msg": event, "levelno": level, **extra})
    made.created = at
    return made


def test_repetitions_are_left_out_and_counted() -> None:
    repetitions = logs.Repetitions(most=2, within_s=10)
    passed = [repetitions.filter(record(at=at)) for at in (0, 1, 2, 9)]
    assert passed == [True, True, False, False]
    later = record(at=10)
    assert repetitions.filter(later) and later.suppressed == 2  # type: ignore[attr-defined]
    assert repetitions.filter(record(at=11)) and not repetitions.filter(record(at=12))
    much_later = record(at=100)
    assert repetitions.filter(much_later) and much_later.suppressed == 1  # type: ignore[attr-defined]
    quiet = record(at=200)
    assert repetitions.filter(quiet) and not hasattr(quiet, "suppressed")


def test_what_differs_is_no_repetition() -> None:
    repetitions = logs.Repetitions(most=1)
    assert all(repetitions.filter(record(job=job)) for job in ("a", "b"))
    assert all(repetitions.filter(record(event)) for event in ("y", "z"))
    assert not repetitions.filter(record(job="a"))


def test_errors_and_details_always_pass() -> None:
    repetitions = logs.Repetitions(most=1)
    for level in (logging.ERROR, logging.DEBUG):
        assert all(repetitions.filter(record(level=level)) for _ in range(5))


def test_a_clock_that_jumps_back_silences_nothing() -> None:
    repetitions = logs.Repetitions(most=1, within_s=10)
    assert repetitions.filter(record(at=5000)) and repetitions.filter(record(at=10))


def test_so_many_events_that_old_ones_are_forgotten() -> None:
    repetitions = logs.Repetitions(most=1)
    assert all(repetitions.filter(record(job=str(number))) for number in range(3000))


def test_events_are_words_and_their_fields_are_called_the_same_everywhere() -> None:
    """`job` is an id, `slice` a number, `sandbox` the worker's number of one; a message is no place for values."""
    for call in log_events.calls():
        assert call.event is not None, f"{call.place}: an event is one literal word, values go into `extra`"
        taken = set(call.fields) & {"event", "level", "time", "exception", "suppressed"}
        assert not taken, f"{call.place}: {taken} are names of the log itself"
        wrong = set(call.fields) & {"job_id", "jobId", "slice_number", "number", "sandbox_id", "seat", "key"}
        assert not wrong, f"{call.place}: say job, slice, sandbox instead of {wrong}"
        if "slice" in call.fields:
            assert "job" in call.fields, f"{call.place}: a slice belongs to a job"
