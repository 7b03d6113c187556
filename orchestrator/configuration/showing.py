"""`--show-config`: every setting, its value, and where it came from. Secrets are never shown.

The text is TOML: with what is commented out filled in it can be used as a settings file.
"""

from __future__ import annotations

import enum
import json
import pathlib
from typing import Any

from pydantic import BaseModel

from orchestrator.configuration.fields import HIDDEN, SettingField, fields_of, redacted
from orchestrator.configuration.loading import Loaded


def as_json(loaded: Loaded[Any]) -> dict[str, Any]:
    """A JSON-able object: `settings` maps each name to its value, origin, flag and variable."""
    return {
        "component": loaded.component,
        "file": None if loaded.path is None else str(loaded.path),
        "settings": {
            field.name: {
                "value": _plain(redacted(field, getattr(loaded.settings, field.name))),
                "origin": loaded.origins[field.name].kind,
                "where": loaded.origins[field.name].where,
                "flag": field.flag,
                "variable": field.env,
            }
            for field in fields_of(type(loaded.settings)).values()
        },
    }


def as_toml(loaded: Loaded[Any]) -> str:
    """See the module."""
    lines = [
        f"# Settings file: {'none' if loaded.path is None else loaded.path}",
        f"[{loaded.component}]",
    ]
    topic = None
    for field in fields_of(type(loaded.settings)).values():
        if field.topic != topic:
            topic = field.topic
            lines += ["", f"# {topic}"]
        lines.append(_line(field, loaded))
    return "\n".join(lines) + "\n"


def _line(field: SettingField, loaded: Loaded[Any]) -> str:
    value = _plain(redacted(field, getattr(loaded.settings, field.name)))
    where = " ".join(loaded.origins[field.name].where.split())  # a path may have any character
    if value is None:
        return f"# {field.name} is not given"
    if field.secret and value not in ([], ""):
        return f"# {field.name} is secret  # {where}"
    text = toml_value(value)
    # A value with a hidden part must not be taken for the real one when the text becomes a file.
    return f"{'# ' if HIDDEN in text else ''}{field.name} = {text}  # {where}"


def toml_value(value: Any) -> str:
    """A string, number, truth value or list of them, as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    # JSON's escapes are TOML's; it may leave U+007F, which TOML does not allow, as it is.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")


def _plain(value: Any) -> Any:
    """The value in words that JSON and TOML have."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def as_markdown(model: type[BaseModel]) -> str:
    """A table of all settings of a model for the documentation, by topic."""
    lines: list[str] = []
    topic = None
    for field in fields_of(model).values():
        if field.topic != topic:
            topic = field.topic
            lines += ["", f"**{topic}**", "", "| setting | flag | default | meaning |", "|---|---|---|---|"]
        lines.append(f"| `{field.name}` | {_flag_cell(field)} | {_default_cell(field)} | {_meaning_cell(field)} |")
    return "\n".join(lines).strip() + "\n"


def _flag_cell(field: SettingField) -> str:
    off = f", `--no-{field.flag.removeprefix('--')}`" if field.is_switch else ""
    metavar = "" if field.is_switch else " " + field.metavar.replace("|", "\\|")
    return f"`{field.flag}{metavar}`{off}"


def _default_cell(field: SettingField) -> str:
    if field.default is None or field.default == ():
        return ""
    return f"`{toml_value(_plain(field.default))}`"


def _meaning_cell(field: SettingField) -> str:
    parts = [field.description.replace("|", "\\|")]
    if field.range_text:
        parts.append(field.range_text)
    if field.multiple:
        parts.append("a list; the flag may be repeated")
    if field.amount:
        parts.append('units of 10⁻¹⁸ DCC, or `"1.5 DCC"`; the flag takes DCC')
    if field.secret:
        parts.append("secret")
    return "; ".join(parts)
