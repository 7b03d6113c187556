"""Which limits hold: fixture trees of v1, v2, systemd and rootless machines, and what the Engine says of itself."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest

from orchestrator.worker.docker_runtime.engine_facts import EngineFacts, parse_facts
from orchestrator.worker.effective_limits import EffectiveLimit, Machine, effective_limits, judge, kernel_of, look

V1 = """32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
V2 = "30 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
NAMES = [
    "memory", "swap", "cpu", "pids", "own cgroup", "CPU time to the end", "peak memory", "peak memory per slice",
    "out of memory",
]  # fmt: skip


def machine(
    root: pathlib.Path, mounts: str, kernel: str = "6.18.44", swaps: str = "Filename Type\n", offered: str = ""
) -> Machine:
    """A tree as the kernel would show it, read."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/sys/kernel").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(mounts)
    (root / "proc/swaps").write_text(swaps)
    (root / "proc/sys/kernel/osrelease").write_text(kernel + "\n")
    for name in ("cpu,cpuacct", "memory", "pids", "unified"):
        (root / "sys/fs/cgroup" / name).mkdir(parents=True)
    if offered:
        (root / "sys/fs/cgroup/cgroup.controllers").write_text(offered + "\n")
    return look(root, uid=1000)


def engine(version: str = "2", driver: str = "cgroupfs", *, local: bool = True, **info: Any) -> EngineFacts:
    said = {
        "CgroupVersion": version, "CgroupDriver": driver, "SecurityOptions": ["name=seccomp"],
        "MemoryLimit": True, "SwapLimit": True, "CpuCfsQuota": True, "PidsLimit": True,
    }  # fmt: skip
    return parse_facts("unix:///x", {}, {**said, **info}, None, local=local)


def judged(facts: EngineFacts, seen: Machine | None) -> dict[str, EffectiveLimit]:
    verdicts = judge(facts, seen)
    for one in verdicts:
        assert one.how
        assert bool(one.remedy) is not one.effective, one
    return {one.name: one for one in verdicts}


def test_everything_holds_on_v1(tmp_path: pathlib.Path) -> None:
    seen = machine(tmp_path, V1)
    assert (seen.hierarchies.version, seen.swap, seen.kernel) == (1, False, (6, 18))
    found = judged(engine("1"), seen)
    assert list(found) == NAMES
    assert all(one.effective for one in found.values())
    assert "memory.limit_in_bytes" in found["memory"].how
    assert "max_usage_in_bytes" in found["peak memory per slice"].how


def test_everything_holds_on_a_recent_v2(tmp_path: pathlib.Path) -> None:
    seen = machine(tmp_path, V2, "6.12.9-amd64", offered="cpuset cpu io memory pids")
    assert {"cpu", "memory", "pids"} <= seen.controllers
    found = judged(engine(), seen)
    assert all(one.effective for one in found.values())
    assert "memory.max" in found["memory"].how


@pytest.mark.parametrize(
    ("kernel", "peak", "per_slice"),
    [("5.18.1", False, False), ("5.19.0", True, False), ("6.11.5", True, False), ("6.12", True, True)],
)
def test_what_a_v2_kernel_can_say_of_memory(tmp_path: pathlib.Path, kernel: str, peak: bool, per_slice: bool) -> None:
    found = judged(engine(), machine(tmp_path, V2, kernel, offered="cpu memory pids"))
    assert (found["peak memory"].effective, found["peak memory per slice"].effective) == (peak, per_slice)


def test_systemd_owns_the_tree(tmp_path: pathlib.Path) -> None:
    seen = machine(tmp_path, V2, offered="cpu memory pids")
    found = judged(engine(driver="systemd"), seen)
    assert [name for name, one in found.items() if not one.effective] == ["own cgroup", "CPU time to the end"]
    assert "systemd" in found["own cgroup"].how
    assert "cgroupfs" in found["own cgroup"].remedy


def test_a_tree_without_controllers(tmp_path: pathlib.Path) -> None:
    found = judged(engine(PidsLimit=False), machine(tmp_path, V2, offered="cpu memory"))
    assert not found["pids"].effective
    assert "pids" in found["own cgroup"].how


def test_swap(tmp_path: pathlib.Path) -> None:
    without = machine(tmp_path / "without", V1)
    swapping = machine(tmp_path / "with", V1, swaps="Filename Type\n/dev/sda2 partition 1 0 -2\n")
    assert swapping.swap
    assert judged(engine("1", SwapLimit=False), without)["swap"].effective
    told = judged(engine("1", SwapLimit=False), swapping)["swap"]
    assert not told.effective
    assert "swapaccount=1" in told.remedy
    assert judged(engine("1"), swapping)["swap"].effective


def test_a_rootless_engine_needs_its_users_controllers(tmp_path: pathlib.Path) -> None:
    rootless = {"SecurityOptions": ["name=rootless", "name=cgroupns"], "CpuCfsQuota": False}
    seen = machine(tmp_path, V2, offered="cpu memory pids")
    found = judged(engine(driver="systemd", **rootless), seen)
    assert not found["delegation"].effective
    assert not found["cpu"].effective
    assert "Delegate=" in found["cpu"].remedy
    service = tmp_path / "sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service"
    service.mkdir(parents=True)
    (service / "cgroup.controllers").write_text("memory pids\n")
    assert "cpu" in judged(engine(**rootless), look(tmp_path, uid=1000))["delegation"].how
    (service / "cgroup.controllers").write_text("cpu memory pids\n")
    assert judged(engine(driver="systemd", **rootless), look(tmp_path, uid=1000))["delegation"].effective
    on_v1 = machine(tmp_path / "v1", V1)
    assert "v2" in judged(engine("1", "none", **rootless), on_v1)["delegation"].how
    assert not judged(engine("1", "none", **rootless), on_v1)["memory"].effective


def test_an_engine_elsewhere_is_taken_at_its_word() -> None:
    found = judged(engine(local=False), None)
    assert list(found) == NAMES
    assert [name for name, one in found.items() if one.effective] == ["memory", "swap", "cpu", "pids", "out of memory"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_tree_that_may_not_be_written(tmp_path: pathlib.Path) -> None:
    machine(tmp_path, V1)
    (tmp_path / "sys/fs/cgroup/memory").chmod(0o555)
    assert not judged(engine("1"), look(tmp_path))["own cgroup"].effective


def test_the_engine_and_this_process_see_different_trees(tmp_path: pathlib.Path) -> None:
    found = judged(engine("2"), machine(tmp_path, V1))
    assert "v2" in found["own cgroup"].how


def test_a_machine_without_cgroups(tmp_path: pathlib.Path) -> None:
    seen = machine(tmp_path, "")
    assert (seen.hierarchies.version, seen.writable) == (0, False)
    assert not judged(engine("1"), seen)["own cgroup"].effective
    assert look(tmp_path / "nowhere").kernel == ()


def test_this_machine_is_read() -> None:
    assert look().kernel
    assert [one.name for one in effective_limits(engine())][: len(NAMES)] == NAMES


def test_kernels() -> None:
    assert kernel_of("6.1.0-32-amd64") == (6, 1)
    assert kernel_of("") == ()
