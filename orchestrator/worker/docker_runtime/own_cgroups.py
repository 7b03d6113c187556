"""The parent cgroups that sandboxes get where the machine allows it: their figures outlive the container."""

from __future__ import annotations

import logging
import time
from collections.abc import Set

from orchestrator.worker.cgroups import CgroupFailure, CgroupTree, SandboxCgroup
from orchestrator.worker.docker_runtime import leftovers

log = logging.getLogger(__name__)


class OwnCgroups:
    """None are made before `prepare`, and where that finds that there can be none."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._tree: CgroupTree | None = None
        self._checked = False
        self._made: set[str] = set()
        self._stuck: set[str] = set()  # would not go at the last look

    @property
    def in_use(self) -> bool:
        return self._tree is not None

    def prepare(self, driver: str) -> None:
        """`driver` is the Engine's: systemd owns its tree, and a parent there would have to be a slice unit of its."""
        if driver != "cgroupfs":
            return
        try:
            self._tree = CgroupTree.of_this_machine(self._worker)
            self._tree.prepare()
        except (CgroupFailure, ValueError) as exc:
            log.info("own_cgroups_unavailable", extra={"reason": str(exc)})
            self._tree = None

    def make(self, sandbox_id: str) -> SandboxCgroup | None:
        if self._tree is None:
            return None
        self._made.add(sandbox_id)
        try:
            return self._tree.create(sandbox_id)
        except CgroupFailure as exc:
            log.warning("cgroup_create_failed", extra={"reason": str(exc)})
            return None

    def works(self, cgroup: SandboxCgroup) -> bool:
        """Whether the Engine put the container where we look. Checked once: an Engine elsewhere has another tree."""
        if not self._checked:
            self._checked = True
            if not cgroup.populated():
                log.info("own_cgroups_unused", extra={"reason": "the Engine does not share this machine's cgroup tree"})
                self._tree = None
        return self._tree is not None

    def remove(self, sandbox_id: str) -> None:
        """It is empty, or stays for `remove_stale`."""
        if self._tree is not None:
            self._tree.remove_sandbox(sandbox_id)

    def remove_stale(
        self, removed: Set[tuple[str, str]], kept: Set[tuple[str, str]], live: Set[str], older_than_s: float
    ) -> int:
        """Ours at once, those of containers just removed, and what others left long ago.

        How many of ours would not go, now and at the look before: the processes in it were no longer just ending.
        `removed` and `kept` are (worker, sandbox) of containers, `live` our sandboxes.
        """
        if self._tree is None:
            return 0
        mine, stuck = self._worker, set()
        for sandbox in self._tree.sandboxes() - {sandbox for worker, sandbox in kept if worker == mine} - live:
            if (sandbox in self._made or (mine, sandbox) in removed) and not self._tree.remove_sandbox(sandbox):
                stuck.add(sandbox)
        leaked, self._stuck = len(stuck & self._stuck), stuck
        self._made &= self._tree.sandboxes() | live
        kept = kept | {(mine, sandbox) for sandbox in live}
        leftovers.remove(self._tree.hierarchies, removed, kept, time.time() - older_than_s)
        return leaked

    def dismantle(self) -> None:
        if self._tree is not None:
            self._tree.dismantle()
