"""Our JSON text against V8 itself: what we print, V8 prints again in the same way."""

from __future__ import annotations

import json
import pathlib
import random
import struct
import subprocess
from typing import Any

from orchestrator.protocol import js_json

SCRIPT = """
const lines = require('fs').readFileSync(0, 'utf8').split('\\n');
process.stdout.write(lines.filter(Boolean).map((line) => JSON.stringify(JSON.stringify(JSON.parse(line)))).join('\\n'));
"""
CHARACTERS = [
    '"',
    "\\",
    "/",
    "\b",
    "\t",
    "\n",
    "\x00",
    "\x1f",
    "\x7f",
    "é",
    "\u2028",
    "\ud83d",
    "\ude00",
    "\U0001f600",
    "x",
]


def _number(draw: random.Random) -> float:
    match draw.randrange(6):
        case 0:
            return draw.randrange(-(10**6), 10**6)
        case 1:
            return draw.randrange(-(2**64), 2**64)
        case 2:
            return float(draw.randrange(-(10**6), 10**6))
        case 3:
            return draw.random() * 10 ** draw.randrange(-12, 25)
        case 4:
            return round(draw.random() * 10**10, draw.randrange(6))
    while True:
        value: float = struct.unpack("<d", draw.randbytes(8))[0]
        if value == value and abs(value) != float("inf"):
            return value


def _text(draw: random.Random) -> str:
    return "".join(draw.choices(CHARACTERS, k=draw.randrange(6)))


def _value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(8 if depth < 4 else 5)
    if kind < 2:
        return _number(draw)
    if kind == 2:
        return _text(draw)
    if kind < 5:
        return draw.choice([None, True, False, -0.0, "", 1.0])
    if kind == 5:
        return [_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    keys = (
        draw.choice([_text(draw), str(draw.randrange(2**34)), str(draw.randrange(20)), f"0{draw.randrange(9)}"])
        for _ in range(4)
    )
    return {key: _value(draw, depth + 1) for key in keys}


def test_v8_prints_what_we_print(node: pathlib.Path) -> None:
    draw = random.Random(5)
    values = [_value(draw) for _ in range(6000)]
    # Python's own notation, which V8 reads as the same value.
    foreign = [json.dumps(value) for value in values]
    ours = [js_json.dumps(js_json.loads(text)) for text in foreign]
    assert ours == [js_json.dumps(value) for value in values]
    done = subprocess.run(
        [node, "-e", SCRIPT], input="\n".join(foreign + ours).encode(), stdout=subprocess.PIPE, check=True, timeout=60
    )
    theirs = [json.loads(line) for line in done.stdout.decode().split("\n")]
    assert len(theirs) == 2 * len(ours)
    for mine, from_foreign, from_mine in zip(ours, theirs[: len(ours)], theirs[len(ours) :], strict=True):
        assert mine == from_foreign
        assert mine == from_mine
