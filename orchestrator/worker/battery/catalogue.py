"""All cases, in the order of their areas."""

from __future__ import annotations

from typing import Final

from orchestrator.worker.battery import conformance, ends, functions, kernel, walls
from orchestrator.worker.battery.case import Area, Case

_ALL: Final = (*walls.CASES, *kernel.CASES, *ends.CASES, *functions.CASES, *conformance.CASES)

CASES: Final[tuple[Case, ...]] = tuple(sorted(_ALL, key=lambda case: list(Area).index(case.area)))
