"""Programs that own the whole process: as if a work function had broken out of its realm. The container is the wall.

Each runs as plain Node with all of its modules, in the Evaluator image, under the same lock-down. It first speaks the
evaluator's protocol well enough to be given a slice, and then attacks.
"""

# ruff: noqa: E501  (the programs are not wrapped)

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings
from orchestrator.worker.limits import MIB, OutputLimits, SandboxLimits, SliceLimits, StartLimits
from orchestrator.worker.sandbox import Sandbox, SandboxSettings

pytestmark = pytest.mark.docker

PRELUDE = """
const fs = require('fs');
const raw = (bytes) => { let at = 0; const all = Buffer.from(bytes); while (at < all.length) at += fs.writeSync(1, all, at); };
const message = (ring, value) => 'MSG:' + JSON.stringify({ type: 'workerMessage', message: { _serializeVerId: 'v9', what: { raw: { ringSource: ring, value } } } }) + '\\n';
const say = (ring, value) => raw(message(ring, value));
const complete = (id, value) => say(3, { request: 'complete', id, result: { string: JSON.stringify(value) ?? 'null', method: 'json', MIMEType: 'application/json' } });
const attempt = (name, step) => { try { return [name, 'ALLOWED', String(step()).slice(0, 80)]; } catch (error) { return [name, error.code ?? error.name, '']; } };
let rest = '';
process.stdin.setEncoding('utf8').on('data', (text) => {
  const lines = (rest + text).split('\\n');
  rest = lines.pop();
  for (const line of lines) hear(JSON.parse(line).message.what.raw);
});
process.stdin.on('end', () => process.exit(0));
function hear({ request, id }) {
  if (request === 'describe') say(2, { request: 'describe', capabilities: {}, extensions: { pipeline: { version: 1, depth: 8 } } });
  else if (request === 'applyRequirements') say(1, { request: 'applyRequirementsDone' });
  else if (request === 'assign') say(2, { request: 'assigned' });
  else if (request === 'main') main(id);
}
"""


def program(body: str) -> list[str]:
    """`body` is the attack, run when slice `id` arrives."""
    return ["/node", "--no-warnings", "-e", f"{PRELUDE}\nasync function main(id) {{ {body} }}"]


async def run(attack: Any, body: str, slices: int = 1, **options: Any) -> list[Any]:
    return list(await attack("(x) => x", [0] * slices, entrypoint=program(body), **options))


async def probe(attack: Any, steps: dict[str, str]) -> dict[str, list[str]]:
    """Run each step; name → (error code or ALLOWED, what it returned)."""
    tries = ", ".join(f"attempt({json.dumps(name)}, () => {step})" for name, step in steps.items())
    [event] = await run(attack, f"complete(id, [{tries}]);", slice_timeout_s=10.0)
    assert isinstance(event, ev.SliceCompleted), event
    return {name: found for name, *found in json.loads(event.result.string)}


async def test_the_prelude_itself_works(attack: Any) -> None:
    events = await run(attack, "complete(id, [id, process.getuid(), process.versions.node]);", 3)
    assert [json.loads(event.result.string)[:2] for event in events] == [[1, 65534], [2, 65534], [3, 65534]]


# -- what the kernel refuses


async def test_writing_anywhere(attack: Any) -> None:
    places = "/x /tmp/x /dev/shm/x /dev/x /sys/x /proc/x /host/x /node /etc/hostname /etc/resolv.conf /run/x /var/x"
    found = await probe(attack, {place: f"fs.writeFileSync({place!r}, 'x')" for place in places.split()})
    assert {answer for answer, _ in found.values()} <= {"EROFS", "EACCES", "ENOENT", "EPERM", "ETXTBSY"}, found


async def test_kernel_switches(attack: Any) -> None:
    places = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/self/oom_score_adj",
        "/proc/1/mem",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/release_agent",
    ]
    steps = {place: f"fs.writeFileSync({place!r}, '-1000')" for place in places}
    found = await probe(attack, steps)
    assert "ALLOWED" not in {answer for answer, _ in found.values()}, found


async def test_host_information(attack: Any) -> None:
    hidden = "/proc/kcore /proc/keys /proc/timer_list /proc/meminfo /proc/cpuinfo /proc/cmdline /proc/kallsyms /proc/version /proc/stat /proc/modules /proc/uptime"
    missing = "/var/run/docker.sock /run/docker.sock /etc/passwd /etc/shadow /root /home /dev/mem /dev/kmsg /dev/kvm /dev/fuse /sys/class/dmi/id/product_uuid /sys/firmware/efi"
    found = await probe(
        attack, {place: f"fs.readFileSync({place!r}, 'utf8')" for place in f"{hidden} {missing}".split()}
    )
    for place in hidden.split():
        assert found[place] in (["ALLOWED", ""], ["EACCES", ""], ["ENOENT", ""], ["EPERM", ""]), (place, found[place])
    for place in missing.split():
        assert found[place][0] in ("ENOENT", "EACCES", "EISDIR"), (place, found[place])
    assert found["/root"][0] == found["/home"][0] == "ENOENT"


async def test_no_secret_in_the_environment(attack: Any) -> None:
    found = await probe(
        attack,
        {
            "env": "Object.keys(process.env).sort().join()",
            "1": "fs.readFileSync('/proc/1/environ', 'utf8').split('\\0').length",
        },
    )
    assert set(found["env"][1].split(",")) <= {"PATH", "HOSTNAME", "HOME", "NODE_OPTIONS"}


async def test_sockets_of_every_kind(attack: Any) -> None:
    body = """
      const net = require('net'), dgram = require('dgram'), dns = require('dns');
      const connect = (options) => new Promise((done) => net.connect(options).on('connect', () => done('ALLOWED')).on('error', (error) => done(error.code)));
      const listen = (options) => new Promise((done) => net.createServer().listen(options, () => done('ALLOWED')).on('error', (error) => done(error.code)));
      const send = () => new Promise((done) => { try { dgram.createSocket('udp4').on('error', (error) => done(error.code)).send('x', 53, '8.8.8.8', (error) => done(error ? error.code : 'ALLOWED')); } catch (error) { done(error.code); } });
      const resolve = () => new Promise((done) => dns.lookup('example.com', (error) => done(error ? error.code : 'ALLOWED')));
      complete(id, await Promise.all([
        connect({ host: '172.17.0.1', port: 2375 }), connect({ host: '169.254.169.254', port: 80 }), connect({ host: '127.0.0.1', port: 1 }),
        connect({ host: '::1', port: 1 }), connect({ path: '/var/run/docker.sock' }), listen({ port: 0, host: '127.0.0.1' }), listen({ path: '/tmp/s' }),
        listen({ path: '\\0abstract' }), send(), resolve(),
      ]));
    """
    [event] = await run(attack, body, slice_timeout_s=15.0)
    assert isinstance(event, ev.SliceCompleted), event
    assert set(json.loads(event.result.string)) <= {
        "EPERM",
        "EACCES",
        "EAI_AGAIN",
        "ENOTFOUND",
        "ENETUNREACH",
        "EINVAL",
        "EROFS",
    }, event.result


async def test_processes(attack: Any) -> None:
    found = await probe(
        attack,
        {
            "spawn": "{ const made = require('child_process').spawnSync('/node', ['-v']); if (made.error) throw made.error; return made.stdout; }".join(
                ("(() => ", ")()")
            ),
            "exec": "require('child_process').execFileSync('/node')",
            "kill everything": "process.kill(-1, 9)",
            "kill pid 1": "process.kill(1, 9)",
            "become root": "process.setuid(0)",
            "root's group": "process.setgid(0)",
            "niceness": "require('os').setPriority(-20)",
            "a native library": "process.dlopen({ exports: {} }, '/lib/x86_64-linux-gnu/libm.so.6')",
            "chroot": "process.chdir('/proc/1/root/../..') ?? fs.readFileSync('/etc/passwd')",
        },
    )
    assert "ALLOWED" not in {answer for answer, _ in found.values()}, found


async def test_descriptors_run_out_inside_only(attack: Any) -> None:
    body = "let n = 0; try { for (;;) { fs.openSync('/dev/null'); n++; } } catch (error) { complete(id, [n, error.code]); }"
    [event] = await run(attack, body, bystander=True)
    count, code = json.loads(event.result.string)
    assert code == "EMFILE"
    assert count < 256


async def test_threads_run_out_inside_only(attack: Any) -> None:
    body = """
      const { Worker } = require('worker_threads');
      let n = 0, code = '';
      try { for (let i = 0; i < 200; i++) { const worker = new Worker('setInterval(() => {}, 1e6)', { eval: true }); worker.on('error', () => {}); n++; await new Promise((r) => setTimeout(r, 1)); } } catch (error) { code = error.code ?? error.message; }
      complete(id, [n, code]);
    """
    [event] = await run(
        attack,
        body,
        slice_timeout_s=15.0,
        bystander=True,
        settings=SandboxSettings(limits=SandboxLimits(memory_bytes=512 * MIB)),
    )
    if isinstance(event, ev.SandboxEnded):  # V8 aborts when a thread cannot be made
        assert event.cause.kind in (ev.DeathKind.EXIT, ev.DeathKind.DEADLINE, ev.DeathKind.OOM)
    else:
        assert json.loads(event.result.string)[0] < 200


async def test_a_fork_bomb(attack: Any) -> None:
    body = """
      const { spawn } = require('child_process'); let failed = 0;
      for (let i = 0; i < 500; i++) try { spawn('/node', ['-e', 'for(;;);']).on('error', () => failed++); } catch { failed++; }
      await new Promise((resolve) => setTimeout(resolve, 200));
      complete(id, failed);
    """
    [event] = await run(attack, body, slice_timeout_s=15.0, bystander=True)
    assert isinstance(event, ev.SliceCompleted), event
    assert json.loads(event.result.string) == 500


# -- ends


ENDS = {
    "exit 0": ("process.reallyExit(0);", ev.DeathKind.EXIT, 0),
    "exit 3": ("process.reallyExit(3);", ev.DeathKind.EXIT, 3),
    "abort": ("process.abort();", ev.DeathKind.EXIT, 139),
    "memory in native buffers": (
        "const held = []; for (;;) held.push(Buffer.alloc(8 << 20, 1));",
        ev.DeathKind.OOM,
        137,
    ),
    "memory in the heap": ("const held = []; for (;;) held.push({ a: [1, 2, 3] });", None, None),
    "loop": ("for (;;);", ev.DeathKind.DEADLINE, 137),
    "microtasks": ("const again = () => queueMicrotask(again); again();", ev.DeathKind.DEADLINE, 137),
    "regular expression": ("/^(a+)+$/.test('a'.repeat(40) + '!');", ev.DeathKind.DEADLINE, 137),
    "asleep": ("Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);", ev.DeathKind.DEADLINE, 137),
    "SIGTERM ignored": (
        "process.on('SIGTERM', () => {}).on('SIGINT', () => {}).on('SIGHUP', () => {}); for (;;);",
        ev.DeathKind.DEADLINE,
        137,
    ),
    "raw flood": ("const block = Buffer.alloc(65536, 65); for (;;) raw(block);", ev.DeathKind.FLOOD, None),
    "flood of empty lines": ("const block = Buffer.alloc(65536, 10); for (;;) raw(block);", ev.DeathKind.FLOOD, None),
    "one byte at a time": ("for (;;) raw('x');", ev.DeathKind.FLOOD, None),
    "one line feed at a time": ("for (;;) raw('\\n');", ev.DeathKind.FLOOD, None),
    "flood on standard error": (
        "const block = Buffer.alloc(65536, 65); for (;;) fs.writeSync(2, block);",
        ev.DeathKind.FLOOD,
        None,
    ),
    "one byte at a time on standard error": ("for (;;) fs.writeSync(2, 'x');", ev.DeathKind.FLOOD, None),
    "a line of 64 MiB": (
        "const block = Buffer.alloc(1 << 20, 65); for (let i = 0; i < 64; i++) raw(block); raw('\\n');",
        ev.DeathKind.FLOOD,
        None,
    ),
    "a message of 4 MiB that is no result": (
        "say(3, { request: 'emitEvent', id, payload: { eventName: 'custom', customEvent: 'e', data: 'x'.repeat(4 << 20) } });",
        ev.DeathKind.PROTOCOL,
        None,
    ),
    "a message of brackets": ("raw('MSG:' + '['.repeat(900000) + '\\n');", ev.DeathKind.PROTOCOL, None),
    "a message of many small arrays": (
        "raw('MSG:' + '[' + '[],'.repeat(10 << 20) + '0]\\n');",
        ev.DeathKind.PROTOCOL,
        None,
    ),
    "acknowledgements without end": ('for (;;) raw(\'MSG:{"type":"nop"}\\n\');', ev.DeathKind.FLOOD, None),
    "progress without end": ("for (;;) say(3, { request: 'progress', id, progress: 1 });", ev.DeathKind.FLOOD, None),
    "standard output closed": ("fs.closeSync(1); fs.closeSync(2); for (;;);", None, None),
    "an answer for the next slice": ("complete(id + 1, 'FORGED');", ev.DeathKind.PROTOCOL, None),
    "an answer for slice -1": ("complete(-1, 'FORGED');", ev.DeathKind.PROTOCOL, None),
    "an answer for slice 1e300": (
        "say(3, { request: 'complete', id: 1e300, result: {} });",
        ev.DeathKind.PROTOCOL,
        None,
    ),
    "an answer without id": ("say(3, { request: 'complete', result: 1 });", ev.DeathKind.PROTOCOL, None),
    "from no ring": (
        'raw(\'MSG:{"type":"workerMessage","message":{"what":{"raw":{"value":{"request":"complete","id":1}}}}}\\n\');',
        ev.DeathKind.PROTOCOL,
        None,
    ),
    "from ring -1": ("say(-1, { request: 'complete', id });", ev.DeathKind.PROTOCOL, None),
    "a message for the worker to evaluate": (
        'raw(\'MSG:{"type":"newSerializer","payload":"process.exit()"}\\n\');',
        ev.DeathKind.PROTOCOL,
        None,
    ),
    "a second description": ("say(2, { request: 'describe' });", ev.DeathKind.PROTOCOL, None),
    "a second assignment": ("say(2, { request: 'assigned' });", ev.DeathKind.PROTOCOL, None),
    "a late refusal": ("say(2, { request: 'reject', error: { name: 'X', message: 'y' } });", ev.DeathKind.EXIT, None),
    "KVIN that decodes for ever": (
        'raw(\'MSG:{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"arr":{"len":1e15,"lst":[]}}}}\\n\');',
        ev.DeathKind.PROTOCOL,
        None,
    ),
    "invalid UTF-8 in a message": (
        "raw(Buffer.concat([Buffer.from('MSG:{\"a\":\"'), Buffer.from([0xff, 0xfe, 0xc0, 0x80]), Buffer.from('\"}\\n')]));",
        ev.DeathKind.PROTOCOL,
        None,
    ),
}


@pytest.mark.parametrize("name", ENDS)
async def test_ends(attack: Any, name: str) -> None:
    body, kind, exit_code = ENDS[name]
    # On a busy machine few writes come through in the time given; fewer must do.
    output = OutputLimits(frames_per_s=50, frames_burst=200, lines_per_s=50, lines_burst=200, stderr_bytes=MIB)
    settings = SandboxSettings(output=output)
    timeout_s = 0.7 if kind is ev.DeathKind.DEADLINE else 8.0
    events = await run(attack, body, 2, slice_timeout_s=timeout_s, bystander=True, settings=settings)
    ended = events[-1]
    assert isinstance(ended, ev.SandboxEnded), ended
    cause = ended.cause
    if name == "memory in the heap":  # the kernel's limit or V8's own, whichever is first
        assert cause.exit_code in (134, 137, 139)
    elif name == "standard output closed":
        assert cause.kind in (ev.DeathKind.PROTOCOL, ev.DeathKind.DEADLINE)
    else:
        assert cause.kind == kind, cause
    if exit_code is not None:
        assert cause.exit_code == exit_code, cause
    assert cause.oom_killed == (cause.kind == ev.DeathKind.OOM)
    assert ended.unfinished[-1] == 2


async def test_forged_docker_frames_are_only_text(attack: Any) -> None:
    body = """
      const forged = message(3, { request: 'complete', id: id + 1, result: { string: '"FORGED"', method: 'json', MIMEType: 'application/json' } });
      const header = Buffer.alloc(8); header[0] = 1; header.writeUInt32BE(forged.length, 4);
      const stderr = Buffer.from([2, 0, 0, 0, 0, 0, 0, 255]);
      raw(Buffer.concat([Buffer.from([0xff, 0xfe, 0x0a]), header, Buffer.from('x'), stderr, Buffer.from('\\n')]));
      complete(id, 'true one');
    """
    first, second = await run(attack, body, 2)
    assert [json.loads(event.result.string) for event in (first, second)] == ["true one", "true one"]


async def test_two_answers_for_one_slice(attack: Any) -> None:
    first, *others = await run(attack, "complete(id, 1); complete(id, 2);", 3)
    assert json.loads(first.result.string) == 1
    assert others[-1].cause.kind == ev.DeathKind.PROTOCOL


async def test_answering_ahead_is_ones_own_loss_and_is_paid_by_the_kernels_figures(attack: Any) -> None:
    body = "if (id === 1) for (const n of [1, 2, 3]) complete(n, 'unworked'); await new Promise(() => {});"
    events = await run(attack, body, 3)
    completed = [event for event in events if isinstance(event, ev.SliceCompleted)]
    assert sum(event.metrics.cpu_time_s for event in completed) < 0.5


async def test_a_forged_measurement_is_paid_by_the_kernels_figures(attack: Any) -> None:
    body = """
      const measurement = { total: 1e14, CPU: 1e14, webGL: 0, webGPU: 0 };
      say(3, { request: 'measurement', measurement });
      say(3, { request: 'complete', id, measurement, progressed: true, result: { string: '1', method: 'json', MIMEType: 'application/json' } });
    """
    for event in await run(attack, body, 3):
        assert event.metrics.cpu_time_s < 1
        assert event.metrics.wall_time_s < 5


async def test_one_byte_now_and_then_meets_the_deadline(attack: Any) -> None:
    body = "for (const byte of 'MSG:' + 'x'.repeat(1e6)) { raw(byte); await new Promise((resolve) => setTimeout(resolve, 5)); }"
    [ended] = await run(attack, body, slice_timeout_s=1.0)
    assert ended.cause.kind == ev.DeathKind.DEADLINE


async def test_standard_input_that_is_never_read(attack: Any) -> None:
    async with asyncio.timeout(30):
        events = await attack("(x) => x", ["x" * MIB] * 8, entrypoint=program("for (;;);"), slice_timeout_s=1.0)
    assert events[-1].cause.kind == ev.DeathKind.DEADLINE
    assert events[-1].unfinished == tuple(range(1, 9))


async def test_a_stopped_process_meets_the_deadline(attack: Any) -> None:
    events = await run(
        attack,
        "try { process.kill(process.pid, 'SIGSTOP'); } catch {} await new Promise(() => {});",
        slice_timeout_s=1.0,
    )
    assert events[-1].cause.kind == ev.DeathKind.DEADLINE


STARTS = {
    "says nothing": ("setInterval(() => {}, 1e6);", ev.DeathKind.DEADLINE),
    "exits": ("process.exit(7);", ev.DeathKind.EXIT),
    "floods": ("const b = Buffer.alloc(65536, 10); for (;;) require('fs').writeSync(1, b);", ev.DeathKind.FLOOD),
    "answers before it is asked": (
        "console.log('MSG:' + JSON.stringify({type:'workerMessage',message:{what:{raw:{ringSource:3,value:{request:'complete',id:1,result:{string:'1',method:'json',MIMEType:'x'}}}}}})); setInterval(() => {}, 1e6);",
        ev.DeathKind.PROTOCOL,
    ),
    "has no pipeline": (
        "process.stdin.on('data', () => console.log('MSG:' + JSON.stringify({type:'workerMessage',message:{what:{raw:{ringSource:2,value:{request:'describe'}}}}})));",
        ev.DeathKind.PROTOCOL,
    ),
    "loops": ("for (;;);", ev.DeathKind.DEADLINE),
}


@pytest.mark.parametrize("name", STARTS)
async def test_a_start_that_goes_wrong(worker_id: str, name: str) -> None:
    body, kind = STARTS[name]
    settings = SandboxSettings(start=StartLimits(describe_s=1.0), output=OutputLimits(lines_burst=1000))
    async with asyncio.timeout(30), DockerRuntime(worker_id, RuntimeSettings()) as runtime:
        with pytest.raises(ev.SandboxDied) as caught:
            await Sandbox.start(runtime, settings, entrypoint=["/node", "-e", body])
        assert caught.value.cause.kind == kind


async def test_an_assignment_that_is_never_answered(worker_id: str) -> None:
    entrypoint = ["/node", "-e", PRELUDE.replace("say(2, { request: 'assigned' })", "0")]
    settings = SandboxSettings(start=StartLimits(assign_s=0.5))
    async with DockerRuntime(worker_id, RuntimeSettings()) as runtime:
        sandbox = await Sandbox.start(runtime, settings, entrypoint=entrypoint)
        with pytest.raises(ev.SandboxDied) as caught:
            await sandbox.assign(ev.Assignment("job", "(x) => x"), SliceLimits())
        assert caught.value.cause.code == "EASSIGNTIMEOUT"
