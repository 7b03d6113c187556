"""Unique texts for the wire: 21 letters and digits, as the reference makes them."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from typing import Any, TypeGuard

MakeToken = Callable[[], str]
"""Gives another unpredictable text of 21 characters [0-9A-Za-z] at each call."""

_LETTERS = bytes.maketrans(b"+/", b"kQ")


def random_token() -> str:
    """About 120 random bits; 1 µs."""
    return base64.b64encode(os.urandom(18)).translate(_LETTERS)[:21].decode()


_LONGEST_TOKEN = 256
# Session ids go into our own texts without escapes.
_SESSION_ID = re.compile(r"[0-9A-Za-z_-]{8,128}")


def is_token(value: Any) -> TypeGuard[str]:
    """Whether a peer's id, nonce or token is one: any text, not empty and not long."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_TOKEN


def is_session_id(value: Any) -> TypeGuard[str]:
    """Whether a peer's half of a dcpsid, or a whole one, may be used."""
    return isinstance(value, str) and _SESSION_ID.fullmatch(value) is not None
