"""The conformance and escape battery: programs that try to get out, and what must be seen from outside when they do.

One source for two readers: `dcp-orchestrator self-check` runs it against the sandboxes of the machine that it stands
on, and `tests/hostile` runs it in the suite. A case is data and one coroutine; it returns what was seen, or raises
`NotContained` with what was seen instead.
"""

from orchestrator.worker.battery.case import Area, Case, NotApplicable, NotContained
from orchestrator.worker.battery.catalogue import CASES
from orchestrator.worker.battery.ground import Ground

__all__ = ["CASES", "Area", "Case", "Ground", "NotApplicable", "NotContained"]
