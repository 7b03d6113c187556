"""Programs that own the whole process, as if a work function had broken out of its realm.

Each is plain Node with all of its modules, in the Evaluator image, under the same lock-down. It first speaks the
evaluator's protocol well enough to be given a slice, and then attacks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.battery.case import expect
from orchestrator.worker.battery.ground import Events, Ground

# fmt: off
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
# fmt: on


def program(body: str) -> list[str]:
    """The entrypoint of a container in which `body`, the attack, runs when slice `id` arrives."""
    return ["/node", "--no-warnings", "-e", f"{PRELUDE}\nasync function main(id) {{ {body} }}"]


async def own(ground: Ground, body: str, slices: int = 1, **options: Any) -> Events:
    """Run `body` for some slices in a process that it owns."""
    return await ground.attack("(x) => x", [0] * slices, entrypoint=program(body), **options)


async def probe(ground: Ground, steps: Mapping[str, str]) -> dict[str, list[str]]:
    """Run each step; name → (error code or ALLOWED, what it returned)."""
    tries = ", ".join(f"attempt({json.dumps(name)}, () => {step})" for name, step in steps.items())
    [event] = await own(ground, f"complete(id, [{tries}]);", slice_timeout_s=15.0)
    expect(isinstance(event, ev.SliceCompleted), event)
    return {name: found for name, *found in json.loads(event.result.string)}


def ended(events: Events) -> ev.DeathCause:
    """The cause with which the sandbox ended. Raises `NotContained` when it lives."""
    last = events[-1]
    expect(isinstance(last, ev.SandboxEnded), f"the sandbox lives: {last!r}")
    cause: ev.DeathCause = last.cause
    return cause
