"""Pure: compute groups to work for: how they are written, and how membership is proven without telling the secret."""

from __future__ import annotations

import re
from typing import Final

from orchestrator.errors import InvalidInput
from orchestrator.jobs import words

_HASH: Final = re.compile(r"eh1-[0-9a-f]{64}")
_LONGEST_KEY: Final = 128


def parse(entry: str) -> tuple[str, str]:
    """(join key, join hash) of `KEY,SECRET` or of `KEY,eh1-…`, where the hash stands for the secret.

    Raises `InvalidInput`; the message never has the secret.
    """
    key, comma, secret = entry.partition(",")
    key = key.strip()
    shown = repr(key[:_LONGEST_KEY])
    if not comma:
        raise InvalidInput("compute_groups: an entry has no comma; write KEY,SECRET or KEY,eh1-… (the join hash)")
    if not key or len(key) > _LONGEST_KEY:
        raise InvalidInput(f"compute_groups: {shown} is no join key: it has 1 to {_LONGEST_KEY} characters")
    if not secret:
        raise InvalidInput(f"compute_groups: group {shown} has no secret; write {key},SECRET or {key},eh1-…")
    if key == "public":
        raise InvalidInput("compute_groups: everybody is in the public group; --no-public-group leaves it")
    if secret.startswith("eh1-"):
        if not _HASH.fullmatch(secret):
            raise InvalidInput(f"compute_groups: the join hash of {shown} is not eh1- and 64 digits of 0-9 and a-f")
        return key, secret
    return key, words.join_hash(key, secret)
