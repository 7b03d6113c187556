"""Flags come from the settings model: name, type, range, default and topic are written down once."""

from __future__ import annotations

import pathlib
from typing import Any, Literal

import click
import click.testing
import pytest
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from orchestrator.cli import local, scheduler, worker
from orchestrator.cli.options import SettingsCommand, given, settings_options
from orchestrator.configuration.fields import fields_of, flag
from orchestrator.settings import LocalSettings, SchedulerSettings, WorkerSettings


class Example(BaseSettings):
    url: str = Field("http://x/", description="where it is", json_schema_extra=flag("--at", metavar="URL"))
    wait_s: float = Field(2.5, gt=0, description="longest wait, seconds", json_schema_extra=flag(topic="Times"))
    lines_per_s: float = Field(9.0, gt=0, description="lines per second")
    tries: int | None = Field(None, ge=1, le=9, description="tries; for ever when not given")
    gentle: bool = Field(True, description="whether to be gentle")
    names: tuple[str, ...] = Field((), description="a name", json_schema_extra=flag("--name", topic="Names"))
    key: SecretStr | None = Field(None, description="the key")
    folder: pathlib.Path = Field(pathlib.Path("here"), description="a folder")
    mode: Literal["slow", "fast"] = Field("slow", description="how")
    credit: int = Field(10**18, ge=0, description="what it has", json_schema_extra=flag(amount=True))


seen: dict[str, Any] = {}


@click.command(cls=SettingsCommand)
@settings_options(Example, without={"folder"})
@click.option("--loud", is_flag=True)
def command(*, loud: bool, **flags: Any) -> None:
    seen.clear()
    seen.update(given(flags))


def run(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(command, arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["--at", "http://y/"], {"url": "http://y/"}),
        (["--wait", "3"], {"wait_s": 3.0}),
        (["--tries", "9"], {"tries": 9}),
        (["--gentle"], {"gentle": True}),
        (["--no-gentle"], {"gentle": False}),
        (["--name", "a", "--name", "b"], {"names": ("a", "b")}),
        (["--key", "k"], {"key": "k"}),
        (["--mode", "fast"], {"mode": "fast"}),
        (["--credit", "0.25"], {"credit": 25 * 10**16}),
    ],
)
def test_what_is_given_arrives(arguments: list[str], expected: dict[str, Any]) -> None:
    result = run(*arguments)
    assert (result.exit_code, seen) == (0, expected), result.output
    assert Example(**seen)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--tries", "10"], "--tries"),
        (["--wait", "0"], "--wait"),
        (["--wait", "soon"], "soon"),
        (["--mode", "slowest"], "'slow', 'fast'"),
        (["--credit", "-1"], "amount of DCC"),
        (["--credit", "1e-19"], "amount of DCC"),
        (["--folder", "x"], "--folder"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], word: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and word in result.output


def test_help_tells_everything_by_topic() -> None:
    text = " ".join(run("--help").output.split())
    for part in (
        "Settings: --at URL Where it is. [default: http://x/]",
        "Times: --wait SECONDS Longest wait, seconds. [default: 2.5; > 0]",
        "--lines-per-s NUMBER Lines per second. [default: 9; > 0]",
        "--tries N Tries; for ever when not given. [1 to 9]",
        "--gentle / --no-gentle Whether to be gentle. [default: yes]",
        "Names: --name TEXT A name. May be repeated.",
        "--key TEXT The key. Other users can read flags",
        "--mode slow|fast How. [default: slow]",
        "--credit DCC What it has. [default: 1; ≥ 0]",
        "Other options: --loud",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("model", "command"),
    [
        (WorkerSettings, worker.run),
        (SchedulerSettings, scheduler.run),
        (LocalSettings, local.command),
    ],
)
def test_every_setting_has_a_flag_of_its_own_and_a_description(model: Any, command: click.Command) -> None:
    names = [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]
    assert sorted(set(names)) == sorted(names)
    for field in fields_of(model).values():
        assert field.flag in names
        assert field.description and not field.description.endswith("."), field.name
        assert field.env == f"{model.model_config['env_prefix']}{field.name.upper()}"


def test_flags_that_people_know() -> None:
    flags = {field.flag for field in fields_of(WorkerSettings).values()}
    assert flags >= {
        "--scheduler", "--state", "--identity", "--payment-address", "--image", "--docker-host", "--oci-runtime",
        "--sandboxes", "--warm", "--memory", "--cpus", "--allow-origin", "--fetch-timeout", "--fetch-max-bytes",
        "--job-id", "--compute-group", "--public-group", "--minimum-wage-cpu", "--minimum-wage-gpu",
        "--minimum-wage-in", "--minimum-wage-out", "--prefetch", "--queue", "--idle-poll", "--send-begin",
        "--slice-timeout", "--progress-timeout", "--stop-timeout",
    }  # fmt: skip
