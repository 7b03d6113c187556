"""How numbers, times and reasons are written for people who look at a worker."""

from __future__ import annotations

import decimal
from typing import Final

from rich.cells import cell_len, set_cell_size

#: What a place for a sandbox waits for, by the code of the reason.
WAITS: Final = {
    "ENOWORK": "work at the Scheduler",
    "EASKING": "the Scheduler's first answer",
    "EJOBCODE": "code and arguments",
    "EDATA": "input data",
    "EOPENING": "a sandbox",
    "EBACKLOG": "acknowledgement of results",
    "EHELD": "room for more slices",
    "ENOSANDBOX": "Docker",
    "ENOSCHEDULER": "the Scheduler to answer",
    "EDRAINING": "the end of a drain",
    "ESTOPPING": "the end",
    "EPAUSED": "the end of a pause",
}
_BARS: Final = "▁▂▃▄▅▆▇█"


def span(seconds: float) -> str:
    """`0.2 s`, `45 s`, `12 min`, `3 h`, `5 d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{max(seconds, 0.0):.1f} s"


def size(count: float | None) -> str:
    """Bytes: `812 KiB`, `56 MiB`, `1.5 GiB`."""
    if count is None:
        return "?"
    for unit, one in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= one:
            return f"{count / one:.1f} {unit}" if unit == "GiB" else f"{count / one:.0f} {unit}"
    return f"{count / 1024:.0f} KiB"


def rate(number: float | None) -> str:
    """Three digits or so: `0.042`, `1.87`, `12.4`, `1234`."""
    if number is None:
        return "-"
    if number and number < 0.1:
        return f"{number:.3f}"
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:.0f}"


def money(amount: decimal.Decimal) -> str:
    """DCC with at most six digits after the point; what is smaller is said in powers of ten."""
    if amount and abs(amount) < decimal.Decimal("0.000001"):
        return f"{amount:.2e}"
    text = f"{amount:.6f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def plain(text: str, width: int) -> str:
    """Text of others on one line of at most `width` cells: whatever could move the cursor is a dot."""
    shown = "".join(letter if letter.isprintable() else "·" for letter in text[: 4 * width + 4])
    return shown if cell_len(shown) <= width else set_cell_size(shown, max(width - 1, 0)) + "…"


def bars(values: list[float], width: int) -> str:
    """The last `width` values as little bars, the highest of them full."""
    last = values[-width:]
    top = max(last, default=0.0)
    if top <= 0:
        return _BARS[0] * len(last)
    return "".join(_BARS[min(int(max(value, 0.0) / top * 7.999), 7)] for value in last)
