"""`dcp-orchestrator local` as a person or a script meets it: its lines, its picture, its ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pathlib
import signal
import struct
import subprocess
import termios
import zlib
from collections.abc import AsyncIterator

import pytest

from tests.e2e import harness
from tests.parts.containers import containers_in

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.timeout(400)]


@contextlib.asynccontextmanager
async def local(folder: pathlib.Path, *arguments: str) -> AsyncIterator[harness.Command]:
    command = await harness.Command.start(
        "local", "--port", "0", "--state", str(folder / "state"), *arguments, log=folder / "log"
    )
    try:
        yield command
    finally:
        if command.process.returncode is None:
            await command.stop()


async def test_a_second_start_computes_the_picture(tmp_path: pathlib.Path) -> None:
    async with local(tmp_path, "--no-demo") as command:
        await command.wait_for_line("ready ")
    (tmp_path / "log").unlink()
    async with local(tmp_path, "--once", "--output", "json") as command:
        await command.wait_for_line('{"event": "ready"')
        await command.wait_for_line('{"event": "finished"', within=300)
        assert await command.process.wait() == 0
    events = [json.loads(line) for line in command.lines]
    assert [event["event"] for event in events] == ["ready", *["progress"] * 11, "finished"]
    assert [event["done"] for event in events[1:-1]] == [1, *(-(-384 * tenth // 10) for tenth in range(1, 11))]
    summary = events[-1]
    assert (summary["slices"], summary["picture"]) == (384, str(tmp_path / "state" / "mandelbrot.png"))
    assert summary["cpu_seconds"] > 0.5 and summary["slices_per_second"] > 0
    assert (tmp_path / "log").read_text() == ""
    assert len(colours(pathlib.Path(summary["picture"]))) > 100
    assert containers_in(tmp_path / "state" / "worker") == []


def colours(picture: pathlib.Path) -> set[int]:
    """The colours that a PNG with a palette and one data chunk uses."""
    data = picture.read_bytes()
    at = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[at - 4 : at])
    return set(zlib.decompress(data[at + 4 : at + 4 + length]))


async def test_the_lines_it_prints_work_when_pasted(
    tmp_path: pathlib.Path, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    async with local(tmp_path, "--no-demo") as command:
        await command.wait_for_line("  node -e")
        assert command.lines[0].startswith("ready http://127.0.0.1:")
        install, *lines = (line.strip() for line in command.lines[-3:])
        assert install == "npm install dcp-client@5.6.1"
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "node_modules").symlink_to(npm_modules)  # what `npm install` would have made
        environment = {"PATH": f"{node.parent}:{os.environ['PATH']}", "HOME": str(tmp_path / "mine")}
        for _again in range(2):
            shell = await asyncio.create_subprocess_exec(
                "sh", cwd=tmp_path / "mine", env=environment,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            async with asyncio.timeout(60):
                said, complained = await shell.communicate("\n".join(lines).encode() + b"\n")
            squares = "".join(said.decode().split())
            assert squares == "[1,4,9,16,25,36,49,64,81,100]", (said, complained)
        assert await command.stop() == 0


LONG = """
    const job = compute.for(1, 4, (i) => { console.log('begun'); progress(); const end = Date.now() + 100000; while (Date.now() < end) progress(); return i; });
    job.on('console', () => say('begun'));
    await job.exec();
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_second_signal_ends_it_at_once(
    tmp_path: pathlib.Path,
    wallet: harness.Wallet,
    node: pathlib.Path,
    npm_modules: pathlib.Path,
    number: signal.Signals,
) -> None:
    async with local(tmp_path, "--no-demo", "--sandboxes", "2") as command:
        url = (await command.wait_for_line("ready ")).split()[1]
        async with harness.client(LONG, scheduler=url, wallet=wallet, node=node, npm_modules=npm_modules) as client:
            await client.wait_for("begun", count=2)
            command.process.send_signal(number)
            await wait_for_text(command.log, "Finishing the slices in work")
            command.process.send_signal(number)
            async with asyncio.timeout(60):  # the slices take a hundred seconds
                assert await command.process.wait() == 0, command.log.read_text()
    assert containers_in(tmp_path / "state" / "worker") == []


async def wait_for_text(path: pathlib.Path, text: str) -> None:
    async with asyncio.timeout(20):
        while text not in path.read_text():
            await asyncio.sleep(0.02)  # a file tells nobody that it grew


async def test_the_first_signal_lets_slices_finish(
    tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    program = """
        const job = compute.for(1, 4, (i) => { console.log('begun'); progress(); const end = Date.now() + 1500; while (Date.now() < end) progress(); return i; });
        job.on('console', () => say('begun'));
        job.on('result', (event) => say('result', event.sliceNumber));
        await job.exec();
    """
    async with local(tmp_path, "--no-demo", "--sandboxes", "1") as command:
        url = (await command.wait_for_line("ready ")).split()[1]
        async with harness.client(program, scheduler=url, wallet=wallet, node=node, npm_modules=npm_modules) as client:
            await client.wait_for("begun")
            stopping = asyncio.create_task(command.stop())
            await client.wait_for("result")  # of the slice that was in work
            assert await stopping == 0
    assert containers_in(tmp_path / "state" / "worker") == []


async def test_on_a_terminal_the_picture_fills_and_a_bar_runs(tmp_path: pathlib.Path) -> None:
    screen = await asyncio.to_thread(
        run_on_a_terminal, "local", "--port", "0", "--once", "--state", str(tmp_path / "s")
    )
    assert screen.count("▀") > 10_000
    assert "━" in screen
    assert "384/384" in screen
    assert "slices/s" in screen


def run_on_a_terminal(*arguments: str) -> str:
    """What the command wrote to a terminal of 100 columns and 40 lines until it ended well."""
    terminal, inside = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [harness.COMMAND, *arguments], stdin=inside, stdout=inside, stderr=inside, env={**os.environ, "TERM": "xterm-256color"}
    )  # fmt: skip
    os.close(inside)
    written = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end has closed
        while piece := os.read(terminal, 1 << 16):
            written += piece
    os.close(terminal)
    assert process.wait(30) == 0, written[-2000:]
    return written.decode(errors="replace")
