"""When the Scheduler ends a worker: with which status, and whether it may start again by itself."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Mapping
from typing import Final

from orchestrator.errors import NotPermitted

AGAIN: Final = 75
"""Exit status: start it again (sysexits: a temporary failure)."""
DISABLED: Final = 77
"""Exit status: it was disabled, and will not start without --enable (sysexits: no permission)."""
STATUSES: Final[Mapping[str, int]] = {"kill": AGAIN, "restart": AGAIN, "disable": DISABLED}
FLAG: Final = "disabled"


class WorkerDisabled(NotPermitted):
    code = "EDISABLED"


def disable(state_dir: pathlib.Path, scheduler_url: str) -> None:
    """Remember it across restarts."""
    text = json.dumps({"by": scheduler_url, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    (state_dir / FLAG).write_text(text + "\n")


def check(state_dir: pathlib.Path, *, enable: bool) -> None:
    """Raises `WorkerDisabled` when the Scheduler has disabled this worker, unless `enable`, which ends that."""
    flag = state_dir / FLAG
    if not flag.exists():
        return
    if enable:
        flag.unlink(missing_ok=True)
        return
    raise WorkerDisabled(
        f"a Scheduler has disabled this worker ({flag.read_text()[:300].strip()}): when its owner agrees that it may"
        " work again, start it once with --enable"
    )
