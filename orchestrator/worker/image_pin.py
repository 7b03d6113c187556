"""Pure: is the image that the Engine has the one that the operator meant?

A pin is `sha256:…`: the image's id, or the digest under which a registry has it. It stands in the image's name
(`name@sha256:…`), is the name itself (an id), or is given beside a name that may move.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from orchestrator.errors import InvalidInput

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def parse_pin(text: str, field: str = "image_digest") -> str:
    """`sha256:` and 64 hexadecimal digits; the word may be left out. Raises `InvalidInput`."""
    pin = text.strip().lower()
    pin = pin if pin.startswith("sha256:") else f"sha256:{pin}"
    if not _DIGEST.fullmatch(pin):
        raise InvalidInput(
            f"{field} is {text!r}: write sha256: and 64 hexadecimal digits, as `docker image inspect` shows them"
        )
    return pin


def pin_of(image: str, image_digest: str | None) -> str | None:
    """The digest that the settings ask for; None when they leave it open.

    Raises `InvalidInput` when a digest is malformed, or the name and the setting contradict each other.
    """
    _, at, tail = image.rpartition("@")
    named = parse_pin(tail, "the digest in image") if at else image if _DIGEST.fullmatch(image) else None
    wanted = None if image_digest is None else parse_pin(image_digest)
    if named is not None and wanted is not None and named != wanted:
        raise InvalidInput(f"image is pinned to {named}, image_digest to {wanted}: leave one out")
    return wanted or named


def digests_of(image_id: str, repo_digests: Iterable[str]) -> list[str]:
    """Every digest under which an image is known: its id first."""
    return list(dict.fromkeys([image_id, *(one.rpartition("@")[2] for one in repo_digests)]))
