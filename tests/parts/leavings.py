"""What Workers have left on this machine, each with its age and the rule by which it should have gone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Collection
from typing import Any

import docker

from orchestrator.worker.cgroups import CgroupFailure, CgroupTree
from orchestrator.worker.docker_runtime import reaper

LOOK_EVERY_S = 0.25

_RULES = {
    reaper.Verdict.OWNER_GONE: "its Worker has ended: a soft end removes what it made; the next look of any Worker at "
    "this Engine, at its start and every minute, removes what is left",
    reaper.Verdict.LEASE_OVER: "its lease is over: any Worker at this Engine removes it 90 s after it has seen that",
    reaper.Verdict.OWNED: "its Worker lives, or cannot be seen from here while the lease lasts: that Worker removes it "
    "when the sandbox ends, or within a minute when its start was given up",
}
_OUTLIVED = "what outlives its container is killed when its Worker removes that"


@dataclasses.dataclass(frozen=True)
class Left:
    """`orphan`: nobody owns it any more."""

    what: str
    facts: str
    rule: str
    orphan: bool

    def __str__(self) -> str:
        return f"{self.what} ({self.facts}) is left. The rule: {self.rule}"


def containers(workers: Collection[str], docker_host: str | None = None) -> list[Left]:
    """Containers, running or not, with the label of one of these workers."""
    made = docker.from_env() if docker_host is None else docker.DockerClient(base_url=docker_host)
    with contextlib.closing(made) as client:
        found = client.api.containers(all=True, filters={"label": reaper.LABEL_WORKER})
    return [_container(item) for item in found if item["Labels"].get(reaper.LABEL_WORKER) in workers]


def _container(item: dict[str, Any]) -> Left:
    one, now = reaper.Labelled.listed(item), time.time()
    # As another Worker at the same Engine would judge it.
    verdict = reaper.judge(one, None, frozenset(), now, reaper.process_is_alive)
    maker = one.labels.get(reaper.LABEL_PROCESS, "").split("/")
    facts = [
        f"worker {one.worker}",
        f"sandbox {one.sandbox}",
        f"made by process {maker[2] if len(maker) == 4 else '?'}",
        f"{now - item['Created']:.0f} s old",
        str(item["Status"] or item["State"]).lower(),
        "no lease" if one.expires is None else f"lease for {one.expires - now:.0f} s more",
    ]
    name = next(iter(one.names), one.container_id[:12]).lstrip("/")
    return Left(f"container {name}", ", ".join(facts), _RULES[verdict], verdict is not reaper.Verdict.OWNED)


def orphans(workers: Collection[str], docker_host: str | None = None) -> list[Left]:
    """Those containers whose Worker has ended."""
    return [one for one in containers(workers, docker_host) if one.orphan]


def processes(workers: Collection[str]) -> list[Left]:
    """Processes in the cgroups of sandboxes. An empty cgroup, of a worker killed between making it and the container,
    is none: it goes after half an hour."""
    return [left for worker in workers for left in _processes(worker)]


def _processes(worker: str) -> list[Left]:
    try:
        tree = CgroupTree.of_this_machine(worker)
    except CgroupFailure:
        return []
    found: dict[tuple[str, int], None] = {}
    for sandbox in tree.sandboxes():
        for directory in tree.everywhere(f"{tree.base}/{sandbox}"):
            for path in directory.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):  # the cgroup has gone meanwhile
                    found |= {(sandbox, int(line)): None for line in path.read_text().split()}
    return [
        Left(f"process {pid}", f"worker {worker}, sandbox {sandbox}, {_describe(pid)}", _OUTLIVED, True)
        for sandbox, pid in found
    ]


def _describe(pid: int) -> str:
    """What it is, how old, and in which state (D: in a call of the kernel, Z: only waited for)."""
    try:
        folder = pathlib.Path(f"/proc/{pid}")
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80].strip()
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        up_s = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    except (OSError, IndexError, ValueError):
        return "gone meanwhile"
    age_s = up_s - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return f"{command or 'no command line'}, {age_s:.0f} s old, state {fields[0]}"


async def once_gone(look: Callable[[], list[Left]], within_s: float) -> list[Left]:
    """Look until nothing is left, at most for so long; what is left then. Looks in a thread."""
    end = time.monotonic() + within_s
    while (left := await asyncio.to_thread(look)) and time.monotonic() < end:  # noqa: ASYNC110  (the kernel tells nobody)
        await asyncio.sleep(LOOK_EVERY_S)
    return left
