"""Flags made from a settings model, and help that shows them by topic."""

from __future__ import annotations

import decimal
import json
import pathlib
from collections.abc import Callable, Container, Mapping
from typing import Any, Final

import click
from click.types import OptionHelpExtra
from pydantic import BaseModel

from orchestrator.configuration import showing
from orchestrator.configuration.environment import CONFIG_VARIABLE
from orchestrator.configuration.fields import SettingField, fields_of
from orchestrator.configuration.loading import Loaded

_SECRET_WARNING: Final = "Other users can read flags: better in the environment or in a file."  # noqa: S105


class SettingOption(click.Option):
    """The flag of one setting."""

    def __init__(self, field: SettingField) -> None:
        self.field = field
        super().__init__(
            [_declaration(field), field.name],
            default=None,
            multiple=field.multiple,
            type=None if field.is_switch else _type(field),
            metavar=None if field.is_switch else field.metavar,
            help=_help(field),
        )

    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        extra: OptionHelpExtra = {}
        if self.field.default_text is not None:
            extra["default"] = self.field.default_text
        if self.field.range_text is not None:
            extra["range"] = self.field.range_text
        return extra


class SettingsCommand(click.Command):
    """A command whose help lists its settings by topic, then its other options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        topics: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None:
                topic = parameter.field.topic if isinstance(parameter, SettingOption) else "Other options"
                topics.setdefault(topic, []).append(row)
        for topic, rows in topics.items():
            with formatter.section(topic):
                formatter.write_dl(rows)


def settings_options(
    model: type[BaseModel], *, without: Container[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that gives a command a flag for each setting of `model`, in its order. `given` picks what was used.

    A setting that is not on the command line arrives as None, or as an empty tuple.
    """
    fields = [field for name, field in fields_of(model).items() if name not in without]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(fields):
            _attach(function, SettingOption(field))
        return function

    return decorate


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that gives a command `--config` and `--show-config` (see `show`)."""
    named = click.option(
        "--config", type=click.Path(path_type=pathlib.Path), metavar="FILE",
        help=f"Settings file (TOML).  [default: ${CONFIG_VARIABLE}, ~/.config/dcp-orchestrator/config.toml, "
             "or /etc/dcp-orchestrator/config.toml]",
    )  # fmt: skip
    shown = click.option(
        "--show-config", is_flag=True, help="Print every setting and where it comes from, and start nothing."
    )
    return named(shown(function))


def show(loaded: Loaded[Any], output: str) -> None:
    """Print the settings on stdout: `output` is text (valid TOML) or json. Secrets are hidden."""
    if output == "json":
        click.echo(json.dumps(showing.as_json(loaded)))
    else:
        click.echo(showing.as_toml(loaded), nl=False)


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were on the command line, out of all the flags of a command."""
    return {name: value for name, value in flags.items() if value is not None and value != ()}


def _attach(function: Any, option: click.Option) -> None:
    """As `@click.option` does: the list is read from its end."""
    if not hasattr(function, "__click_params__"):
        function.__click_params__ = []
    function.__click_params__.append(option)


def _declaration(field: SettingField) -> str:
    return f"{field.flag}/--no-{field.flag.removeprefix('--')}" if field.is_switch else field.flag


def _help(field: SettingField) -> str:
    parts = [field.description[:1].upper() + field.description[1:] + "."]
    if field.multiple:
        parts.append("May be repeated.")
    if field.secret:
        parts.append(_SECRET_WARNING)
    return " ".join(parts)


def _type(field: SettingField) -> click.ParamType[Any]:
    if field.choices:
        return click.Choice(field.choices)
    if field.amount:
        return AmountOfDcc()
    if field.kind is int:
        return click.IntRange(
            None if field.at_least is None else int(field.at_least),
            None if field.at_most is None else int(field.at_most),
            min_open=field.at_least_open,
            max_open=field.at_most_open,
        )
    if field.kind is float:
        return click.FloatRange(
            field.at_least, field.at_most, min_open=field.at_least_open, max_open=field.at_most_open
        )
    if field.kind is pathlib.Path:
        return click.Path(path_type=pathlib.Path)
    return click.STRING


class AmountOfDcc(click.ParamType[int]):
    """DCC on the command line, units of 10^-18 DCC in the settings."""

    name = "DCC"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            units = decimal.Decimal(value) * 10**18
        except decimal.InvalidOperation:
            units = decimal.Decimal("NaN")
        if not units.is_finite() or units < 0 or units != units.to_integral_value():
            self.fail(f"{value!r} is not an amount of DCC, such as 1000 or 0.25", param, ctx)
        return int(units)
