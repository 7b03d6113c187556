"""What answers at a service's address need not be one: a proxy's page, noise, another protocol."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.protocol.client_socket import CannotConnect, ClientSocket

_PAGE = b"<html>502 Bad Gateway</html>"
_ANSWERS = {
    "a page": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(_PAGE), _PAGE),
    "noise": bytes(range(256)) * 2,
    "a frame without a handshake": b'\x81\x0542["a',
    "nothing": b"",
}


@pytest.mark.parametrize("what", _ANSWERS)
async def test_a_socket_that_cannot_be_opened_says_so_and_nothing_else(what: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_ANSWERS[what])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(CannotConnect):
            await ClientSocket.open(f"http://127.0.0.1:{port}/pheme/", timeout=5)
