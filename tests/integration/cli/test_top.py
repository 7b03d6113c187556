"""`worker top` live, in a terminal of 80×24 that textual plays, over a real control socket."""

from __future__ import annotations

import asyncio
import copy
import io
import logging
import pathlib
import subprocess
import sys
from typing import Any

import click.testing
import pytest
from rich.console import Console
from textual.pilot import Pilot

from orchestrator.cli.top_app import TopApp
from orchestrator.cli.worker_top import command
from orchestrator.errors import NotPermitted
from orchestrator.worker.control import ControlServer
from tests.unit.cli.snapshots import IDLE, slot, status


class Toy:
    """A worker's answers; it may be paused and drained."""

    def __init__(self) -> None:
        self.now = status(clock=1.0)
        self.finding = IDLE
        self.calls: list[str] = []

    def status(self) -> dict[str, Any]:
        self.now = status(clock=self.now["clock"] + 1.0, state=self.now["state"])
        return copy.deepcopy(self.now)

    def explain(self, **_of: Any) -> dict[str, Any]:
        return {"findings": [self.finding]}

    def drain(self) -> None:
        self.calls.append("drain")

    def drain_progress(self) -> dict[str, Any]:
        return {"held": 59}

    def outcome(self) -> dict[str, Any]:
        return {"delivered": True}

    def pause(self, reason: str, *, source: str, give_back: bool) -> None:
        self.calls.append(f"pause: {reason}")
        self.now["state"] = "paused"

    def resume(self, *, source: str) -> None:
        self.calls.append("resume")
        self.now["state"] = "idle"


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    tmp_path.chmod(0o700)
    return tmp_path


def screen(app: TopApp) -> list[str]:
    """The terminal's lines."""
    console = Console(
        width=app.size.width, height=app.size.height, file=io.StringIO(), record=True, legacy_windows=False
    )
    console.print(app.screen._compositor.render_update(full=True))
    return [line.rstrip() for line in console.export_text().splitlines()]


async def until_shown(pilot: Pilot[None], words: str) -> list[str]:
    async with asyncio.timeout(20):
        while True:
            await pilot.pause(0.01)
            lines = screen(pilot.app)  # type: ignore[arg-type]
            if any(words in line for line in lines):
                return lines


async def test_it_fits_into_80_by_24(folder, caplog):
    caplog.set_level(logging.INFO, "orchestrator")
    async with ControlServer(Toy(), folder), TopApp(folder, 0.1).run_test(size=(80, 24), notifications=True) as pilot:
        logging.getLogger("orchestrator.test_top").warning("a word", extra={"job": "j"})
        await until_shown(pilot, "a word job=j")
        await until_shown(pilot, "if you trust it")
        lines = await until_shown(pilot, "? help")
    assert len(lines) == 24 and lines[0].startswith(" 2KQN48w2Y1e9KAkntqnKkf  working")
    beginnings = [line.split()[0] if line.split() else "" for line in lines]
    order = ["slices/s", "cpu", "memory", "pool", "earned", "why", "change", "box", "1", "-", "to", "54", "log", "q"]
    assert [one for one in beginnings if one in order] == order
    assert lines[-1].split() == ["q", "quit", "p", "pause/resume", "d", "drain", "l", "log", "?", "help"]


async def test_many_places_leave_room_for_jobs_and_the_log(folder):
    toy = Toy()
    many = [slot(number) for number in range(1, 65)]
    toy.status = lambda: status(slots=many)  # type: ignore[method-assign]
    async with ControlServer(toy, folder), TopApp(folder, 0.1).run_test(size=(80, 24), notifications=True) as pilot:
        lines = await until_shown(pilot, "   54        3        2")
    assert sum("mandelbrot" in line for line in lines) >= 5 and any(line.startswith(" log") for line in lines)


async def test_pausing_and_resuming(folder):
    toy = Toy()
    async with ControlServer(toy, folder), TopApp(folder, 0.1).run_test(size=(80, 24), notifications=True) as pilot:
        await until_shown(pilot, "working")
        await pilot.press("p")
        await until_shown(pilot, "paused  http")
        await pilot.press("p")
        await until_shown(pilot, "idle  http")
    assert toy.calls == ["pause: paused in `worker top`", "resume"]


async def test_what_the_worker_refuses_is_shown(folder):
    toy = Toy()

    def refuse(*_reason: str, **_more: Any) -> None:
        raise NotPermitted("not while somebody looks")

    toy.pause = refuse  # type: ignore[method-assign]
    async with ControlServer(toy, folder), TopApp(folder, 0.1).run_test(size=(80, 24), notifications=True) as pilot:
        await pilot.press("p")
        await until_shown(pilot, "not while somebody looks")


async def test_a_drain_is_asked_for(folder):
    toy = Toy()
    async with ControlServer(toy, folder), TopApp(folder, 0.1).run_test(size=(80, 24), notifications=True) as pilot:
        await until_shown(pilot, "working")
        await pilot.press("d")
        await until_shown(pilot, "Drain this worker? It takes no new work, finishes the 59 slices")
        await pilot.press("n", "d")
        await until_shown(pilot, "Drain this worker?")
        assert toy.calls == []
        await pilot.press("y")
        await until_shown(pilot, "draining")
    assert toy.calls == ["drain"]


async def test_help_and_quitting(folder):
    async with ControlServer(Toy(), folder):
        app = TopApp(folder, 0.1)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await pilot.press("question_mark")
            lines = await until_shown(pilot, "any key goes back")
            assert max(map(len, lines)) <= 80
            await pilot.press("x", "l", "q")
        assert app.return_code == 0


async def test_a_worker_that_ends_and_comes_back_is_found_again(folder):
    async with TopApp(folder, 0.1).run_test(size=(80, 24), notifications=True) as pilot:
        await until_shown(pilot, "no worker runs on the state folder")
        async with ControlServer(Toy(), folder):
            await until_shown(pilot, "working  http")
        await until_shown(pilot, "GONE")
        async with ControlServer(Toy(), folder):
            await until_shown(pilot, "working  http")


# -- the command -------------------------------------------------------------------------------------------------------


async def test_once_prints_a_plain_frame(folder):
    async with ControlServer(Toy(), folder):
        arguments = ["--once", "--interval", "0.1", "--state", str(folder)]
        result = await asyncio.to_thread(click.testing.CliRunner().invoke, command, arguments)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output and result.output.splitlines()[1].split()[0] == "slices/s"


def test_textual_is_imported_by_nothing_but_the_live_view():
    code = (
        "import sys, orchestrator.cli.worker_top, orchestrator.cli.worker_control, orchestrator.worker.service;"
        "sys.exit('textual' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
