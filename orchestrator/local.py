"""The whole distributed computer in one process: Scheduler, Bank, Worker, and a demo job to watch."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import Coroutine, Iterator
from typing import Any, Protocol

from orchestrator import telemetry
from orchestrator.bank.amounts import format_amount
from orchestrator.compute.job import Job, JobEvent, Range
from orchestrator.mandelbrot import WORK_FUNCTION, Picture, Plan
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.config import fetch_config
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import LocalSettings, SchedulerSettings, WorkerSettings, load
from orchestrator.task_groups import TaskGroup
from orchestrator.wallet import files
from orchestrator.worker.service import Worker

# The file on disk follows the picture no more often than this.
_PICTURE_INTERVAL_S = 0.5


@dataclasses.dataclass(frozen=True)
class DemoSummary:
    """What the demo job took. Wall time runs from deploying to the last result; CPU time is the kernel's count."""

    slices: int
    seconds: float
    cpu_seconds: float
    picture: pathlib.Path

    @property
    def slices_per_second(self) -> float:
        return self.slices / self.seconds

    def to_json(self) -> dict[str, Any]:
        return {
            "slices": self.slices,
            "seconds": round(self.seconds, 3),
            "slices_per_second": round(self.slices_per_second, 1),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "picture": str(self.picture),
        }


class View(Protocol):
    """The stages of a local computer's life, as its user is told of them."""

    def ready(self, url: str) -> None: ...
    def painting(self, picture: Picture) -> contextlib.AbstractContextManager[None]: ...
    def tile(self, picture: Picture) -> None: ...
    def finished(self, summary: DemoSummary) -> None: ...
    def serving(self, url: str, keys: pathlib.Path, credit: str) -> None: ...
    def stopping(self) -> None: ...


async def run(
    settings: LocalSettings, view: View, *, demo: bool = True, once: bool = False, config: pathlib.Path | None = None
) -> None:
    """Serve until SIGINT or SIGTERM, or until the demo is done when `once`.

    The first signal finishes the slices in work, the second gives them back. Raises when a part fails: nothing goes on
    half alive. When cancelled, sandboxes are removed; what was accepted is on disk. `config` names a settings file.
    """
    state = settings.state_dir.absolute()
    keys = state / "keys"
    readings = telemetry.Readings()
    await asyncio.to_thread(_make_keystores, keys)
    async with SchedulerApp(_scheduler_settings(settings, state, config)) as scheduler, TaskGroup() as group:
        worker = Worker(_worker_settings(settings, state, scheduler.url, config))
        wanted = asyncio.Event()
        with _stop_on_signals(worker, wanted, view):
            serving = group.create_task(scheduler.run())
            working = group.create_task(worker.run())
            await _until(wanted, worker.ready.wait())
            if not wanted.is_set():
                view.ready(scheduler.url)
            if demo and not wanted.is_set():
                await _until(wanted, _paint(scheduler.url, keys, state / "mandelbrot.png", readings, view))
            if not once and not wanted.is_set():
                view.serving(scheduler.url, keys, format_amount(settings.credit))
                await wanted.wait()
            worker.stop()
            await working
            serving.cancel()


async def _paint(url: str, keys: pathlib.Path, path: pathlib.Path, readings: telemetry.Readings, view: View) -> None:
    """Deploy the demo job as any owner would, over the network, and fill the picture as results come."""
    picture = Picture(Plan())
    identity = await asyncio.to_thread(files.load_or_create, keys / "id.keystore", "id")
    account = await asyncio.to_thread(files.load_or_create, keys / "default.keystore", "default")
    saved_at = time.monotonic()
    cpu_before = readings.total("dcp.worker.slice.cpu_time")

    def hear(event: JobEvent) -> None:
        nonlocal saved_at
        if event.label != "result":
            return
        picture.fill(int(event.data["sliceNumber"]) - 1, event.value.data)
        view.tile(picture)
        if time.monotonic() - saved_at > _PICTURE_INTERVAL_S:
            picture.write_png(path)
            saved_at = time.monotonic()

    job = Job(
        WORK_FUNCTION,
        Range(0, picture.plan.tiles - 1),
        picture.plan.arguments,
        name="Mandelbrot set",
        slice_payment=0.001,
    )
    async with DcpClient(identity, keys / "identity-cache.json") as client:
        config = await fetch_config(url)
        started = time.monotonic()
        with view.painting(picture):
            await job.exec(client, config, account, hear)
        seconds = time.monotonic() - started
    picture.write_png(path)
    cpu = readings.total("dcp.worker.slice.cpu_time") - cpu_before
    view.finished(DemoSummary(picture.plan.tiles, seconds, cpu, path))


async def _until(event: asyncio.Event, work: Coroutine[Any, Any, object]) -> None:
    """Do the work, or cancel it when the event comes first."""
    async with TaskGroup() as group:
        working = group.create_task(work)
        waiting = group.create_task(event.wait())
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        working.cancel()


@contextlib.contextmanager
def _stop_on_signals(worker: Worker, wanted: asyncio.Event, view: View) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not wanted.is_set():
            view.stopping()
        worker.stop(hard=wanted.is_set())
        wanted.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _make_keystores(keys: pathlib.Path) -> None:
    """An identity and a bank account for the demo and for whoever tries the official client."""
    for label in ("id", "default"):
        files.load_or_create(keys / f"{label}.keystore", label)


def _scheduler_settings(settings: LocalSettings, state: pathlib.Path, config: pathlib.Path | None) -> SchedulerSettings:
    given = {"host": settings.host, "port": settings.port, "state_dir": state / "scheduler"}
    return load(SchedulerSettings, {**given, "initial_credit": settings.credit}, config).settings


def _worker_settings(
    settings: LocalSettings, state: pathlib.Path, url: str, config: pathlib.Path | None
) -> WorkerSettings:
    given: dict[str, Any] = {"scheduler_url": url, "state_dir": state / "worker"}
    if settings.sandboxes is not None:
        given["sandboxes"] = settings.sandboxes
    return load(WorkerSettings, given, config).settings
