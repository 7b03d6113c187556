"""How a sandbox looks from the host: what the kernel itself says that it holds the process to.

Read in /proc and the cgroup tree of this machine, so these cases need the Engine to run here, under an OCI runtime
whose containers are processes of this kernel.
"""

from __future__ import annotations

import contextlib
import pathlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from orchestrator.worker.battery.case import Area, Case, NotApplicable, expect
from orchestrator.worker.battery.ground import SMALL, Ground
from orchestrator.worker.cgroups import CgroupFailure, CgroupTree, parse_proc_cgroup
from orchestrator.worker.docker_runtime import DockerRuntime


class _Unheard:
    """The evaluator waits for its first line, and so do we."""

    def output(self, stream: int, data: bytes, frames: int) -> None: ...

    def ended(self) -> None: ...


@dataclass
class _Seen:
    """One idle sandbox, as a process of the host."""

    pid: int
    proc: pathlib.Path = field(init=False)

    def __post_init__(self) -> None:
        self.proc = pathlib.Path(f"/proc/{self.pid}")

    def status(self) -> dict[str, str]:
        lines = (self.proc / "status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def namespace(self, kind: str) -> str:
        return str((self.proc / "ns" / kind).readlink())

    def cgroup_file(self, v1: tuple[str, str], v2: str) -> tuple[str, int]:
        """The text of a file of its cgroup, and the version. `v1` is (controller, file). Raises `NotApplicable`."""
        try:
            tree = CgroupTree.of_this_machine("battery")
        except CgroupFailure as error:
            raise NotApplicable(str(error)) from None
        inside = parse_proc_cgroup((self.proc / "cgroup").read_text())
        if tree.version == 2 and tree.hierarchies.v2 is not None:
            path = tree.hierarchies.v2 / inside[""].lstrip("/") / v2
        else:
            controller, name = v1
            mount = tree.hierarchies.v1.get(controller)
            if mount is None:
                raise NotApplicable(f"this machine has no cgroup controller {controller}")
            path = mount / inside[controller].lstrip("/") / name
        try:
            return path.read_text().strip(), tree.version
        except FileNotFoundError:
            raise NotApplicable(f"this kernel has no {path.name}") from None


@contextlib.asynccontextmanager
async def _sandboxes(ground: Ground, count: int = 1) -> AsyncIterator[list[_Seen]]:
    ground.need_the_hosts_kernel()
    async with ground.runtime() as runtime:
        containers = [await runtime.launch(secrets.token_hex(8), _Unheard()) for _ in range(count)]
        try:
            seen = [_Seen((await container.state()).pid) for container in containers]
            for one in seen:
                _check_visible(one, runtime)
            yield seen
        finally:
            for container in containers:
                await container.remove()


def _check_visible(seen: _Seen, runtime: DockerRuntime) -> None:
    try:
        own = runtime.owner.worker in (seen.proc / "cgroup").read_text()
        named = (seen.proc / "cmdline").read_bytes().startswith(b"/node\0")
    except OSError:
        own = named = False
    if not (own or named):
        raise NotApplicable("the Docker Engine runs elsewhere: its processes cannot be seen from here")


def _about_one(look: Callable[[_Seen], str]) -> Callable[[Ground], Awaitable[str]]:
    async def run(ground: Ground) -> str:
        async with _sandboxes(ground) as [seen]:
            return look(seen)

    return run


def _user(seen: _Seen) -> str:
    status = seen.status()
    ids = {*status["Uid"].split(), *status["Gid"].split()}
    expect("0" not in ids, f"ids: {ids}")
    return f"ids: {', '.join(sorted(ids))}"


def _capabilities(seen: _Seen) -> str:
    status = seen.status()
    held = {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    expect(all(int(mask, 16) == 0 for mask in held.values()), held)
    return "every set is empty, the bounding set, too"


def _privileges(seen: _Seen) -> str:
    flag = seen.status().get("NoNewPrivs", "")
    expect(flag == "1", f"NoNewPrivs: {flag}")
    return "NoNewPrivs: 1"


def _seccomp(seen: _Seen) -> str:
    status = seen.status()
    expect(status.get("Seccomp") == "2", f"Seccomp: {status.get('Seccomp')}")
    return f"Seccomp: 2 (a filter), {status.get('Seccomp_filters', '?')} loaded"


_KINDS = ("net", "pid", "mnt", "ipc", "uts", "cgroup")


def _own_namespace(kind: str) -> str:
    return str(pathlib.Path(f"/proc/self/ns/{kind}").readlink())


def _namespaces(seen: _Seen) -> str:
    shared = [kind for kind in _KINDS if seen.namespace(kind) == _own_namespace(kind)]
    expect(not shared, f"shared with the host: {', '.join(shared)}")
    remapped = seen.namespace("user") != _own_namespace("user")
    return f"its own: {', '.join(_KINDS)}; user namespace: {'its own' if remapped else 'the host’s'}"


def _interfaces(seen: _Seen) -> str:
    lines = (seen.proc / "net" / "dev").read_text().splitlines()[2:]
    # The kernel may put idle tunnel devices into every new namespace; none of them is up.
    names = [line.partition(":")[0].strip() for line in lines]
    routes = (seen.proc / "net" / "route").read_text().splitlines()[1:]
    expect("lo" in names and not any(name.startswith(("eth", "veth", "ens", "wl")) for name in names), names)
    expect(not routes, f"routes: {routes}")
    return f"interfaces: {', '.join(names)}; no route"


def _resource_limits(seen: _Seen) -> str:
    limits = {line[:25].strip(): line[25:].split()[:2] for line in (seen.proc / "limits").read_text().splitlines()[1:]}
    found = {name: limits[name][1] for name in ("Max open files", "Max core file size", "Max file size")}
    wanted = (str(SMALL.open_files), "0", str(SMALL.file_bytes))
    expect(tuple(found.values()) == wanted, found)
    return ", ".join(f"{name}: {value}" for name, value in found.items())


def _memory(seen: _Seen) -> str:
    text, _ = seen.cgroup_file(("memory", "memory.limit_in_bytes"), "memory.max")
    expect(text == str(SMALL.memory_bytes), text)
    return f"{text} bytes"


def _swap(seen: _Seen) -> str:
    text, version = seen.cgroup_file(("memory", "memory.memsw.limit_in_bytes"), "memory.swap.max")
    expect(text == (str(SMALL.memory_bytes) if version == 1 else "0"), text)
    return "none beyond the memory limit"


def _processes(seen: _Seen) -> str:
    text, _ = seen.cgroup_file(("pids", "pids.max"), "pids.max")
    expect(text == str(SMALL.pids), text)
    return f"{text} processes and threads"


def _cpu(seen: _Seen) -> str:
    text, version = seen.cgroup_file(("cpu", "cpu.cfs_quota_us"), "cpu.max")
    if version == 1:
        text += " " + seen.cgroup_file(("cpu", "cpu.cfs_period_us"), "cpu.max")[0]
    quota, period = text.split()
    expect(quota.isdigit() and int(quota) == round(SMALL.cpus * int(period)), text)
    return f"{quota} of {period} µs"


def _oom_score(seen: _Seen) -> str:
    score = int((seen.proc / "oom_score_adj").read_text())
    own = int(pathlib.Path("/proc/self/oom_score_adj").read_text())
    expect(score > own, f"{score}, ours {own}")
    return f"{score}, ours {own}: when the host runs out of memory, sandboxes go first"


def _descriptors(seen: _Seen) -> str:
    """Three streams and what Node opens for itself: nothing that is inherited from the host."""
    kinds = sorted({str(entry.readlink()).split("[")[0].split(":")[0] for entry in (seen.proc / "fd").iterdir()})
    expect(set(kinds) <= {"pipe", "anon_inode", "/dev/null", "/dev/urandom", "/dev/random"}, kinds)
    return ", ".join(kinds)


async def _apart(ground: Ground) -> str:
    async with _sandboxes(ground, 2) as [one, other]:
        shared = [kind for kind in _KINDS if one.namespace(kind) == other.namespace(kind)]
        same_cgroup = (one.proc / "cgroup").read_text() == (other.proc / "cgroup").read_text()
        expect(not shared and not same_cgroup, f"shared: {', '.join(shared)}{' and the cgroup' if same_cgroup else ''}")
    return f"nothing shared of {', '.join(_KINDS)} and cgroups"


def _case(name: str, tries: str, look: Callable[[_Seen], str]) -> Case:
    return Case(Area.WALLS, name, tries, "the lock-down, as the kernel shows it", _about_one(look))


CASES = (
    _case("user", "is it root?", _user),
    _case("capabilities", "has it any?", _capabilities),
    _case("no new privileges", "could it gain some?", _privileges),
    _case("seccomp", "is a filter loaded?", _seccomp),
    _case("namespaces", "which does it share with the host?", _namespaces),
    _case("network interfaces", "which has it?", _interfaces),
    _case("resource limits", "open files, core files, file size", _resource_limits),
    _case("memory limit", "what does the kernel hold it to?", _memory),
    _case("swap limit", "what does the kernel hold it to?", _swap),
    _case("process limit", "what does the kernel hold it to?", _processes),
    _case("CPU limit", "what does the kernel hold it to?", _cpu),
    _case("out-of-memory score", "who is killed first?", _oom_score),
    _case("open descriptors", "what was inherited?", _descriptors),
    Case(Area.WALLS, "two sandboxes", "what do they share?", "one container per sandbox", _apart),
)
