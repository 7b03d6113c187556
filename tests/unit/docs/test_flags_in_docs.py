"""Every flag that the pages on sandboxes and on the Bank name is one."""

from __future__ import annotations

import pathlib
import re

import click

from orchestrator.cli import bank, scheduler, worker

ROOT = pathlib.Path(__file__).parents[3]


def flags(command: click.Command) -> set[str]:
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}


def test_flags_of_the_page_on_sandboxes():
    group = worker.command
    context = click.Context(group)
    known = set().union(*(flags(group.get_command(context, name)) for name in group.list_commands(context)))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / "docs" / "sandboxes.md").read_text()))
    assert len(named) > 10
    assert named - known == set()


def test_flags_of_the_page_on_the_bank():
    known = {"--minutes"}  # of the long bank test
    for group in (bank.command, scheduler.command):
        context = click.Context(group)
        known |= set().union(*(flags(group.get_command(context, name)) for name in group.list_commands(context)))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / "docs" / "bank.md").read_text()))
    assert len(named) > 8
    assert named - known == set()
