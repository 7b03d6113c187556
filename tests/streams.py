"""Which test runs in which of several streams (`pytest -n 2`).

Tests of whole systems wait for most of their time, those of single parts compute. So one stream begins at the front of
the collection (`e2e`, `faults`, …) and the next at its back (`unit`, `simulation`, …), and they meet somewhere between:
nothing is measured beside more than one other test, and no stream runs out of work before the other: the longest file
goes first. The tests of a file stay together, in their order, so that what they share is made once.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

LONGEST = "tests/faults/test_soak.py"
"""five minutes, of which most are waiting; where the streams meet it would be waited for"""


class Streams(LoadScopeScheduling):
    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]

    def _assign_work_unit(self, node: WorkerController) -> None:
        # The base class takes the first: what this stream is to run next is put there.
        number = int(node.gateway.id.removeprefix("gw"))
        if number % 2:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        elif LONGEST in self.workqueue:
            self.workqueue.move_to_end(LONGEST, last=False)
        super()._assign_work_unit(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """A stream that ended within a test (a time-out ends its process) does not try that test again: failing is
        failing, and the next stream would end there, too."""
        units: dict[str, dict[str, Any]] = self.assigned_work[node]
        ended_in = next((test for unit in units.values() for test, is_done in unit.items() if not is_done), None)
        if ended_in is not None:
            units[self._split_scope(ended_in)][ended_in] = True
            # The base class gives everything back, and a stream that is given a file without tests waits for ever.
            for scope in [scope for scope, unit in units.items() if all(unit.values())]:
                del units[scope]
        super().remove_node(node)
        return ended_in
