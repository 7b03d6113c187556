"""What `job deploy` and `job wait` show: the price, progress on stderr, results as JSON lines; or all of it as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import decimal
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from orchestrator import kvin
from orchestrator.cli import phrases
from orchestrator.compute.following import JobEvent
from orchestrator.errors import OrchestratorError

_WIDEST: Final = 2000
_TENTHS: Final = 10
GIVEN_UP: Final = frozenset({"ETOOMANYATTEMPTS", "ENOAGREEMENT"})
"""errors that say that a slice is given up; others are of one attempt"""


@dataclasses.dataclass
class Progressed:
    """How far the job is, as it told last."""

    total: int = 0
    computed: int = 0
    given_up: int = 0


class View:
    """Results to `results` as JSON lines, the rest to stderr: a bar if that is a terminal, else a line for each tenth.

    With `is_json` everything but the results of a file is JSON lines on stdout, each with an `event`.
    """

    def __init__(self, *, results: TextIO | None, is_json: bool) -> None:
        self.progress = Progressed()
        self._results = results
        self.is_json = is_json
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._told = -1
        self._status = ""

    @contextlib.contextmanager
    def running(self, total: int = 0) -> Iterator[None]:
        """Show progress inside the block."""
        self.progress.total = total
        if self.is_json or not self._console.is_terminal:
            yield
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("slices"))
        # Lines on a terminal go above the bar; a file or a pipe gets them as they are.
        redirect = sys.stdout.isatty()
        with Progress(
            *columns, TimeElapsedColumn(), console=self._console, redirect_stdout=redirect, refresh_per_second=4
        ) as self._bar:
            self._task = self._bar.add_task("waiting", total=total or None)
            try:
                yield
            finally:
                self._bar.refresh()
        self._bar = None

    def hear(self, event: JobEvent) -> None:
        data = event.data
        match event.label:
            case "status":
                self._moved(data)
            case "result":
                self.result(int(data["sliceNumber"]), event.value)
            case "stop" | "confidence":
                pass
            case label:
                self._said(label, data)

    def say(self, name: str, text: str, **fields: Any) -> None:
        """A step of the command itself."""
        if self.is_json:
            _line(sys.stdout, {"event": name, **fields})
        else:
            click.echo(text, err=True)

    def _moved(self, data: Mapping[str, Any]) -> None:
        self.progress.total, self.progress.computed = int(data["total"]), int(data["computed"])
        status, now = str(data["runStatus"]), self.progress
        if self.is_json:
            fields = {"status": status, "total": now.total, "computed": now.computed, "givenUp": now.given_up}
            _line(sys.stdout, {"event": "progress", **fields})
        elif self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=status, total=now.total or None, completed=now.computed)
        else:
            tenth = now.computed * _TENTHS // now.total if now.total else 0
            if tenth > self._told or status != self._status:
                click.echo(f"{status}: {now.computed} of {now.total} slices computed", err=True)
            self._told = max(tenth, self._told)
        self._status = status

    def result(self, number: int, value: Any) -> None:
        line = {"slice": number, **_json_of(value)}
        if self._results is not None:
            _line(self._results, line)
        else:
            _line(sys.stdout, {"event": "result", **line} if self.is_json else line)

    def _said(self, label: str, data: Mapping[str, Any]) -> None:
        if label == "error" and data.get("code") in GIVEN_UP:
            self.progress.given_up += 1
        told = {name: value for name, value in data.items() if name != "eventName"}
        if label == "console":
            told["message"] = text = _console_text(data)
        if self.is_json:
            _line(sys.stdout, {"event": label, **told})
            return
        if label == "nofunds":
            text = (
                f"the job waits for funds: {data['fundsRequired']} DCC more are needed; bring them to "
                f"{data['paymentAccount']}, or: dcp-orchestrator job fund {data['job']}"
            )
        elif label == "error":
            text = f"slice {data.get('sliceNumber')}: {data.get('name', 'Error')}: {data.get('message', '')}"
        elif label == "console":
            text = f"slice {data.get('sliceNumber')}: {data.get('level', 'log')}: {text}"
        else:
            text = f"slice {data.get('sliceNumber')}: {label}: {json.dumps(told)}"
        click.echo(phrases.plain(text, _WIDEST), err=True)


def show_price(quote: Mapping[str, Any], *, to_stderr: bool) -> None:
    for line in price_lines(quote):
        click.echo(line, err=to_stderr)


def price_lines(quote: Mapping[str, Any]) -> list[str]:
    """What is to be paid, for people."""
    slices, price, total, held = quote["slices"], quote["slicePrice"], quote["total"], quote["held"]
    sure = total["least"] == total["most"]
    lines = [f"slices       {slices}", f"price        {price} DCC per accepted result"]
    told = quote.get("redundancy")
    if told:
        opinions, plain = told["opinions"], decimal.Decimal(price) * slices
        trusting = ", trusted workers are believed alone but for spot checks" if told["trusting"] else ""
        more = decimal.Decimal(total["expected"]) - plain
        lines += [
            f"confidence   {told['agree']} workers must agree, {told['of']} are asked at most{trusting}",
            f"             costs about {opinions['expected']:g} times the price, {opinions['most']} times at most: "
            f"about {phrases.money(more)} DCC more",
        ]
    lines.append(f"cost         {total['most']} DCC" if sure else (
        f"cost         about {total['expected']} DCC, {total['least']} at least, {total['most']} at most"
    ))  # fmt: skip
    fees = decimal.Decimal(quote.get("fees", "0"))
    lines += [f"             and {line}" for line in _fees(quote)] + _commissions(quote)
    later = "" if held["first"] == held["most"] else f" at first, {held['most']} DCC once all inputs are there"
    lines.append(f"held         {held['first']} DCC{later}; what is not spent goes back")
    if "available" in quote:
        short = decimal.Decimal(quote["available"]) < decimal.Decimal(held["most"]) + fees
        lines.append(
            f"account      {quote['paymentAccount']} has {quote['available']} DCC{': not enough' if short else ''}"
        )
    return lines


def _fees(quote: Mapping[str, Any]) -> list[str]:
    """What groups are paid for taking the job."""
    asking = [one for one in quote.get("groups", ()) if decimal.Decimal(one["fee"])]
    return [f"{one['fee']} DCC at once to group {one['group']} for taking it, not given back" for one in asking]


def _commissions(quote: Mapping[str, Any]) -> list[str]:
    """What groups keep of a worker's pay, which costs the job nothing."""
    taking = [one for one in quote.get("groups", ()) if decimal.Decimal(one["commissionRate"])]
    return [
        f"workers      get {one['workerPay']} DCC of each price, group {one['group']} the other {one['commission']} DCC"
        for one in taking
    ]


def _console_text(data: Mapping[str, Any]) -> str:
    try:
        values = kvin.unmarshal(data.get("message"))
    except OrchestratorError:
        values = None
    if not isinstance(values, list):
        return f"(the same, {data.get('same', 1)} times)"
    return " ".join(
        one if isinstance(one, str) else json.dumps(one) if _is_json(one) else kvin.stringify(one) for one in values
    )


def _json_of(value: Any) -> dict[str, Any]:
    """`result` where JSON says all of it, else `kvin`: text that `orchestrator.kvin.parse` and the npm package read."""
    return {"result": value} if _is_json(value) else {"kvin": kvin.stringify(value)}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _line(file: TextIO, content: Mapping[str, Any]) -> None:
    file.write(json.dumps(content) + "\n")
    file.flush()
