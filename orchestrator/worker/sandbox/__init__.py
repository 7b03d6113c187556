"""One sandbox: a container of the evaluator, from its start over the job it is bound to, to its recorded end.

Pure: `requests`, `running_slice`. `pipeline` has the slices in it, `meter` charges them, `event_queue` holds what it
said until it is taken, `ending` learns how it ended, `sandbox` is the whole. What it may say is in `line_protocol`.
"""

from orchestrator.worker.sandbox.sandbox import Sandbox, SandboxSettings, State

__all__ = ["Sandbox", "SandboxSettings", "State"]
