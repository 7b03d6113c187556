"""The lock-down: complete, and no edit that loosens it gets past."""

import copy
import json
from typing import Any

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.worker.limits import SandboxLimits
from orchestrator.worker.lockdown import (
    FORBIDDEN_CALLS,
    REQUIRED,
    Lockdown,
    LockdownLoosened,
    validate,
    validate_seccomp,
)


@pytest.fixture(scope="module")
def lockdown() -> Lockdown:
    return Lockdown.load()


@pytest.fixture
def body(lockdown: Lockdown) -> dict[str, Any]:
    return lockdown.create_body(image="image", labels={"a": "b"}, limits=SandboxLimits())


def test_the_body_is_complete(lockdown: Lockdown) -> None:
    limits = SandboxLimits(memory_bytes=100 << 20, cpus=0.5, pids=20, open_files=64, file_bytes=4096)
    body = lockdown.create_body(
        image="sha256:1", labels={"a": "b"}, limits=limits, cgroup_parent="/x/y", runtime="crun", entrypoint=["/node"]
    )
    host = body["HostConfig"]
    assert (body["Image"], body["Labels"], body["Entrypoint"]) == ("sha256:1", {"a": "b"}, ["/node"])
    assert host["Memory"] == host["MemorySwap"] == 100 << 20
    assert (host["NanoCpus"], host["PidsLimit"], host["CgroupParent"], host["Runtime"]) == (
        5 * 10**8,
        20,
        "/x/y",
        "crun",
    )
    assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]} == {"nofile": 64, "fsize": 4096, "core": 0}
    assert body["Env"] == ["NODE_OPTIONS=--max-old-space-size=75"]
    assert json.loads(host["SecurityOpt"][1].removeprefix("seccomp="))["defaultAction"] == "SCMP_ACT_ERRNO"


def test_filling_in_does_not_change_the_declared_file(lockdown: Lockdown) -> None:
    before = copy.deepcopy(lockdown.body)
    lockdown.create_body(image="x", labels={}, limits=SandboxLimits())
    assert lockdown.body == before


LOOSER: dict[str, Any] = {
    "User": "0:0",
    "NetworkDisabled": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Tty": True,
    "Env": ["TOKEN=secret"],
    "Volumes": {"/x": {}},
    "ExposedPorts": {"80/tcp": {}},
    "HostConfig.NetworkMode": "bridge",
    "HostConfig.ReadonlyRootfs": False,
    "HostConfig.CapDrop": [],
    "HostConfig.CapAdd": ["SYS_ADMIN"],
    "HostConfig.Privileged": True,
    "HostConfig.SecurityOpt": ["no-new-privileges", "seccomp=unconfined"],
    "HostConfig.Memory": 0,
    "HostConfig.MemorySwappiness": 60,
    "HostConfig.OomKillDisable": True,
    "HostConfig.OomScoreAdj": -500,
    "HostConfig.NanoCpus": 0,
    "HostConfig.PidsLimit": -1,
    "HostConfig.Ulimits": [{"Name": "core", "Soft": 1, "Hard": 1}],
    "HostConfig.IpcMode": "host",
    "HostConfig.PidMode": "host",
    "HostConfig.UTSMode": "host",
    "HostConfig.UsernsMode": "host",
    "HostConfig.CgroupnsMode": "host",
    "HostConfig.Init": True,
    "HostConfig.AutoRemove": True,
    "HostConfig.Binds": ["/:/host"],
    "HostConfig.Mounts": [{"Type": "bind"}],
    "HostConfig.Tmpfs": {"/tmp": ""},
    "HostConfig.VolumesFrom": ["other"],
    "HostConfig.Devices": [{"PathOnHost": "/dev/kvm"}],
    "HostConfig.DeviceRequests": [{"Count": -1}],
    "HostConfig.DeviceCgroupRules": ["a *:* rwm"],
    "HostConfig.GroupAdd": ["docker"],
    "HostConfig.Sysctls": {"net.ipv4.ip_forward": "1"},
    "HostConfig.Links": ["db"],
    "HostConfig.ExtraHosts": ["a:1.2.3.4"],
    "HostConfig.PortBindings": {"80/tcp": []},
    "HostConfig.LogConfig": {"Type": "json-file"},
    "HostConfig.RestartPolicy": {"Name": "always"},
    "HostConfig.MaskedPaths": [],
    "HostConfig.ReadonlyPaths": [],
}


def test_every_rule_has_a_case() -> None:
    assert set(LOOSER) == set(REQUIRED)


@pytest.mark.parametrize("path", LOOSER)
def test_loosening_is_refused(body: dict[str, Any], path: str) -> None:
    *parents, name = path.split(".")
    target = body
    for parent in parents:
        target = target[parent]
    target[name] = LOOSER[path]
    with pytest.raises(LockdownLoosened, match=name):
        validate(body)


@pytest.mark.parametrize(
    "path",
    [path for path in LOOSER if path not in ("Volumes", "ExposedPorts") and path.count(".") == 0],
)
def test_leaving_out_is_refused(body: dict[str, Any], path: str) -> None:
    del body[path]
    with pytest.raises(LockdownLoosened):
        validate(body)


@pytest.mark.parametrize(
    "environment",
    [
        [],
        ["NODE_OPTIONS=--max-old-space-size=75", "TOKEN=secret"],
        ["NODE_OPTIONS=--max-old-space-size=75 --require=/x"],
        ["NODE_OPTIONS=--max-old-space-size=0"],
        ["NODE_OPTIONS=--max-old-space-size=75\n"],
    ],
)
def test_the_environment_is_the_heap_limit_and_nothing_else(body: dict[str, Any], environment: list[str]) -> None:
    body["Env"] = environment
    with pytest.raises(LockdownLoosened, match="Env"):
        validate(body)


def test_swap_is_refused(body: dict[str, Any]) -> None:
    body["HostConfig"]["MemorySwap"] = -1
    with pytest.raises(LockdownLoosened, match="swap"):
        validate(body)


@pytest.mark.parametrize("call", sorted(FORBIDDEN_CALLS - {"clone3"}))
def test_forbidden_calls_are_refused(lockdown: Lockdown, call: str) -> None:
    profile = copy.deepcopy(dict(lockdown.seccomp))
    profile["syscalls"][0]["names"].append(call)
    with pytest.raises(LockdownLoosened):
        validate_seccomp(profile)


def test_an_allowing_profile_is_refused(lockdown: Lockdown) -> None:
    with pytest.raises(LockdownLoosened):
        validate_seccomp({**lockdown.seccomp, "defaultAction": "SCMP_ACT_ALLOW"})


@pytest.mark.parametrize(
    "field",
    [{"memory_bytes": 1}, {"cpus": 0}, {"pids": 1}, {"open_files": 1}, {"open_files": 10**6}, {"file_bytes": -1}],
)
def test_limits_name_the_field(field: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(field))):
        SandboxLimits(**field)


def test_swap_is_only_what_was_asked_for(lockdown: Lockdown) -> None:
    limits = SandboxLimits(memory_bytes=100 << 20, swap_bytes=50 << 20)
    body = lockdown.create_body(image="x", labels={}, limits=limits)
    assert body["HostConfig"]["MemorySwap"] == 150 << 20  # the Engine's figure is memory and swap together
    validate(body, 50 << 20)
    for allowed in (0, 1, 51 << 20):
        with pytest.raises(LockdownLoosened, match="swap"):
            validate(body, allowed)
    for unlimited in (-1, 0, None):
        body["HostConfig"]["MemorySwap"] = unlimited
        with pytest.raises(LockdownLoosened, match="swap"):
            validate(body, 50 << 20)


@pytest.mark.parametrize("swap", [-1, (1 << 40) + 1])
def test_swap_has_bounds(swap: int) -> None:
    with pytest.raises(InvalidInput, match="swap_bytes"):
        SandboxLimits(swap_bytes=swap)
