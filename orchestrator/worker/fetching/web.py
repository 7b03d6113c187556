"""HTTP as the worker speaks it for jobs: every hop checked, every address checked, every size and time bounded.

A name is resolved once per connection, all answers are checked, and the connection goes to exactly these addresses:
a name that changes its mind in between gains nothing. Connections to origins that the owner named (which may lie in
the worker's own network) are never shared with those that were only allowed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Final

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.worker.fetching import addresses
from orchestrator.worker.fetching.failures import Cause, FetchFailed
from orchestrator.worker.fetching.unpacking import KNOWN, Damaged, Unpacker
from orchestrator.worker.origins import (
    OriginForbidden,
    OriginRules,
    Permission,
    Purpose,
    Reach,
    address_refusal,
    opens,
)

log = logging.getLogger(__name__)

#: `(host, port) -> addresses`; raises OSError.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 10
_MAX_HEADER_LINE: Final = 8190
_MAX_HEADERS: Final = 128
_RESOLVING_AT_ONCE: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class WebLimits:
    """Seconds for a whole fetch (redirects included), for a connection, and without `least_bytes` of a body."""

    timeout_s: float = 60.0
    connect_s: float = 10.0
    idle_s: float = 15.0
    least_bytes: int = 1024


def _anywhere(_permission: Permission) -> None:
    pass


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """One request. `max_bytes` is counted after decompression. `before` is told of each hop, and may raise."""

    method: str
    url: str
    purpose: Purpose
    rules: OriginRules
    max_bytes: int
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes | None = None
    before: Callable[[Permission], None] = _anywhere


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered in the end."""

    url: str
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    mime: str
    charset: str
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known.lower() == name), None)


class Web:
    """`async with` it. `proxy` is the URL of an HTTP proxy: then it resolves the names, and what it reaches is its own
    affair; addresses in URLs are still checked here. Proxies in environment variables are not used."""

    def __init__(
        self,
        limits: WebLimits,
        *,
        proxy: str | None = None,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.limits = limits
        if proxy is not None and not proxy.startswith(("http://", "https://")):
            raise InvalidInput(f"fetch-proxy {proxy[:100]!r} is not the http URL of a proxy, as http://host:3128")
        self._proxy = proxy
        self._threads = concurrent.futures.ThreadPoolExecutor(_RESOLVING_AT_ONCE, thread_name_prefix="resolve")
        self._resolve = resolve or self._ask_system
        self._tls = tls
        self._sessions: dict[Reach, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Web:
        for reach in Reach:
            self._sessions[reach] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_CheckingResolver(self._resolve, None if self._proxy else reach, self.limits.connect_s),
                    ssl=self._tls or True,
                    use_dns_cache=False,
                    family=socket.AF_UNSPEC,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),  # what one job gets must not go out for another
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.limits.connect_s),
                headers={"User-Agent": "dcp-orchestrator", "Accept-Encoding": "gzip, deflate"},
                max_line_size=_MAX_HEADER_LINE,
                max_field_size=_MAX_HEADER_LINE,
                max_headers=_MAX_HEADERS,
                auto_decompress=False,  # `Unpacker` also notices when the end is missing
                trust_env=False,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for session in self._sessions.values():
            await session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, demand: Demand) -> Answer:
        """Raises `FetchFailed` or `OriginForbidden`. The answer may have any status."""
        shown = demand.url[:200]
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                return await self._follow(demand)
        except OrchestratorError:
            raise
        except aiohttp.ClientPayloadError as error:
            raise FetchFailed(f"{shown} was cut off or is damaged: {_text(error)}", Cause.TRUNCATED) from None
        except aiohttp.ClientConnectorDNSError as error:
            raise FetchFailed(f"{shown}: the name of its host leads nowhere: {error.strerror}", Cause.DNS) from None
        except aiohttp.InvalidURL as error:
            raise FetchFailed(f"{shown} is not a URL that can be asked for: {_text(error)}", Cause.URI) from None
        except aiohttp.ServerTimeoutError:
            raise FetchFailed(f"{shown}: no connection within {self.limits.connect_s:g} s", Cause.TIMEOUT) from None
        except TimeoutError:
            raise FetchFailed(f"{shown} took more than {self.limits.timeout_s:g} s", Cause.TIMEOUT) from None
        except (aiohttp.ClientError, ssl.SSLError, OSError) as error:
            raise FetchFailed(f"{shown}: {_text(error)}", Cause.NETWORK) from None
        except ValueError as error:  # a header that cannot be sent
            raise FetchFailed(f"{shown}: {_text(error)}", Cause.URI) from None
        except Exception as error:  # whatever a server did to the library, it must not end the worker
            log.exception("fetch_broke", extra={"url": shown})
            raise FetchFailed(f"{shown}: {type(error).__name__}", Cause.NETWORK) from None

    async def _follow(self, demand: Demand) -> Answer:
        method, headers, body = demand.method, dict(demand.headers), demand.body
        permission = demand.rules.check(demand.url, demand.purpose)
        for _ in range(_MAX_REDIRECTS + 1):
            demand.before(permission)
            async with await self._request(method, permission, headers, body) as answer:
                location = answer.headers.get("Location")
                if answer.status not in _REDIRECTS or location is None:
                    return await self._answer(answer, demand, permission)
                if answer.status == 303 or (answer.status in (301, 302) and method == "POST"):
                    method, body = ("HEAD" if method == "HEAD" else "GET"), None
                    headers = {
                        name: value for name, value in headers.items() if not name.lower().startswith("content-")
                    }
            before, permission = permission, demand.rules.check(_target(permission.url, location), demand.purpose)
            if before.origin.scheme == "https" and permission.origin.scheme == "http":
                raise OriginForbidden(
                    f"{before.origin} leads from https to {permission.origin}, in the clear: not followed",
                    info={"cause": "downgrade"},
                )
            if before.origin != permission.origin:
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        raise FetchFailed(
            f"{demand.url[:200]}: more than {_MAX_REDIRECTS} redirects, the last to {str(permission.url)[:200]}",
            Cause.REDIRECTS,
        )

    async def _request(
        self, method: str, permission: Permission, headers: Mapping[str, str], body: bytes | None
    ) -> aiohttp.ClientResponse:
        session = self._sessions[permission.reach]
        try:
            return await session.request(
                method, permission.url, headers=headers, data=body, allow_redirects=False, proxy=self._proxy
            )
        except _AddressRefused as refused:
            raise address_refusal(permission, refused.kind) from None

    async def _answer(self, answer: aiohttp.ClientResponse, demand: Demand, permission: Permission) -> Answer:
        url = str(permission.url)
        encoding = answer.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in KNOWN:
            raise FetchFailed(f"{url[:200]} has the content encoding {encoding[:40]!r}, not asked for", Cause.TYPE)
        return Answer(
            url=url,
            status=answer.status,
            reason=answer.reason or "",
            headers=tuple(answer.headers.items()),
            mime=answer.content_type,
            charset=answer.charset or "utf-8",
            body=await self._read(answer, url, demand.max_bytes, Unpacker(encoding)),
        )

    async def _read(self, answer: aiohttp.ClientResponse, url: str, limit: int, unpacker: Unpacker) -> bytes:
        if answer.content_length is not None and answer.content_length > limit and answer.method != "HEAD":
            raise FetchFailed(
                f"{url[:200]} has {answer.content_length} bytes, more than the limit of {limit}", Cause.TOO_LARGE
            )
        body = bytearray()
        try:
            while True:  # each turn must bring `least_bytes` in `idle_s`, so that nobody can drip for the whole time
                received = 0
                async with asyncio.timeout(self.limits.idle_s):
                    while received < self.limits.least_bytes:
                        chunk = await answer.content.readany()
                        if not chunk:
                            unpacker.finish()
                            return bytes(body)
                        received += len(chunk)
                        for piece in unpacker.feed(chunk):
                            body += piece
                            if len(body) > limit:
                                raise FetchFailed(
                                    f"{url[:200]} has more than the limit of {limit} bytes", Cause.TOO_LARGE
                                )
        except Damaged as error:
            raise FetchFailed(f"{url[:200]}: {error}", Cause.TRUNCATED) from None
        except TimeoutError:
            raise FetchFailed(
                f"{url[:200]} sent less than {self.limits.least_bytes} bytes in {self.limits.idle_s:g} s", Cause.STALLED
            ) from None

    async def _ask_system(self, host: str, port: int) -> Sequence[str]:
        """In threads of its own: a name server that is silent must not hold up the rest of the worker."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        )
        return [str(entry[4][0]) for entry in found]


class _AddressRefused(Exception):
    """Inside this module only: a name leads where this session may not connect."""

    def __init__(self, kind: addresses.Kind) -> None:
        super().__init__(kind.value)
        self.kind = kind


class _CheckingResolver(AbstractResolver):
    """Gives aiohttp the addresses to connect to: all of them checked, or none. `reach` None: unchecked, for proxies."""

    def __init__(self, resolve: Resolve, reach: Reach | None, patience_s: float) -> None:
        self._resolve = resolve
        self._reach = reach
        self._patience_s = patience_s

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            async with asyncio.timeout(self._patience_s):
                found = dict.fromkeys(await self._resolve(host, port))
        except TimeoutError:
            raise OSError(errno.EHOSTUNREACH, "the name servers do not answer") from None
        if not found:
            raise OSError(errno.EADDRNOTAVAIL, "it has no address")
        if self._reach is not None:
            for text in found:
                address = addresses.parse(text)
                kind = addresses.Kind.RESERVED if address is None else addresses.kind(address)
                if not opens(self._reach, kind):
                    raise _AddressRefused(kind)
        return [
            ResolveResult(
                hostname=host,
                host=text,
                port=port,
                family=socket.AF_INET6 if ":" in text else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for text in found
        ]

    async def close(self) -> None:
        pass


def _target(url: yarl.URL, location: str) -> yarl.URL | str:
    """Where a redirect leads; unreadable ones as they are, to be refused."""
    try:
        return url.join(yarl.URL(location[:_MAX_HEADER_LINE]))
    except ValueError:
        return location


def _text(error: BaseException) -> str:
    return str(error)[:300] or type(error).__name__
