"""Jobs whose code cannot be had, among others that can: their slices go back with the reason, and the others go on.

Stated: a job that could not be fetched is tried again after 1 s at the soonest and then ever more rarely, however often its
slices are offered; one from a forbidden place is not tried again.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import Callable

import pytest

from tests.e2e import harness
from tests.faults.parts import SLICES, assert_complete, deployed, free_port, running_parts
from tests.parts.containers import containers_of
from tests.unit.worker_fetching.bad_server import serving

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.timeout(300)]

#: Four jobs at once: three bad ones, and one as ever.
PROGRAM = f"""
    const bad = {{ refused: REFUSED + '/work.js', missing: MISSING + '/missing', forbidden: 'http://127.0.0.2:1/work.js' }};
    for (const [name, url] of Object.entries(bad)) {{
      const job = compute.for(1, 4, new URL(url));
      job.on('accepted', () => say('deployed', [name, job.id]));
      job.on('error', (error) => say('error', [name, error.code]));
      job.exec().then(() => say('ended', [name, 'done']), (error) => say('ended', [name, error.code]));
    }}
    const job = compute.for(1, {SLICES}, (i) => {{ progress(); const end = Date.now() + 40; while (Date.now() < end); return i * 2; }});
    job.on('result', (event) => say('result', event.sliceNumber));
    job.on('duplicate-result', (event) => say('duplicate', event));
    say('results', Array.from(await job.exec()));
    await new Promise((go) => setTimeout(go, AFTER));
    process.exit(0);
"""


async def test_the_other_job_completes(
    tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path,
    lasting: Callable[..., float],
) -> None:  # fmt: skip
    after_s = lasting(60, least=5)
    refused = f"http://127.0.0.1:{free_port()}"
    async with serving() as (site, [origin]):
        program = (
            PROGRAM.replace("REFUSED", json.dumps(refused))
            .replace("MISSING", json.dumps(origin))
            .replace("AFTER", str(round(after_s * 1000)))
        )
        allowed = ("--allow-origin", refused, "--allow-origin", origin)
        async with running_parts(tmp_path, None, *allowed) as parts:
            started = asyncio.get_running_loop().time()
            async with deployed(parts, wallet, node, npm_modules, program) as client:
                await assert_complete(client, parts)
            took_s = asyncio.get_running_loop().time() - started
            assert parts.worker and parts.worker.process.returncode is None, parts.logs()
            ids = dict([value for name, value in client.said if name == "deployed"])
            lines = (tmp_path / "worker.log").read_text().splitlines()
        assert containers_of(parts.worker_id()) == []
    assert set(ids) == {"refused", "missing", "forbidden"}
    for name, code in {"refused": "EJOBFETCH", "missing": "EJOBFETCH", "forbidden": "EPERM_ORIGIN"}.items():
        about = [line for line in lines if ids[name] in line]
        returned = [line for line in about if "slices_returned" in line]
        assert returned and all(f"reason={code}" in line for line in returned), about
        tried = [line for line in about if "job_not_fetched" in line]
        assert 1 <= len(tried) <= (1 if code == "EPERM_ORIGIN" else 2 + took_s / 2), about
    assert site.asked.count("GET /missing") <= 2 + took_s / 2, site.asked
