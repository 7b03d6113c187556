"""The Scheduler's configuration, however long it takes to get one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final

from orchestrator.errors import InvalidInput, NetworkFailure
from orchestrator.protocol.client import fetch_config
from orchestrator.worker.scheduler_link.services import check_services

log = logging.getLogger(__name__)

_RETRY_S: Final = (0.25, 0.5, 1.0, 2.0, 5.0)


async def find(url: str, given_up: asyncio.Event) -> dict[str, Any] | None:
    """A configuration that names all services a worker needs; None when it is given up first.

    Raises `UntrustedCertificate`: that somebody has to mend, here or there.
    """
    attempt = 0
    while not given_up.is_set():
        try:
            config = await fetch_config(url)
            check_services(config)
            return config
        except (NetworkFailure, InvalidInput) as error:  # what answers now need not answer for ever
            level = logging.WARNING if attempt in (0, 5) else logging.DEBUG
            log.log(level, "scheduler_unreachable", extra={"code": error.code, "error": error.message})
        pause = _RETRY_S[min(attempt, len(_RETRY_S) - 1)]
        attempt += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await given_up.wait()
    return None
