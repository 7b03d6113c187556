"""`dcp-orchestrator db`: bring the database of a Scheduler and its Bank up to date, and say how it is."""

from __future__ import annotations

import asyncio
import json
import pathlib
import sys
from typing import Any, Final

import click

from orchestrator.cli.options import SettingsCommand, config_options, given, settings_options, show
from orchestrator.settings import SchedulerSettings, load

_PLACE: Final = ("state_dir", "database_url")
_VALUES: Final = ("blob_store", "s3_endpoint", "s3_region", "s3_access_key", "s3_secret_key")
_OTHERS: Final = frozenset(SchedulerSettings.model_fields) - frozenset(_PLACE)
PENDING: Final = 3
DAMAGED: Final = 4

_output = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of what is printed."
)


@click.group()
def command() -> None:
    """Migrate, check, back up and restore the database of a Scheduler and its Bank.

    The database is the Scheduler's: the same settings name it, on the command line, in the environment
    (DCP_ORCHESTRATOR_SCHEDULER_DATABASE_URL) or in the table [scheduler] of a settings file.
    """


@command.command(cls=SettingsCommand)
@settings_options(SchedulerSettings, without=_OTHERS)
@config_options
@_output
def migrate(*, output: str, config: pathlib.Path | None, show_config: bool, **flags: Any) -> None:
    """Take every pending step of the schema; nothing happens when there is none.

    Steps only add, so that Schedulers of the version before go on working meanwhile. A Scheduler migrates by itself
    when it starts, unless it was started with --no-migrate.
    """
    loaded = load(SchedulerSettings, given(flags), config)
    if show_config:
        show(loaded, output)
        return
    from orchestrator.database import check_url  # noqa: PLC0415 — slow to import
    from orchestrator.migrations import running  # noqa: PLC0415

    before = running.upgrade(check_url(_url(loaded.settings)))
    if output == "json":
        click.echo(json.dumps({"from": before.at, "to": before.newest, "taken": list(before.pending)}))
    elif before.is_ahead:
        click.echo(f"the database is at {before.at}, which is newer than this version's {before.newest}: left alone")
    elif before.pending:
        click.echo(f"migrated from {before.at or 'nothing'} to {before.newest} in {len(before.pending)} steps")
    else:
        click.echo(f"the database is at {before.at}, the newest: nothing to do")


@command.command(cls=SettingsCommand)
@settings_options(SchedulerSettings, without=_OTHERS - frozenset(_VALUES))
@config_options
@click.option("--skip-values", is_flag=True, help="Do not read the big values.")
@_output
def check(*, skip_values: bool, output: str, config: pathlib.Path | None, show_config: bool, **flags: Any) -> None:
    """Whether the database answers, its schema is the newest, the ledger adds up, and the big values are there.

    Changes nothing. Every big value that a row refers to (code, arguments, inputs, results) is read from the folder or
    store that the settings name, and must have the hash that is its name.

    Exit status: 0 all is well, 1 the database does not answer, 3 steps of the schema are pending, 4 the ledger has
    problems (see `bank audit`), numbers would be given twice, or big values are missing or changed.
    """
    loaded = load(SchedulerSettings, given(flags), config)
    if show_config:
        show(loaded, output)
        return
    from orchestrator.scheduler.database_check import examine  # noqa: PLC0415 — slow to import

    settings = loaded.settings
    report = asyncio.run(examine(_url(settings), settings, values=not skip_values))
    if output == "json":
        click.echo(json.dumps(report))
    else:
        _print(report)
    if report["schema"]["pending"]:
        sys.exit(PENDING)
    parts = (report["ledger"], report["values"])
    if report["numbers"] or any(part is not None and part["problems"] for part in parts):
        sys.exit(DAMAGED)


@command.command(cls=SettingsCommand)
@settings_options(SchedulerSettings, without=_OTHERS)
@config_options
@_output
@click.argument("file", type=click.Path(path_type=pathlib.Path, dir_okay=False))
def backup(*, file: pathlib.Path, output: str, config: pathlib.Path | None, show_config: bool, **flags: Any) -> None:
    """Copy the database to FILE, as it is at one moment, while Schedulers go on working.

    FILE must not exist yet; only its owner may read it. Of PostgreSQL it is an archive of pg_dump, which must be
    installed. Keep the keystores of the state folder and the big values with it.
    """
    loaded = load(SchedulerSettings, given(flags), config)
    if show_config:
        show(loaded, output)
        return
    from orchestrator.database import back_up, check_url  # noqa: PLC0415 — slow to import

    size = back_up(check_url(_url(loaded.settings)), file)
    click.echo(json.dumps({"file": str(file), "bytes": size}) if output == "json" else f"{file}: {size} bytes")


@command.command(cls=SettingsCommand)
@settings_options(SchedulerSettings, without=_OTHERS)
@config_options
@_output
@click.argument("file", type=click.Path(path_type=pathlib.Path, dir_okay=False))
def restore(*, file: pathlib.Path, output: str, config: pathlib.Path | None, show_config: bool, **flags: Any) -> None:
    """Put the backup FILE in the place of the database. No Scheduler may run.

    A SQLite database must not be there: move the old one (and its -wal and -shm files) away first. One of PostgreSQL
    must be empty: make a new one with createdb. What was restored is migrated at the next start of a Scheduler; see how
    it is with `db check` and `bank audit`.
    """
    loaded = load(SchedulerSettings, given(flags), config)
    if show_config:
        show(loaded, output)
        return
    from orchestrator.database import check_url, put_back  # noqa: PLC0415 — slow to import

    size = put_back(check_url(_url(loaded.settings)), file)
    click.echo(json.dumps({"file": str(file), "bytes": size}) if output == "json" else f"restored {size} bytes")


def _url(settings: SchedulerSettings) -> str:
    from orchestrator.database import sqlite_url  # noqa: PLC0415 — slow to import

    return settings.database_url or sqlite_url(settings.state_dir / "scheduler.sqlite")


def _print(report: dict[str, Any]) -> None:
    schema, ledger = report["schema"], report["ledger"]
    click.echo(
        f"database   {report['server']}, answers in {report['answers_ms']:.1f} ms, {report['bytes'] / 1e6:.1f} MB"
    )
    if schema["ahead"]:
        click.echo(f"schema     {schema['at']}, newer than this version's {schema['newest']}; it is used as it is")
    elif schema["pending"]:
        steps = ", ".join(schema["pending"])
        click.echo(f"schema     {schema['at'] or 'none'}; pending: {steps}  (run `dcp-orchestrator db migrate`)")
    else:
        click.echo(f"schema     {schema['at']}, the newest")
    if report["scheduler"] is not None:
        click.echo(f"scheduler  {report['scheduler']}")
    for one in report["processes"]:
        click.echo(f"process    {one['place']}, version {one['version']}, heard of {one['silent_s']:.0f} s ago")
    if ledger is None:
        click.echo("ledger     not looked at: the schema is not the newest")
        return
    click.echo("rows       " + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in report["rows"].items()))
    for problem in report["numbers"]:
        click.echo(f"numbers    {problem}")
    said = "adds up" if not ledger["problems"] else f"has {len(ledger['problems'])} problems"
    click.echo(f"ledger     {said}: {ledger['accounts']} accounts, {ledger['postings']} postings")
    for problem in ledger["problems"]:
        click.echo(f"           {problem}")
    if report["values"] is not None:
        _print_values(report["values"])


def _print_values(values: dict[str, Any]) -> None:
    from orchestrator.scheduler.value_check import problem_line  # noqa: PLC0415 — slow to import

    count, problems = values["values"], values["problems"]
    if values["place"] == "off":
        said = (
            "none" if not count else f"{count} are referred to, not looked at: --blob-store does not say where they are"
        )
    elif problems:
        said = f"{len(problems)} problems"
    else:
        said = f"all {count} are there" if count else "none"
    where = "" if values["place"] == "off" else f" in {values['place']}"
    click.echo(f"values     {said}; {values['checked']} read, {values['bytes'] / 1e6:.1f} MB{where}")
    for problem in problems:
        click.echo(f"           {problem_line(problem)}")
