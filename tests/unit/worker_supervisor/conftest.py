"""A desk to play on: a supervisor with validated books, and short ways to say what happens to it."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker import task
from orchestrator.worker.desk import Policy
from orchestrator.worker.supervisor import Supervisor


def metrics(wall_s: float = 0.01, cpu_s: float = 0.01) -> SliceMetrics:
    return SliceMetrics(
        cpu_time_s=cpu_s, wall_time_s=wall_s, bytes_in=10, bytes_out=20, peak_memory_bytes=1 << 20, gpu_time_s=0.0
    )


def job_message(**changes: Any) -> dict[str, Any]:
    return {
        "codeLocation": "data:,x=>x",
        "argumentsLocation": [],
        "public": {"name": "a job"},
        "dependencies": [],
        "requirePath": [],
        "modulePath": [],
        "worktime": {"name": "map-basic", "version": "1.0.0"},
        "needCapabilities": 64,
        **changes,
    }


def answer(
    slices: dict[str, list[int]], *, token: str = "t", datum: str = "data:,1", estimation: bool = False, **job: Any
) -> dict[str, Any]:
    return {
        "owner": "0x0",
        "auth": {"token": token},
        "body": {
            "newJobs": {job_id: job_message(jobId=job_id, **job) for job_id in slices},
            "task": {
                job_id: [
                    {"jobId": job_id, "sliceNumber": n, "datumUri": datum, "isEstimationSlice": estimation}
                    for n in numbers
                ]
                for job_id, numbers in slices.items()
            },
        },
    }


class Desk:
    """Hands events to a supervisor, checks its books after each, and keeps what it answered."""

    def __init__(self, policy: Policy, *, ready: bool = True) -> None:
        self.supervisor = Supervisor(policy)
        self.now = 0.0
        self.actions: list[act.Action] = []
        self.log: list[act.Action] = []
        if ready:
            self(ev.RuntimeReady(1 | 64 | 16, 256))

    def __call__(self, *events: ev.Event, after: float = 0.0) -> list[act.Action]:
        self.now += after
        self.actions = self.supervisor.handle_all(events, self.now)
        self.log += self.actions
        self.supervisor.validate()
        return self.actions

    def all(self, kind: type, *, ever: bool = False) -> list[Any]:
        return [action for action in (self.log if ever else self.actions) if isinstance(action, kind)]

    def one(self, kind: type) -> Any:
        found = self.all(kind)
        assert len(found) == 1, f"{kind.__name__}: {self.actions}"
        return found[0]

    def task(self, slices: dict[str, list[int]], **more: Any) -> list[act.Action]:
        return self(ev.TaskReceived(task.parse(answer(slices, **more))))

    def start(self, slices: dict[str, list[int]], **more: Any) -> list[int]:
        """Slices arrive, code is fetched, sandboxes open; returns the sandboxes' numbers."""
        self.task(slices, **more)
        opened = []
        for fetch in self.all(act.FetchJob):
            self(ev.JobFetched(fetch.offer.job_id))
            opened += [action.sandbox for action in self.all(act.OpenSandbox)]
        self(*(ev.SandboxOpened(sandbox) for sandbox in opened))
        return opened

    def submitted(self) -> list[tuple[int, int]]:
        """(sandbox, key) of the slices that the last actions submitted."""
        return [(action.sandbox, key) for action in self.all(act.Submit) for key, _uri in action.slices]

    def complete(self, sandbox: int, key: int, *, wall_s: float = 0.01, progressed: bool = True) -> list[act.Action]:
        return self(ev.SliceCompleted(sandbox, key, "result", 6, metrics(wall_s), progressed), after=wall_s)


@pytest.fixture
def desk() -> Callable[..., Desk]:
    def make(*, ready: bool = True, **policy: Any) -> Desk:
        return Desk(Policy(**policy), ready=ready)

    return make


@pytest.fixture
def made() -> types.SimpleNamespace:
    """Builders of wire data and metrics."""
    return types.SimpleNamespace(metrics=metrics, job_message=job_message, answer=answer)
