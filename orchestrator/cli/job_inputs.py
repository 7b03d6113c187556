"""What `job deploy` is told: work function, inputs, arguments, offer, groups. Every refusal names the flag, what was
given, and what would be right."""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from orchestrator.bank.amounts import format_amount, parse_amount
from orchestrator.compute.job import Group, Range
from orchestrator.errors import InvalidInput
from orchestrator.jobs.words import PUBLIC_GROUP, join_hash, parse_job_id

SECRET: Final = "DCP_GROUP_SECRET"  # noqa: S105 — a name
STDIN: Final = "-"
_LONGEST_CODE: Final = 100 * 1024 * 1024
_LINES: Final = (".jsonl", ".ndjson")


class Source:
    """Reads files; standard input once."""

    def __init__(self) -> None:
        self._taken_by = ""

    def read(self, path: str, flag: str) -> str:
        """Raises `InvalidInput`, naming `flag`."""
        if path == STDIN:
            if self._taken_by:
                raise InvalidInput(f"{flag} is -, and {self._taken_by} is read from standard input: name a file")
            self._taken_by = flag
        try:
            data = sys.stdin.buffer.read() if path == STDIN else pathlib.Path(path).read_bytes()
            return data.decode()
        except OSError as error:
            raise InvalidInput(f"{flag}: {path} cannot be read: {error.strerror}; give a file, or -") from error
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{flag}: {path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def work_function(words: Sequence[str], code: str | None, source: Source) -> tuple[str, Sequence[str]]:
    """The JavaScript of the work function, and the words of the command line that are left."""
    if code is None and not words:
        raise InvalidInput("the work function is missing: name its JavaScript file, - for standard input, or --code")
    name = "--code" if code is not None else words[0]
    text = code if code is not None else source.read(words[0], "the work function")
    # It is compiled as an expression.
    text = text.strip().rstrip(";").rstrip()
    if not text:
        raise InvalidInput(f"the work function {name} is empty; it is JavaScript such as (x) => {{ progress(); … }}")
    if len(text) > _LONGEST_CODE:
        raise InvalidInput(f"the work function {name} has {len(text)} characters; at most {_LONGEST_CODE}")
    return text, words[0 if code is not None else 1 :]


def inputs(
    words: Sequence[str], *, span: str | None, file: str | None, values: bool, source: Source
) -> Range | Sequence[Any]:
    """The input set. `words` are for --values."""
    given = [flag for flag, here in (("--range", span), ("--inputs", file), ("--values", values)) if here]
    if len(given) != 1:
        what = f"{' and '.join(given)} are given" if given else "there is no input set"
        raise InvalidInput(f"{what}; give one of --range START:END[:STEP], --inputs FILE, --values VALUE...")
    if words and not values:
        raise InvalidInput(f"{words[0]!r:.60} is one word too many; values follow --values, and options come first")
    if span is not None:
        return _range(span)
    found = listed(source.read(file, "--inputs"), file) if file is not None else [_value(word) for word in words]
    if not found:
        raise InvalidInput(f"{given[0]}: there is no input; a job has one slice at least")
    return found


def _range(text: str) -> Range:
    parts = text.split(":")
    numbers = [_number(part) for part in parts]
    if len(parts) not in (2, 3) or any(number is None for number in numbers):
        raise InvalidInput(
            f"--range is {text!r:.60}; write START:END or START:END:STEP with numbers, such as 1:100 or 0:1:0.25"
        )
    start, end, step = (*numbers, 1)[:3]
    assert start is not None and end is not None and step is not None
    if step == 0:
        raise InvalidInput(
            f"--range {text}: the step is 0; both ends are included, steps go from the first to the last"
        )
    return Range(start, end, step)


def _number(text: str) -> float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _value(word: str) -> Any:
    """JSON where it is JSON, else the text itself."""
    try:
        return json.loads(word, parse_constant=_no_constant)
    except ValueError:
        return word


def listed(text: str, name: str) -> list[Any]:
    """The elements of a JSON array, or the lines of JSON lines: as the file's name says, or whichever it is."""
    if not name.lower().endswith(_LINES):
        try:
            found = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            if name.lower().endswith(".json"):
                raise InvalidInput(f"--inputs: {name} is not JSON: {error}; it must be an array") from error
        else:
            if isinstance(found, list):
                return found
            if name.lower().endswith(".json"):
                raise InvalidInput(f"--inputs: {name} has {text.strip()[:40]!r}; it must be a JSON array of the inputs")
    elements = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                elements.append(json.loads(line, parse_constant=_no_constant))
            except (ValueError, RecursionError) as error:
                raise InvalidInput(
                    f"--inputs: line {number} of {name} is not JSON: {line.strip()[:40]!r}; give one value a line, or "
                    "a JSON array of them"
                ) from error
    return elements


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def arguments(text: str | None) -> Sequence[Any]:
    """What the work function gets after its input."""
    if text is None:
        return ()
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"--arguments {text[:40]!r} is not JSON: {error}; write an array such as '[1, \"a\"]'"
        ) from error
    if not isinstance(found, list):
        raise InvalidInput(f"--arguments is {text[:40]!r}; write a JSON array of them, such as '[{text[:20]}]'")
    return found


def payment(text: str) -> dict[str, Any]:
    """The offer as `Job` takes it: an amount of DCC per slice, or a multiple of the market value (`1.5x`)."""
    if not text.endswith("x"):
        try:
            return {"slice_payment": format_amount(parse_amount(text, field="--payment"))}
        except InvalidInput as error:
            raise InvalidInput(
                f"{error.message}; write DCC per slice (0.25), or a multiple of the market value (1.5x)"
            ) from error
    multiple = _number(text[:-1])
    if multiple is None or multiple < 0:
        raise InvalidInput(f"--payment is {text!r:.40}; a multiple of the market value is written 1.5x")
    return {"market_multiple": multiple}


def group(text: str) -> Group:
    """`KEY`, `KEY,SECRET`, `KEY,eh1-…` (the join hash), or `id:ID`."""
    key, comma, secret = text.partition(",")
    if key.startswith("id:"):
        return Group(id=parse_job_id(key.removeprefix("id:"), "--group"))
    if not key or (comma and not secret):
        shown = repr(key[:40])
        raise InvalidInput(f"--group {shown} lacks a {'secret' if key else 'key'}; write KEY, KEY,SECRET or id:ID")
    if key == PUBLIC_GROUP["joinKey"]:
        return Group(key=key)
    secret = secret or os.environ.get(SECRET, "")
    if not secret or secret.startswith("eh1-"):
        return Group(key=key, join_hash=secret or None)
    return Group(key=key, join_hash=join_hash(key, secret))
