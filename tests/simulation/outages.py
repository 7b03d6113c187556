"""A database that is away now and then: it cannot be reached, or a connection breaks over a transaction."""

from __future__ import annotations

import enum

from orchestrator.database import DatabaseAway, Unreached
from tests.simulation.world import World

LONGEST_S = 12.0


class Commit(enum.Enum):
    DONE = enum.auto()
    LOST = enum.auto()
    """the transaction was taken back"""
    UNHEARD = enum.auto()
    """it is committed, and nobody heard so"""


class Outages:
    def __init__(self, world: World) -> None:
        self._world = world
        self._back_at = 0.0

    def reach(self) -> None:
        """Before a transaction begins. Raises `Unreached`."""
        if self._world.elapsed < self._back_at:
            raise Unreached("the database does not answer")

    def commit(self) -> Commit:
        """Whether a transaction that is about to be committed will be."""
        world = self._world
        if not world.chance(world.faults.database_restart):
            return Commit.DONE
        self._back_at = world.elapsed + LONGEST_S * world.random.random()
        outcome = world.random.choice([Commit.LOST, Commit.UNHEARD])
        world.note("database", f"goes away for {self._back_at - world.elapsed:.1f} s over a commit: {outcome.name}")
        return outcome

    @staticmethod
    def broken() -> DatabaseAway:
        return DatabaseAway("the database does not answer")
