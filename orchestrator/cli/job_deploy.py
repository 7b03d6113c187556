"""`dcp-orchestrator job deploy`, `job wait`, `job results`: a job from the command line, and what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TextIO

import click

from orchestrator.cli import connection, job_inputs
from orchestrator.cli.connection import IDENTITY_CACHE, identity_option, output_option, scheduler_option
from orchestrator.cli.job_view import View, show_price
from orchestrator.compute.following import Following, JobFailed, decode, fetch, services_of
from orchestrator.compute.job import PUBLIC, Job, Redundancy
from orchestrator.errors import InvalidInput
from orchestrator.jobs.words import Capability, Isolation, parse_job_id
from orchestrator.protocol.client import DcpClient, fetch_config
from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey

_FAILED: Final = 1
_INTERRUPTED: Final = 130
_PILE: Final = 1000
"""results fetched at once"""
_CAPABILITIES: Final = {
    str(one.name).lower().replace("_", "-"): one for one in Capability if one is not Capability.KVIN_V9
}

_results_option = click.option(
    "--results", "results_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="Write the results there, in place of standard output.",
)  # fmt: skip

_OPTIONS: Final[Sequence[Callable[[Any], Any]]] = (
    click.argument("words", metavar="[FILE.js|-] [VALUE]...", nargs=-1),
    click.option("--code", metavar="JS", help="The work function itself, in place of a file: '(x) => { … }'."),
    click.option("--range", "span", metavar="START:END[:STEP]", help="A slice for each number, both ends included."),
    click.option("--inputs", "inputs_file", metavar="FILE", help="A slice for each element of a JSON array, or line "
                 "of JSON lines; - is standard input."),
    click.option("--values", is_flag=True, help="A slice for each VALUE: JSON, or text where it is none."),
    click.option("--arguments", metavar="JSON", help="An array of what the work function gets after its input."),
    click.option("--payment", default="1x", show_default=True, metavar="DCC|Nx",
                 help="What an accepted result pays: DCC, or a multiple of the market value."),
    click.option("--name", "--public-name", "name", default="", help="What workers and groups see it called."),
    click.option("--description", default="", help="What it is for; workers see it, too."),
    click.option("--group", "groups", multiple=True, metavar="KEY[,SECRET]|id:ID",
                 help="Compute group whose workers may have it; may be repeated. The secret may be in "
                      f"${job_inputs.SECRET}.  [default: public]"),
    click.option("--requires", multiple=True, type=click.Choice(sorted(_CAPABILITIES)),
                 help="What a worker's engine must have; may be repeated."),
    click.option("--isolation", type=click.Choice([str(one) for one in Isolation]),
                 help="The weakest wall around a sandbox that will do."),
    click.option("--redundancy", is_flag=True, help="Several workers must agree on each result: as many as the "
                 "Scheduler usually asks (2 of 4)."),
    click.option("--agree", type=click.IntRange(2), metavar="N", help="So many must agree."),
    click.option("--of", "most", type=click.IntRange(2), metavar="N", help="So many are asked at most."),
    click.option("--trusting", is_flag=True, help="Workers that were right often are believed alone, but for spot "
                 "checks."),
    click.option("--from", "--keystore", "keystore", default=files.DEFAULT, show_default=True, metavar="KEYSTORE",
                 help="Who pays: the keystore of a bank account."),
    click.option("--yes", is_flag=True, help="Deploy without asking."),
    click.option("--dry-run", is_flag=True, help="Only tell what it would cost."),
    click.option("--detach", is_flag=True, help="Deploy, print the job's id, and do not wait."),
)  # fmt: skip


def _deploy_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command(context_settings={"ignore_unknown_options": True})
@_deploy_options
@_results_option
@scheduler_option
@identity_option
@output_option
def deploy(
    *,
    keystore: str,
    yes: bool,
    dry_run: bool,
    detach: bool,
    results_file: pathlib.Path | None,
    scheduler_url: str,
    identity: str,
    output: str,
    **wish: Any,
) -> None:
    """Deploy a job, show its progress, and print its results.

    FILE.js is a JavaScript function of (input, ...arguments); it calls progress() now and then. Results are JSON lines
    {"slice": 1, "result": …} in the order in which they come, or {"slice": 1, "kvin": …} for what JSON cannot say.
    Console output and errors of slices go to standard error.

    What it costs is shown before anything is deployed, and asked about unless --yes. Ctrl-C leaves the job running.
    The exit status is 1 when slices have no result, or the job was stopped.
    """
    job = _job(**wish)
    if detach and results_file is not None:
        raise click.UsageError("--detach waits for no --results; get them later: dcp-orchestrator job results")
    is_asked = not yes and not dry_run
    if is_asked and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput("nobody can be asked whether the job is to be paid: this is no terminal; give --yes")
    identity_key, account = connection.unlock(identity), connection.unlock_file(files.find(keystore))

    async def quoted() -> Mapping[str, Any]:
        async with _client(scheduler_url, identity_key) as (client, config):
            return await job.quote(client, config, account)

    is_json = output == "json"
    quote = _offer(asyncio.run(quoted()), dry_run=dry_run, is_json=is_json, is_asked=is_asked)
    if dry_run:
        return
    with _results_to(results_file) as results:
        view = View(results=results, is_json=is_json)
        _run(job, view, scheduler_url, identity_key, account, detach=detach, slices=int(quote["slices"]))


def _job(
    *,
    words: Sequence[str],
    code: str | None,
    span: str | None,
    inputs_file: str | None,
    values: bool,
    arguments: str | None,
    payment: str,
    name: str,
    description: str,
    groups: Sequence[str],
    requires: Sequence[str],
    isolation: str | None,
    redundancy: bool,
    agree: int | None,
    most: int | None,
    trusting: bool,
) -> Job:
    """Raises `InvalidInput`, and `UsageError` for a flag that there is not."""
    # Values may be negative numbers, so that click lets everything pass that begins with a dash.
    unknown = next((word for word in words if word.startswith("--")), None)
    if unknown is not None:
        raise click.NoSuchOption(unknown.partition("=")[0], ctx=click.get_current_context())
    source = job_inputs.Source()
    text, rest = job_inputs.work_function(words, code, source)
    needs = Capability(0)
    for one in requires:
        needs |= _CAPABILITIES[one]
    wants = redundancy or trusting or agree is not None or most is not None
    if agree is not None and most is not None and most < agree:
        raise InvalidInput(f"--of is {most}; at least the {agree} of --agree must be asked")
    return Job(
        text,
        job_inputs.inputs(rest, span=span, file=inputs_file, values=values, source=source),
        job_inputs.arguments(arguments),
        name=name,
        description=description,
        **job_inputs.payment(payment),
        requires=needs,
        isolation=None if isolation is None else Isolation(isolation),
        redundancy=Redundancy(agree, most, trusting) if wants else None,
        groups=[job_inputs.group(one) for one in groups] or [PUBLIC],
    )


def _offer(quote: Mapping[str, Any], *, dry_run: bool, is_json: bool, is_asked: bool) -> Mapping[str, Any]:
    """Show what is to be paid, and ask. Raises `click.Abort` when it is not wanted."""
    if is_json:
        click.echo(json.dumps({"event": "price", **quote}))
    if not is_json or is_asked:
        show_price(quote, to_stderr=not dry_run)
    if is_asked:
        click.confirm("Deploy?", abort=True, err=True)
    return quote


def _run(
    job: Job, view: View, scheduler_url: str, identity: PrivateKey, account: PrivateKey, *, detach: bool, slices: int
) -> None:
    async def run() -> int | None:
        async with _client(scheduler_url, identity) as (client, config):
            if detach:
                await job.deploy(client, config, account, view.hear)
                return None
            with view.running(slices):
                results = await job.exec(client, config, account, view.hear, outlives=True)
                return len(results)

    view.say("deploying", f"job {job.id}", job=job.id)
    with _endings(view, job.id, lambda: job.is_deployed):
        total = asyncio.run(run())
    if total is None:
        click.echo(json.dumps({"event": "deployed", "job": job.id}) if view.is_json else job.id)
        return
    _end(view, job.id, total, len(job.results))


@contextlib.contextmanager
def _endings(view: View, job_id: str, is_deployed: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Tell of a job that is left, or stopped, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        if not is_deployed():
            view.say("cancelled", f"job {job_id} was not deployed completely, and is cancelled", job=job_id)
            sys.exit(_INTERRUPTED)
        text = (
            f"job {job_id} goes on without you; come back: dcp-orchestrator job wait {job_id}; "
            f"stop it: dcp-orchestrator job cancel {job_id}"
        )
        view.say("left", text, job=job_id)
        sys.exit(_INTERRUPTED)
    except JobFailed as error:
        view.say("failed", f"dcp-orchestrator: {error}", job=job_id, code=error.code, message=error.message)
        sys.exit(_FAILED)


def _end(view: View, job_id: str, total: int, found: int) -> None:
    """Exits with 1 when slices have no result."""
    text = f"job {job_id} is finished: {found} of {total} slices have a result"
    if found < total:
        text += f"; why not: dcp-orchestrator job explain {job_id}"
    view.say("finished", text, job=job_id, total=total, results=found, failed=total - found)
    if found < total:
        sys.exit(_FAILED)


@click.command()
@click.argument("job", metavar="ID")
@_results_option
@scheduler_option
@identity_option
@output_option
def wait(*, job: str, results_file: pathlib.Path | None, scheduler_url: str, identity: str, output: str) -> None:
    """Wait for a job's end as `job deploy` does, and print its results: also those that came before.

    Ctrl-C leaves it running. The exit status is 1 when slices have no result, or the job was stopped.
    """
    job_id, key = parse_job_id(job, "ID"), connection.unlock(identity)
    with _results_to(results_file) as results:
        view = View(results=results, is_json=output == "json")

        async def run() -> tuple[int, int]:
            async with _client(scheduler_url, key) as (client, config):
                await _report(client, config, job_id)
                with view.running():
                    async with Following(client, config, job_id, view.hear) as following:
                        return len(await following.end()), len(following.results)

        with _endings(view, job_id):
            total, found = asyncio.run(run())
        _end(view, job_id, total, found)


@click.command()
@click.argument("job", metavar="ID")
@_results_option
@scheduler_option
@identity_option
def results(*, job: str, results_file: pathlib.Path | None, scheduler_url: str, identity: str) -> None:
    """The results of a job that are there now, as JSON lines in slice order. Waits for nothing."""
    job_id, key = parse_job_id(job, "ID"), connection.unlock(identity)
    with _results_to(results_file) as file:
        view = View(results=file or sys.stdout, is_json=False)

        async def run() -> None:
            async with _client(scheduler_url, key) as (client, config):
                total = int((await _report(client, config, job_id))["total"])
                service = client.connect(services_of(config)["resultSubmitter"])
                try:
                    for first in range(1, total + 1, _PILE):
                        numbers = list(range(first, min(first + _PILE, total + 1)))
                        for number, uri in await fetch(service, job_id, key.address, numbers):
                            view.result(number, decode(uri))
                finally:
                    await service.close()

        asyncio.run(run())


async def _report(client: DcpClient, config: Mapping[str, Any], job_id: str) -> Mapping[str, Any]:
    """Raises `RemoteError` when there is no such job, or it is somebody else's."""
    pheme = client.connect(services_of(config)["pheme"])
    try:
        report: Mapping[str, Any] = await pheme.request("fetchJobReport", {"job": job_id})
        return report
    finally:
        await pheme.close()


@contextlib.asynccontextmanager
async def _client(scheduler_url: str, identity: PrivateKey) -> AsyncIterator[tuple[DcpClient, Mapping[str, Any]]]:
    config = await fetch_config(scheduler_url)
    async with DcpClient(identity, files.resource_directory() / IDENTITY_CACHE) as client:
        yield client, config


@contextlib.contextmanager
def _results_to(path: pathlib.Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"--results: {path} cannot be written: {error.strerror}") from error
    with file:
        yield file
