"""What differs between OCI runtimes and Engines: the profile in gVisor's words, whose cgroup is read, whose clock."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time

import pytest

from orchestrator.worker.cgroups import CgroupFailure, CgroupReader, Hierarchies, open_process
from orchestrator.worker.docker_runtime.process_usage import ProcessUsage, parse_peak
from orchestrator.worker.doctor import engine
from orchestrator.worker.doctor.check import Status
from orchestrator.worker.isolation import Isolation
from orchestrator.worker.limits import SandboxLimits
from orchestrator.worker.lockdown import Lockdown, LockdownLoosened, seccomp_for_gvisor, validate, validate_seccomp


def test_the_profile_for_gvisor_allows_what_ours_allows_and_nothing_more() -> None:
    ours = Lockdown.load().seccomp
    theirs = seccomp_for_gvisor(ours)
    validate_seccomp(theirs)

    def allowed(profile: dict[str, object] | object) -> list[object]:
        assert isinstance(profile, dict)
        return [rule for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"]

    assert allowed(theirs) == allowed(ours)
    assert theirs["defaultAction"] == ours["defaultAction"] == "SCMP_ACT_ERRNO"
    handed_over = [rule for rule in theirs["syscalls"] if rule["action"] == "SCMP_ACT_TRACE"]
    assert "clone3" in {name for rule in handed_over for name in rule["names"]}
    assert all("ptrace" not in rule["names"] for rule in theirs["syscalls"])
    assert all(rule["action"] != "SCMP_ACT_TRACE" for rule in ours["syscalls"])


def test_only_gvisor_gets_it() -> None:
    lockdown = Lockdown.load()
    for level in Isolation:
        body = lockdown.create_body(image="x", labels={}, limits=SandboxLimits(), isolation=level)
        profile = body["HostConfig"]["SecurityOpt"][1]
        assert ("SCMP_ACT_TRACE" in profile) is (level is Isolation.GVISOR)


def test_handing_over_ptrace_itself_is_no_denial() -> None:
    body = Lockdown.load().create_body(image="x", labels={}, limits=SandboxLimits())
    body["HostConfig"]["SecurityOpt"][1] = (
        'seccomp={"defaultAction":"SCMP_ACT_TRACE","syscalls":[{"names":["ptrace"],"action":"SCMP_ACT_ALLOW"}]}'
    )
    with pytest.raises(LockdownLoosened):
        validate(body)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--platform=systrap", "--network=none", "--oci-seccomp"), Status.OK),
        (("-network=none", "-oci-seccomp=true"), Status.OK),
        (("--network=none",), Status.WARN),
        (("--network=host", "--oci-seccomp"), Status.WARN),
        ((), Status.FAIL),
        (("--network=none", "--oci-seccomp", "--ignore-cgroups"), Status.FAIL),
    ],
)
def test_what_gvisor_must_be_told(arguments: tuple[str, ...], status: Status) -> None:
    assert engine.judge_gvisor("runsc", arguments).status is status


# -- metering ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_shared_memory_is_no_page_cache(tmp_path: pathlib.Path, version: int) -> None:
    """gVisor keeps all of a guest's memory in a shared file: it was taken for cache, and not seen."""
    stat = "total_cache 900\ntotal_shmem 700\n" if version == 1 else "file 900\nshmem 700\n"
    for name, text in (
        ("memory.stat", stat), ("cpuacct.usage", "5"), ("cpu.stat", "usage_usec 5"),
        ("memory.usage_in_bytes", "1000"), ("memory.current", "1000"),
        ("memory.max_usage_in_bytes", "1000"), ("memory.peak", "1000"),
        ("memory.oom_control", "oom_kill 0"), ("memory.events", "oom_kill 0"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text + "\n")
    reader = CgroupReader(version, {"memory": tmp_path, "cpuacct": tmp_path, "": tmp_path})
    assert reader.read(0.0).peak_bytes == 800
    reader.close()


def test_a_cgroup_that_is_not_the_containers_own_is_not_read() -> None:
    """An Engine without cgroups leaves its containers in its own: everybody's time would be charged to each."""
    hierarchies = Hierarchies({"memory": pathlib.Path("/nowhere"), "cpuacct": pathlib.Path("/nowhere")}, None)
    with pytest.raises(CgroupFailure, match="of its own"):
        open_process(hierarchies, os.getpid(), "f" * 64)


def test_the_clock_of_a_process() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('burnt', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        usage = ProcessUsage(process.pid)
        assert process.stdout.readline() == b"burnt\n"
        read = usage.read(0.0)
        assert 0.3e9 <= read.cpu_ns < 3e9
        assert read.peak_bytes > 1 << 20
        process.kill()
        process.wait()
        assert usage.read(1.0) == read
        usage.close()
        usage.close()
        assert usage.read(2.0) == read
        with pytest.raises(CgroupFailure):
            ProcessUsage(process.pid)


def test_the_clock_counts_threads_that_have_ended() -> None:
    burn = (
        "import threading, time\n"
        "def spin():\n    while time.thread_time() < 0.3: pass\n"
        "t = threading.Thread(target=spin); t.start(); t.join(); print('burnt', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        usage = ProcessUsage(process.pid)
        assert usage.read(time.monotonic()).cpu_ns >= 0.3e9
        usage.close()
        process.kill()


def test_peak_memory_leaves_out_what_is_mapped_from_files() -> None:
    assert parse_peak("VmHWM:\t   1000 kB\nRssAnon:\t 1 kB\nRssFile:\t    600 kB\n") == 400 * 1024
    assert parse_peak("") == 0
