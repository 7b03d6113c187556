"""The settings of a component from every place that may give them: flags over environment over file over default.

`load` remembers where each value came from, so that errors and `--show-config` can tell, and so that a running
component can read everything again (`Loaded.again`).
"""

from __future__ import annotations

import dataclasses
import decimal
import pathlib
from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.configuration import environment, file
from orchestrator.configuration.fields import SettingField, fields_of, redacted
from orchestrator.configuration.names import did_you_mean, nearest
from orchestrator.errors import InvalidInput

_Settings = TypeVar("_Settings", bound=BaseModel)
_UNITS: Final = 18


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a value came from. `kind` is flag, environment, file or default; `where` is what to change."""

    kind: str
    where: str


DEFAULT: Final = Origin("default", "default")


@dataclasses.dataclass(frozen=True)
class Loaded(Generic[_Settings]):
    """The settings of a component, and where each came from."""

    settings: _Settings
    component: str
    origins: Mapping[str, Origin]
    path: pathlib.Path | None
    """The file that was read; None when there was none."""
    _flags: Mapping[str, Any]
    _named: pathlib.Path | None
    _components: Mapping[str, type[BaseModel]]

    def again(self) -> Loaded[_Settings]:
        """Read file and environment again, the same flags over them. Raises what `load` raises; blocks on the disk.

        A file that was read before has to be there still: that it went missing is an error, not a return to defaults.
        """
        return load(type(self.settings), self._flags, self._components, self._named or self.path)


def load(
    model: type[_Settings],
    flags: Mapping[str, Any],
    components: Mapping[str, type[BaseModel]],
    config: pathlib.Path | None = None,
) -> Loaded[_Settings]:
    """Read every source. `config` names the file to read (see `file.find` for what happens without).

    Raises `InvalidInput` naming every setting that is wrong or unknown, its value, where it came from and what would
    be right; and what `file.read` raises. Blocks on the file system.
    """
    component = next((name for name, one in components.items() if one is model), model.__name__)
    known = fields_of(model)
    read = file.read(file.find(config), components)
    _refuse_unknown_variables(components)
    origins: dict[str, Origin] = {}
    given: dict[str, Any] = {}
    for name, value in read.tables.get(component, {}).items():
        given[name], origins[name] = value, Origin("file", read.where(component, name))
    for name, value in environment.values(model).items():
        given[name], origins[name] = value, Origin("environment", "$" + known[name].env)
    for name, value in flags.items():
        given[name], origins[name] = value, Origin("flag", known[name].flag if name in known else name)
    wrong: list[str] = []
    for name, field in known.items():
        if field.amount and isinstance(given.get(name), str):
            given[name] = _units(given[name])
        if field.kind is pathlib.Path and isinstance(given.get(name), str):
            given[name] = pathlib.Path(given[name]).expanduser()
    try:
        settings = model(**given)
    except ValidationError as error:
        wrong = [_explained(one, known, origins) for one in error.errors()]
    if wrong:
        raise InvalidInput(f"settings that cannot be: {'; '.join(wrong)}") from None
    every = {name: origins.get(name, DEFAULT) for name in known}
    return Loaded(settings, component, every, read.path, dict(flags), config, components)


def _refuse_unknown_variables(components: Mapping[str, type[BaseModel]]) -> None:
    wrong = [
        f"${name} is no setting{did_you_mean('$' + meant if meant else None)}"
        for name, meant in environment.unknown(components)
    ]
    if wrong:
        raise InvalidInput(f"settings that there are not: {'; '.join(wrong)} (unset it, or correct its name)")


def _explained(one: Any, known: Mapping[str, SettingField], origins: Mapping[str, Origin]) -> str:
    """One thing that pydantic found wrong, with the value, where it came from, and what would be right."""
    name = str(one["loc"][0]) if one["loc"] else ""
    message = str(one["msg"]).removeprefix("Value error, ")
    field = known.get(name)
    if field is None:
        return f"{name}: {message}{did_you_mean(nearest(name, known))}" if name else message
    origin = origins.get(name, DEFAULT)
    value = redacted(field, one["input"])
    if field.multiple and len(one["loc"]) == 1 and isinstance(one["input"], str):
        message = 'a list is wanted: ["…", "…"]'
    source = "its default" if origin is DEFAULT else f"from {origin.where}"
    return f"{name}: {message} (it is {value!r}, {source}; {field.flag} or ${field.env} gives another)"


def _units(text: str) -> Any:
    """`"12.5 DCC"` in units; any other text is left to the model, which wants an integer of units."""
    number, _space, unit = text.strip().partition(" ")
    if unit.strip() != "DCC":
        return text
    try:
        units = decimal.Decimal(number).scaleb(_UNITS)
    except decimal.InvalidOperation:
        return text
    return int(units) if units.is_finite() and units == units.to_integral_value() else text
