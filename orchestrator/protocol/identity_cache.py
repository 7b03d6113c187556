"""Which key each service answered with before, so that a changed one is noticed.

The file has dcp-client's name, place and form: `identity-cache.json` in the resource folder,
`{"<origin><pathname>": "0x…"}`.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import tempfile

from yarl import URL

from orchestrator.errors import InvalidInput
from orchestrator.protocol import js_json
from orchestrator.wallet import addresses

__all__ = ["IdentityCache"]

log = logging.getLogger(__name__)

_MAX_CHARACTERS = 4 * 1024 * 1024


class IdentityCache:
    """Addresses by service URL; in memory only when there is no path. Small files, read once and written on change."""

    def __init__(self, path: pathlib.Path | None = None) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        if path is not None:
            self._known = _read(path)

    def lookup(self, url: str) -> str | None:
        """The address that the service had, or None at first sight."""
        return self._known.get(_key(url))

    def learn(self, url: str, address: str) -> None:
        """Remember a service. A file that cannot be written is logged and otherwise does no harm."""
        key = _key(url)
        if self._known.get(key) == address:
            return
        self._known[key] = address
        if self._path is not None:
            try:
                # Other processes write here too.
                self._known = _read(self._path) | {key: address}
                _write(self._path, self._known)
            except OSError as error:
                log.warning("cannot write %s: %s", self._path, error, extra={"action": "identity-cache"})

    def forget(self, url: str) -> None:
        """Accept whatever key the service has next."""
        if self._known.pop(_key(url), None) is not None and self._path is not None:
            _write(self._path, self._known)


def _key(url: str) -> str:
    parsed = URL(url)
    return f"{parsed.origin()}{parsed.path}"


def _read(path: pathlib.Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        entries = js_json.loads(text[:_MAX_CHARACTERS])
        if not isinstance(entries, dict):
            raise InvalidInput("not an object")
        return {key: addresses.checksum(address) for key, address in entries.items()}
    except InvalidInput as error:
        # Guessing would defeat the purpose of the file.
        raise InvalidInput(f"{path} is damaged ({error.message}): repair it, or remove it to trust anew") from error


def _write(path: pathlib.Path, entries: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(entries, file, indent=2)
        pathlib.Path(name).replace(path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
