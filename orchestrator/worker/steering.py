"""When the worker leaves the machine to others: quiet hours and load, looked at once a second."""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import pathlib
import zoneinfo
from collections.abc import Callable
from typing import Any, Final, Protocol

from orchestrator.errors import InvalidInput
from orchestrator.settings import WorkerSettings
from orchestrator.worker import load_control, machine, quiet_hours
from orchestrator.worker.limits import MIB
from orchestrator.worker.pausing import GiveBack
from orchestrator.worker.pool import SandboxPool

log = logging.getLogger(__name__)

SCHEDULE: Final = "schedule"
LOAD: Final = "load"
_EVERY_S: Final = 1.0
_LOCALTIME: Final = pathlib.Path("/etc/localtime")


class Steered(Protocol):
    """What is asked of the worker."""

    def pause(self, reason: str, *, source: str = "command", give_back: bool | GiveBack = False) -> None: ...
    def resume(self, *, source: str = "command") -> None: ...
    @property
    def paused_since(self) -> float | None: ...


class Steering:
    """`run` until cancelled. Raises `InvalidInput` at once for settings that make no sense."""

    def __init__(
        self,
        worker: Steered,
        settings: WorkerSettings,
        clock: Callable[[], float],
        wall: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        read: Callable[[float], load_control.Reading] = machine.load,
    ) -> None:
        self.pool: SandboxPool | None = None
        """Its sandboxes are not counted as a load of others, and give up memory in a pause."""
        self.quiet_until: datetime.datetime | None = None
        """When the quiet hours of this moment end; None outside of them, and when they never end."""
        self._worker = worker
        self._clock = clock
        self._wall = wall
        self._read = read
        self._quiet: str | None = None
        self._loaded: str | None = None
        self._load = load_control.LoadControl(limits_of(settings))
        self.reconfigure(settings)

    def reconfigure(self, settings: WorkerSettings) -> None:
        """Take new settings. Raises `InvalidInput` before anything has changed."""
        windows, zone = quiet_hours.parse(settings.quiet_hours), zone_of(settings.quiet_zone)
        self._settings, self._windows, self._zone = settings, windows, zone
        limits = limits_of(settings)
        if limits != self._load.limits:
            self._load = load_control.LoadControl(limits)
        self._looked_again = True

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(_EVERY_S)

    def look(self) -> None:
        """Pause, let go, or leave things as they are."""
        self._look_at_the_clock()
        self._look_at_the_load()
        self._look_at_the_pool()

    def _look_at_the_clock(self) -> None:
        moment = self._wall()
        window = quiet_hours.window_at(self._windows, moment, self._zone)
        reason = None if window is None else f"quiet hours {window.text}"
        if reason == self._quiet and not (self._looked_again and reason):
            return
        self._quiet, self._looked_again = reason, False
        self.quiet_until = quiet_hours.next_change(self._windows, moment, self._zone) if reason else None
        if reason is None:
            self._worker.resume(source=SCHEDULE)
        else:
            until = "" if self.quiet_until is None else f", until {self.quiet_until.astimezone(self._zone):%a %H:%M}"
            self._pause(SCHEDULE, reason + until)

    def _look_at_the_load(self) -> None:
        limits = self._load.limits
        reason = self._load.look(self._read(self._own_cpu_s()), self._clock()) if limits.any else None
        if (reason is None) is (self._loaded is None):
            return  # another figure is not worth a word
        self._loaded = reason
        if reason is None:
            self._worker.resume(source=LOAD)
        else:
            self._pause(LOAD, reason)

    def _pause(self, source: str, reason: str) -> None:
        self._worker.pause(reason, source=source, give_back=GiveBack(self._settings.pause_give_back))

    def _own_cpu_s(self) -> float:
        own = os.times()
        sandboxes = 0.0 if self.pool is None else self.pool.usage().cpu_ns / 1e9
        return own.user + own.system + own.children_user + own.children_system + sandboxes

    def _look_at_the_pool(self) -> None:
        if self.pool is not None:
            since = self._worker.paused_since
            self.pool.rest(since is not None and self._clock() - since >= self._settings.paused_keep_warm_s)

    def statistics(self) -> dict[str, Any]:
        return {
            "quiet": self._quiet,
            "quiet_until": None if self.quiet_until is None else self.quiet_until.isoformat(),
            "load": self._loaded,
            "others_cpu": self._load.cpu,
        }


def limits_of(settings: WorkerSettings) -> load_control.Limits:
    memory_mib = settings.busy_memory_mib
    return load_control.Limits(
        cpu=settings.busy_cpu,
        memory_bytes=None if memory_mib is None else memory_mib * MIB,
        pressure=settings.busy_memory_pressure,
        busy_s=settings.busy_after_s,
        calm_s=settings.calm_after_s,
    )


def zone_of(name: str | None) -> datetime.tzinfo:
    """The zone of that name, or this machine's. Raises `InvalidInput`."""
    name = name if name is not None else os.environ.get("TZ", "").removeprefix(":") or None
    try:
        if name is not None:
            return zoneinfo.ZoneInfo(name)
        with _LOCALTIME.open("rb") as file:
            return zoneinfo.ZoneInfo.from_file(file, key="local time")
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        if name is None:
            return datetime.UTC  # as the C library has it
        raise InvalidInput(
            f"quiet_zone: {name[:60]!r} is no time zone of this machine; write one such as Europe/Berlin or UTC"
        ) from None
