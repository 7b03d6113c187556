"""`dcp-orchestrator worker`: run the Worker."""

from __future__ import annotations

import asyncio
import json
import pathlib
import signal
from typing import Any

import click

from orchestrator.cli import logs
from orchestrator.cli.lazy import LazyGroup
from orchestrator.errors import OrchestratorError
from orchestrator.settings import WorkerSettings, settings_from

_PATH = click.Path(path_type=pathlib.Path)


_ASKING = "orchestrator.cli.worker_control"
_COMMANDS = {
    "drain": (_ASKING + ":drain", "Let a running worker finish what it holds, then end."),
    "pause": (_ASKING + ":pause", "Let a running worker start no more slices for a while."),
    "resume": (_ASKING + ":resume", "Let a paused worker go on."),
    "status": (_ASKING + ":status", "What a running worker is at."),
}


@click.group(cls=LazyGroup, later=_COMMANDS)
def command() -> None:
    """Run the Worker, and ask it."""


@command.command()
@click.option("--scheduler", "scheduler_url", metavar="URL", help="The Scheduler.  [default: http://127.0.0.1:9001/]")
@click.option("--state", "state_dir", type=_PATH, help="Folder of keystore and worker id.  [default: .local/worker]")
@click.option("--identity", type=_PATH, help="Identity keystore; made when missing.  [default: in the state folder]")
@click.option("--payment-address", metavar="ADDRESS", help="Who is paid.  [default: the identity's own address]")
@click.option("--image", metavar="NAME", help="Evaluator image.  [default: dcp-evaluator:local]")
@click.option("--docker-host", metavar="URL", help="Docker Engine.  [default: $DOCKER_HOST, or its usual socket]")
@click.option("--oci-runtime", metavar="NAME", help="runc, crun, runsc…  [default: the Engine's]")
@click.option("--sandboxes", type=click.IntRange(1, 1024), help="Sandboxes at work at once.  [default: one per core]")
@click.option(
    "--warm", type=click.IntRange(0, 1024), help="Sandboxes ready beyond those.  [default: as many, at most 4]"
)
@click.option("--memory", "memory_mib", type=click.IntRange(16), help="Memory of a sandbox, MiB.  [default: 512]")
@click.option("--cpus", type=click.FloatRange(0.01), help="Cores of a sandbox.  [default: 1]")
@click.option(
    "--allow-origin", multiple=True, metavar="[PURPOSE=]ORIGIN",
    help="Let jobs fetch from here: https://host, fetchData=https://host, file:///path, or *. May be repeated.",
)  # fmt: skip
@click.option(
    "--fetch-timeout", "fetch_timeout_s", type=click.FloatRange(0, min_open=True), help="Seconds.  [default: 60]"
)
@click.option("--fetch-max-bytes", type=click.IntRange(1024), help="Largest thing fetched.  [default: 64 MiB]")
@click.option("--job-id", "job_ids", multiple=True, metavar="ID", help="Work for this job only. May be repeated.")
@click.option(
    "--compute-group",
    "compute_groups",
    multiple=True,
    metavar="KEY,SECRET",
    help="Work for this group. May be repeated.",
)
@click.option("--public-group/--no-public-group", default=None, help="Work for the public group.  [default: yes]")
@click.option("--minimum-wage-cpu", type=click.FloatRange(0), help="DCC per CPU hour.  [default: 0]")
@click.option("--minimum-wage-gpu", type=click.FloatRange(0), help="DCC per GPU hour.  [default: 0]")
@click.option("--minimum-wage-in", type=click.FloatRange(0), help="DCC per MB of input.  [default: 0]")
@click.option("--minimum-wage-out", type=click.FloatRange(0), help="DCC per MB of output.  [default: 0]")
@click.option(
    "--prefetch", "prefetch_s", type=click.FloatRange(0.1, min_open=True), help="Seconds of work to hold.  [default: 5]"
)
@click.option("--queue", "queue_s", type=click.FloatRange(0), help="Seconds of work inside a sandbox.  [default: 0.1]")
@click.option(
    "--idle-poll", "idle_poll_s", type=click.FloatRange(0, min_open=True), help="Longest idle pause.  [default: 1]"
)
@click.option("--send-begin/--no-send-begin", default=None, help="Tell of each slice that begins.  [default: yes]")
@click.option(
    "--slice-timeout",
    "slice_timeout_s",
    type=click.FloatRange(0, min_open=True),
    help="Seconds.  [default: the Scheduler's]",
)
@click.option(
    "--progress-timeout",
    "progress_timeout_s",
    type=click.FloatRange(0, min_open=True),
    help="Seconds.  [default: the Scheduler's]",
)
@click.option(
    "--stop-timeout",
    "stop_timeout_s",
    type=click.FloatRange(0, min_open=True),
    help="Seconds to wait for the Scheduler at the end.  [default: 30]",
)
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True)
@click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of the log."
)
def run(log_level: str, output: str, **flags: Any) -> None:
    """Compute slices in sandboxes until SIGINT or SIGTERM.

    Prints `ready ID` on stdout once it asks for work; the log goes to stderr. Every setting can also be given in the
    environment, as DCP_ORCHESTRATOR_WORKER_<NAME>.

    \b
    The first signal finishes the slices in work, submits them and returns the rest; the second returns
    everything that is not finished; the third ends at once.
    """
    logs.configure(log_level, output)
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    asyncio.run(serve(settings_from(WorkerSettings, given), output))


async def serve(settings: WorkerSettings, output: str = "text") -> None:
    """Run a Worker until signals stop it. Raises what `Worker.run` raises."""
    from orchestrator.worker.service import Worker  # noqa: PLC0415  (a second of imports that --help does without)

    signals = 0

    def on_ready() -> None:
        account = worker.account
        assert account is not None
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
    try:
        await running
    except asyncio.CancelledError:
        raise SystemExit(130) from None
    except BaseExceptionGroup as errors:
        raise _one_of(errors) from errors


def _one_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a person should read: one of ours when every leaf is, else all of them."""
    expected, others = errors.split(OrchestratorError)
    if expected is None or others is not None:
        return errors
    first: BaseException = expected
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
