"""What all parts of one simulation share: the seeded chance, the clock, the log, and the faults that are still on."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import string

from orchestrator.wallet.addresses import checksum

EPOCH = 1_700_000_000.0
"""the made-up clock begins here, seconds since 1970"""

_ALPHABET = string.ascii_letters + string.digits


class Violation(AssertionError):
    """A rule that must always hold was broken."""


@dataclasses.dataclass(frozen=True)
class Faults:
    """Chances, each for one message, task or slice; all of them end at `until` (virtual seconds from the start)."""

    until: float = 120.0
    lose_request: float = 0.0
    lose_answer: float = 0.0
    repeat: float = 0.0
    longest_delay_s: float = 0.02
    stray_delay: float = 0.0
    """a message is late by up to a minute and overtaken by later ones"""
    worker_crash: float = 0.0
    worker_stall: float = 0.0
    """a worker is silent for longer than its lease, and then goes on"""
    worker_lie: float = 0.0
    worker_forget: float = 0.0
    """a slice is never reported"""
    slice_fails: float = 0.0
    client_crash: float = 0.0
    scheduler_kill_every_s: float = 0.0
    """mean time between kills of a scheduler process; 0 = never"""
    database_restart: float = 0.0
    """a transaction: the database goes away over its commit, and comes back after a while"""


class World:
    def __init__(self, seed: int, faults: Faults) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        self.log: list[str] = []
        self.steps = 0
        """requests that a scheduler has handled"""
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        """Seconds since 1970, as the parts under test see them."""
        return EPOCH + self._loop.time()

    @property
    def elapsed(self) -> float:
        return self._loop.time()

    @property
    def calm(self) -> bool:
        """The faults are over: from here on everything must come to its end."""
        return self.elapsed >= self.faults.until

    def chance(self, probability: float) -> bool:
        """Whether a fault happens now. Never when all is calm."""
        return probability > 0 and not self.calm and self.random.random() < probability

    def note(self, who: str, text: str) -> None:
        self.log.append(f"{self.elapsed:.6f} {who} {text}")

    def new_job_id(self) -> str:
        return "".join(self.random.choices(_ALPHABET, k=22))

    def new_address(self) -> str:
        return checksum(f"0x{self.random.getrandbits(160):040x}")

    async def pause(self) -> None:
        """What a database takes: others may come in between."""
        if self.random.random() < 0.5:
            await asyncio.sleep(self.random.random() * 0.004)
