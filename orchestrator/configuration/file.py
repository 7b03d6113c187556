"""The settings file: TOML with one table per component.

    [worker]
    scheduler_url = "https://scheduler.example/"
    memory_mib = 1024

One file is read: the one that `--config` names, else `$DCP_ORCHESTRATOR_CONFIG`, else the first that exists of
`$XDG_CONFIG_HOME/dcp-orchestrator/config.toml` (`~/.config` when that is not set) and the same in `/etc`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from orchestrator.configuration.environment import CONFIG_VARIABLE
from orchestrator.configuration.fields import SettingField, fields_of
from orchestrator.configuration.names import did_you_mean, nearest, nearest_of
from orchestrator.errors import InvalidInput, NotPermitted

_FILE: Final = "dcp-orchestrator/config.toml"
_SYSTEM_FOLDER: Final = pathlib.Path("/etc")
_MAX_BYTES: Final = 1024 * 1024
_HEADER: Final = re.compile(r"""\s*\[\s*["']?([\w-]+)["']?\s*\]""")
_KEY: Final = re.compile(r"""\s*(?:["']?([\w-]+)["']?\s*\.\s*)?["']?([\w-]+)["']?\s*=""")


class UnsafeSettingsFile(NotPermitted):
    """Others on this machine may read its secrets or change it; the message names the remedy."""

    code = "EUNSAFE"


@dataclasses.dataclass(frozen=True)
class SettingsFile:
    """A file that has been read. `path` is None when there is none: then it is empty."""

    path: pathlib.Path | None = None
    tables: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    lines: Mapping[tuple[str, str], int] = dataclasses.field(default_factory=dict)

    def where(self, table: str, key: str = "") -> str:
        """`path:line` of a key, or of a table's beginning; the path alone where the line is not known."""
        line = self.lines.get((table, key))
        return str(self.path) if line is None else f"{self.path}:{line}"


def places(environ: Mapping[str, str] | None = None) -> list[pathlib.Path]:
    """Where a file is looked for when none was named."""
    environ = os.environ if environ is None else environ
    home = environ.get("XDG_CONFIG_HOME") or str(pathlib.Path(environ.get("HOME") or "/") / ".config")
    return [pathlib.Path(home) / _FILE, _SYSTEM_FOLDER / _FILE]


def find(named: pathlib.Path | None = None, environ: Mapping[str, str] | None = None) -> pathlib.Path | None:
    """The file to read; None when none was named and there is none. One that was named need not exist."""
    environ = os.environ if environ is None else environ
    if named is not None:
        return named
    if text := environ.get(CONFIG_VARIABLE):
        return pathlib.Path(text).expanduser()
    return next((path for path in places(environ) if path.exists()), None)


def read(path: pathlib.Path | None, components: Mapping[str, type[BaseModel]]) -> SettingsFile:
    """Read and check the names in a file; values are checked where they are used.

    Raises `InvalidInput` (no such file, no TOML, unknown names, each with its line), `NotPermitted` (may not be read)
    and `UnsafeSettingsFile`. Blocks on the file system.
    """
    if path is None:
        return SettingsFile()
    text, mode = _content(path)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not TOML: {error}") from None
    file = SettingsFile(path, tables, _lines(text))
    wrong = list(_wrong_names(file, components))
    if wrong:
        raise InvalidInput(f"settings that there are not: {'; '.join(wrong)}")
    secrets = [field.name for field in _secrets(file, components)]
    if secrets and mode & stat.S_IROTH:
        held = ", ".join(secrets)
        raise UnsafeSettingsFile(
            f"{path} can be read by every user of this machine and holds secrets ({held}): chmod o-r {path}"
        )
    return file


def _content(path: pathlib.Path) -> tuple[str, int]:
    try:
        with path.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            raw = opened.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise InvalidInput(
            f"there is no settings file {path}: make it, or name another with --config or ${CONFIG_VARIABLE}"
        ) from None
    except OSError as error:
        raise NotPermitted(f"the settings file {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        mode = 0  # a pipe or /dev/null: whoever named it knows
    if mode & stat.S_IWOTH:
        raise UnsafeSettingsFile(f"{path} can be changed by every user of this machine: chmod o-w {path}")
    if len(raw) > _MAX_BYTES:
        raise InvalidInput(f"{path} is not a settings file: it has more than {_MAX_BYTES} bytes")
    try:
        return raw.decode(), mode
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not a settings file: {error}") from None


def _wrong_names(file: SettingsFile, components: Mapping[str, type[BaseModel]]) -> Iterator[str]:
    for table, keys in file.tables.items():
        if not isinstance(keys, dict):
            owner = next((name for name, model in components.items() if table in model.model_fields), None)
            remedy = f"write it below [{owner}]" if owner else f"the tables are {', '.join(map(repr, components))}"
            yield f"{file.where('', table)}: {table} stands outside of a table: {remedy}"
        elif table not in components:
            meant = nearest(table, components)
            yield f"{file.where(table)}: no component is called [{table}]" + (
                did_you_mean(f"[{meant}]") if meant else f": there are {', '.join(f'[{one}]' for one in components)}"
            )
        else:
            yield from _wrong_keys(file, table, keys, components)


def _wrong_keys(
    file: SettingsFile, table: str, keys: Mapping[str, Any], components: Mapping[str, type[BaseModel]]
) -> Iterator[str]:
    known = fields_of(components[table])
    spellings = {field.flag.removeprefix("--").replace("-", "_"): name for name, field in known.items()}
    spellings |= {name: name for name in known}
    for key in keys:
        if key in known:
            continue
        meant = nearest_of(key.replace("-", "_"), spellings)
        elsewhere = next((name for name, model in components.items() if key in model.model_fields), None)
        hint = f"; it belongs below [{elsewhere}]" if elsewhere else did_you_mean(meant)
        yield f"{file.where(table, key)}: [{table}] has no setting {key}{hint}"


def _secrets(file: SettingsFile, components: Mapping[str, type[BaseModel]]) -> Iterator[SettingField]:
    for table, keys in file.tables.items():
        known = fields_of(components[table])
        yield from (known[key] for key, value in keys.items() if known[key].secret and value not in ([], ""))


def _lines(text: str) -> dict[tuple[str, str], int]:
    """{(table, key): line}; the key is empty for the line of a table's header. Tells people where to look, no more.

    `tomllib` keeps no positions, so this reads the shapes that people write: `[table]`, `key =`, `table.key =`.
    """
    found: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = header[1]
            found.setdefault((table, ""), number)
        elif key := _KEY.match(line):
            found.setdefault((key[1] or table, key[2]), number)
    return found
