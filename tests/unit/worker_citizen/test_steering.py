"""Quiet hours and load become pauses, and the pool rests in a long one."""

from __future__ import annotations

import datetime
import types

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.settings import WorkerSettings
from orchestrator.worker import machine
from orchestrator.worker.load_control import Reading
from orchestrator.worker.pausing import GiveBack
from orchestrator.worker.steering import Steering, zone_of


class Toy:
    """A worker that writes down what it is told; its clocks stand still until they are moved."""

    def __init__(self, **settings) -> None:
        self.said: list[tuple] = []
        self.now, self.wall = 0.0, datetime.datetime(2026, 3, 6, 21, 59, 59, tzinfo=datetime.UTC)
        self.reading = Reading()
        self.paused_since: float | None = None
        self.resting = False
        self.steering = Steering(
            self, WorkerSettings(quiet_zone="UTC", **settings), lambda: self.now, lambda: self.wall,
            lambda _own: self.reading,
        )  # fmt: skip

    def pause(self, reason, *, source="command", give_back=False):
        self.said.append(("pause", source, reason, give_back))
        self.paused_since = self.now

    def resume(self, *, source="command"):
        self.said.append(("resume", source))
        self.paused_since = None

    def look(self, after: float = 1.0) -> list[tuple]:
        self.now += after
        self.wall += datetime.timedelta(seconds=after)
        before = len(self.said)
        self.steering.look()
        return self.said[before:]


def test_quiet_hours_pause_and_end():
    toy = Toy(quiet_hours=("22:00-06:00",))
    assert toy.look(0.0) == []
    assert toy.look() == [
        ("pause", "schedule", "quiet hours 22:00-06:00, until Sat 06:00", GiveBack.UNSTARTED),
    ]
    assert toy.look() == []
    assert toy.look(8 * 3600.0) == [("resume", "schedule")]


def test_a_jump_of_the_wall_clock_is_seen_at_once():
    toy = Toy(quiet_hours=("22:00-06:00",))
    toy.wall += datetime.timedelta(hours=1)
    assert toy.look()[0][:2] == ("pause", "schedule")
    toy.wall -= datetime.timedelta(hours=2)
    assert toy.look() == [("resume", "schedule")]


def test_load_pauses_once_however_its_figures_change():
    toy = Toy(busy_memory_mib=100, busy_after_s=2.0, calm_after_s=3.0, pause_give_back="nothing")
    toy.reading = Reading(available_bytes=50 << 20)
    said = [one for _ in range(6) for one in toy.look()]
    toy.reading = Reading(available_bytes=40 << 20)
    said += [one for _ in range(6) for one in toy.look()]
    assert [one[:2] for one in said] == [("pause", "load")] and said[0][3] is GiveBack.NOTHING
    toy.reading = Reading(available_bytes=4000 << 20)
    assert [one for _ in range(6) for one in toy.look()] == [("resume", "load")]


def test_without_limits_the_machine_is_not_even_looked_at():
    toy = Toy()
    toy.reading = None
    assert toy.look() == []


def test_the_pool_rests_in_a_long_pause_only():
    toy = Toy(paused_keep_warm_s=60.0)
    rests: list[bool] = []
    toy.steering.pool = types.SimpleNamespace(rest=rests.append)
    toy.look()
    toy.paused_since = toy.now
    toy.look(59.0)
    toy.look(1.0)
    toy.paused_since = None
    toy.look()
    assert rests == [False, False, True, False]


def test_new_settings_hold_at_once():
    toy = Toy(quiet_hours=("22:00-06:00",), busy_memory_mib=100, busy_after_s=0.0)
    toy.reading = Reading(available_bytes=50 << 20)
    assert [one[:2] for one in toy.look()] == [("pause", "schedule"), ("pause", "load")]
    toy.steering.reconfigure(WorkerSettings(quiet_zone="UTC"))
    assert toy.look() == [("resume", "schedule"), ("resume", "load")]
    toy.steering.reconfigure(WorkerSettings(quiet_zone="UTC", quiet_hours=("21:00-23:00",)))
    assert [one[:2] for one in toy.look()] == [("pause", "schedule")]
    with pytest.raises(InvalidInput):
        toy.steering.reconfigure(WorkerSettings(quiet_hours=("later",)))
    assert toy.look() == []


def test_zones(monkeypatch):
    monkeypatch.delenv("TZ", raising=False)
    assert zone_of(None) is not None
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert str(zone_of(None)) == "Europe/Berlin"
    for wrong in ("Europe/Berlinn", "../../etc/passwd", ""):
        with pytest.raises(InvalidInput, match="quiet_zone"):
            zone_of(wrong)


def test_what_the_kernel_says(tmp_path):
    (tmp_path / "stat").write_text("cpu  100 0 50 800 40 0 10 100 7 0\ncpu0 1 1 1 1\n")
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\n")
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure/memory").write_text("some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=3.0\n")
    assert machine.parse_cpu((tmp_path / "stat").read_text(), 100) == (11.0, 1.6)
    seen = machine.load(0.5, tmp_path)
    assert (seen.available_bytes, seen.pressure) == (400 * 1024, 12.5)
    assert machine.load(0.0, tmp_path / "nowhere") == Reading()
    assert machine.parse_cpu("cpu what\n", 100) is None and machine.parse_pressure("") is None
