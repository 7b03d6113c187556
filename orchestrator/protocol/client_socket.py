"""socket.io on the client's side: one socket that carries strings, and nothing of DCP.

This is the only module that knows python-socketio's client.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import socketio
from socketio import exceptions
from yarl import URL

from orchestrator.errors import NetworkFailure
from orchestrator.protocol.certificates import untrusted
from orchestrator.protocol.framing import ANNOUNCEMENT, Receiver, Sender

__all__ = ["CannotConnect", "ClientSocket"]

_PATH_SUFFIX = "dcp5/socketio"
_CLOSE_TIMEOUT = 2
_TRANSPORTS = ["websocket"]


class CannotConnect(NetworkFailure):
    """No socket could be opened."""


class ClientSocket:
    """An open socket. Iterate over it for the packets that come; the iteration ends when the socket is gone."""

    def __init__(self, sio: socketio.AsyncClient) -> None:
        self.sender = Sender()
        self.receiver = Receiver()
        self._sio = sio
        self._packets: asyncio.Queue[str | None] = asyncio.Queue()
        sio.on("message", self._received)
        sio.on("disconnect", self._gone)

    @classmethod
    async def open(cls, url: str, *, timeout: float) -> ClientSocket:
        """Connect and announce. Raise `CannotConnect`, also when that takes longer than `timeout` seconds, and
        `UntrustedCertificate`."""
        parsed = URL(url)
        sio = socketio.AsyncClient(
            reconnection=False,
            logger=False,
            engineio_logger=False,
            handle_sigint=False,
            request_timeout=timeout,
            websocket_extra_options={"max_msg_size": 0},
        )
        socket = cls(sio)
        try:
            async with asyncio.timeout(timeout):
                await sio.connect(
                    str(parsed.origin()),
                    transports=_TRANSPORTS,
                    socketio_path=parsed.raw_path + _PATH_SUFFIX,
                    wait_timeout=timeout,
                )
                await sio.send(ANNOUNCEMENT)
        except Exception as error:  # the libraries raise what they like at answers that are no socket.io
            await socket.close()
            certificate = await untrusted(url, error)
            if certificate is not None:
                raise certificate from error
            raise CannotConnect(f"{url} cannot be reached: {str(error) or type(error).__name__}") from error
        except asyncio.CancelledError:
            await socket.close()
            raise
        return socket

    async def send(self, packet: str) -> None:
        """Hand over a packet; one that cannot be sent any more is dropped, and the iteration ends soon."""
        with contextlib.suppress(exceptions.SocketIOError):
            await self._sio.send(packet)

    async def close(self) -> None:
        with contextlib.suppress(exceptions.SocketIOError, TimeoutError, OSError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._sio.disconnect()
        self._gone()

    async def __aiter__(self) -> AsyncIterator[str]:
        while (packet := await self._packets.get()) is not None:
            yield packet

    def _received(self, *arguments: Any) -> None:
        if len(arguments) == 1 and isinstance(arguments[0], str):
            self._packets.put_nowait(arguments[0])

    def _gone(self, *_: Any) -> None:
        self._packets.put_nowait(None)
