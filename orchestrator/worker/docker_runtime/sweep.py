"""`python -m orchestrator.worker.docker_runtime.sweep`: remove the containers that crashed Workers left behind.

A Worker that starts again does so by itself; this is for when none will. Containers of Workers at work stay, except
with `--all`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Final

import click

from orchestrator.errors import OrchestratorError
from orchestrator.worker.docker_runtime import failures, reaper
from orchestrator.worker.docker_runtime.engine_facts import connected
from orchestrator.worker.docker_runtime.removal import labelled, remove_container

_CALL_TIMEOUT_S: Final = 20.0


async def sweep(*, everything: bool = False, worker: str | None = None, docker_host: str | None = None) -> int:
    """Remove what is abandoned (or `everything` that a Worker made), of one worker or of all; how many containers.

    Raises RuntimeUnavailable.
    """
    async with connected(docker_host, _CALL_TIMEOUT_S) as engine:
        label = reaper.LABEL_WORKER if worker is None else f"{reaper.LABEL_WORKER}={worker}"
        found = await labelled(engine, label)
        orphans = reaper.orphans(found, None, frozenset(), time.time(), reaper.process_is_alive)
        doomed = found if everything else [container for group in orphans.values() for container in group]
        for container in doomed:
            with contextlib.suppress(failures.ContainerGone):
                await remove_container(engine, container.container_id)
        return len(doomed)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="sweep", description="Remove containers that crashed Workers left behind.")
    parser.add_argument("--all", action="store_true", help="also those of Workers that are at work")
    parser.add_argument("--worker", metavar="ID", help="only those of this Worker")
    given = parser.parse_args(arguments)
    try:
        count = asyncio.run(sweep(everything=given.all, worker=given.worker))
    except OrchestratorError as error:
        click.echo(f"sweep: {error}", err=True)
        return 1
    if count:
        click.echo(f"sweep: {count} container{'' if count == 1 else 's'} removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
