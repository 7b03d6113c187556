"""Whether this machine can be a good Worker: each prerequisite with what was found, what is wanted, what to do.

`judge_*` are pure (facts in, checks out); `machine`, `scheduler` and `sandbox` gather the facts; `examine` puts them
together.
"""

from orchestrator.worker.doctor.check import Check, Examination, Status
from orchestrator.worker.doctor.examine import examine

__all__ = ["Check", "Examination", "Status", "examine"]
