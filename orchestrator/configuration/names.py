"""Pure: the name that somebody probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that `name` resembles most; None when it resembles none."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def nearest_of(name: str, spellings: Mapping[str, str]) -> str | None:
    """The same where a thing has several spellings: {spelling: name}."""
    found = nearest(name, spellings)
    return None if found is None else spellings[found]


def did_you_mean(name: str | None) -> str:
    return f"; did you mean {name}?" if name else ""
