"""Facts in, checks out."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.worker import image_pin
from orchestrator.worker.docker_runtime import failures
from orchestrator.worker.docker_runtime.engine_facts import EngineFacts, ImageFacts, parse_facts
from orchestrator.worker.doctor import engine, machine, sandbox, scheduler
from orchestrator.worker.doctor.check import Check, Examination, Status
from orchestrator.worker.effective_limits import EffectiveLimit
from orchestrator.worker.isolation import Isolation, isolation_of

ID = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64
VERSION = {
    "Version": "28.2.2",
    "ApiVersion": "1.50",
    "Components": [{"Name": "runc", "Version": "1.2.8", "Details": {"GitCommit": "v1.2.8-0-geeb7e60"}}],
}
INFO = {
    "Runtimes": {"runc": {"path": "runc"}, "sandy": {"path": "/usr/local/bin/runsc"}},
    "DefaultRuntime": "runc",
    "CgroupVersion": "2",
    "CgroupDriver": "cgroupfs",
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"],
    "MemoryLimit": True, "SwapLimit": True, "CpuCfsQuota": True, "PidsLimit": True,
    "NCPU": 4, "MemTotal": 8 << 30, "DockerRootDir": "/var/lib/docker", "Driver": "overlay2",
}  # fmt: skip


def facts(image: ImageFacts | None = ImageFacts(ID, (f"r:1/e@{DIGEST}",), 1), **info: Any) -> EngineFacts:  # noqa: B008
    return parse_facts("unix:///x", VERSION, {**INFO, **info}, image, local=True)


def is_told(check: Check, status: Status, *words: str) -> None:
    assert check.status is status, check
    assert bool(check.remedy) is (status in (Status.WARN, Status.FAIL))
    for word in words:
        assert word in check.found + check.remedy


def test_no_engine_is_told_with_its_remedy() -> None:
    check = engine.judge_failure(failures.missing("unix:///nowhere"))
    is_told(check, Status.FAIL, "unix:///nowhere", "systemctl start docker")
    assert "systemctl" not in check.found


def test_a_sound_engine_is_told_so() -> None:
    good = facts()
    level = engine.level_of(good, None)
    assert level is Isolation.HARDENED
    for check in (
        engine.judge_engine(good), engine.judge_cgroups(good),
        engine.judge_seccomp(good), engine.judge_lsm(good), engine.judge_image(good, "e", None),
    ):  # fmt: skip
        is_told(check, Status.OK)


def test_the_runtime_must_be_there_and_a_stronger_one_is_named() -> None:
    is_told(engine.judge_runtime(facts(), None), Status.OK, "runc-hardened", "sandy")
    is_told(engine.judge_runtime(facts(), "sandy"), Status.FAIL, "gvisor", "--network=none")
    is_told(engine.judge_runtime(facts(), "kata"), Status.FAIL, "kata", "sandy")


def test_without_cgroups_nothing_is_limited() -> None:
    is_told(engine.judge_cgroups(facts(CgroupDriver="none")), Status.FAIL, "Delegate")


def limits(absent: str = "", remedy: str = "do this") -> list[EffectiveLimit]:
    names = ("memory", "swap", "cpu", "pids", "own cgroup", "peak memory")
    return [EffectiveLimit(name, name != absent, "how", "" if name != absent else remedy) for name in names]


def test_limits_in_force() -> None:
    is_told(engine.judge_limits(limits()), Status.OK, "memory, swap, cpu, pids")
    for name in ("memory", "cpu", "pids"):
        is_told(engine.judge_limits(limits(name)), Status.FAIL, f"{name} (how)", "Do this")
        is_told(engine.judge_limits(limits(name), required=False), Status.WARN, name)
    is_told(engine.judge_limits(limits("swap")), Status.WARN, "swap")
    is_told(engine.judge_limits(limits("own cgroup")), Status.OK)


def test_figures_to_be_had() -> None:
    is_told(engine.judge_figures(limits()), Status.OK, "own cgroup")
    is_told(engine.judge_figures(limits("own cgroup")), Status.WARN, "own cgroup (how)", "Do this")
    is_told(engine.judge_figures(limits("memory")), Status.OK)


def test_seccomp_and_the_security_modules() -> None:
    bare = facts(SecurityOptions=["name=cgroupns"])
    is_told(engine.judge_seccomp(bare), Status.FAIL)
    is_told(engine.judge_lsm(bare), Status.WARN)
    is_told(engine.judge_lsm(facts(SecurityOptions=["name=selinux"])), Status.OK, "selinux")


def test_user_namespaces_or_a_kernel_of_its_own() -> None:
    is_told(engine.judge_user_namespaces(facts(), Isolation.HARDENED), Status.WARN, "userns-remap")
    is_told(engine.judge_user_namespaces(facts(SecurityOptions=["name=userns"]), Isolation.USERNS), Status.OK)
    is_told(engine.judge_user_namespaces(facts(SecurityOptions=["name=rootless"]), Isolation.USERNS), Status.OK)
    is_told(engine.judge_user_namespaces(facts(), Isolation.GVISOR), Status.OK, "gvisor")


def test_the_image_must_be_there_and_the_pinned_one() -> None:
    is_told(engine.judge_image(facts(image=None), "e", None), Status.FAIL, "make image")
    is_told(engine.judge_image(facts(), "e", ID), Status.OK, "as pinned")
    is_told(engine.judge_image(facts(), "e", DIGEST), Status.OK, "as pinned")
    is_told(engine.judge_image(facts(), "e", "sha256:" + "3" * 64), Status.FAIL, ID, DIGEST)
    is_told(engine.judge_image(facts(), "e", None), Status.OK, "not pinned")


def test_memory_and_cores_against_what_sandboxes_may_use() -> None:
    is_told(engine.judge_memory(facts(), sandboxes=4, warm=4, memory_mib=512), Status.OK)
    is_told(engine.judge_memory(facts(), sandboxes=12, warm=4, memory_mib=1024), Status.WARN, "sandboxes to 4")
    is_told(engine.judge_memory(facts(), sandboxes=1, warm=0, memory_mib=9000), Status.FAIL)
    is_told(engine.judge_cores(facts(), sandboxes=4, cpus=1), Status.OK)
    is_told(engine.judge_cores(facts(), sandboxes=5, cpus=1), Status.WARN, "sandboxes to 4")
    is_told(engine.judge_cores(facts(), sandboxes=1, cpus=5), Status.FAIL)


# -- isolation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runtime", "path", "security", "level"),
    [
        ("runc", "runc", [], Isolation.HARDENED),
        ("crun", "/usr/bin/crun", [], Isolation.HARDENED),
        ("crun", "/usr/bin/crun", ["name=userns"], Isolation.USERNS),
        ("runc", "runc", ["name=seccomp,profile=default", "name=rootless"], Isolation.USERNS),
        ("sandy", "/usr/bin/runsc", [], Isolation.GVISOR),
        ("runsc-systrap", "", ["name=userns"], Isolation.GVISOR),
        ("io.containerd.runsc.v1", "", [], Isolation.GVISOR),
        ("kata-qemu", "/opt/kata/bin/kata-runtime", [], Isolation.KATA),
        ("io.containerd.kata.v2", "", [], Isolation.KATA),
        ("runsc", "/usr/bin/runc", [], Isolation.HARDENED),  # what it is called is not what it is
        ("mystery", "/opt/mystery", [], Isolation.HARDENED),
    ],
)
def test_levels_of_isolation(runtime: str, path: str, security: list[str], level: Isolation) -> None:
    assert isolation_of(runtime, path, security) is level


def test_levels_have_an_order() -> None:
    assert [level.value for level in sorted(Isolation, key=lambda one: one.rank)] == [
        "runc-hardened", "userns", "gvisor", "kata",
    ]  # fmt: skip


# -- the pin -----------------------------------------------------------------------------------------------------------


def test_a_pin_is_in_the_name_or_beside_it() -> None:
    assert image_pin.pin_of("dcp-evaluator:local", None) is None
    assert image_pin.pin_of("127.0.0.1:5000/e:tag", "2" * 64) == DIGEST
    assert image_pin.pin_of(f"127.0.0.1:5000/e@{DIGEST}", None) == DIGEST
    assert image_pin.pin_of(ID, None) == ID
    assert image_pin.pin_of(f"e@{DIGEST}", DIGEST) == DIGEST


@pytest.mark.parametrize(
    ("image", "digest"), [("e", "sha256:12"), ("e", "md5:" + "1" * 64), (f"e@{DIGEST}", ID), ("e@sha256:xyz", None)]
)
def test_a_pin_that_cannot_be_is_refused(image: str, digest: str | None) -> None:
    with pytest.raises(InvalidInput):
        image_pin.pin_of(image, digest)


# -- the machine -------------------------------------------------------------------------------------------------------


def test_open_files_inotify_and_disk() -> None:
    is_told(machine.judge_descriptors(1024, 4096, 8), Status.OK)
    is_told(machine.judge_descriptors(1024, 4096, 200), Status.FAIL, "ulimit -n 1728")
    is_told(machine.judge_inotify(128, "2", 8), Status.OK)
    is_told(machine.judge_inotify(128, "2", 200), Status.WARN, "max_user_instances=1024")
    is_told(machine.judge_inotify(128, "1", 200), Status.SKIP)
    is_told(machine.judge_inotify(None, "2", 8), Status.SKIP)
    sizes = {"least": machine.GIB, "enough": 2 * machine.GIB}
    is_told(machine.judge_disk("disk", "/x", 3 * machine.GIB, 10**6, **sizes), Status.OK)
    is_told(machine.judge_disk("disk", "/x", 3 * machine.GIB, 0, **sizes), Status.OK)
    is_told(machine.judge_disk("disk", "/x", 3 * machine.GIB, 10, **sizes), Status.FAIL, "inodes")
    is_told(machine.judge_disk("disk", "/x", machine.GIB, 10**6, **sizes), Status.WARN)
    is_told(machine.judge_disk("disk", "/x", 5, 10**6, **sizes), Status.FAIL)


def test_the_state_folder(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "state"
    is_told(machine.state_folder(folder), Status.OK, "to be made")
    assert list(tmp_path.iterdir()) == []
    folder.mkdir(mode=0o700)
    is_told(machine.state_folder(folder), Status.OK)
    folder.chmod(0o777)
    is_told(machine.state_folder(folder), Status.FAIL, "chmod 700")
    assert list(folder.iterdir()) == []
    is_told(machine.state_folder(pathlib.Path("/proc/state")), Status.FAIL, "cannot be written")


def test_the_keystore(tmp_path: pathlib.Path) -> None:
    from orchestrator.wallet import files

    is_told(machine.keystore(tmp_path, None, None), Status.OK, "makes it")
    assert list(tmp_path.iterdir()) == []
    key = files.load_or_create(tmp_path / "worker.keystore", "worker")
    is_told(machine.keystore(tmp_path, None, None), Status.OK, key.address)
    is_told(machine.keystore(tmp_path, None, "0x12"), Status.FAIL, "payment_address")
    (tmp_path / "worker.keystore").chmod(0o644)
    is_told(machine.keystore(tmp_path, None, None), Status.FAIL, "chmod 600")
    (tmp_path / "worker.keystore").write_text("{}")
    is_told(machine.keystore(tmp_path, None, None), Status.FAIL)


def test_the_worker_id(tmp_path: pathlib.Path) -> None:
    assert machine.worker_id(tmp_path) is None
    (tmp_path / "worker-id").write_text("A" * 22 + "\n")
    assert machine.worker_id(tmp_path) is None
    (tmp_path / "worker-id").write_text("short")
    check = machine.worker_id(tmp_path)
    assert check is not None
    is_told(check, Status.FAIL, "Remove")


def test_the_control_socket_is_free_or_a_workers(tmp_path: pathlib.Path) -> None:
    from orchestrator.worker import control_socket

    is_told(machine.control(tmp_path), Status.OK, "free")
    with control_socket.StateLock(tmp_path):
        is_told(machine.control(tmp_path), Status.WARN, f"process {os.getpid()}")
        with control_socket.listening(tmp_path / control_socket.SOCKET):
            is_told(machine.control(tmp_path), Status.OK, f"process {os.getpid()}")
    is_told(machine.control(tmp_path), Status.OK, "free")


def test_ports() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        is_told(machine.port("metrics port", "127.0.0.1", number), Status.WARN, str(number))
    is_told(machine.port("metrics port", "127.0.0.1", number), Status.OK)


# -- the Scheduler -----------------------------------------------------------------------------------------------------


def test_a_scheduler_with_another_key() -> None:
    url, before, now = "http://x/taskDistributor/", "0x" + "1" * 40, "0x" + "2" * 40
    changed = [("http://x/eventRouter/", before, before), (url, before, now)]
    found = scheduler.judge_key(changed, frozenset())
    is_told(found, Status.FAIL, before, now, f"--accept-scheduler-key {now}")
    is_told(scheduler.judge_key(changed, frozenset({now})), Status.OK, "accepted")
    is_told(scheduler.judge_key([(url, now, now)], frozenset()), Status.OK, "as before")
    is_told(scheduler.judge_key([(url, None, now)], frozenset()), Status.OK, "first time")
    is_told(scheduler.judge_key([], frozenset()), Status.SKIP)


def test_what_the_scheduler_accepts() -> None:
    def asking(**compatibility: Any) -> Check:
        return scheduler.judge_protocol({"scheduler": {"compatibility": compatibility}})

    is_told(asking(minimum={"dcp": "^5.0.0"}, operations={"work": "^1.0.0"}), Status.OK)
    is_told(asking(minimum={"dcp": "^6.0.0"}), Status.FAIL, "^6.0.0", "5.6.1")
    is_told(asking(minimum={"dcp": "^5.7.0"}), Status.FAIL)
    is_told(asking(operations={"work": "2.0.0"}), Status.FAIL, "work")
    is_told(asking(minimum={"dcp": ">=5 <9"}), Status.OK)
    is_told(scheduler.judge_protocol({}), Status.OK)


def test_a_configuration_that_is_not_for_workers() -> None:
    is_told(scheduler.judge_config("http://x/", {"scheduler": {"services": {}}}), Status.FAIL, "taskDistributor")


@pytest.mark.parametrize(
    ("there", "before", "after", "skew"),
    [
        (100.0, 100.4, 100.5, 0.0),  # a time in whole seconds
        (100.0, 99.9, 100.1, 0.0),
        (105.0, 100.0, 100.5, 4.5),
        (90.0, 100.0, 100.5, -9.0),
    ],
)
def test_the_skew_of_clocks(there: float, before: float, after: float, skew: float) -> None:
    assert scheduler.skew_of(there, before, after) == pytest.approx(skew)


def test_clocks_apart() -> None:
    is_told(scheduler.judge_clock(None), Status.SKIP)
    is_told(scheduler.judge_clock(0.0), Status.OK)
    is_told(scheduler.judge_clock(-45.0), Status.WARN, "45 s behind")
    is_told(scheduler.judge_clock(3600.0), Status.FAIL, "3600 s ahead", "refuses")


# -- the sandbox, and all together -------------------------------------------------------------------------------------


def test_a_trial() -> None:
    trial = sandbox.Trial(0.3, "true", "parent", 0.001)
    is_told(sandbox.judge_trial(trial), Status.OK)
    is_told(sandbox.judge_trial(dataclasses.replace(trial, ready_s=9.0)), Status.WARN, "9.00 s")
    is_told(sandbox.judge_trial(dataclasses.replace(trial, answer="false")), Status.FAIL)
    is_told(sandbox.judge_metering(trial), Status.OK)
    is_told(sandbox.judge_metering(dataclasses.replace(trial, metered_by="container")), Status.WARN)
    is_told(sandbox.judge_metering(dataclasses.replace(trial, metered_by="statistics")), Status.WARN)


def test_what_counts_as_good() -> None:
    def of(*statuses: Status) -> Examination:
        return Examination([Check("x", status, "found") for status in statuses])

    assert of(Status.OK, Status.WARN, Status.SKIP).good()
    assert not of(Status.OK, Status.WARN).good(strict=True)
    assert not of(Status.FAIL).good()
    assert of(Status.OK, Status.SKIP).good(strict=True)
    assert of(Status.OK, Status.OK, Status.FAIL).to_json()["counts"] == {"ok": 2, "warn": 0, "fail": 1, "skip": 0}
