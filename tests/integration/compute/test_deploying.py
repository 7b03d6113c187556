"""Our client deploys a job, and a session ends while it does."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.compute.job import Job, Range
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.config import build_config, config_text, fetch_config
from orchestrator.protocol.errors import ConnectionLost
from orchestrator.protocol.server import DcpServer, Request
from orchestrator.wallet.keys import PrivateKey


class Agreeing:
    """A service to which everything is fine."""

    async def handle(self, request: Request) -> Any:
        return {}


class Leaving:
    """A service that is ended by the first request, as by a restart."""

    async def handle(self, request: Request) -> Any:
        request.connection.close()
        return {}


async def test_a_session_that_ends_meanwhile_is_told_as_what_it_is() -> None:
    """And not as a group of errors, which nobody who deploys would catch."""
    names = ("jobSubmit", "eventRouter", "resultSubmitter", "computeGroups")
    services = {name: Leaving() if name == "computeGroups" else Agreeing() for name in names}
    server = DcpServer(
        PrivateKey.generate(), services,
        lambda version, origin: config_text(build_config(origin, services=names), version),
    )  # fmt: skip
    async with server, DcpClient(PrivateKey.generate()) as client:
        config = await fetch_config(f"http://127.0.0.1:{await server.listen()}/")
        with pytest.raises(ConnectionLost):
            await Job("(x) => x", Range(1, 2)).exec(client, config, client.identity)
