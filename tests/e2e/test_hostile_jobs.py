"""Work functions that misbehave in some slices: the owner hears why, and the other slices' results arrive."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.e2e import harness

pytestmark = [pytest.mark.docker, pytest.mark.npm]

PROGRESS_TIMEOUT_S = 1


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def strict_computer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A local computer that waits only a second for progress, and a short while for another worker."""
    folder = tmp_path_factory.mktemp("strict")
    command = await harness.Command.start(
        "local", "--no-demo", "--port", "0", "--sandboxes", "2", "--state", str(folder / "state"), log=folder / "log",
        env={
            "DCP_ORCHESTRATOR_SCHEDULER_PROGRESS_TIMEOUT_S": str(PROGRESS_TIMEOUT_S),
            "DCP_ORCHESTRATOR_SCHEDULER_OTHER_WORKER_S": "1",
        },
    )  # fmt: skip
    try:
        ready = await command.wait_for_line("ready ")
        yield ready.removeprefix("ready ").strip()
    finally:
        status = await command.stop()
    assert status == 0, command.log.read_text()[-4000:]


@pytest.fixture
def deploy(
    strict_computer: str, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> Callable[..., Awaitable[harness.ClientRun]]:
    """`await deploy("…statements with i…")`: a job over 1…8 that returns 2 i where the statements let it."""

    async def run(statements: str) -> harness.ClientRun:
        program = f"""
            const job = compute.for(1, 8, async (i) => {{ progress(); {statements}; return i * 2; }});
            watch(job);
            say('results', Array.from(await job.exec()));
        """
        async with harness.client(
            program, scheduler=strict_computer, wallet=wallet, node=node, npm_modules=npm_modules
        ) as client:
            return await client.finish(within=100)

    return run


Deploy = Callable[..., Awaitable[harness.ClientRun]]

BAD_SLICES = {
    "loops for ever": ("for (;;);", "ENOPROGRESS", "no progress for 1 s"),
    "waits for ever": ("await new Promise(() => {});", "ENOPROGRESS", "no progress for 1 s"),
    "allocates memory": (
        "const held = []; for (;;) { progress(); held.push(new Uint8Array(16 << 20).fill(1)); }",
        "ENOMEMORY",
        "out of memory: the kernel killed it at its limit",
    ),
    "fills the heap": (
        "const held = []; for (;;) { progress(); held.push(new Array(100000).fill(held.length + 0.5)); }",
        "ENOMEMORY",
        "out of memory: its JavaScript heap reached the limit",
    ),
    "floods": ("for (;;) { progress(); work.emit('flood', 'x'.repeat(500000)); }", "EFLOOD", "bytes"),
}


@pytest.mark.parametrize("what", BAD_SLICES)
async def test_one_bad_slice_beside_good_ones(what: str, deploy: Deploy) -> None:
    statements, code, message = BAD_SLICES[what]
    outcome = (await deploy(f"if (i === 3) {{ {statements} }}")).ok()
    assert outcome.one("results") == [2, 4, 8, 10, 12, 14, 16]
    delivered = [event["sliceNumber"] for event in outcome.all("result")]
    assert sorted(delivered) == [1, 2, 4, 5, 6, 7, 8]
    errors = outcome.all("error")
    assert {error["sliceNumber"] for error in errors} == {3}
    *attempts, last = errors
    assert attempts
    assert all(error["code"] == code and message in error["message"] for error in attempts), attempts
    assert last["code"] == "ETOOMANYATTEMPTS"
    assert code in last["message"]
    assert bool(outcome.all("noProgress")) is (code == "ENOPROGRESS")
    assert all(stop["runStatus"] == "finished" for stop in outcome.all("stop"))
    assert outcome.all("status")[-1]["computed"] == 7


@pytest.mark.parametrize(("what", "code"), [("allocates memory", "ENOMEMORY"), ("loops for ever", "ENOPROGRESS")])
async def test_a_job_without_a_good_slice_is_stopped(what: str, code: str, deploy: Deploy) -> None:
    outcome = await deploy(BAD_SLICES[what][0])
    assert outcome.status == 3
    failed = outcome.one("failed")
    assert failed["code"] in {code, "ETOOMANYERRORS"}
    assert outcome.all("result") == []
    assert {error["code"] for error in outcome.all("error")} <= {code, "ETOOMANYATTEMPTS"}


async def test_the_computer_goes_on_afterwards(deploy: Deploy) -> None:
    outcome = (await deploy("")).ok()
    assert outcome.one("results") == [2, 4, 6, 8, 10, 12, 14, 16]
