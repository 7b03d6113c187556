"""Sessions that end before an answer with slices is read: the Worker tells the Scheduler which answers it has lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.protocol.server import Request
from tests.integration.worker_supervisor.conftest import ToyScheduler

pytestmark = pytest.mark.docker

JOB = "j" * 22
CODE = "n => { progress(); return n * 2 }"


class Breaking(ToyScheduler):
    """Ends the session of the next request with slices instead of answering it; `unreadable` is an answer besides."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks = True
        self.unreadable: Any = None
        self.broke = asyncio.Event()
        self.lost: list[str] = []

    async def on_taskDistributor(self, request: Request) -> Any:
        answer = await super().on_taskDistributor(request)
        if self.breaks and answer.get("body", {}).get("task"):
            self.breaks = False
            self.lost.append(request.data["requestId"])
            self.waiting.extend((JOB, one["sliceNumber"], one["datumUri"]) for one in answer["body"]["task"][JOB])
            if self.unreadable is not None:
                return self.unreadable
            request.connection.close()
            self.broke.set()
            raise OrchestratorError("nobody hears this")
        return answer

    def told(self) -> list[dict[str, Any]]:
        return [one for one in self.requests if one.get("lostRequests")]


async def test_a_lost_session_is_told_with_the_next_request_and_all_is_given_back_again(worker):
    """It was the first request: it was to give back what an earlier process held, and may not have arrived."""
    async with Breaking().serving() as breaking:
        breaking.add(JOB, CODE, ["data:application/json,1"])
        async with worker(breaking):
            await breaking.done(1)
    assert [one["lostRequests"] for one in breaking.told()[:1]] == [breaking.lost]
    assert "returnAllSlices" in breaking.told()[0]
    ids = [one["requestId"] for one in breaking.requests if "requestId" in one]
    assert len(ids) == len(set(ids))
    assert breaking.value(JOB, 1) == 2
    later = [one for one in breaking.requests if one["fetchState"] & 1][2:]
    assert not any("returnAllSlices" in one for one in later), "it would give back what is held"


async def test_an_answer_that_makes_no_sense_is_told_of(worker):
    async with Breaking().serving() as breaking:
        breaking.unreadable = {"body": "nonsense"}
        breaking.add(JOB, CODE, ["data:application/json,1"])
        async with worker(breaking):
            await breaking.done(1)
    assert breaking.told()[0]["lostRequests"] == breaking.lost


async def test_a_paused_worker_tells_of_it_without_asking_for_work(worker):
    async with Breaking().serving() as breaking, worker(breaking) as w:
        await breaking.until(lambda: len(breaking.requests) > 1)
        breaking.add(JOB, CODE, ["data:application/json,1"])
        await breaking.broke.wait()
        w.pause("the machine is needed")
        await breaking.until(lambda: bool(breaking.told()))
    told = breaking.told()[0]
    assert (told["lostRequests"], told["fetchState"], told["soteriaJobs"]) == (breaking.lost, 2, None)
    assert not breaking.results
