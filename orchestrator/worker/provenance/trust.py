"""Checked before its first use: an image for which a key vouched once is remembered, with the key."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Final

from orchestrator.errors import InvalidInput, NetworkFailure
from orchestrator.worker.docker_runtime import failures
from orchestrator.worker.provenance.cosign import NotSigned
from orchestrator.worker.provenance.verify import verify

FILE: Final = "trusted-images.json"
_MOST: Final = 100


class TrustedImages:
    """A file in the state folder, which only the worker's user may write. A damaged one is forgotten."""

    def __init__(self, state_dir: pathlib.Path) -> None:
        self._path = state_dir / FILE

    def find(self, key: str, image_id: str) -> str | None:
        """The name under which the image was vouched for."""
        found = self._read().get(f"{key} {image_id}")
        return found if isinstance(found, str) else None

    def remember(self, key: str, image_id: str, name: str) -> None:
        """Failing to is no harm: it will be checked again."""
        known = {**self._read(), f"{key} {image_id}": name}
        text = json.dumps(dict(list(known.items())[-_MOST:]), indent=1)
        temporary = self._path.with_name(f".{FILE}.{os.getpid()}")
        with contextlib.suppress(OSError):
            temporary.write_text(text)
            temporary.chmod(0o600)
            temporary.replace(self._path)

    def _read(self) -> dict[str, object]:
        try:
            known = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


async def insist(
    image: str,
    image_id: str,
    repo_digests: Sequence[str],
    public_key: pathlib.Path,
    images: TrustedImages,
    *,
    pin: str | None = None,
) -> str:
    """The name under which the key vouches for an image, now or when it was first used.

    Raises RuntimeUnavailable("image-unsigned"), and `InvalidInput` when there is no such key.
    """
    try:
        raw = await asyncio.to_thread(public_key.read_bytes)
    except OSError as error:
        raise InvalidInput(f"image_public_key {public_key} cannot be read: {error.strerror}") from None
    key = hashlib.sha256(raw).hexdigest()
    known = await asyncio.to_thread(images.find, key, image_id)
    if known is not None:
        return known
    try:
        name = await verify(public_key, repo_digests, pin)
    except (NotSigned, NetworkFailure) as error:
        raise failures.image_unsigned(image, error.message) from error
    except TimeoutError:
        raise failures.image_unsigned(image, "its registry did not answer in time") from None
    await asyncio.to_thread(images.remember, key, image_id, name)
    return name
