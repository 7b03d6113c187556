"""What came of a flood."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tests.flood.honest import Times


@dataclasses.dataclass
class Report:
    seconds: float
    gun: dict[str, dict[str, float]]
    """by kind of attacker, what `gun.c` says"""
    talkers: dict[str, Any]
    honest: dict[str, Times]
    memory_before: int
    memory_most: int
    kernel_memory_most: int
    """of all TCP connections of the machine"""
    scheduler_cpu: float
    """cores that the Scheduler used during the flood"""
    gun_cpu: float
    metrics: Mapping[str, float]
    """how much the Scheduler's counters grew during the flood"""
    log: str

    def gun_per_s(self, what: str) -> float:
        return sum(kind[what] / kind["seconds"] for kind in self.gun.values())

    @property
    def offered_per_s(self) -> float:
        """Messages that the attackers' side has handed to the kernel."""
        return self.gun_per_s("offered")

    def to_json(self) -> dict[str, object]:
        return {
            "seconds": round(self.seconds, 1),
            "messages_offered_per_s": round(self.offered_per_s),
            "mib_offered_per_s": round(self.gun_per_s("bytes") / 2**20, 1),
            "mib_delivered_per_s": round(self.gun_per_s("acked") / 2**20, 1),
            "mib_read_per_s": round(self._per_s("received_bytes") / 2**20, 2),
            "messages_read_per_s": round(self._per_s("messages")),
            "connections_opened_per_s": round(self.gun_per_s("opened")),
            "connections_refused_per_s": round(self._per_s("connections_refused")),
            "connections_cut_per_s": round(self.gun_per_s("refused") + self.gun_per_s("cut")),
            "connections_given_up_per_s": round(self.gun_per_s("left")),
            "bans": round(self._sum("bans")),
            "refused": self._by_reason("connections_refused"),
            "cut": self._by_reason("connections_cut"),
            "dropped": self._by_reason("messages_dropped"),
            "gun": {name: {key: round(value) for key, value in kind.items()} for name, kind in self.gun.items()},
            "talkers": self.talkers,
            "honest": {name: times.to_json() for name, times in self.honest.items()},
            "memory_before_mib": self.memory_before >> 20,
            "memory_most_mib": self.memory_most >> 20,
            "kernel_memory_most_mib": self.kernel_memory_most >> 20,
            "scheduler_cores": round(self.scheduler_cpu, 2),
            "gun_cores": round(self.gun_cpu, 2),
        }

    def _sum(self, name: str) -> float:
        return sum(value for key, value in self.metrics.items() if key.partition(" ")[0] == name)

    def _per_s(self, name: str) -> float:
        return self._sum(name) / self.seconds

    def _by_reason(self, name: str) -> dict[str, int]:
        return {
            key.partition(" ")[2]: round(value)
            for key, value in self.metrics.items()
            if key.partition(" ")[0] == name and value
        }
