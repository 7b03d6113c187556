"""Reading a file of this machine for a job that runs where it was deployed: ordinary files that the owner allowed."""

from __future__ import annotations

import mimetypes
import os
import pathlib
import stat
from collections.abc import Iterable
from typing import Final

from orchestrator.worker.fetching.failures import Cause, FetchFailed
from orchestrator.worker.origins import OriginForbidden, OriginRules

_CHUNK: Final = 1024 * 1024


def read(path: str, entries: Iterable[str], max_bytes: int) -> tuple[str, bytes]:
    """(MIME type, content). Blocks: call it in a thread. `entries` are the allowed paths, folders ending in `/`.

    What counts is where the opened file really lies: a symbolic link leads no further than its target is allowed, and
    replacing the file meanwhile gains nothing. Pipes, devices and the like are refused without being waited for.

    Raises `FetchFailed` or `OriginForbidden`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise FetchFailed(f"file {path[:200]!r}: {error.strerror}", Cause.FILE) from None
    except ValueError:  # half a surrogate pair
        raise FetchFailed(f"file {path[:200]!r} has a name that no file has", Cause.FILE) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FetchFailed(f"file {path[:200]!r} is not an ordinary file", Cause.FILE)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not OriginRules.allows_path(
            str(pathlib.Path(f"/proc/self/fd/{descriptor}").readlink()), map(_real, entries)
        ):
            raise OriginForbidden(
                f"file {path[:200]!r} lies elsewhere than it says, where it is not allowed", info={"cause": "file"}
            )
        content = bytearray()
        while chunk := file.read(_CHUNK):
            content += chunk
            if len(content) > max_bytes:
                raise FetchFailed(f"file {path[:200]!r} has more than the limit of {max_bytes} bytes", Cause.TOO_LARGE)
    return mimetypes.guess_type(path)[0] or "text/plain", bytes(content)


def _real(entry: str) -> str:
    return os.path.realpath(entry) + ("/" if entry.endswith("/") else "")
