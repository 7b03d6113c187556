"""Python's garbage collector in a process that serves for long."""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """What was loaded so far stays for ever: the collector need not look at it again and again. What requests and
    slices leave behind is nearly all freed without it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
