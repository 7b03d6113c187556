"""What a worker may write into its log: every event with its level and fields, read off the code."""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import re
from collections.abc import Iterator
from typing import Final

ROOT: Final = pathlib.Path(__file__).parent.parent
#: What runs in a worker, and says something of its own.
PLACES: Final = ("orchestrator/worker", "orchestrator/exporting")
_LEVELS: Final = ("debug", "info", "warning", "error", "exception", "log")
_EVENT: Final = re.compile(r"[a-z][a-z_]+")


@dataclasses.dataclass(frozen=True)
class LogCall:
    """One call that logs. `event` is None when it is not a literal word; fields are sorted."""

    place: str
    level: str
    event: str | None
    fields: tuple[str, ...]


def calls() -> Iterator[LogCall]:
    """Every call, in order of place."""
    for folder in PLACES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "battery" not in path.parts:
                yield from _calls_in(path)


def _calls_in(path: pathlib.Path) -> Iterator[LogCall]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        if isinstance(owner, ast.Name) and owner.id in {"log", "_log"} and node.func.attr in _LEVELS:
            varies = node.func.attr == "log"
            arguments = node.args[1:] if varies else node.args
            first = arguments[0].value if arguments and isinstance(arguments[0], ast.Constant) else None
            word = first if isinstance(first, str) and _EVENT.fullmatch(first) and len(arguments) == 1 else None
            level = "varies" if varies else node.func.attr.replace("exception", "error")
            yield LogCall(f"{path.relative_to(ROOT)}:{node.lineno}", level, word, tuple(sorted(_fields(node))))


def _fields(node: ast.Call) -> Iterator[str]:
    for keyword in node.keywords:
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
            for key in keyword.value.keys:
                if isinstance(key, ast.Constant):
                    yield str(key.value)


def table() -> str:
    """The events as a table for the documentation; those of several places have the fields of all."""
    events: dict[str, tuple[set[str], set[str]]] = {}
    for call in calls():
        if call.event is not None:
            levels, fields = events.setdefault(call.event, (set(), set()))
            levels.add(call.level)
            fields.update(call.fields)
    rows = ["| event | level | fields |", "|---|---|---|"]
    for event, (levels, fields) in sorted(events.items()):
        rows.append(
            f"| `{event}` | {', '.join(sorted(levels))} | {', '.join(f'`{name}`' for name in sorted(fields))} |"
        )
    return "\n".join(rows) + "\n"
