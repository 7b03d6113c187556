"""The parts of a sandbox, without a container: a slice's clock, the queue of events, how its end is explained."""

from __future__ import annotations

import asyncio
import json

import pytest

from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.cgroups import Hierarchies
from orchestrator.worker.docker_runtime import ContainerState
from orchestrator.worker.docker_runtime.container import FALSE_EXIT
from orchestrator.worker.docker_runtime.own_cgroups import OwnCgroups
from orchestrator.worker.limits import SliceLimits
from orchestrator.worker.sandbox import ending, event_queue, requests
from orchestrator.worker.sandbox.event_queue import EventQueue
from orchestrator.worker.sandbox.running_slice import RunningSlice

# -- a slice's clock -------------------------------------------------------------------------------------------------


def running(slice_timeout_s: float | None, progress_timeout_s: float | None) -> RunningSlice:
    item = RunningSlice(1, 7, b"line", SliceLimits(slice_timeout_s, progress_timeout_s))
    item.started_at = item.progress_at = 100.0
    return item


def test_the_first_limit_that_runs_out_decides() -> None:
    item = running(10.0, 4.0)
    assert item.due() == 104.0
    item.progress_at = 109.0
    assert item.due() == 110.0
    assert item.overdue(110.0).code == "ESLICETOOSLOW"
    assert item.overdue(105.0).code == "ENOPROGRESS"
    assert running(None, None).due() == float("inf")


def test_the_clock_stands_still_while_nobody_hears_it_but_not_for_ever() -> None:
    item = running(10.0, None)
    assert item.excuse(30.0) and item.due() == 140.0 and item.overdue_s(141.0) == 1.0
    assert item.excuse(3600.0)
    assert not item.excuse(1.0)
    assert item.due() == 3740.0


# -- events ----------------------------------------------------------------------------------------------------------


async def test_a_sandbox_that_says_too_much_is_not_heard_until_half_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_queue, "_HIGH", 4)
    heard: list[float] = []
    hushed: list[bool] = []

    def hush() -> bool:
        hushed.append(True)
        return True

    queue = EventQueue(hush, heard.append)
    for number in range(6):
        queue.put(ev.Progress(number, None))
    assert queue.hushed and hushed == [True]
    taken = queue.one_by_one()
    assert [(await anext(taken)).key for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
    assert queue.hushed and heard == []
    assert (await anext(taken)).key == 3  # type: ignore[union-attr]
    assert not queue.hushed and len(heard) == 1 and heard[0] >= 0
    queue.end(ev.SandboxEnded(ev.DeathCause(ev.DeathKind.EXIT, "it ended"), ()))
    rest = [event async for event in taken]
    assert [type(event) for event in rest] == [ev.Progress, ev.Progress, ev.SandboxEnded]


async def test_batches_have_all_that_is_there_and_end_with_the_last_event() -> None:
    queue = EventQueue(lambda: False, lambda _seconds: None)
    batches: list[list[ev.SandboxEvent]] = []

    async def take() -> None:
        async for batch in queue.batches():
            batches.append(batch)
            if len(batches) == 1:
                queue.end(ev.SandboxEnded(ev.DeathCause(ev.DeathKind.EXIT, "it ended"), (5,)))

    queue.put(ev.Progress(1, 0.5))
    queue.put(ev.Progress(1, 0.6))
    async with asyncio.timeout(5):
        await take()
    assert [len(batch) for batch in batches] == [2, 1]


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "oom", "stderr", "kind"),
    [
        (0, False, b"", "exit"),
        (1, False, b"heap out of memory", "exit"),
        (137, False, b"", "killed"),
        (137, True, b"", "oom"),
        (134, False, b"FATAL ERROR: heap out of memory", "oom"),
        (134, False, b"something else", "exit"),
        (FALSE_EXIT, True, b"", "protocol"),
    ],
)
def test_how_it_ended_is_explained(code: int, oom: bool, stderr: bytes, kind: str) -> None:
    cause = ending.explain(ContainerState(False, code, oom, 0), stderr)
    assert (cause.kind, cause.exit_code, cause.oom_killed) == (kind, code, oom)


# -- requests ----------------------------------------------------------------------------------------------------------


def test_requirements_and_job_are_two_lines_at_once() -> None:
    text = requests.assign(ev.Assignment("j", "(x) => x", requirements={"environment": {"fdlibm": True}}))
    first, second = (json.loads(line)["message"]["what"]["raw"] for line in text.splitlines())
    assert first == {"request": "applyRequirements", "environment": {"fdlibm": True}, "worktime": "map-basic"}
    assert (second["request"], second["job"]["id"], second["job"]["workFunction"]) == ("assign", "j", "(x) => x")


# -- cgroups -----------------------------------------------------------------------------------------------------------


class Tree:
    """Cgroups whose processes take so many looks to end."""

    hierarchies = Hierarchies({}, None)

    def __init__(self, **looks: int) -> None:
        self.looks = looks

    def sandboxes(self) -> set[str]:
        return set(self.looks)

    def remove_sandbox(self, sandbox: str) -> bool:
        self.looks[sandbox] -= 1
        if self.looks[sandbox] < 0:
            del self.looks[sandbox]
        return sandbox not in self.looks


def test_a_cgroup_is_leaked_when_it_does_not_go_at_two_looks() -> None:
    cgroups = OwnCgroups("w")
    cgroups._tree = Tree(ending=1, stuck=2, living=0)  # type: ignore[assignment]
    cgroups._made = {"ending", "stuck", "living"}
    looks = [cgroups.remove_stale(frozenset(), frozenset(), {"living"}, 60.0) for _ in range(3)]
    assert looks == [0, 1, 0]
    assert cgroups._tree.sandboxes() == {"living"}  # type: ignore[union-attr]
