"""The lock-down of a sandbox: `lockdown.json` and `seccomp.json` are the whole of it; this fills in what differs.

The two files are data to be reviewed alone. `REQUIRED` states the walls a second time, as rules: a body that breaks
one, whoever wrote it, raises `LockdownLoosened` and no container is made.
"""

from __future__ import annotations

import copy
import errno
import importlib.resources
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.errors import Fault, OrchestratorError
from orchestrator.worker.isolation import Isolation
from orchestrator.worker.limits import MIB, SandboxLimits

_DEFAULT_MASKS: Final = frozenset(
    {
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/meminfo",
        "/proc/cpuinfo",
        "/proc/cmdline",
        "/sys/firmware",
    }
)
_DEFAULT_READ_ONLY: Final = frozenset({"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"})
_FORBIDDEN: Final = """
    ptrace process_vm_readv process_vm_writev fork vfork clone clone3 execveat socket socketpair connect bind listen
    accept accept4 sendmsg sendto mount umount2 pivot_root chroot unshare setns bpf perf_event_open userfaultfd keyctl
    add_key request_key io_uring_setup io_uring_enter io_uring_register memfd_create init_module finit_module kexec_load
    open_by_handle_at name_to_handle_at setuid setgid setresuid setresgid kill tkill mknod mknodat symlinkat linkat
    unlinkat renameat2 personality seccomp ioctl prctl prlimit64 shmget msgget semget mq_open inotify_init1
    fanotify_init pidfd_open pidfd_getfd sched_setaffinity setpriority memfd_secret landlock_create_ruleset
"""
_HEAP_LIMIT: Final = re.compile(r"NODE_OPTIONS=--max-old-space-size=[1-9][0-9]{0,6}")
#: None of these may ever appear among the system calls that are allowed outright.
FORBIDDEN_CALLS: Final = frozenset(_FORBIDDEN.split())


class LockdownLoosened(OrchestratorError):
    """The container that was about to be made would have been less locked down than it must be."""

    code = "ELOCKDOWN"
    fault = Fault.WORKER


@dataclass(frozen=True)
class Lockdown:
    """The parsed files."""

    body: Mapping[str, Any]
    seccomp: Mapping[str, Any]

    @classmethod
    def load(cls) -> Lockdown:
        """Read both files from the package. Raises LockdownLoosened when the seccomp profile is too wide."""
        folder = importlib.resources.files("orchestrator.worker")
        body = json.loads((folder / "lockdown.json").read_text("utf-8"))
        seccomp = json.loads((folder / "seccomp.json").read_text("utf-8"))
        validate_seccomp(seccomp)
        return cls(body, seccomp)

    def create_body(
        self,
        *,
        image: str,
        labels: Mapping[str, str],
        limits: SandboxLimits,
        cgroup_parent: str | None = None,
        runtime: str | None = None,
        entrypoint: Sequence[str] | None = None,
        isolation: Isolation = Isolation.HARDENED,
    ) -> dict[str, Any]:
        """The body of Docker's `POST /containers/create`. `entrypoint` replaces the image's (tests of the walls).

        `isolation` is what `runtime` is: gVisor reads seccomp profiles in a way of its own.

        Raises LockdownLoosened.
        """
        body = copy.deepcopy(dict(self.body))
        body["Image"] = image
        body["Labels"] = dict(labels)
        if entrypoint is not None:
            body["Entrypoint"] = list(entrypoint)
            body["Cmd"] = []
        body["Env"] = [_heap_limit(limits.memory_bytes)]
        host = body["HostConfig"]
        seccomp = seccomp_for_gvisor(self.seccomp) if isolation is Isolation.GVISOR else self.seccomp
        host["SecurityOpt"] = [*host["SecurityOpt"], "seccomp=" + json.dumps(seccomp, separators=(",", ":"))]
        host["Memory"] = limits.memory_bytes
        host["MemorySwap"] = limits.memory_bytes + limits.swap_bytes  # the Engine's figure is the sum of both
        host["NanoCpus"] = round(limits.cpus * 1_000_000_000)
        host["PidsLimit"] = limits.pids
        host["Ulimits"] = [
            {"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files},
            {"Name": "fsize", "Soft": limits.file_bytes, "Hard": limits.file_bytes},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ]
        if cgroup_parent is not None:
            host["CgroupParent"] = cgroup_parent
        if runtime is not None:
            host["Runtime"] = runtime
        validate(body, limits.swap_bytes)
        return body


def seccomp_for_gvisor(profile: Mapping[str, Any]) -> dict[str, Any]:
    """The same profile in words that gVisor understands.

    It answers EPERM whatever error a rule names, but the C library only gives up `clone3` for ENOSYS. That is what
    a system call gets that is handed to a tracer when there is none, and there can be none: the profile denies ptrace.
    """
    rules = [
        {key: value for key, value in rule.items() if key != "errnoRet"} | {"action": "SCMP_ACT_TRACE"}
        if rule.get("action") == "SCMP_ACT_ERRNO" and rule.get("errnoRet") == errno.ENOSYS
        else rule
        for rule in profile.get("syscalls", [])
    ]
    return {**profile, "syscalls": rules}


def _heap_limit(memory_bytes: int) -> str:
    """What tells V8 of the memory limit, which it cannot see from inside: the host's memory would size its heap.

    A quarter stays for what is no heap (stacks, buffers, code): V8 gives up, saying so, before the kernel kills.
    """
    return f"NODE_OPTIONS=--max-old-space-size={memory_bytes * 3 // 4 // MIB}"


def _only_heap_limit(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1 and bool(_HEAP_LIMIT.fullmatch(str(value[0])))


def _is(expected: Any) -> Callable[[Any], bool]:
    # `is` for booleans: 1 == True, and a body that says 1 was not written by us.
    return lambda value: value is expected if isinstance(expected, bool) else bool(value == expected)


def _empty(value: Any) -> bool:
    return value in (None, [], {}, "")


def _positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _holds(*names: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and set(names) <= set(value)


def _non_root(value: Any) -> bool:
    user, separator, group = str(value).partition(":")
    return bool(separator) and user.isdigit() and group.isdigit() and int(user) > 0 and int(group) > 0


def _own_seccomp(value: Any) -> bool:
    if not isinstance(value, list) or "no-new-privileges" not in value or len(value) != 2:
        return False
    profiles = [option.removeprefix("seccomp=") for option in value if option.startswith("seccomp=")]
    try:
        profile = json.loads(profiles[0]) if len(profiles) == 1 else None
    except ValueError:  # "unconfined", or a path
        return False
    return isinstance(profile, dict) and _profile_denies(profile)


def _bounded_ulimits(value: Any) -> bool:
    hard = {limit["Name"]: limit["Hard"] for limit in value or []}
    return hard.get("core") == 0 and 0 < hard.get("nofile", 0) <= 20_000 and 0 <= hard.get("fsize", -1) <= 1 << 30


REQUIRED: Final[Mapping[str, Callable[[Any], bool]]] = {
    "User": _non_root,
    "NetworkDisabled": _is(True),
    "OpenStdin": _is(True),
    "StdinOnce": _is(True),
    "Tty": _is(False),
    "Env": _only_heap_limit,
    "Volumes": _empty,
    "ExposedPorts": _empty,
    "HostConfig.NetworkMode": _is("none"),
    "HostConfig.ReadonlyRootfs": _is(True),
    "HostConfig.CapDrop": _holds("ALL"),
    "HostConfig.CapAdd": _empty,
    "HostConfig.Privileged": _is(False),
    "HostConfig.SecurityOpt": _own_seccomp,
    "HostConfig.Memory": _positive,
    "HostConfig.MemorySwappiness": _is(0),
    "HostConfig.OomKillDisable": _is(False),
    "HostConfig.OomScoreAdj": _positive,
    "HostConfig.NanoCpus": _positive,
    "HostConfig.PidsLimit": _positive,
    "HostConfig.Ulimits": _bounded_ulimits,
    "HostConfig.IpcMode": _is("none"),
    "HostConfig.PidMode": _empty,
    "HostConfig.UTSMode": _empty,
    "HostConfig.UsernsMode": _empty,
    "HostConfig.CgroupnsMode": _is("private"),
    "HostConfig.Init": _is(False),
    "HostConfig.AutoRemove": _is(False),
    "HostConfig.Binds": _empty,
    "HostConfig.Mounts": _empty,
    "HostConfig.Tmpfs": _empty,
    "HostConfig.VolumesFrom": _empty,
    "HostConfig.Devices": _empty,
    "HostConfig.DeviceRequests": _empty,
    "HostConfig.DeviceCgroupRules": _empty,
    "HostConfig.GroupAdd": _empty,
    "HostConfig.Sysctls": _empty,
    "HostConfig.Links": _empty,
    "HostConfig.ExtraHosts": _empty,
    "HostConfig.PortBindings": _empty,
    "HostConfig.LogConfig": _is({"Type": "none"}),
    "HostConfig.RestartPolicy": _is({"Name": "no"}),
    "HostConfig.MaskedPaths": _holds(*_DEFAULT_MASKS),
    "HostConfig.ReadonlyPaths": _holds(*_DEFAULT_READ_ONLY),
}


def validate(body: Mapping[str, Any], swap_bytes: int = 0) -> None:
    """Raise LockdownLoosened, naming the field, when `body` breaks a rule of REQUIRED.

    `swap_bytes` is what the owner of the machine gave to a sandbox; one that could swap more, or less, breaks a rule.
    """
    for path, rule in REQUIRED.items():
        value: Any = body
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if not rule(value):
            raise LockdownLoosened(f"{path} of the container is {_shown(value)}: the lock-down does not allow it")
    host = body["HostConfig"]
    if host.get("MemorySwap") != host["Memory"] + swap_bytes:
        allowed = f"{swap_bytes} bytes" if swap_bytes else "nothing"
        raise LockdownLoosened(f"HostConfig.MemorySwap lets the sandbox swap other than the {allowed} that was allowed")


def validate_seccomp(profile: Mapping[str, Any]) -> None:
    """Raise LockdownLoosened when the profile does not deny by default or allows a forbidden call outright."""
    if not _profile_denies(profile):
        raise LockdownLoosened("the seccomp profile allows what it must deny")


def _profile_denies(profile: Mapping[str, Any]) -> bool:
    if profile.get("defaultAction") not in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"):
        return False
    for rule in profile.get("syscalls", []):
        # Without a tracer SCMP_ACT_TRACE denies; ptrace, which could make one, is among the forbidden calls.
        allowed = rule.get("action") not in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRACE")
        if allowed and not rule.get("args") and FORBIDDEN_CALLS & set(rule.get("names", [])):
            return False
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "…"
