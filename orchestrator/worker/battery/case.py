"""What a case of the battery is."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Fault, OrchestratorError

if TYPE_CHECKING:
    from orchestrator.worker.battery.ground import Ground


class Area(enum.StrEnum):
    """What a case is about. The order is that of a report."""

    WALLS = "walls"
    """How a sandbox looks from the host: what the kernel holds it to."""
    KERNEL = "kernel"
    """A program that owns the whole process, against the container."""
    PROTOCOL = "protocol"
    """A program that owns the whole process, against the Worker that listens to it."""
    STARTS = "starts"
    """Containers that misbehave before their first slice."""
    ENDS = "ends"
    """Programs that end, or would never end, told apart by their causes."""
    REALM = "realm"
    """Work functions that reach for what is outside of their realm."""
    RESOURCES = "resources"
    """Work functions that take more than their share."""
    FORGERY = "forgery"
    """Work functions that answer, measure or speak for others."""
    CONFORMANCE = "conformance"
    """What an honest work function may rely on."""


class NotContained(OrchestratorError):
    """A case did not end as it must; the message says what was seen."""

    code = "ENOTCONTAINED"
    fault = Fault.WORKER


class NotApplicable(OrchestratorError):
    """A case cannot be judged from here; the message says why."""

    code = "ENOTAPPLICABLE"
    fault = Fault.USER


@dataclass(frozen=True)
class Case:
    """`tries` and `wall` are sentences for a reader who does not know the code: what is tried, what must stop it."""

    area: Area
    name: str
    tries: str
    wall: str
    run: Callable[[Ground], Awaitable[str]]

    @property
    def id(self) -> str:
        return f"{self.area}: {self.name}"


def expect(holds: bool, seen: Any) -> None:
    """Raise `NotContained` with what was seen unless `holds`."""
    if not holds:
        text = seen if isinstance(seen, str) else repr(seen)
        raise NotContained(text[:2000])
