"""Against the container: what the kernel refuses to a program that owns the whole process."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.battery.case import Area, Case, expect
from orchestrator.worker.battery.ground import Ground
from orchestrator.worker.battery.programs import own, probe
from orchestrator.worker.limits import MIB, SandboxLimits
from orchestrator.worker.sandbox import SandboxSettings

_NO_NETWORK = frozenset(["EPERM", "EACCES", "EAI_AGAIN", "ENOTFOUND", "ENETUNREACH", "EINVAL", "EROFS"])


def _all_refused(steps: Mapping[str, str], errors: Collection[str] | None = None) -> Callable[[Ground], Awaitable[str]]:
    """A case whose every step must fail, with one of `errors` if given."""

    async def run(ground: Ground) -> str:
        found = await probe(ground, steps)
        answers = {name: answer for name, (answer, _) in found.items()}
        bad = {
            name: found[name]
            for name, answer in answers.items()
            if answer == "ALLOWED" or (errors is not None and answer not in errors)
        }
        expect(not bad, f"not refused: {bad}")
        return f"{len(answers)} tries, all refused: {', '.join(sorted(set(answers.values())))}"

    return run


_PLACES = "/x /tmp/x /dev/shm/x /dev/x /sys/x /proc/x /host/x /node /etc/hostname /etc/resolv.conf /run/x /var/x"
_SWITCHES = """/proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/self/oom_score_adj /proc/1/mem
    /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/release_agent"""
_HIDDEN = """/proc/kcore /proc/keys /proc/timer_list /proc/meminfo /proc/cpuinfo /proc/cmdline /proc/kallsyms /proc/version
    /proc/stat /proc/modules /proc/uptime"""
_MISSING = """/var/run/docker.sock /run/docker.sock /etc/passwd /etc/shadow /root /home /dev/mem /dev/kmsg /dev/kvm /dev/fuse
    /sys/class/dmi/id/product_uuid /sys/firmware/efi"""


async def _host_information(ground: Ground) -> str:
    found = await probe(ground, {place: f"fs.readFileSync({place!r}, 'utf8')" for place in _HIDDEN.split()})
    told = {place: answer for place, answer in found.items() if answer[0] == "ALLOWED" and answer[1]}
    expect(not told, f"readable: {told}")
    return f"{len(found)} files, all empty or refused"


async def _files_of_the_host(ground: Ground) -> str:
    found = await probe(ground, {place: f"fs.readFileSync({place!r}, 'utf8')" for place in _MISSING.split()})
    there = {place: answer for place, answer in found.items() if answer[0] not in ("ENOENT", "EACCES", "EISDIR")}
    expect(not there and found["/root"][0] == found["/home"][0] == "ENOENT", f"there: {there or found}")
    return f"{len(found)} places, none there"


async def _environment(ground: Ground) -> str:
    found = await probe(ground, {"env": "Object.keys(process.env).sort().join()"})
    names = set(found["env"][1].split(",")) - {""}
    expect(names <= {"PATH", "HOSTNAME", "HOME", "NODE_OPTIONS"}, f"variables: {names}")
    return f"variables: {', '.join(sorted(names)) or 'none'}"


_DEVICES = frozenset(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty"))


async def _mounts(ground: Ground) -> str:
    """A mount point of the host's, a bind, a socket: nothing of the kind may be listed."""
    read = "fs.readFileSync('/proc/self/mountinfo', 'utf8').split('\\n').filter(Boolean).map((line) => [line.split(' ')[4], line.split(' - ')[1].split(' ')[0], line.split(' ')[5]])"
    body = f"complete(id, {read});"
    [event] = await own(ground, body, slice_timeout_s=15.0)
    expect(isinstance(event, ev.SliceCompleted), event)
    kinds = {"overlay", "proc", "tmpfs", "devpts", "sysfs", "cgroup", "cgroup2", "mqueue", "9p", "gofer", "none", "dev"}
    mounts = json.loads(event.result.string)
    # Docker mounts these few of its own making over every image; read-only, like the root.
    of_docker = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")

    def of_the_runtime(place: str, kind: str, options: str) -> bool:
        """crun masks files below /proc and /sys with the host's /dev/null. In a user namespace, where no device can be
        made, the usual ones are the host's, and runc masks with them, too."""
        if kind == "devtmpfs" and (place in _DEVICES or place.startswith(("/proc/", "/sys/"))):
            return True
        return place in of_docker and "ro" in options.split(",")

    odd = [entry for entry in mounts if entry[1] not in kinds and not of_the_runtime(*entry)]
    root = [entry for entry in mounts if entry[0] == "/"]
    expect(not odd, f"mounts: {odd}")
    expect(all("ro" in entry[2].split(",") for entry in root), f"the root is writable: {root}")
    return f"{len(mounts)} mounts, none of the host's file systems; the root is read-only"


_SOCKETS = """
  const net = require('net'), dgram = require('dgram'), dns = require('dns');
  const connect = (options) => new Promise((done) => net.connect(options).on('connect', () => done('ALLOWED')).on('error', (error) => done(error.code)));
  const listen = (options) => new Promise((done) => net.createServer().listen(options, () => done('ALLOWED')).on('error', (error) => done(error.code)));
  const send = () => new Promise((done) => { try { dgram.createSocket('udp4').on('error', (error) => done(error.code)).send('x', 53, '8.8.8.8', (error) => done(error ? error.code : 'ALLOWED')); } catch (error) { done(error.code); } });
  const resolve = () => new Promise((done) => dns.lookup('example.com', (error) => done(error ? error.code : 'ALLOWED')));
  complete(id, [await %s]);
"""


def _no_socket(expression: str) -> Callable[[Ground], Awaitable[str]]:
    async def run(ground: Ground) -> str:
        [event] = await own(ground, _SOCKETS % expression, slice_timeout_s=20.0)
        expect(isinstance(event, ev.SliceCompleted), event)
        [answer] = json.loads(event.result.string)
        expect(answer in _NO_NETWORK, f"{expression}: {answer}")
        return str(answer)

    return run


_CONNECTIONS = {
    "the Docker bridge": "connect({ host: '172.17.0.1', port: 2375 })",
    "a cloud's metadata": "connect({ host: '169.254.169.254', port: 80 })",
    "this machine, IPv4": "connect({ host: '127.0.0.1', port: 1 })",
    "this machine, IPv6": "connect({ host: '::1', port: 1 })",
    "the Docker socket": "connect({ path: '/var/run/docker.sock' })",
    "listening on TCP": "listen({ port: 0, host: '127.0.0.1' })",
    "listening on an abstract socket": "listen({ path: '\\0abstract' })",
    "a UDP packet": "send()",
    "a name": "resolve()",
}

_PROCESSES = {
    "a child process": "(() => { const made = require('child_process').spawnSync('/node', ['-v']); if (made.error) throw made.error; return made.stdout; })()",
    "executing a program": "require('child_process').execFileSync('/node')",
    "killing everything": "process.kill(-1, 9)",
    "killing pid 1": "process.kill(1, 9)",
    "becoming root": "process.setuid(0)",
    "joining root's group": "process.setgid(0)",
    "raising the priority": "require('os').setPriority(-20)",
    "a native library": "process.dlopen({ exports: {} }, '/lib/x86_64-linux-gnu/libm.so.6')",
    "leaving the root folder": "process.chdir('/proc/1/root/../..') ?? fs.readFileSync('/etc/passwd')",
}


async def _descriptors(ground: Ground) -> str:
    body = "let n = 0; try { for (;;) { fs.openSync('/dev/null'); n++; } } catch (error) { complete(id, [n, error.code]); }"
    [event] = await own(ground, body, bystander=True, slice_timeout_s=15.0)
    expect(isinstance(event, ev.SliceCompleted), event)
    count, code = json.loads(event.result.string)
    expect(code == "EMFILE" and count < 256, f"{count} open, then {code}")
    return f"{count} open, then {code}"


async def _threads(ground: Ground) -> str:
    body = """
      const { Worker } = require('worker_threads');
      let n = 0, code = '';
      try { for (let i = 0; i < 200; i++) { const worker = new Worker('setInterval(() => {}, 1e6)', { eval: true }); worker.on('error', () => {}); n++; await new Promise((r) => setTimeout(r, 1)); } } catch (error) { code = error.code ?? error.message; }
      complete(id, [n, code]);
    """
    roomy = SandboxSettings(limits=SandboxLimits(memory_bytes=512 * MIB))
    [event] = await own(ground, body, slice_timeout_s=15.0, bystander=True, settings=roomy)
    if isinstance(event, ev.SandboxEnded):  # V8 aborts when a thread cannot be made
        expect(event.cause.kind in (ev.DeathKind.EXIT, ev.DeathKind.DEADLINE, ev.DeathKind.OOM), event.cause)
        return str(event.cause)
    count = json.loads(event.result.string)[0]
    expect(count < 200, f"{count} threads")
    return f"{count} threads, then no more"


async def _fork_bomb(ground: Ground) -> str:
    body = """
      const { spawn } = require('child_process'); let failed = 0;
      for (let i = 0; i < 500; i++) try { spawn('/node', ['-e', 'for(;;);']).on('error', () => failed++); } catch { failed++; }
      await new Promise((resolve) => setTimeout(resolve, 200));
      complete(id, failed);
    """
    [event] = await own(ground, body, slice_timeout_s=20.0, bystander=True)
    expect(isinstance(event, ev.SliceCompleted), event)
    failed = json.loads(event.result.string)
    expect(failed == 500, f"{500 - failed} of 500 forks worked")
    return "500 of 500 forks refused"


def _here(run: Callable[[Ground], Awaitable[str]]) -> Callable[[Ground], Awaitable[str]]:
    """A case about files of the host's kernel: gVisor shows its guests others, which are the sandbox's own."""

    async def on_the_hosts_kernel(ground: Ground) -> str:
        ground.need_the_hosts_kernel()
        return await run(ground)

    return on_the_hosts_kernel


def _case(name: str, tries: str, wall: str, run: Any) -> Case:
    return Case(Area.KERNEL, name, tries, wall, run)


CASES = (
    _case("writing anywhere", "writes files in every likely place", "read-only root, no mounts",
          _here(_all_refused({place: f"fs.writeFileSync({place!r}, 'x')" for place in _PLACES.split()},
                             ["EROFS", "EACCES", "ENOENT", "EPERM", "ETXTBSY"]))),
    _case("kernel switches", "writes to the kernel's control files", "masked and read-only paths, no capability",
          _here(_all_refused({place: f"fs.writeFileSync({place!r}, '-1000')" for place in _SWITCHES.split()}))),
    _case("host information", "reads what the kernel tells of the host", "masked paths", _here(_host_information)),
    _case("files of the host", "reads secrets, devices and sockets of the host", "an image from scratch, no devices",
          _here(_files_of_the_host)),
    _case("environment", "reads the environment for secrets", "an empty environment", _environment),
    _case("mounts", "looks for a file system of the host", "no mount but the kernel's own", _mounts),
    *(_case(f"network: {name}", expression, "no network, no socket calls", _no_socket(expression))
      for name, expression in _CONNECTIONS.items()),
    *(_case(name, expression[:80], "seccomp, no capability, no new privileges", _all_refused({name: expression}))
      for name, expression in _PROCESSES.items()),
    _case("descriptors", "opens files until none is left", "a limit on open files", _descriptors),
    _case("threads", "starts 200 threads", "a limit on processes", _threads),
    _case("fork bomb", "starts 500 processes", "seccomp: no fork", _fork_bomb),
)  # fmt: skip
