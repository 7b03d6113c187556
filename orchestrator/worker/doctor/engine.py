"""Pure: what the Engine says of itself, judged."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final

from orchestrator.worker import image_pin
from orchestrator.worker.docker_runtime.engine import API_FLOOR, NEEDED_LIMITS
from orchestrator.worker.docker_runtime.engine_facts import EngineFacts
from orchestrator.worker.docker_runtime.failures import RuntimeUnavailable
from orchestrator.worker.doctor import check
from orchestrator.worker.doctor.check import Check
from orchestrator.worker.effective_limits import EffectiveLimit
from orchestrator.worker.isolation import Isolation, isolation_of, option_names
from orchestrator.worker.limits import MIB

ENGINE: Final = "docker engine"
#: Everything of this module but ENGINE, in order: what cannot be judged when no Engine answers.
DEPENDENT: Final = (
    "runtime", "runc", "containerd", "cgroups", "limits", "figures", "seccomp", "lsm", "user namespaces", "image",
    "memory",
    "cores",
)  # fmt: skip
_LIMITS: Final = (*NEEDED_LIMITS, "swap")
_SEE: Final = "see docs/isolation.md"


def judge_failure(failure: RuntimeUnavailable) -> Check:
    """No Engine that could be used."""
    message = failure.message.removesuffix(failure.remedy).rstrip(" .")
    return check.fail(ENGINE, message, f"a Docker Engine that speaks API {API_FLOOR} or later", failure.remedy)


def judge_engine(facts: EngineFacts) -> Check:
    info = facts.info
    return check.ok(
        ENGINE, f"{info.version}, API {info.api_version}, at {facts.address}", f"API {API_FLOOR} or later (20.10)"
    )


def judge_runtime(facts: EngineFacts, wanted: str | None) -> Check:
    info = facts.info
    name = wanted or info.default_runtime
    if name not in info.runtimes:
        known = ", ".join(sorted(info.runtimes))
        return check.fail(
            "runtime", f"the Engine has no runtime {name} (it has {known})", f"{name}, as oci_runtime says",
            f'Install it and add it to /etc/docker/daemon.json under "runtimes", or choose one of {known}; {_SEE}.',
        )  # fmt: skip
    level = level_of(facts, wanted)
    if level is Isolation.GVISOR:
        return judge_gvisor(name, info.runtime_arguments.get(name, ()))
    stronger = sorted(
        {
            other
            for other in info.runtimes
            if isolation_of(other, facts.info.runtime_paths.get(other, ""), info.security).rank > level.rank
        }
    )
    note = f"; stronger here: {', '.join(stronger)}" if stronger else ""
    return check.ok("runtime", f"{name}: isolation level {level}{note}", "any that the Engine has")


def judge_gvisor(name: str, arguments: Sequence[str]) -> Check:
    """What `runsc` must be told, and is not by default; see docs/isolation.md for what each was seen to do."""
    given = {argument.lstrip("-") for argument in arguments}
    found = f"{name} {' '.join(arguments)}: isolation level {Isolation.GVISOR}"
    wanted = "--network=none --oci-seccomp, and no --ignore-cgroups"
    remedy = (
        f'Set "runtimeArgs": ["--network=none", "--oci-seccomp"] for {name} in /etc/docker/daemon.json, and restart '
        f"Docker; {_SEE}."
    )
    if given & {"ignore-cgroups", "ignore-cgroups=true"}:
        return check.fail("runtime", f"{found}; no limit of memory or CPU holds", wanted, remedy)
    if not given & {"network=none", "network=host"}:
        return check.fail("runtime", f"{found}; it starts no sandbox that has no network", wanted, remedy)
    if "network=none" not in given or not given & {"oci-seccomp", "oci-seccomp=true"}:
        return check.warn(
            "runtime", f"{found}; our seccomp profile or the loss of the network is left out", wanted, remedy
        )
    return check.ok("runtime", found, wanted)


def level_of(facts: EngineFacts, wanted: str | None) -> Isolation:
    name = wanted or facts.info.default_runtime
    return isolation_of(name, facts.info.runtime_paths.get(name, ""), facts.info.security)


def judge_cgroups(facts: EngineFacts, *, required: bool = True) -> Check:
    version, driver = facts.info.cgroup_version, facts.info.cgroup_driver
    if driver in ("none", ""):
        return (check.fail if required else check.warn)(
            "cgroups", f"version {version}, but the Engine may not use them (driver none)",
            "cgroups that the Engine can make: without them no limit holds",
            "For a rootless Engine: use cgroup v2 with systemd and delegate the controllers "
            f"(Delegate=cpu cpuset io memory pids); {_SEE}.",
        )  # fmt: skip
    return check.ok("cgroups", f"version {version}, driver {driver}", "version 1 or 2")


def judge_limits(found: Sequence[EffectiveLimit], *, required: bool = True) -> Check:
    """`required`: whether the Worker refuses an Engine that cannot limit memory, CPU and processes."""
    name, wanted = "limits", "memory, cpu and pids limits in force; swap, too, where there is any"
    absent = [one for one in found if one.name in _LIMITS and not one.effective]
    if not absent:
        return check.ok(name, ", ".join(one.name for one in found if one.name in _LIMITS), wanted)
    grave = required and any(one.name in NEEDED_LIMITS for one in absent)
    return (check.fail if grave else check.warn)(
        name, "not in force: " + _told(absent, _LIMITS), wanted, f"{_remedies(absent)}; {_SEE}."
    )


def judge_figures(found: Sequence[EffectiveLimit]) -> Check:
    """What is read of a sandbox, and how exact it is."""
    name, wanted = "figures", "CPU time and peak memory, exact for each slice and to the end"
    others = [one for one in found if one.name not in _LIMITS]
    absent = [one for one in others if not one.effective]
    if not absent:
        return check.ok(name, ", ".join(one.name for one in others), wanted)
    names = {one.name for one in absent}
    return check.warn(name, "not to be had: " + _told(absent, names), wanted, f"{_remedies(absent)}; {_SEE}.")


def _told(limits: Sequence[EffectiveLimit], names: Collection[str]) -> str:
    return "; ".join(f"{one.name} ({one.how})" for one in limits if one.name in names)


def _remedies(limits: Sequence[EffectiveLimit]) -> str:
    text = "; ".join(dict.fromkeys(one.remedy for one in limits if one.remedy))
    return text[:1].upper() + text[1:]


def judge_seccomp(facts: EngineFacts) -> Check:
    if "seccomp" in option_names(facts.info.security):
        return check.ok("seccomp", "the Engine filters system calls", "seccomp")
    return check.fail(
        "seccomp", "the Engine has no seccomp", "system calls filtered by our profile",
        "Use a kernel with CONFIG_SECCOMP_FILTER and a Docker package that is built with seccomp.",
    )  # fmt: skip


def judge_lsm(facts: EngineFacts) -> Check:
    found = {"apparmor", "selinux"} & option_names(facts.info.security)
    if found:
        return check.ok("lsm", " and ".join(sorted(found)), "AppArmor or SELinux")
    return check.warn(
        "lsm", "neither AppArmor nor SELinux holds containers here", "AppArmor or SELinux, as one more wall",
        "Boot a kernel with one of them (Debian and Ubuntu: apparmor=1 security=apparmor, package apparmor); the other "
        "walls hold without.",
    )  # fmt: skip


def judge_user_namespaces(facts: EngineFacts, level: Isolation) -> Check:
    name, wanted = "user namespaces", "a user in a sandbox is nobody outside of it"
    options = option_names(facts.info.security)
    for option, found in (("rootless", "rootless Engine"), ("userns", "the Engine remaps users (userns-remap)")):
        if option in options:
            return check.ok(name, found, wanted)
    if level.rank > Isolation.USERNS.rank:
        return check.ok(name, f"none, but sandboxes do not share the host's kernel ({level})", wanted)
    return check.warn(
        name, "none: user 65534 of a sandbox is user 65534 of the host", wanted,
        f'Add "userns-remap": "default" to /etc/docker/daemon.json, or use rootless Docker; {_SEE}.',
    )  # fmt: skip


def judge_image(facts: EngineFacts, image: str, pin: str | None) -> Check:
    name, wanted = "image", f"{image}, with digest {pin}" if pin else image
    if facts.image is None:
        return check.fail(
            name, f"the Engine has no image {image}", wanted,
            "Build it with `make image`, `docker pull` or `docker load` it, or name another one in the settings.",
        )  # fmt: skip
    digests = image_pin.digests_of(facts.image.id, facts.image.repo_digests)
    if pin is not None and pin not in digests:
        return check.fail(
            name, f"{image} is {', '.join(digests)}", wanted,
            "Get the image that was meant (`docker pull NAME@sha256:…`), or pin the one that is here, if you trust it.",
        )  # fmt: skip
    if pin is None:
        return check.ok(name, f"{image} is {digests[-1]}, not pinned (image_digest would)", wanted)
    return check.ok(name, f"{image} is {pin}, as pinned", wanted)


def judge_memory(facts: EngineFacts, *, sandboxes: int, warm: int, memory_mib: int) -> Check:
    name, total = "memory", facts.info.memory_bytes // MIB
    need = (sandboxes + warm) * memory_mib
    wanted = f"{sandboxes} + {warm} sandboxes of {memory_mib} MiB: {need} MiB"
    if total < memory_mib:
        return check.fail(name, f"{total} MiB", wanted, "Lower memory_mib, or use a larger machine.")
    if total < need:
        fit = max(total // memory_mib - warm, 1)
        return check.warn(
            name, f"{total} MiB: the kernel may have to kill sandboxes that use all they may", wanted,
            f"Set sandboxes to {fit}, or lower memory_mib.",
        )  # fmt: skip
    return check.ok(name, f"{total} MiB", wanted)


def judge_cores(facts: EngineFacts, *, sandboxes: int, cpus: float) -> Check:
    name, need = "cores", sandboxes * cpus
    wanted = f"{sandboxes} sandboxes of {cpus:g} cores: {need:g}"
    if facts.info.cpus < cpus:
        return check.fail(
            name, f"{facts.info.cpus}", wanted, f"Set cpus to {facts.info.cpus} or less: the Engine refuses more."
        )
    if facts.info.cpus < need:
        return check.warn(
            name, f"{facts.info.cpus}: slices will wait for each other", wanted,
            f"Set sandboxes to {max(math.floor(facts.info.cpus / cpus), 1)}.",
        )  # fmt: skip
    return check.ok(name, f"{facts.info.cpus}", wanted)


def skipped(why: str) -> list[Check]:
    """All that depends on an Engine."""
    return [check.skip(name, why) for name in DEPENDENT]
