"""Cgroups that nobody needs any more: `/dcp-sandboxes/<worker>/<sandbox>` of containers that are gone.

A cgroup does not say who made it. One whose container was just removed may go at once; any other only when it is old
and no container has its name: a sandbox has its container seconds after its cgroup. The kernel keeps what has
processes in it, so nothing that runs is ever removed, whoever's it is.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Set

from orchestrator.worker.cgroups import ROOT, Hierarchies


def remove(
    hierarchies: Hierarchies, removed: Set[tuple[str, str]], kept: Set[tuple[str, str]], made_before: float
) -> int:
    """How many directories of sandboxes and workers went. `removed` and `kept` are (worker, sandbox) of containers

    that are gone and that are there; `made_before` is Unix time.
    """
    gone = 0
    workers_kept = {worker for worker, _sandbox in kept}
    for mount in hierarchies.mounts():
        for worker in _folders(mount / ROOT):
            for sandbox in _folders(worker):
                name = (worker.name, sandbox.name)
                if name not in kept and (name in removed or _older(sandbox, made_before)):
                    gone += _remove_tree(sandbox)
            if worker.name not in workers_kept and _older(worker, made_before):
                gone += _remove(worker)
    return gone


def _folders(directory: pathlib.Path) -> list[pathlib.Path]:
    try:
        return [child for child in directory.iterdir() if child.is_dir()]
    except OSError:
        return []


def _older(directory: pathlib.Path, made_before: float) -> bool:
    """By the time at which something was last made or removed in it."""
    try:
        return directory.stat().st_mtime < made_before
    except OSError:
        return False


def _remove_tree(directory: pathlib.Path) -> bool:
    for child in _folders(directory):
        _remove_tree(child)
    return _remove(directory)


def _remove(directory: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):  # processes or other cgroups are inside
        directory.rmdir()
        return True
    return False
