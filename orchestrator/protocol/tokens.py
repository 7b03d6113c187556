"""Unique texts for the wire: 21 letters and digits, as the reference makes them."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

MakeToken = Callable[[], str]
"""Gives another unpredictable text of 21 characters [0-9A-Za-z] at each call."""

_LETTERS = bytes.maketrans(b"+/", b"kQ")


def random_token() -> str:
    """About 120 random bits; 1 µs."""
    return base64.b64encode(os.urandom(18)).translate(_LETTERS)[:21].decode()
