"""The log of a command: our own lines at the level that was asked for, libraries only when something is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from orchestrator.cli import logs


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
