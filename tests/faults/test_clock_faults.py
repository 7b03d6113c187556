"""The clock of one part jumps by an hour, either way, in the middle of a job: it completes, nothing is left.

The jump is made with libfaketime: real processes, with a wall clock that obeys a file. What depends on durations uses the
monotonic clock, which does not jump.
"""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import AsyncIterator, Callable

import pytest

from tests.e2e import harness
from tests.faults.parts import Parts, assert_complete, deployed, free_port, stop
from tests.parts.containers import containers_of

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.timeout(600), pytest.mark.usefixtures("root_tools")]

SetClock = Callable[[str], None]


@pytest.fixture
def library() -> str:
    found = sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("needs libfaketime")
    return str(found[0])


@pytest.fixture(params=["worker", "scheduler"])
async def parts_and_clock(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, library: str
) -> AsyncIterator[tuple[Parts, SetClock]]:
    parts = Parts(tmp_path, free_port())
    clock = tmp_path / "clock"

    def set_clock(offset: str) -> None:
        (tmp_path / "next").write_text(offset + "\n")
        (tmp_path / "next").rename(clock)

    set_clock("+0")
    env = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    (parts.worker_env if request.param == "worker" else parts.scheduler_env).update(env)
    try:
        await parts.start_scheduler()
        await parts.start_worker()
        yield parts, set_clock
    finally:
        await stop(parts)
    assert containers_of(parts.worker_id()) == []


@pytest.mark.parametrize("offset", ["+3600", "-3600"])
async def test_a_clock_jumps(
    parts_and_clock: tuple[Parts, SetClock], wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path,
    offset: str,
) -> None:  # fmt: skip
    parts, set_clock = parts_and_clock
    async with deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        set_clock(offset)
        await assert_complete(client, parts)


def test_the_jump_is_one(tmp_path: pathlib.Path, library: str) -> None:
    """A control: the means do what they are said to do."""
    clock = tmp_path / "clock"
    clock.write_text("-3600\n")
    program = "import time; print(round(time.time()), round(time.clock_gettime(time.CLOCK_MONOTONIC)))"
    command = ["python3", "-c", program]
    env = {
        "PATH": "/usr/bin:/bin:/usr/local/bin",
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    true = [
        int(word)
        for word in subprocess.run(
            command, check=True, capture_output=True, text=True, env={"PATH": env["PATH"]}
        ).stdout.split()
    ]
    faked = [
        int(word)
        for word in subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.split()
    ]
    assert abs(true[0] - 3600 - faked[0]) < 10
    assert abs(true[1] - faked[1]) < 10
