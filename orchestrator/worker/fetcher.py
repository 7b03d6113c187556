"""Getting what a job needs from outside: code, arguments, data, modules; and POSTing results to the job's storage.

`data:` URIs pass through untouched (they are decoded inside the sandbox). What comes over http(s) or from an allowed
file becomes a data: URI of its MIME type. Every URL is checked against the owner's origin rules, again after each
redirect; sizes and times are bounded; no cookies, no credentials; a server that answers with errors is left alone for a
growing while.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import dataclasses
import json
import mimetypes
import pathlib
import time
import urllib.parse
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

import aiohttp

from orchestrator.errors import Fault, InvalidInput, OrchestratorError
from orchestrator.jobs import data_uris
from orchestrator.worker.origins import OriginRules, Purpose
from orchestrator.worker.owned_tasks import OwnedTasks

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 10
_BACKOFF_FIRST_S: Final = 2.0
_BACKOFF_MOST_S: Final = 180.0
_PLACES_KEPT: Final = 1000
_CHUNK: Final = 64 * 1024
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HEADERS_WITHHELD: Final = frozenset(
    {"host", "cookie", "cookie2", "connection", "content-length", "transfer-encoding", "upgrade", "proxy-authorization"}
)


class FetchFailed(OrchestratorError):
    """A URI could not be had. `code` is what the Scheduler gets as the reason of returned slices.

    `retry_after_s` is how long the server is left alone now; `final` that trying again cannot help.
    """

    code = "EFETCH"
    fault = Fault.JOB
    retryable = True

    def __init__(self, message: str, *, code: str | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


@dataclasses.dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bytes are counted after decompression; seconds are for one whole fetch, redirects included."""

    max_bytes: int = 64 * 1024 * 1024
    timeout_s: float = 60.0
    at_once: int = 16
    cache_bytes: int = 256 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Fetched:
    """What a server answered."""

    url: str
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    mime: str
    charset: str
    body: bytes

    def data_uri(self) -> str:
        """Raises `FetchFailed` when text is not what its character set says."""
        textual = self.mime.startswith("text/") or self.mime in (data_uris.JSON, data_uris.KVIN)
        if not textual:
            return data_uris.encode_data_uri(self.body, self.mime)
        try:
            return data_uris.encode_data_uri(self.body.decode(self.charset), self.mime)
        except (UnicodeDecodeError, LookupError, InvalidInput) as error:
            raise FetchFailed(f"{self.url[:200]} is not text in {self.charset}: {error}") from None


class Fetcher:
    """`async with` it. Cancelling a fetch gives it up, unless somebody else waits for the same artifact."""

    def __init__(
        self,
        rules: OriginRules,
        limits: FetchLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules
        self.limits = limits or FetchLimits()
        self._clock = clock
        self._tasks = OwnedTasks()
        self._slots = asyncio.Semaphore(self.limits.at_once)
        self._cache: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._cached_size = 0
        self._flights: dict[str, asyncio.Task[str | OrchestratorError]] = {}
        self._left_alone: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()
        self._counts: collections.Counter[str] = collections.Counter()

    async def __aenter__(self) -> Fetcher:
        await self._tasks.__aenter__()
        # Each fetch has its own deadline; a session must not keep cookies of one job for another.
        self._http = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": "dcp-orchestrator"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._tasks.__aexit__(kind, exc, traceback)
        finally:
            await self._http.close()

    # -- what the worker asks for ------------------------------------------------------------------------------------

    async def datum(self, uri: str) -> str:
        """A slice's datum as a data: URI. Raises `FetchFailed` (ESLICEFETCH during back-off) or `OriginForbidden`."""
        if uri.startswith("data:"):
            return uri
        return (await self._get(uri, Purpose.DATA, "ESLICEFETCH")).data_uri()

    async def artifact(self, uri: str, purpose: Purpose) -> str:
        """Code or an argument as a data: URI, cached.

        Raises `FetchFailed` (EJOBFETCH during back-off) or `OriginForbidden`.
        """
        if uri.startswith("data:"):
            return uri
        self.rules.check(uri, purpose)  # a cached answer is no permission
        return await self._once(uri, purpose)

    async def text(self, uri: str, purpose: Purpose) -> str:
        """An artifact that is text: a work function, a module, a serialised range."""
        fetched = await self.artifact(uri, purpose)
        try:
            _mime, content = data_uris.decode_data_uri(fetched, self.limits.max_bytes)
        except InvalidInput as error:
            raise FetchFailed(f"{uri[:60]!r}: {error.message}") from None
        if isinstance(content, bytes):
            try:
                return content.decode()
            except UnicodeDecodeError as error:
                raise FetchFailed(f"{uri[:60]!r} is not UTF-8 text: {error}") from None
        return content

    async def store_result(self, url: str, element: int, content: str, mime: str, params: Mapping[str, Any]) -> str:
        """POST a result to its job's storage; the answer becomes the data: URI that is reported instead of the result.

        Raises `FetchFailed` or `OriginForbidden`.
        """
        fields = {"contentType": mime, "element": str(element), "content": content}
        fields |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()}
        form = urllib.parse.urlencode(fields, errors="surrogatepass").encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await self._guarded("POST", url, Purpose.RESULTS, "EFETCH", headers=headers, body=form)
        return answer.data_uri()

    async def for_guest(self, request: Mapping[str, Any]) -> Fetched:
        """A `fetch` of a work function: any status is an answer. Allowed by the purpose `any` alone.

        `request` is {url, method, headersEntries, bodyBase64?}. Raises `FetchFailed` or `OriginForbidden`.
        """
        url, method = request.get("url"), str(request.get("method") or "GET").upper()
        if not isinstance(url, str) or method not in _METHODS:
            raise FetchFailed("fetch needs a URL and a usual method")
        entries = request.get("headersEntries")
        headers = {
            entry[0]: entry[1]
            for entry in (entries if isinstance(entries, list) else ())
            if isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)
            if entry[0].lower() not in _HEADERS_WITHHELD
        }
        encoded = request.get("bodyBase64")
        try:
            body = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else None
        except ValueError:
            raise FetchFailed("the body of a fetch is not base64") from None
        return await self._timed(method, url, Purpose.ANY, headers, body)

    def statistics(self) -> dict[str, Any]:
        return {
            "cached": len(self._cache),
            "cached_size": self._cached_size,
            "flights": len(self._flights),
            "left_alone": {place: until for place, (until, _pause) in self._left_alone.items()},
            "counts": dict(self._counts),
        }

    # -- cache, single flight ----------------------------------------------------------------------------------------

    async def _once(self, uri: str, purpose: Purpose) -> str:
        cached = self._cache.get(uri)
        if cached is not None:
            self._cache.move_to_end(uri)
            self._counts["cache hits"] += 1
            return cached
        flight = self._flights.get(uri)
        if flight is None:
            flight = self._tasks.create_task(self._fly(uri, purpose), name=f"fetch {uri[:100]}")
            self._flights[uri] = flight
            flight.add_done_callback(lambda done: self._landed(uri, done))
        landed = await asyncio.shield(flight)
        if isinstance(landed, OrchestratorError):
            raise landed
        return landed

    async def _fly(self, uri: str, purpose: Purpose) -> str | OrchestratorError:
        """The error is a value here: raised, it would end the task group and everybody's fetches with it."""
        try:
            return (await self._get(uri, purpose, "EJOBFETCH")).data_uri()
        except OrchestratorError as error:
            return error

    def _landed(self, uri: str, flight: asyncio.Task[str | OrchestratorError]) -> None:
        del self._flights[uri]
        if flight.cancelled() or flight.exception() is not None:
            return
        content = flight.result()
        if isinstance(content, OrchestratorError) or len(content) * 4 > self.limits.cache_bytes:
            return
        self._cache[uri] = content
        self._cached_size += len(content)
        while self._cached_size > self.limits.cache_bytes:
            _uri, evicted = self._cache.popitem(last=False)
            self._cached_size -= len(evicted)

    # -- one fetch ---------------------------------------------------------------------------------------------------

    async def _get(self, uri: str, purpose: Purpose, code: str) -> Fetched:
        self.rules.check(uri, purpose)
        if uri.startswith("file:"):
            return await self._read_file(uri)
        return await self._guarded("GET", uri, purpose, code)

    async def _guarded(
        self,
        method: str,
        url: str,
        purpose: Purpose,
        code: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Fetched:
        """A fetch whose only good answer is 200; others put the place into back-off."""
        self.rules.check(url, purpose)
        place = _place(url)
        until, pause = self._left_alone.get(place, (0.0, 0.0))
        if until > (now := self._clock()):
            self._counts["not asked in back-off"] += 1
            raise FetchFailed(f"{place} is left alone after errors", code=code, retry_after_s=until - now)
        answer = await self._timed(method, url, purpose, headers or {}, body)
        if answer.status != 200:
            pause = min(max(pause * 2, _BACKOFF_FIRST_S), _BACKOFF_MOST_S)
            self._left_alone[place] = (self._clock() + pause, pause)
            self._left_alone.move_to_end(place)
            while len(self._left_alone) > _PLACES_KEPT:
                self._left_alone.popitem(last=False)
            raise FetchFailed(f"{url[:200]} answered {answer.status} {answer.reason}", code=code, retry_after_s=pause)
        self._left_alone.pop(place, None)
        return answer

    async def _timed(
        self, method: str, url: str, purpose: Purpose, headers: Mapping[str, str], body: bytes | None
    ) -> Fetched:
        self._counts["fetches"] += 1
        try:
            async with self._slots, asyncio.timeout(self.limits.timeout_s):
                return await self._follow(method, url, purpose, headers, body)
        except TimeoutError:
            raise FetchFailed(f"{url[:200]} took more than {self.limits.timeout_s:g} s") from None
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise FetchFailed(f"{url[:200]}: {error or type(error).__name__}") from None

    async def _follow(
        self, method: str, url: str, purpose: Purpose, headers: Mapping[str, str], body: bytes | None
    ) -> Fetched:
        for _ in range(_MAX_REDIRECTS + 1):
            self.rules.check(url, purpose)
            async with self._http.request(method, url, headers=headers, data=body, allow_redirects=False) as answer:
                location = answer.headers.get("Location")
                if answer.status not in _REDIRECTS or location is None:
                    return Fetched(
                        url=url,
                        status=answer.status,
                        reason=answer.reason or "",
                        headers=tuple(answer.headers.items()),
                        mime=answer.content_type,
                        charset=answer.charset or "utf-8",
                        body=await self._read(answer, url),
                    )
                url = urllib.parse.urljoin(url, location)
                if answer.status == 303 or (answer.status in (301, 302) and method == "POST"):
                    method, body = "GET", None
        raise FetchFailed(f"more than {_MAX_REDIRECTS} redirects, the last to {url[:200]}")

    async def _read(self, answer: aiohttp.ClientResponse, url: str) -> bytes:
        limit = self.limits.max_bytes
        if answer.content_length is not None and answer.content_length > limit:
            raise FetchFailed(f"{url[:200]} has {answer.content_length} bytes, more than the limit of {limit}")
        body = bytearray()
        async for chunk in answer.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > limit:
                raise FetchFailed(f"{url[:200]} has more than the limit of {limit} bytes")
        return bytes(body)

    async def _read_file(self, uri: str) -> Fetched:
        path = pathlib.Path(urllib.parse.unquote(urllib.parse.urlsplit(uri).path))
        limit = self.limits.max_bytes

        def read() -> bytes:
            with path.open("rb") as file:
                return file.read(limit + 1)

        try:
            body = await asyncio.to_thread(read)
        except OSError as error:
            raise FetchFailed(f"{uri[:200]}: {error.strerror}") from None
        if len(body) > limit:
            raise FetchFailed(f"{uri[:200]} has more than the limit of {limit} bytes")
        mime = mimetypes.guess_type(path.name)[0] or "text/plain"
        return Fetched(uri, 200, "OK", (), mime, "utf-8", body)


def _place(url: str) -> str:
    """What is left alone together: the origin and the first segment of the path, as the official worker does it."""
    parts = urllib.parse.urlsplit(url)
    first = parts.path.lstrip("/").partition("/")[0]
    return f"{parts.scheme}://{parts.netloc}/{first}"
