"""Programs that own the whole process and end, never end, or break the protocol: each with the cause that is recorded."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.battery.case import Area, Case, expect
from orchestrator.worker.battery.ground import Ground
from orchestrator.worker.battery.programs import PRELUDE, ended, own, program
from orchestrator.worker.limits import MIB, OutputLimits, SliceLimits, StartLimits
from orchestrator.worker.sandbox import Sandbox, SandboxSettings
from orchestrator.worker.sandbox_events import DeathKind

#: On a busy machine few writes come through in the time given; fewer must do.
_TIGHT: Final = OutputLimits(frames_per_s=50, frames_burst=200, lines_per_s=50, lines_burst=200, stderr_bytes=MIB)


@dataclass(frozen=True)
class _End:
    body: str
    kinds: Collection[DeathKind]
    exit_codes: Collection[int] | None = None

    async def run(self, ground: Ground) -> str:
        timeout_s = 0.7 if set(self.kinds) == {DeathKind.DEADLINE} else 8.0
        events = await own(
            ground, self.body, 2, slice_timeout_s=timeout_s, bystander=True, settings=SandboxSettings(output=_TIGHT)
        )
        cause = ended(events)
        expect(cause.kind in self.kinds, cause)
        expect(self.exit_codes is None or cause.exit_code in self.exit_codes, cause)
        # Of V8's own limit the kernel knows nothing.
        expect(cause.oom_killed == (cause.kind is DeathKind.OOM and cause.exit_code == 137), cause)
        expect(events[-1].unfinished[-1] == 2, f"unfinished: {events[-1].unfinished}")
        return str(cause)


_KILLED = (137,)
_ENDS = {
    "exit 0": _End("process.reallyExit(0);", [DeathKind.EXIT], [0]),
    "exit 3": _End("process.reallyExit(3);", [DeathKind.EXIT], [3]),
    "abort": _End("process.abort();", [DeathKind.EXIT], [134, 139]),
    "memory in native buffers": _End(
        "const held = []; for (;;) held.push(Buffer.alloc(8 << 20, 1));", [DeathKind.OOM], _KILLED
    ),
    "memory in the heap": _End(
        "const held = []; for (;;) held.push({ a: [1, 2, 3] });", [DeathKind.OOM, DeathKind.EXIT], [133, 134, 137, 139]
    ),
    "loop": _End("for (;;);", [DeathKind.DEADLINE], _KILLED),
    "microtasks": _End("const again = () => queueMicrotask(again); again();", [DeathKind.DEADLINE], _KILLED),
    "regular expression": _End("/^(a+)+$/.test('a'.repeat(40) + '!');", [DeathKind.DEADLINE], _KILLED),
    "asleep": _End(
        "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);", [DeathKind.DEADLINE], _KILLED
    ),
    "SIGTERM ignored": _End(
        "process.on('SIGTERM', () => {}).on('SIGINT', () => {}).on('SIGHUP', () => {}); for (;;);",
        [DeathKind.DEADLINE], _KILLED,
    ),
    "raw flood": _End("const block = Buffer.alloc(65536, 65); for (;;) raw(block);", [DeathKind.FLOOD]),
    "flood of empty lines": _End("const block = Buffer.alloc(65536, 10); for (;;) raw(block);", [DeathKind.FLOOD]),
    "one byte at a time": _End("for (;;) raw('x');", [DeathKind.FLOOD]),
    "one line feed at a time": _End("for (;;) raw('\\n');", [DeathKind.FLOOD]),
    "flood on standard error": _End(
        "const block = Buffer.alloc(65536, 65); for (;;) fs.writeSync(2, block);", [DeathKind.FLOOD]
    ),
    "one byte at a time on standard error": _End("for (;;) fs.writeSync(2, 'x');", [DeathKind.FLOOD]),
    "a line of 64 MiB": _End(
        "const block = Buffer.alloc(1 << 20, 65); for (let i = 0; i < 64; i++) raw(block); raw('\\n');",
        [DeathKind.FLOOD],
    ),
    "standard output closed": _End(
        "fs.closeSync(1); fs.closeSync(2); for (;;);", [DeathKind.PROTOCOL, DeathKind.DEADLINE]
    ),
}  # fmt: skip

_PROTOCOL = {
    "a message of 4 MiB that is no result": _End(
        "say(3, { request: 'emitEvent', id, payload: { eventName: 'custom', customEvent: 'e', data: 'x'.repeat(4 << 20) } });",
        [DeathKind.PROTOCOL],
    ),
    "a message of brackets": _End("raw('MSG:' + '['.repeat(900000) + '\\n');", [DeathKind.PROTOCOL]),
    "a message of many small arrays": _End(
        "raw('MSG:' + '[' + '[],'.repeat(10 << 20) + '0]\\n');", [DeathKind.PROTOCOL]
    ),
    "acknowledgements without end": _End("for (;;) raw('MSG:{\"type\":\"nop\"}\\n');", [DeathKind.FLOOD]),
    "progress without end": _End("for (;;) say(3, { request: 'progress', id, progress: 1 });", [DeathKind.FLOOD]),
    "an answer for the next slice": _End("complete(id + 1, 'FORGED');", [DeathKind.PROTOCOL]),
    "an answer for slice -1": _End("complete(-1, 'FORGED');", [DeathKind.PROTOCOL]),
    "an answer for slice 1e300": _End(
        "say(3, { request: 'complete', id: 1e300, result: {} });", [DeathKind.PROTOCOL]
    ),
    "an answer without id": _End("say(3, { request: 'complete', result: 1 });", [DeathKind.PROTOCOL]),
    "from no ring": _End(
        'raw(\'MSG:{"type":"workerMessage","message":{"what":{"raw":{"value":{"request":"complete","id":1}}}}}\\n\');',
        [DeathKind.PROTOCOL],
    ),
    "from ring -1": _End("say(-1, { request: 'complete', id });", [DeathKind.PROTOCOL]),
    "a message for the worker to evaluate": _End(
        'raw(\'MSG:{"type":"newSerializer","payload":"process.exit()"}\\n\');', [DeathKind.PROTOCOL]
    ),
    "a second description": _End("say(2, { request: 'describe' });", [DeathKind.PROTOCOL]),
    "a second assignment": _End("say(2, { request: 'assigned' });", [DeathKind.PROTOCOL]),
    "a late refusal": _End("say(2, { request: 'reject', error: { name: 'X', message: 'y' } });", [DeathKind.EXIT]),
    "KVIN that decodes for ever": _End(
        'raw(\'MSG:{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"arr":{"len":1e15,"lst":[]}}}}\\n\');',
        [DeathKind.PROTOCOL],
    ),
    "invalid UTF-8 in a message": _End(
        "raw(Buffer.concat([Buffer.from('MSG:{\"a\":\"'), Buffer.from([0xff, 0xfe, 0xc0, 0x80]), Buffer.from('\"}\\n')]));",
        [DeathKind.PROTOCOL],
    ),
}  # fmt: skip


async def _forged_frames(ground: Ground) -> str:
    body = """
      const forged = message(3, { request: 'complete', id: id + 1, result: { string: '"FORGED"', method: 'json', MIMEType: 'application/json' } });
      const header = Buffer.alloc(8); header[0] = 1; header.writeUInt32BE(forged.length, 4);
      const stderr = Buffer.from([2, 0, 0, 0, 0, 0, 0, 255]);
      raw(Buffer.concat([Buffer.from([0xff, 0xfe, 0x0a]), header, Buffer.from('x'), stderr, Buffer.from('\\n')]));
      complete(id, 'true one');
    """
    events = await own(ground, body, 2)
    texts = [event.result.string for event in events if isinstance(event, ev.SliceCompleted)]
    expect(texts == ['"true one"'] * 2, events)
    return "taken for text; both slices answered for themselves"


async def _two_answers(ground: Ground) -> str:
    first, *others = await own(ground, "complete(id, 1); complete(id, 2);", 3)
    expect(isinstance(first, ev.SliceCompleted) and first.result.string == "1", first)
    cause = ended(others)
    expect(cause.kind is DeathKind.PROTOCOL, cause)
    return str(cause)


async def _drip(ground: Ground) -> str:
    body = "for (const byte of 'MSG:' + 'x'.repeat(1e6)) { raw(byte); await new Promise((resolve) => setTimeout(resolve, 5)); }"
    cause = ended(await own(ground, body, slice_timeout_s=1.0))
    expect(cause.kind is DeathKind.DEADLINE, cause)
    return str(cause)


async def _deaf(ground: Ground) -> str:
    data = ["x" * MIB] * 8
    events = await ground.attack("(x) => x", data, entrypoint=program("for (;;);"), slice_timeout_s=1.0)
    cause = ended(events)
    expect(cause.kind is DeathKind.DEADLINE, cause)
    expect(events[-1].unfinished == tuple(range(1, 9)), events[-1].unfinished)
    return str(cause)


async def _stopped(ground: Ground) -> str:
    body = "try { process.kill(process.pid, 'SIGSTOP'); } catch {} await new Promise(() => {});"
    cause = ended(await own(ground, body, slice_timeout_s=1.0))
    expect(cause.kind is DeathKind.DEADLINE, cause)
    return str(cause)


@dataclass(frozen=True)
class _Start:
    body: str
    kind: DeathKind

    async def run(self, ground: Ground) -> str:
        settings = SandboxSettings(start=StartLimits(describe_s=1.5), output=OutputLimits(lines_burst=1000))
        cause: ev.DeathCause | None = None
        async with ground.runtime() as runtime:
            try:
                await Sandbox.start(runtime, settings, entrypoint=["/node", "-e", self.body])
            except ev.SandboxDied as died:
                cause = died.cause
        expect(cause is not None and cause.kind is self.kind, cause or "it was taken for a sandbox")
        return str(cause)


_STARTS = {
    "says nothing": _Start("setInterval(() => {}, 1e6);", DeathKind.DEADLINE),
    "exits": _Start("process.exit(7);", DeathKind.EXIT),
    "floods": _Start("const b = Buffer.alloc(65536, 10); for (;;) require('fs').writeSync(1, b);", DeathKind.FLOOD),
    "answers before it is asked": _Start(
        "console.log('MSG:' + JSON.stringify({type:'workerMessage',message:{what:{raw:{ringSource:3,value:{request:'complete',id:1,result:{string:'1',method:'json',MIMEType:'x'}}}}}})); setInterval(() => {}, 1e6);",
        DeathKind.PROTOCOL,
    ),
    "has no pipeline": _Start(
        "process.stdin.on('data', () => console.log('MSG:' + JSON.stringify({type:'workerMessage',message:{what:{raw:{ringSource:2,value:{request:'describe'}}}}})));",
        DeathKind.PROTOCOL,
    ),
    "loops": _Start("for (;;);", DeathKind.DEADLINE),
}


async def _never_assigned(ground: Ground) -> str:
    entrypoint = ["/node", "-e", PRELUDE.replace("say(2, { request: 'assigned' })", "0")]
    settings = SandboxSettings(start=StartLimits(assign_s=0.5))
    cause: ev.DeathCause | None = None
    async with ground.runtime() as runtime:
        sandbox = await Sandbox.start(runtime, settings, entrypoint=entrypoint)
        try:
            await sandbox.assign(ev.Assignment("job", "(x) => x"), SliceLimits())
        except ev.SandboxDied as died:
            cause = died.cause
        await sandbox.kill()
    expect(cause is not None and cause.code == "EASSIGNTIMEOUT", cause or "it was taken for assigned")
    return str(cause)


def _short(text: str) -> str:
    return json.dumps(text.strip()[:80])[1:-1]


CASES = (
    *(Case(Area.ENDS, name, _short(end.body), "limits and deadlines outside of the process", end.run)
      for name, end in _ENDS.items()),
    Case(Area.ENDS, "one byte now and then", "drips a line for ever", "a deadline", _drip),
    Case(Area.ENDS, "standard input never read", "8 MiB are sent to a program that does not read", "a deadline", _deaf),
    Case(Area.ENDS, "a stopped process", "stops itself", "a deadline, SIGKILL from outside", _stopped),
    *(Case(Area.PROTOCOL, name, _short(end.body), "bounded lines, strict parsing, answers in order", end.run)
      for name, end in _PROTOCOL.items()),
    Case(Area.PROTOCOL, "forged Docker frames", "writes the headers of Docker's stream", "frames are Docker's own",
         _forged_frames),
    Case(Area.PROTOCOL, "two answers for one slice", "answers the same slice twice", "answers in order", _two_answers),
    *(Case(Area.STARTS, name, _short(start.body), "a deadline and strict parsing at the start", start.run)
      for name, start in _STARTS.items()),
    Case(Area.STARTS, "an assignment never answered", "does not answer to the job", "a deadline", _never_assigned),
)  # fmt: skip
