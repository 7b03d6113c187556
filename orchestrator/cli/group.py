"""`dcp-orchestrator group`: compute groups, for those who own them."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from orchestrator.cli import connection, phrases
from orchestrator.cli.connection import identity_option, output_option, scheduler_option
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.jobs.words import join_hash, parse_job_id

_SECRET: Final = "DCP_GROUP_SECRET"  # noqa: S105 — a name
_NONE: Final = "none"
_GROUP: Final = "KEY is the group's join key, or id: and its id."

#: flag → (name on the wire, help). `none` takes a limit or list away.
_TERMS: Final[Mapping[str, tuple[str, str]]] = {
    "--name": ("name", "What people call it."),
    "--description": ("description", "What it is for."),
    "--commission-rate": ("commissionRate", "Part of each payment for a slice that goes to the group, such as 0.05."),
    "--deploy-fee": ("deployFee", "DCC for each job that is deployed into it."),
    "--add-job-fee": ("addJobFee", "DCC each time that a job joins."),
    "--payment-address": ("paymentAddress", "Who gets fees and commissions; the owner when not given."),
    "--deploy-access": ("deployAccess", "join: whoever proves the secret puts jobs in; owner: nobody else does."),
    "--work-access": ("workAccess", "join: whoever proves the secret works for it; owner: nobody else does."),
    "--max-total-payment": ("maxTotalPayment", "The most that one job may pay in all, DCC."),
    "--max-jobs": ("maxConcurrentJobs", "Jobs at once."),
    "--max-workers": ("maxConcurrentWorkers", "Workers at once."),
    "--max-sandboxes": ("maxConcurrentSandboxes", "Sandboxes of all its workers."),
    "--max-cpus": ("maxConcurrentCPUs", "Cores that all its workers ask work for."),
    "--max-gpus": ("maxConcurrentGPUs", "GPUs of all its workers."),
    "--max-escrow": ("maxConcurrentEscrow", "The most that all its jobs may still pay, DCC."),
}
_LISTS: Final[Mapping[str, tuple[str, str]]] = {
    "--deployer": ("deployers", "Identity that may put jobs in without a proof; may be repeated."),
    "--worker": ("workers", "Identity whose worker is in without a proof; may be repeated."),
}


@click.group()
def command() -> None:
    """Make, change and give up compute groups: jobs and workers that are for each other."""


def _terms_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for flag, (wire, text) in reversed({**_TERMS, **_LISTS}.items()):
        function = click.option(flag, wire, multiple=flag in _LISTS, default=() if flag in _LISTS else None, help=text)(
            function
        )
    return function


@command.command(
    help=f"Make a group. Its id is printed.\n\nThe secret is ${_SECRET} or in --secret-file, else asked for."
)
@click.argument("key", required=False)
@click.option(
    "--secret-file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=pathlib.Path),
    help="Take the secret from this file, or from standard input (-).",
)  # fmt: skip
@click.option("--join-hash", "hashed", metavar="eh1-…", help="The hash of key and secret, in place of the secret.")
@click.option(
    "--join-address", metavar="ADDRESS",
    help="In place of key and secret: whoever has this identity, or knows it and the id. Needs --id.",
)  # fmt: skip
@click.option("--id", "group_id", metavar="ID", help="22 letters and digits; made when not given.")
@_terms_options
@scheduler_option
@identity_option
@output_option
def create(
    *,
    key: str | None,
    secret_file: pathlib.Path | None,
    hashed: str | None,
    join_address: str | None,
    group_id: str | None,
    scheduler_url: str,
    identity: str,
    output: str,
    **terms: Any,
) -> None:
    if key is None and (group_id is None or join_address is None):
        raise click.UsageError("give KEY, or --id and --join-address")
    join: dict[str, Any] = {"joinKey": key, "id": group_id, "joinAddress": join_address}
    if key is not None:
        join["joinHash"] = hashed or join_hash(key, _secret(secret_file))
    given = _given(terms)
    data = {
        "joinDescriptor": {name: value for name, value in join.items() if value is not None},
        "name": given.pop("name", key),
        "description": given.pop("description", None),
        "otherProperties": given,
    }
    made = _ask(scheduler_url, identity, "createGroup", data)
    click.echo(json.dumps({"id": made}) if output == "json" else f"compute group {made}")


@command.command(
    help=f"Change what a group costs, whom it lets in, and its limits. none takes a limit away.\n\n{_GROUP}"
)
@click.argument("key")
@click.option("--new-secret", is_flag=True, help=f"Give it another secret: ${_SECRET}, or asked for.")
@_terms_options
@scheduler_option
@identity_option
@output_option
def change(*, key: str, new_secret: bool, scheduler_url: str, identity: str, output: str, **terms: Any) -> None:
    changes = _given(terms)
    if new_secret and key.startswith("id:"):
        raise click.UsageError("the secret goes with the join key: name the group by it")
    if new_secret:
        changes["joinHash"] = join_hash(key, _secret(None))
    if not changes:
        raise click.UsageError("say what to change; see --help")
    changed = _ask(scheduler_url, identity, "changeGroup", {"descriptor": _descriptor(key), "newDescriptor": changes})
    _print(changed, output)


@command.command(help=f"Give up a group. Its jobs stay, and get no more workers through it.\n\n{_GROUP}")
@click.argument("key")
@scheduler_option
@identity_option
@output_option
def delete(*, key: str, scheduler_url: str, identity: str, output: str) -> None:
    gone = _ask(scheduler_url, identity, "deleteGroup", {"descriptor": _descriptor(key)})
    click.echo(json.dumps({"id": gone}) if output == "json" else f"compute group {gone} is gone")


@command.command("list")
@scheduler_option
@identity_option
@output_option
def list_command(*, scheduler_url: str, identity: str, output: str) -> None:
    """Your groups, what they ask for, and how many jobs are in them."""
    found = _ask(scheduler_url, identity, "listGroups", {})
    if output == "json":
        click.echo(json.dumps(found))
        return
    for number, group in enumerate(found):
        if number:
            click.echo()
        _print(group, output)
    if not found:
        click.echo("no compute groups")


@command.command(help=f"The newest jobs of a group.\n\n{_GROUP}")
@click.argument("key")
@scheduler_option
@identity_option
@output_option
def jobs(*, key: str, scheduler_url: str, identity: str, output: str) -> None:
    found = _ask(scheduler_url, identity, "listJobs", {"descriptor": _descriptor(key)})
    if output == "json":
        click.echo(json.dumps(found))
        return
    for one in found:
        done = f"{one['computed']}/{one['total']}"
        click.echo(f"{one['job']}  {one['status']:<10} {done:>12}  {one['owner']}  {phrases.plain(one['name'], 60)}")
    if not found:
        click.echo("no jobs")


@command.command(help=f"Take jobs out of a group, all of them with --all.\n\n{_GROUP}")
@click.argument("key")
@click.argument("ids", metavar="[JOB]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every job.")
@scheduler_option
@identity_option
@output_option
def remove(*, key: str, ids: tuple[str, ...], everything: bool, scheduler_url: str, identity: str, output: str) -> None:
    if everything is bool(ids):
        raise click.UsageError("give the ids of jobs, or --all")
    descriptor = _descriptor(key)
    if everything:
        removed = _ask(scheduler_url, identity, "removeAllJobs", {"descriptor": descriptor})
    else:
        for one in ids:
            data = {"descriptor": descriptor, "job": parse_job_id(one, "JOB")}
            _ask(scheduler_url, identity, "removeJob", data)
        removed = len(ids)
    click.echo(json.dumps({"removed": removed}) if output == "json" else f"jobs taken out: {removed}")


def _ask(scheduler_url: str, identity: str, operation: str, data: Mapping[str, Any]) -> Any:
    """The payload inside of the service's answer; its refusals become errors."""
    answer = connection.ask(scheduler_url, connection.unlock(identity), "computeGroups", operation, data)
    if not answer["success"]:
        raise OrchestratorError(answer["message"], code=answer["code"])
    return answer["payload"]


def _descriptor(key: str) -> dict[str, str]:
    return {"id": parse_job_id(key.removeprefix("id:"), "KEY")} if key.startswith("id:") else {"joinKey": key}


def _given(terms: Mapping[str, Any]) -> dict[str, Any]:
    """The properties that were on the command line, as they travel."""
    found: dict[str, Any] = {}
    for name, value in terms.items():
        if isinstance(value, tuple):
            if value:
                found[name] = [] if value == (_NONE,) else list(value)
        elif value is not None:
            found[name] = None if value == _NONE else value
    return found


def _secret(file: pathlib.Path | None) -> str:
    secret: str
    if file is not None:
        with click.open_file(str(file)) as opened:
            secret = opened.read(4096).rstrip("\n")
    else:
        secret = os.environ.get(_SECRET) or click.prompt(
            "Secret of the group", hide_input=True, confirmation_prompt=True
        )
    if not secret:
        raise InvalidInput("the secret is empty: whoever knows the key would be in")
    return secret


def _print(group: Mapping[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(group))
        return
    for name, value in group.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        click.echo(f"{name:<22} {phrases.plain(text, 4000)}")
