"""Which limits and which figures are really in force here: what this machine's kernel offers and the Engine uses.

`look` reads this machine, `judge` is pure. The Engine may run on another machine: then only its own word counts.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from orchestrator.worker.cgroups import Hierarchies, parse_mountinfo
from orchestrator.worker.docker_runtime.engine_facts import EngineFacts
from orchestrator.worker.isolation import option_names

_NEEDED: Final = ("cpu", "memory", "pids")
_PEAK_KERNEL: Final = (5, 19)
_PEAK_RESET_KERNEL: Final = (6, 12)
_OOM_COUNT_KERNEL_V1: Final = (4, 13)
_FILES: Final[Mapping[str, tuple[str, str]]] = {
    "memory": ("memory.limit_in_bytes", "memory.max"),
    "swap": ("memory.memsw.limit_in_bytes", "memory.swap.max"),
    "cpu": ("cpu.cfs_quota_us", "cpu.max"),
    "pids": ("pids.max", "pids.max"),
}
_DELEGATE: Final = (
    "delegate the controllers to the user: Delegate=cpu cpuset io memory pids in a drop-in of user@.service "
    "(/etc/systemd/system/user@.service.d/delegate.conf), then log in again"
)
_OWN_REMEDY: Final = (
    "run the Worker as root beside an Engine with cgroup driver cgroupfs "
    '("exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json), the cgroup tree writable'
)


class EffectiveLimit(NamedTuple):
    """`name` is stable. `how` says by what it is in force, or why it is not; `remedy` is empty where it is."""

    name: str
    effective: bool
    how: str
    remedy: str = ""


@dataclass(frozen=True)
class Machine:
    """What this machine's kernel offers.

    `controllers` are those that can limit anything here; `delegated` those that a user's own services may use (None
    when there is no such cgroup); `writable`: this process may make cgroups.
    """

    hierarchies: Hierarchies
    controllers: frozenset[str]
    delegated: frozenset[str] | None
    writable: bool
    swap: bool
    kernel: tuple[int, ...]


def look(root: pathlib.Path = pathlib.Path("/"), uid: int | None = None) -> Machine:
    """Read this machine; `uid` is the user of a rootless Engine. What cannot be read counts as absent."""
    hierarchies = parse_mountinfo(_text(root / "proc/self/mountinfo"), root)
    user = os.getuid() if uid is None else uid
    delegated: frozenset[str] | None = None
    if hierarchies.version == 2 and hierarchies.v2 is not None:
        controllers = frozenset(_text(hierarchies.v2 / "cgroup.controllers").split())
        service = hierarchies.v2 / f"user.slice/user-{user}.slice/user@{user}.service/cgroup.controllers"
        delegated = frozenset(_text(service).split()) if service.exists() else None
        trees = [hierarchies.v2]
    else:
        controllers = frozenset(hierarchies.v1)
        trees = [hierarchies.v1[name] for name in ("cpuacct", "memory") if name in hierarchies.v1]
    return Machine(
        hierarchies=hierarchies,
        controllers=controllers,
        delegated=delegated,
        writable=bool(trees) and all(os.access(tree, os.W_OK | os.X_OK) for tree in trees),
        swap=len(_text(root / "proc/swaps").splitlines()) > 1,
        kernel=kernel_of(_text(root / "proc/sys/kernel/osrelease")),
    )


def effective_limits(engine: EngineFacts) -> list[EffectiveLimit]:
    """The verdicts for this machine and this Engine, the most important first. Reads a few files; never raises."""
    return judge(engine, look() if engine.local else None)


def judge(engine: EngineFacts, machine: Machine | None) -> list[EffectiveLimit]:
    """Pure. `machine` is the Engine's, None when that is not this one."""
    return [
        *(_limit(name, engine, machine) for name in ("memory", "swap", "cpu", "pids")),
        *_figures(engine, machine),
        *_delegation(engine, machine),
    ]


def kernel_of(release: str) -> tuple[int, ...]:
    """`6.1.0-32-amd64` → (6, 1); empty when it says nothing."""
    return tuple(int(part) for part in re.findall(r"\d+", release)[:2])


# -- limits ------------------------------------------------------------------------------------------------------------


def _limit(name: str, engine: EngineFacts, machine: Machine | None) -> EffectiveLimit:
    driver, version = engine.info.cgroup_driver, engine.info.cgroup_version
    file = _FILES[name][1 if version == "2" else 0]
    if driver in ("none", ""):
        return EffectiveLimit(name, False, "the Engine may not use cgroups (driver none)", _DELEGATE)
    if engine.info.limits.get(name):
        return EffectiveLimit(name, True, f"{file} (cgroup v{version}, driver {driver})")
    if name == "swap" and machine is not None and not machine.swap:
        return EffectiveLimit(name, True, "there is no swap here")
    return EffectiveLimit(name, False, f"the Engine cannot set {file}", _limit_remedy(name, engine, version))


def _limit_remedy(name: str, engine: EngineFacts, version: str) -> str:
    if "rootless" in option_names(engine.info.security):
        return _DELEGATE
    if name == "swap":
        return "turn swap off (swapoff -a)" + ("" if version == "2" else ", or boot with swapaccount=1")
    if name == "memory":
        return "boot with cgroup_enable=memory"
    return f"use a kernel with the {name} cgroup controller"


# -- figures -----------------------------------------------------------------------------------------------------------


def _figures(engine: EngineFacts, machine: Machine | None) -> list[EffectiveLimit]:
    if machine is None:
        how = "the Engine runs on another machine: its statistics are read, up to a second old"
        remedy = "run the Worker on the Engine's machine"
        names = ("own cgroup", "CPU time to the end", "peak memory", "peak memory per slice", "out of memory")
        # The Engine itself says of an ended container whether memory ran out.
        return [EffectiveLimit(name, name == "out of memory", how, _unless(name == "out of memory", remedy))
                for name in names]  # fmt: skip
    version, kernel = machine.hierarchies.version, machine.kernel
    own, why = _own_cgroup(engine, machine)
    end = "counters stay readable after a container's end" if own else "what is used after the last reading is lost"
    peak = version == 1 or (version == 2 and kernel >= _PEAK_KERNEL)
    reset = version == 1 or (version == 2 and kernel >= _PEAK_RESET_KERNEL)
    counted = version == 2 or kernel >= _OOM_COUNT_KERNEL_V1
    mark = "memory.max_usage_in_bytes" if version == 1 else "memory.peak"
    known = "exit code and the Engine's OOMKilled" + (", and the kernel's count of kills" if counted else "")
    return [
        EffectiveLimit("own cgroup", own, why, _unless(own, _OWN_REMEDY)),
        EffectiveLimit("CPU time to the end", own, end, _unless(own, _OWN_REMEDY)),
        EffectiveLimit("peak memory", peak, mark if peak else "no memory.peak before Linux 5.19: seen at answers only",
                       _unless(peak, "use Linux 5.19 or later")),
        EffectiveLimit("peak memory per slice", reset,
                       f"{mark} is reset for each slice" if reset else "the mark is of the sandbox's whole life",
                       _unless(reset, "use Linux 6.12 or later")),
        EffectiveLimit("out of memory", True, known),
    ]  # fmt: skip


def _own_cgroup(engine: EngineFacts, machine: Machine) -> tuple[bool, str]:
    """Whether each sandbox gets a parent cgroup, and by what or why not."""
    version = machine.hierarchies.version
    if version == 0:
        return False, "no cgroup tree with a memory controller is mounted here"
    if engine.info.cgroup_driver != "cgroupfs":
        return False, f"the Engine's cgroup driver is {engine.info.cgroup_driver or 'none'}: systemd owns the tree"
    if engine.info.cgroup_version != str(version):
        return False, f"the Engine uses cgroup v{engine.info.cgroup_version}, this process sees v{version}"
    absent = [name for name in _NEEDED if name not in machine.controllers]
    if version == 2 and absent:
        return False, f"the cgroup tree does not offer {', '.join(absent)}"
    if not machine.writable:
        return False, "this process may not make cgroups"
    return True, f"a parent cgroup per sandbox (v{version})"


def _delegation(engine: EngineFacts, machine: Machine | None) -> Sequence[EffectiveLimit]:
    """Of a rootless Engine: whether its user was given the controllers."""
    if machine is None or "rootless" not in option_names(engine.info.security):
        return ()
    if machine.hierarchies.version != 2:
        remedy = "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)"
        return (EffectiveLimit("delegation", False, "a rootless Engine needs cgroup v2", remedy),)
    given = machine.delegated or frozenset()
    absent = [name for name in _NEEDED if name not in given]
    if absent:
        return (EffectiveLimit("delegation", False, f"the user was not given {', '.join(absent)}", _DELEGATE),)
    return (EffectiveLimit("delegation", True, f"the user has {' '.join(sorted(given))}"),)


def _unless(holds: bool, remedy: str) -> str:
    return "" if holds else remedy


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
