"""Where the Docker Engine listens, and asynchronous connections to it: HTTP by hand, for streams that the SDK blocks
on.

Only two streams are needed (attach and events), both for as long as their connection lives, so this is not an HTTP
client: one request per connection, no reuse.
"""

from __future__ import annotations

import asyncio
import pathlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlsplit

from orchestrator.worker.docker_runtime import failures

DEFAULT_ADDRESS: Final = "unix:///var/run/docker.sock"
_HEAD_LIMIT: Final = 64 * 1024

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


@dataclass(frozen=True)
class Endpoint:
    """The Engine's address. `socket` for a unix socket, else `host`, `port` and perhaps the folder of TLS files."""

    address: str
    socket: str | None = None
    host: str = ""
    port: int = 0
    certificates: pathlib.Path | None = None
    verify: bool = True

    @property
    def local(self) -> bool:
        """Whether the Engine surely runs on this machine (and so its cgroups are in our tree)."""
        return self.socket is not None

    @classmethod
    def parse(cls, environment: Mapping[str, str], address: str | None = None) -> Endpoint:
        """From DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, or `address`. Raises RuntimeUnavailable."""
        address = address or environment.get("DOCKER_HOST") or DEFAULT_ADDRESS
        parts = urlsplit(address)
        if parts.scheme == "unix":
            return cls(address, socket=parts.path)
        if parts.scheme not in ("tcp", "http", "https"):
            raise failures.unsupported(address, f"scheme {parts.scheme or 'none'} cannot carry an attached stream here")
        verify = bool(environment.get("DOCKER_TLS_VERIFY"))
        folder = environment.get("DOCKER_CERT_PATH") or str(pathlib.Path.home() / ".docker")
        tls = verify or parts.scheme == "https"
        try:
            port = parts.port or (2376 if tls else 2375)
        except ValueError as exc:
            raise failures.unsupported(address, "its port is not a number") from exc
        if not parts.hostname:
            raise failures.unsupported(address, "it names no host")
        return cls(
            address,
            host=parts.hostname,
            port=port,
            certificates=pathlib.Path(folder) if tls else None,
            verify=verify,
        )

    def tls_context(self) -> ssl.SSLContext | None:
        if self.certificates is None:
            return None
        authority = self.certificates / "ca.pem"
        context = ssl.create_default_context(cafile=str(authority) if authority.exists() else None)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        key = self.certificates / "key.pem"
        if key.exists():
            context.load_cert_chain(self.certificates / "cert.pem", key)
        return context

    async def connect(self, factory: Callable[[], _P], timeout_s: float) -> tuple[asyncio.Transport, _P]:
        """A connection for a protocol of ours. Raises RuntimeUnavailable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                if self.socket is not None:
                    return await loop.create_unix_connection(factory, self.socket)
                return await loop.create_connection(factory, self.host, self.port, ssl=self.tls_context())
        except OSError as exc:
            raise self.failure(exc, timeout_s) from exc

    async def open(self, timeout_s: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection with streams. Raises RuntimeUnavailable."""
        try:
            async with asyncio.timeout(timeout_s):
                if self.socket is not None:
                    return await asyncio.open_unix_connection(self.socket, limit=_HEAD_LIMIT)
                return await asyncio.open_connection(self.host, self.port, ssl=self.tls_context(), limit=_HEAD_LIMIT)
        except OSError as exc:
            raise self.failure(exc, timeout_s) from exc

    def failure(self, exc: OSError, timeout_s: float) -> failures.RuntimeUnavailable:
        """What it means that a connection could not be made."""
        if isinstance(exc, TimeoutError):
            return failures.silent("connect", timeout_s)
        if isinstance(exc, PermissionError):
            return failures.forbidden(self.address)
        return failures.missing(self.address)


def request_head(method: str, path: str, *, upgrade: bool = False) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: docker", "Content-Length: 0"]
    if upgrade:
        lines += ["Connection: Upgrade", "Upgrade: tcp"]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


@dataclass(frozen=True)
class ResponseHead:
    status: int
    headers: Mapping[str, str]


def parse_head(head: bytes) -> ResponseHead:
    """The status line and header fields (names in lower case). Raises ValueError."""
    first, *rest = head.decode("latin-1").split("\r\n")
    version, _, after = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not an HTTP answer: {first[:80]}")
    fields = (line.partition(":") for line in rest if line)
    return ResponseHead(int(after[:3]), {name.strip().lower(): value.strip() for name, _, value in fields})


async def read_head(reader: asyncio.StreamReader) -> ResponseHead:
    return parse_head((await reader.readuntil(b"\r\n\r\n"))[:-4])


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The chunks of a `Transfer-Encoding: chunked` body. Ends at the last one; raises IncompleteReadError when cut."""
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size == 0:
            return
        chunk = await reader.readexactly(size)
        await reader.readexactly(2)
        yield chunk
