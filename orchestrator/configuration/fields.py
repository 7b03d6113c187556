"""What a settings model says about each of its fields: the flag, the type, the range, the topic, whether it is secret.

Flags, help, documentation and error messages are made from this; the model is the only place where a setting is
written down. `flag(...)` carries what pydantic has no word for.
"""

from __future__ import annotations

import dataclasses
import decimal
import enum
import pathlib
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Final, Literal

import annotated_types
from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_SECRET_TYPES: Final = (SecretStr, SecretBytes)
_METAVARS: Final = {int: "N", float: "NUMBER", pathlib.Path: "PATH"}
_UNIT_METAVARS: Final = {"_s": "SECONDS", "_mib": "MIB", "_bytes": "BYTES"}
_RATE: Final = "_per_s"
_FIRST_TOPIC: Final = "Settings"
_URL_PASSWORD: Final = re.compile(r"(://[^/?#@:]*:)[^/?#@]*@")

HIDDEN: Final = "********"
"""Stands where a secret is not shown."""


def flag(
    name: str | None = None,
    *,
    metavar: str | None = None,
    topic: str | None = None,
    secret: bool = False,
    amount: bool = False,
) -> dict[str, Any]:
    """For `Field(json_schema_extra=…)`. All parts are optional.

    `name` is the flag when it is not the field's name without its unit. `topic` begins a section of `--help`: the
    fields after it belong to it too. `secret` hides the value wherever settings are shown (`SecretStr` says so by
    itself). `amount` lets the flag take DCC where the field holds units of 10^-18 DCC.
    """
    given = {"flag": name, "metavar": metavar, "topic": topic, "secret": secret, "amount": amount}
    return {key: value for key, value in given.items() if value}


@dataclasses.dataclass(frozen=True)
class SettingField:
    """One setting. `kind` is the type of a single value; `multiple` tells that there may be any number of them."""

    name: str
    flag: str
    env: str
    kind: Any
    multiple: bool
    optional: bool
    default: Any
    description: str
    metavar: str
    topic: str
    secret: bool
    amount: bool
    choices: tuple[str, ...]
    at_least: float | None
    at_most: float | None
    at_least_open: bool
    at_most_open: bool

    @property
    def is_switch(self) -> bool:
        return self.kind is bool and not self.multiple

    @property
    def default_text(self) -> str | None:
        """The default for people; None when there is none to show (the description says what happens then)."""
        if self.default is None or self.default == ():
            return None
        if self.amount:
            return f"{decimal.Decimal(self.default).scaleb(-18).normalize():f}"
        return shown(self.default)

    @property
    def range_text(self) -> str | None:
        if self.at_least is not None and self.at_most is not None and not (self.at_least_open or self.at_most_open):
            return f"{self.at_least:g} to {self.at_most:g}"
        low = None if self.at_least is None else f"{'>' if self.at_least_open else '≥'} {self.at_least:g}"
        high = None if self.at_most is None else f"{'<' if self.at_most_open else '≤'} {self.at_most:g}"
        return " and ".join(part for part in (low, high) if part) or None


def shown(value: Any) -> str:
    """A value of a setting on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list | set | frozenset):
        return ", ".join(map(shown, value))
    return str(value.value if isinstance(value, enum.Enum) else value)


def fields_of(model: type[BaseModel]) -> dict[str, SettingField]:
    """The settings of a model, in its order, by field name."""
    prefix = str(model.model_config.get("env_prefix", ""))
    topic = _FIRST_TOPIC
    found: dict[str, SettingField] = {}
    for name, info in model.model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        topic = str(extra.get("topic", topic))
        found[name] = _field(name, info, extra, prefix, topic)
    return found


def _field(name: str, info: FieldInfo, extra: Mapping[str, Any], prefix: str, topic: str) -> SettingField:
    kind, optional = _without_none(info.annotation)
    metadata = list(info.metadata)
    multiple = typing.get_origin(kind) in {tuple, list, set, frozenset}
    if multiple:
        kind, _none = _without_none(typing.get_args(kind)[0])
    if typing.get_origin(kind) is typing.Annotated:
        kind, *inner = typing.get_args(kind)
        metadata += inner
    choices = _choices(kind)
    low, low_open, high, high_open = _range(metadata)
    unit = next((unit for unit in _UNIT_METAVARS if name.endswith(unit) and not name.endswith(_RATE)), "")
    usual = "DCC" if extra.get("amount") else _UNIT_METAVARS.get(unit) or _METAVARS.get(kind, "TEXT")
    return SettingField(
        name=name,
        flag=str(extra.get("flag") or _usual_flag(name)),
        env=prefix + name.upper(),
        kind=kind,
        multiple=multiple,
        optional=optional,
        default=None if info.default is PydanticUndefined else info.default,
        description=info.description or "",
        metavar=str(extra.get("metavar") or ("|".join(choices) if choices else usual)),
        topic=topic,
        secret=bool(extra.get("secret")) or kind in _SECRET_TYPES,
        amount=bool(extra.get("amount")),
        choices=choices,
        at_least=low,
        at_most=high,
        at_least_open=low_open,
        at_most_open=high_open,
    )


def _usual_flag(name: str) -> str:
    """The name without `_s`: times are in seconds. A rate keeps it."""
    return "--" + (name if name.endswith(_RATE) else name.removesuffix("_s")).replace("_", "-")


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if typing.get_origin(annotation) not in {typing.Union, types.UnionType}:
        return annotation, False
    rest = [one for one in typing.get_args(annotation) if one is not type(None)]
    optional = len(rest) < len(typing.get_args(annotation))
    return (rest[0] if len(rest) == 1 else str), optional


def _choices(kind: Any) -> tuple[str, ...]:
    if typing.get_origin(kind) is Literal:
        return tuple(map(str, typing.get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return tuple(str(one.value) for one in kind)
    return ()


def _range(metadata: list[Any]) -> tuple[float | None, bool, float | None, bool]:
    low: float | None = None
    high: float | None = None
    low_open = high_open = False
    for rule in metadata:
        match rule:
            case annotated_types.Ge(ge):
                low, low_open = typing.cast(float, ge), False
            case annotated_types.Gt(gt):
                low, low_open = typing.cast(float, gt), True
            case annotated_types.Le(le):
                high, high_open = typing.cast(float, le), False
            case annotated_types.Lt(lt):
                high, high_open = typing.cast(float, lt), True
            case _:
                pass
    return low, low_open, high, high_open


def redacted(field: SettingField, value: Any) -> Any:
    """The value as it may be shown: a secret is hidden whole, in a URL the password is."""
    if isinstance(value, tuple | list | set | frozenset):
        return type(value)(redacted(field, one) for one in value)
    if value is None:
        return None
    if field.secret:
        return HIDDEN
    return _URL_PASSWORD.sub(rf"\1{HIDDEN}@", value) if isinstance(value, str) else value
