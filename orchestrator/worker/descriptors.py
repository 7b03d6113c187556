"""Whether this process can still open anything. Libraries say "connection error" at best; here it has a name."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
from typing import Final

log = logging.getLogger(__name__)

_EVERY_S: Final = 1.0
_NONE_LEFT: Final = {
    errno.EMFILE: "the process has all the open files that it may (ulimit -n, LimitNOFILE=)",
    errno.ENFILE: "the machine has all the open files that it may (sysctl fs.file-max)",
}


def shortage() -> str:
    """Why nothing can be opened; "" when something can."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return _NONE_LEFT.get(error.errno or 0, "")
    return ""


class Descriptors:
    """Says when there are none left, and when there are some again; each once."""

    def __init__(self) -> None:
        self._short = False

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_EVERY_S)

    def look(self) -> None:
        """Costs a few microseconds."""
        why = shortage()
        if why and not self._short:
            log.error(
                "out_of_file_descriptors",
                extra={
                    "error": why,
                    "limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                    "remedy": "raise that limit; until then nothing new is opened, and what is open goes on",
                },
            )
        elif self._short and not why:
            log.warning("file_descriptors_are_back")
        self._short = bool(why)
