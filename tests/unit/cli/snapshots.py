"""Snapshots of a worker, as its control socket gives them."""

from __future__ import annotations

from typing import Any

OK = {"code": "EOK", "what": "all 2 places are at work", "remedy": "nothing to change here"}
IDLE = {
    "code": "EPERM_ORIGIN",
    "what": "job one may not fetch from http://data.example:8080",
    "remedy": "if you trust it: --allow-origin fetchData=http://data.example:8080",
}


def slot(sandbox: int | None = 1, **changes: Any) -> dict[str, Any]:
    base = {
        "state": "working", "sandbox": sandbox, "job": "j" * 22, "job_name": "mandelbrot", "slice": 17, "queued": 3,
        "done": 120, "why": "", "for_s": 1.25, "cpu_s": 10.0, "memory_bytes": 56 << 20,
    }  # fmt: skip
    return {**base, **changes}


EMPTY = {"state": "empty", "job": "", "job_name": "", "slice": None, "queued": 0, "done": 0, "why": "ENOWORK",
         "for_s": None, "cpu_s": None, "memory_bytes": None}  # fmt: skip


def status(clock: float = 100.0, done: int = 1000, **changes: Any) -> dict[str, Any]:
    """A snapshot of a worker with one busy place and one empty one."""
    job = {"name": "mandelbrot", "unstarted": 54, "queued": 3, "reported": 2, "completed": done, "slice_s": 0.2123,
           "earned": 76 * 10**15}  # fmt: skip
    return {
        "worker": "2KQN48w2Y1e9KAkntqnKkf",
        "state": "working",
        "pid": 7,
        "scheduler": "http://127.0.0.1:9001/",
        "started_at": 1_000_000.0,
        "now": 1_000_000.0 + clock,
        "clock": clock,
        "earned_dcc": f"{done / 1000}",
        "slots": [slot(), slot(None, **EMPTY)],
        "supervisor": {
            "held": 59,
            "counts": {"slices completed": done, "slices that threw": 0, "slices returned": 12},
            "jobs": {"j" * 22: job},
        },
        "pool": {"ready": 2, "starting": 1, "in_use": 1, "capacity": 2, "hit_rate": 0.981, "hand_out_s": {"p50": 4e-5}},
        "usage": {
            "sandboxes_cpu_s": clock * 1.5, "worker_cpu_s": clock * 0.04, "sandboxes_memory_bytes": 312 << 20,
            "worker_memory_bytes": 82 << 20, "memory_available_bytes": 18 << 30, "cores": 2, "load": 3.21,
        },
        **changes,
    }  # fmt: skip
