"""`dcp-orchestrator`: the console script. Each command group lives in a module of its own, imported when used."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from orchestrator import __version__
from orchestrator.cli.lazy import LazyGroup
from orchestrator.errors import OrchestratorError

_COMMANDS = {
    "bank": ("orchestrator.cli.bank", "The Bank's books, and its teller."),
    "db": ("orchestrator.cli.db", "Migrate and check the database of a Scheduler."),
    "doctor": ("orchestrator.cli.doctor", "Whether this machine can be a Worker, and what to do."),
    "group": ("orchestrator.cli.group", "Make, change and give up compute groups."),
    "job": ("orchestrator.cli.job", "Deploy jobs, look at yours, ask why one waits, pay for more, cancel."),
    "keystore": ("orchestrator.cli.keystore", "Make, show and re-encrypt keystore files."),
    "local": ("orchestrator.cli.local", "The whole distributed computer in one process."),
    "receipts": ("orchestrator.cli.receipts", "Read and verify what a Worker signed about its slices."),
    "scheduler": ("orchestrator.cli.scheduler", "Run the Scheduler and its Bank; lift bans."),
    "self-check": ("orchestrator.cli.self_check", "Attack this machine's sandboxes, and report."),
    "worker": ("orchestrator.cli.worker", "Run the Worker, and ask it."),
}


@click.group(cls=LazyGroup, later=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dcp-orchestrator")
def cli() -> None:
    """A distributed computer that anyone can host: DCP Scheduler, Bank and container Worker."""


def main() -> None:
    """Run a command; an expected error is one line on stderr and exit status 1."""
    try:
        cli()
    except OrchestratorError as error:
        _fail(error)
    except BaseExceptionGroup as group:
        expected = _leaf(group)
        if expected is None:
            raise
        _fail(expected)


def _leaf(error: BaseException) -> OrchestratorError | None:
    """The first expected error in a group; task groups nest."""
    if isinstance(error, BaseExceptionGroup):
        return next((leaf for inner in error.exceptions if (leaf := _leaf(inner))), None)
    return error if isinstance(error, OrchestratorError) else None


def _fail(error: OrchestratorError) -> NoReturn:
    click.echo(f"dcp-orchestrator: {error}", err=True)
    sys.exit(1)
