"""`dcp-orchestrator worker`: run the Worker."""

from __future__ import annotations

import asyncio
import json
import logging
import pathlib
import signal
from typing import Any

import click

from orchestrator.cli import logs
from orchestrator.cli.lazy import LazyGroup
from orchestrator.cli.options import SettingsCommand, config_options, given, settings_options, show
from orchestrator.collecting import collect_seldom
from orchestrator.configuration.loading import Loaded
from orchestrator.errors import OrchestratorError
from orchestrator.settings import WorkerSettings, load

log = logging.getLogger(__name__)

_ASKING = "orchestrator.cli.worker_control"
_COMMANDS = {
    "drain": (_ASKING + ":drain", "Let a running worker finish what it holds, then end."),
    "explain": ("orchestrator.cli.worker_explain", "Why a running worker has no work, and what would help."),
    "pause": (_ASKING + ":pause", "Let a running worker take no new work for a while."),
    "resume": (_ASKING + ":resume", "Let a paused worker go on."),
    "status": (_ASKING + ":status", "What a running worker is at."),
    "top": ("orchestrator.cli.worker_top", "Watch a running worker in the terminal."),
}


@click.group(cls=LazyGroup, later=_COMMANDS)
def command() -> None:
    """Run the Worker, and ask it."""


@command.command(cls=SettingsCommand)
@settings_options(WorkerSettings)
@config_options
@click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of what is printed."
)
def run(*, output: str, config: pathlib.Path | None, show_config: bool, **flags: Any) -> None:
    """Compute slices in sandboxes until SIGINT or SIGTERM.

    Prints `ready ID` on stdout once it asks for work; the log goes to stderr. Every setting can also be given in the
    environment, as DCP_ORCHESTRATOR_WORKER_<NAME>, and in the table [worker] of a settings file. Flags win over the
    environment, and the environment over the file.

    \b
    The first signal finishes the slices in work, submits them and returns the rest; the second returns
    everything that is not finished; the third ends at once. SIGHUP reads the settings again.
    Exit status: 0 after a signal or a drain, 75 when the Scheduler wants the worker started again, 77 when it
    has disabled it (see --enable), 1 for an error.
    """
    loaded = load(WorkerSettings, given(flags), config)
    if show_config:
        show(loaded, output)
        return
    logs.configure(loaded.settings.log_level, loaded.settings.log_format or output)
    asyncio.run(serve(loaded.settings, output, loaded))


async def serve(settings: WorkerSettings, output: str = "text", loaded: Loaded[WorkerSettings] | None = None) -> None:
    """Run a Worker until signals stop it. Raises what `Worker.run` raises. SIGHUP reads `loaded` again."""
    from orchestrator.worker.service import Worker  # noqa: PLC0415  (a second of imports that --help does without)

    signals = 0

    def on_ready() -> None:
        account = worker.account
        assert account is not None
        collect_seldom()
        line = {"event": "ready", "worker": account.worker_id, "paymentAddress": account.payment_address}
        click.echo(json.dumps(line) if output == "json" else f"ready {account.worker_id}")

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals <= 2:
            worker.stop(hard=signals == 2)
        else:
            running.cancel()

    worker = Worker(settings, on_ready=on_ready)
    loop = asyncio.get_running_loop()
    running = loop.create_task(worker.run(), name="worker")
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)

    def on_hangup() -> None:
        """A mistake in the file changes nothing. The file is small: the loop waits for the disk."""
        nonlocal loaded
        assert loaded is not None
        try:
            again = loaded.again()
            changes = worker.reconfigure(again.settings)
        except OrchestratorError as error:
            log.error("settings_not_read_again: %s", error)  # noqa: TRY400  (the message says all)
            return
        loaded = again
        logs.configure(worker.settings.log_level, worker.settings.log_format or output)
        if changes.need_restart:
            log.warning("settings_need_a_restart", extra={"settings": changes.need_restart})

    if loaded is not None:
        loop.add_signal_handler(signal.SIGHUP, on_hangup)
    try:
        await running
    except asyncio.CancelledError:
        raise SystemExit(130) from None
    except BaseExceptionGroup as errors:
        raise _one_of(errors) from errors
    if worker.exit_status:
        raise SystemExit(worker.exit_status)


def _one_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a person should read: one of ours when every leaf is, else all of them."""
    expected, others = errors.split(OrchestratorError)
    if expected is None or others is not None:
        return errors
    first: BaseException = expected
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
