"""`worker drain`, `status`, `pause` and `resume` over a real control socket: what they say, and their exit status."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import click.testing
import pytest

from orchestrator.cli.worker import command
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.worker.control import ControlServer
from orchestrator.worker.control_client import NoWorker
from tests.unit.cli.snapshots import status


class Toy:
    """A worker that drains until it is told to end."""

    def __init__(self, *, delivered: bool = True) -> None:
        self.delivered = delivered
        self.draining = asyncio.Event()
        self.calls: list[tuple[Any, ...]] = []

    def status(self) -> dict[str, Any]:
        books = {"sandboxes_busy": 1, "capacity": 2, "queued": 3, "reported": 2, **status()["supervisor"]}
        return {**status(), "supervisor": books}

    def explain(self, **_of: Any) -> dict[str, Any]:
        return {}

    def drain(self) -> None:
        self.draining.set()

    def drain_progress(self) -> dict[str, Any]:
        return {"held": 4, "running": 1, "unacknowledged": 2}

    def outcome(self) -> dict[str, Any]:
        return {"delivered": self.delivered, "unacknowledged": 0 if self.delivered else 2, "accepted": 9, "returned": 1}

    def pause(self, reason: str, *, source: str, give_back: bool) -> None:
        self.calls.append(("pause", reason, give_back))

    def resume(self, *, source: str) -> None:
        self.calls.append(("resume",))


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    tmp_path.chmod(0o700)
    return tmp_path


async def run(folder: pathlib.Path, *arguments: str) -> click.testing.Result:
    runner = click.testing.CliRunner()
    return await asyncio.to_thread(runner.invoke, command, [*arguments, "--state", str(folder)])


@contextlib.asynccontextmanager
async def drained(folder: pathlib.Path, toy: Toy, *arguments: str) -> AsyncIterator[asyncio.Task[click.testing.Result]]:
    """`drain --wait` against a worker that ends when the block does."""
    async with asyncio.TaskGroup() as group, ControlServer(toy, folder):
        yield group.create_task(run(folder, "drain", "--wait", *arguments))
        async with asyncio.timeout(20):
            await toy.draining.wait()


async def test_everything_was_delivered(folder: pathlib.Path) -> None:
    async with drained(folder, Toy()) as waiting:
        pass
    result = waiting.result()
    assert result.exit_code == 0, result.output
    assert result.output == "the worker has ended: everything was delivered (9 results accepted, 1 slices returned)\n"


async def test_not_everything_was_delivered(folder: pathlib.Path) -> None:
    async with drained(folder, Toy(delivered=False)) as waiting:
        pass
    assert waiting.result().exit_code == 1 and "2 reports were not delivered" in waiting.result().output


async def test_progress_as_json_lines(folder: pathlib.Path) -> None:
    async with drained(folder, Toy(), "--output", "json") as waiting:
        pass
    first, *_, last = [json.loads(line) for line in waiting.result().output.splitlines()]
    assert first == {"event": "draining", "held": 4, "running": 1, "unacknowledged": 2}
    assert last["event"] == "ended" and last["delivered"] is True


async def test_waiting_may_end_before_the_drain(folder: pathlib.Path) -> None:
    async with ControlServer(Toy(), folder):
        error = (await run(folder, "drain", "--wait", "--timeout", "0.2")).exception
    assert isinstance(error, OrchestratorError) and error.code == "ETIMEDOUT"
    assert "still drains after 0.2 s" in error.message and "SIGTERM" in error.message


async def test_a_timeout_without_waiting_makes_no_sense(folder: pathlib.Path) -> None:
    result = await run(folder, "drain", "--timeout", "5")
    assert result.exit_code == 2 and "give --wait too" in result.output


async def test_asking_for_a_drain_and_going_away(folder: pathlib.Path) -> None:
    toy = Toy()
    async with ControlServer(toy, folder):
        result = await run(folder, "drain")
    assert toy.draining.is_set()
    assert result.output == "draining: 4 slices held, 1 in sandboxes, 2 reports not acknowledged\n"


async def test_status(folder: pathlib.Path) -> None:
    async with ControlServer(Toy(), folder):
        lines = (await run(folder, "status")).output.splitlines()
        answer = json.loads((await run(folder, "status", "--output", "json")).output)
    assert lines[0].startswith("worker     2KQN48w2Y1e9KAkntqnKkf, process 7")
    assert "sandboxes  1 busy of 2, 2 ready in the pool" in lines
    assert answer["worker"] == "2KQN48w2Y1e9KAkntqnKkf" and answer["earned_dcc"] == "1.0"


async def test_pausing(folder: pathlib.Path) -> None:
    toy = Toy()
    async with ControlServer(toy, folder):
        said = await run(folder, "pause", "--for", "2h", "--reason", "demo at ten", "--give-back")
        assert said.output == "paused for 2h\n"
        wrong = (await run(folder, "pause", "--for", "soon")).exception
        assert isinstance(wrong, InvalidInput) and "'soon'" in wrong.message and "2h" in wrong.message
        assert (await run(folder, "resume")).output == "resumed\n"
    [(_pause, reason, give_back), resumed] = toy.calls
    assert reason.startswith("demo at ten, until ") and give_back and resumed == ("resume",)


async def test_without_a_worker_every_command_says_where_it_looked(folder: pathlib.Path) -> None:
    for arguments in (
        ["status"],
        ["drain"],
        ["drain", "--wait"],
        ["pause"],
        ["resume"],
        ["explain"],
        ["top", "--once"],
    ):
        error = (await run(folder, *arguments)).exception
        assert isinstance(error, NoWorker) and str(folder / "control.sock") in error.message, arguments
