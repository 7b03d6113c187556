"""What the worker calls: code, arguments, data, modules and guests' fetches in; results out to a job's storage.

`data:` URIs pass through untouched (they are decoded inside the sandbox). What comes over http(s) or from an allowed
file becomes a data: URI of its MIME type. Every URL is checked against the owner's origin rules, again after each
redirect; addresses, sizes and times are bounded; no cookies, no credentials; a server that answers with errors is left
alone for a growing while.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import collections
import dataclasses
import json
import re
import ssl
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final

from orchestrator import telemetry
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.jobs import data_uris
from orchestrator.worker.fetching import files
from orchestrator.worker.fetching.backoff import Backoff, retry_after
from orchestrator.worker.fetching.cache import Cache, age_s
from orchestrator.worker.fetching.failures import Cause, FetchFailed
from orchestrator.worker.fetching.web import Answer, Demand, Resolve, Web, WebLimits
from orchestrator.worker.origins import OriginForbidden, OriginRules, Permission, Purpose
from orchestrator.worker.owned_tasks import OwnedTasks

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,4096}")
_MOST_GUEST_HEADERS: Final = 64
_HEADERS_WITHHELD: Final = frozenset(
    {"accept-encoding", "connection", "content-length", "cookie", "cookie2", "date", "expect", "host", "keep-alive",
     "origin", "referer", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "via"}
)  # fmt: skip
_PREFIXES_WITHHELD: Final = ("proxy-", "sec-")
_ANSWERS_WITHHELD: Final = frozenset({"set-cookie", "set-cookie2"})
#: Types that may be text without saying so. Servers send code as any of these.
_TEXT_TYPES: Final = frozenset(
    {"application/javascript", "application/x-javascript", "application/ecmascript", "application/octet-stream",
     data_uris.JSON, data_uris.KVIN}
)  # fmt: skip
#: Python knows more codecs than there are charsets, some of them slow by the square of the length.
_CHARSETS = re.compile(r"utf-(8|16|32)(-[bl]e)?|ascii|iso8859-\d+|cp125\d|cp932|koi8-[ru]|shift_jis|euc_\w+|gb\w+|big5")
_MIME = re.compile(r"[a-z0-9!#$&^_.+-]{1,100}/[a-z0-9!#$&^_.+-]{1,100}")
_IN_A_THREAD: Final = 256 * 1024
_STORE_PAUSE_S: Final = 1.0
_GROUPS_KEPT: Final = 1000
_ANSWER_BYTES: Final = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bytes are counted after decompression; `web` has the times. `guest_bytes` is for one answer to a `fetch` of a
    work function; `store_patience_s` how long a result that its storage does not take is kept for another try."""

    max_bytes: int = 64 * 1024 * 1024
    guest_bytes: int = 16 * 1024 * 1024
    cache_bytes: int = 256 * 1024 * 1024
    at_once: int = 16
    guests_at_once: int = 8
    store_patience_s: float = 120.0
    web: WebLimits = dataclasses.field(default_factory=WebLimits)


@dataclasses.dataclass(frozen=True, slots=True)
class Errand:
    """For whom: `group` is the compute group through which the job came, `local` that it runs where it was deployed."""

    group: str = ""
    local: bool = False


STRANGER: Final = Errand()


class Fetcher:
    """`async with` it. Cancelling a fetch gives it up, unless somebody else waits for the same artifact.

    `clock` is monotonic; `tls` says whom to believe, the system's authorities when not given. `trust` makes the origins
    count that a Scheduler gives for its compute groups (see `lend`).
    """

    def __init__(
        self,
        rules: OriginRules,
        limits: FetchLimits | None = None,
        *,
        trust: bool = False,
        proxy: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.rules = rules
        self.limits = limits or FetchLimits()
        self._trust = trust
        self._clock = clock
        self._sleep = sleep
        self._web = Web(self.limits.web, proxy=proxy, resolve=resolve, tls=tls)
        self._tasks = OwnedTasks()
        self._slots = asyncio.Semaphore(self.limits.at_once)
        self._store_slots = asyncio.Semaphore(self.limits.at_once)  # results never wait behind slow data
        self._guest_slots = asyncio.Semaphore(self.limits.guests_at_once)
        self._cache = Cache(self.limits.cache_bytes)
        self._flights: dict[tuple[str, ...], asyncio.Task[str | OrchestratorError]] = {}
        self._backoff = Backoff()
        self._groups: dict[str, OriginRules] = {}
        self._counts: collections.Counter[str] = collections.Counter()

    async def __aenter__(self) -> Fetcher:
        await self._tasks.__aenter__()
        await self._web.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._tasks.__aexit__(kind, exc, traceback)
        finally:
            await self._web.__aexit__(kind, exc, traceback)

    def allow(self, rules: OriginRules) -> None:
        """Other rules of the owner from now on; what the Scheduler lent comes again with its next answer."""
        self.rules = rules
        self._groups.clear()

    def lend(self, groups: Mapping[str, Mapping[str, list[str]]]) -> None:
        """What the Scheduler lets jobs of its compute groups fetch; without effect unless it is trusted."""
        for group, origins in groups.items() if self._trust else ():
            self._groups.pop(group, None)
            self._groups[group] = self.rules.lending(origins)
            if len(self._groups) > _GROUPS_KEPT:
                del self._groups[next(iter(self._groups))]

    # -- what the worker asks for ------------------------------------------------------------------------------------

    async def datum(self, uri: str, errand: Errand = STRANGER) -> str:
        """A slice's datum as a data: URI. Raises `FetchFailed` (ESLICEFETCH, EFETCH) or `OriginForbidden`."""
        if uri.startswith("data:"):
            return uri
        try:
            return await _data_uri(await self._get(uri, Purpose.DATA, errand))
        except FetchFailed as error:
            raise error.told_as("ESLICEFETCH") from None

    async def artifact(self, uri: str, purpose: Purpose, errand: Errand = STRANGER) -> str:
        """Code or an argument as a data: URI, cached. Raises `FetchFailed` (EJOBFETCH, EFETCH) or `OriginForbidden`."""
        if uri.startswith("data:"):
            return uri
        try:
            return await self._once(uri, purpose, errand)
        except FetchFailed as error:
            raise error.told_as("EJOBFETCH") from None

    async def text(self, uri: str, purpose: Purpose, errand: Errand = STRANGER) -> str:
        """An artifact that is text: a work function, a serialised range. Errors as those of `artifact`."""
        return await self._as_text(await self.artifact(uri, purpose, errand), uri)

    async def module(self, url: str, errand: Errand = STRANGER) -> str:
        """A module's source. Raises `FetchFailed` (EMODULEFETCH, EMODULETOOBIG, EFETCH) or `OriginForbidden`."""
        try:
            uri = url if url.startswith("data:") else await self._once(url, Purpose.MODULES, errand)
            return await self._as_text(uri, url)
        except FetchFailed as error:
            raise error.told_as("EMODULEFETCH", too_large="EMODULETOOBIG") from None

    async def store_result(
        self, url: str, element: int, content: str, mime: str, params: Mapping[str, Any], *, threw: bool = False,
        errand: Errand = STRANGER,
    ) -> str:  # fmt: skip
        """POST a result to its job's storage; the answer becomes the data: URI that is reported instead of the result.

        `threw`: `content` is the error of a work function. A storage that does not answer is asked again for a while: a
        result is dear. Raises `FetchFailed` or `OriginForbidden`.
        """
        fields = {"contentType": mime, "element": str(element), ("error" if threw else "content"): content}
        fields |= {str(name): _form_text(name, value) for name, value in params.items()}
        form = urllib.parse.urlencode(fields, errors="surrogatepass").encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        rules = self._rules(errand)
        demand = Demand("POST", url, Purpose.RESULTS, rules, _ANSWER_BYTES, headers, form)
        give_up = self._clock() + self.limits.store_patience_s
        while True:
            try:
                return await _data_uri(await self._good(demand))
            except FetchFailed as error:
                pause = max(error.retry_after_s, _STORE_PAUSE_S)
                if not error.retryable or self._clock() + pause > give_up:
                    raise
                self._counts["results to be stored again"] += 1
                await self._sleep(pause)

    async def for_guest(self, request: Mapping[str, Any], errand: Errand = STRANGER) -> Answer:
        """A `fetch` of a work function: any status is an answer.

        `request` is {url, method, headersEntries, bodyBase64?}. Raises `FetchFailed` or `OriginForbidden`.
        """
        url, method = request.get("url"), str(request.get("method") or "GET").upper()
        if not isinstance(url, str) or method not in _METHODS:
            raise FetchFailed("fetch needs a URL and a usual method", Cause.URI)
        encoded = request.get("bodyBase64")
        try:
            body = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else None
        except ValueError:
            raise FetchFailed("the body of a fetch is not base64", Cause.URI) from None
        headers = _guest_headers(request.get("headersEntries"))
        demand = Demand(method, url, Purpose.GUEST, self._rules(errand), self.limits.guest_bytes, headers, body)
        async with self._guest_slots:
            answer = await self._asked(demand)
        kept = tuple(pair for pair in answer.headers if pair[0].lower() not in _ANSWERS_WITHHELD)
        return dataclasses.replace(answer, headers=kept)

    def statistics(self) -> dict[str, Any]:
        return {
            **self._cache.statistics(),
            "flights": len(self._flights),
            "left_alone": self._backoff.waiting(self._clock()),
            "counts": dict(self._counts),
        }

    # -- cache, single flight ----------------------------------------------------------------------------------------

    async def _once(self, uri: str, purpose: Purpose, errand: Errand) -> str:
        """The key has what permission depends on, redirects included: what was fetched for one purpose or group may
        have come from where another may not go. The URL itself is checked each time."""
        key = (uri, purpose.value, errand.group if errand.group in self._groups else "", "local" * errand.local)
        if uri.startswith("file:"):
            self._check_file(uri, purpose, errand)
        else:
            self._rules(errand).check(uri, purpose)
            cached = self._cache.get(key, self._clock())
            if cached is not None:
                self._counts["cache hits"] += 1
                return cached
        flight = self._flights.get(key)
        if flight is None:
            flight = self._tasks.create_task(self._fly(key, uri, purpose, errand), name=f"fetch {uri[:100]}")
            self._flights[key] = flight
            flight.add_done_callback(lambda _done: self._flights.pop(key, None))
        landed = await asyncio.shield(flight)
        if isinstance(landed, OrchestratorError):
            raise landed
        return landed

    async def _fly(self, key: tuple[str, ...], uri: str, purpose: Purpose, errand: Errand) -> str | OrchestratorError:
        """The error is a value here: raised, it would end the task group and everybody's fetches with it."""
        try:
            answer = await self._get(uri, purpose, errand)
            content = await _data_uri(answer)
        except OrchestratorError as error:
            return error
        age = 0.0 if uri.startswith("file:") else age_s(answer.header("cache-control") or "")
        if age:
            self._cache.put(key, content, self._clock() + age)
        return content

    # -- one fetch ---------------------------------------------------------------------------------------------------

    def _rules(self, errand: Errand) -> OriginRules:
        return self._groups.get(errand.group, self.rules)

    async def _get(self, uri: str, purpose: Purpose, errand: Errand) -> Answer:
        if uri.startswith("file:"):
            return await self._read_file(uri, purpose, errand)
        return await self._good(Demand("GET", uri, purpose, self._rules(errand), self.limits.max_bytes))

    async def _good(self, demand: Demand) -> Answer:
        """A fetch whose only good answer is 200 (for a POST: any of success); others put the place into back-off."""
        place = _place(demand.rules.check(demand.url, demand.purpose))
        async with self._store_slots if demand.purpose is Purpose.RESULTS else self._slots:
            asked_at = self._clock()
            answer = await self._asked(demand, place)
        if answer.status == 200 or (demand.method == "POST" and 200 <= answer.status < 300):
            self._backoff.succeeded(place)
            return answer
        wish = retry_after(answer.header("retry-after"), time.time())
        pause = self._backoff.failed(place, asked_at, self._clock(), wish)
        raise FetchFailed(
            f"{demand.url[:200]} answered {answer.status} {answer.reason[:100]}", Cause.STATUS, retry_after_s=pause
        )

    async def _asked(self, demand: Demand, place: str | None = None) -> Answer:
        """Whatever the server answers. Neither `place` nor any origin on the way is asked while it is left alone."""
        asked_at = self._clock()
        hops: list[str] = []

        def before(permission: Permission) -> None:
            # A job must not be able to cut others off by what it fetches itself.
            hops.append(f"{permission.origin} (guests)" if demand.purpose is Purpose.GUEST else str(permission.origin))
            self._leave_alone(hops[-1])

        outcome = "answered"
        try:
            if place is not None:
                self._leave_alone(place)
            answer = await self._web.fetch(dataclasses.replace(demand, before=before))
        except FetchFailed as error:
            outcome = error.cause.value
            if error.retryable and error.cause is not Cause.BACKOFF:
                error.retry_after_s = self._backoff.failed(hops[-1], asked_at, self._clock())
            raise
        except OriginForbidden:
            outcome = "forbidden"
            raise
        finally:
            self._counts[outcome] += 1
            telemetry.fetches.add(1, {"purpose": demand.purpose.value, "outcome": outcome})
        telemetry.fetched_bytes.add(len(answer.body), {"purpose": demand.purpose.value})
        for hop in hops:
            self._backoff.succeeded(hop)
        return answer

    def _leave_alone(self, place: str) -> None:
        left = self._backoff.left(place, self._clock())
        if left:
            raise FetchFailed(f"{place} is left alone after errors", Cause.BACKOFF, retry_after_s=left)

    def _check_file(self, uri: str, purpose: Purpose, errand: Errand) -> str:
        if not errand.local:
            raise OriginForbidden(
                f"{uri[:200]!r}: files are read only for jobs that are executed where they were deployed (localExec)",
                info={"cause": "file"},
            )
        return self.rules.check_file(uri, purpose)

    async def _read_file(self, uri: str, purpose: Purpose, errand: Errand) -> Answer:
        path = self._check_file(uri, purpose, errand)
        mime, body = await asyncio.to_thread(files.read, path, self.rules.file_entries(purpose), self.limits.max_bytes)
        return Answer(uri, 200, "OK", (), mime, "utf-8", body)

    async def _as_text(self, fetched: str, uri: str) -> str:
        mime = fetched[5:].partition(",")[0].partition(";")[0].strip().lower() or data_uris.TEXT
        if "," in fetched and not (mime.startswith("text/") or mime in _TEXT_TYPES):
            raise FetchFailed(f"{uri[:60]!r} is of type {mime[:60]}, not text", Cause.TYPE)
        try:
            _mime, content = data_uris.decode_data_uri(fetched, self.limits.max_bytes)
        except InvalidInput as error:
            raise FetchFailed(f"{uri[:60]!r}: {error.message}", Cause.UNDECODABLE) from None
        if isinstance(content, bytes):
            try:
                return content.decode()
            except UnicodeDecodeError as error:
                raise FetchFailed(f"{uri[:60]!r} is not UTF-8 text: {error}", Cause.UNDECODABLE) from None
        return content


async def _data_uri(answer: Answer) -> str:
    """Raises `FetchFailed` when text is not what its character set says."""
    if len(answer.body) > _IN_A_THREAD:
        return await asyncio.to_thread(_encoded, answer)
    return _encoded(answer)


def _encoded(answer: Answer) -> str:
    mime = answer.mime if _MIME.fullmatch(answer.mime) else data_uris.BYTES
    if not (mime.startswith("text/") or mime in (data_uris.JSON, data_uris.KVIN)):
        return data_uris.encode_data_uri(answer.body, mime)
    try:
        if not _CHARSETS.fullmatch(codecs.lookup(answer.charset).name):
            raise LookupError("not a character set that is taken")
        return data_uris.encode_data_uri(answer.body.decode(answer.charset), mime)
    except (UnicodeDecodeError, LookupError, InvalidInput) as error:
        raise FetchFailed(
            f"{answer.url[:200]} is not text in {answer.charset[:40]}: {error}", Cause.UNDECODABLE
        ) from None


def _form_text(name: str, value: Any) -> str:
    """A field of a form: text as it is, other values as JSON."""
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        raise FetchFailed(f"field {name[:60]!r} for the storage is neither text nor JSON", Cause.TYPE) from None


def _guest_headers(entries: Any) -> dict[str, str]:
    """The headers that a work function may set; those that are the browser's affair are left out, as a browser does."""
    headers: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else ():
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
            continue
        name, value = entry[0].lower(), entry[1]
        if name in _HEADERS_WITHHELD or name.startswith(_PREFIXES_WITHHELD):
            continue
        if not _TOKEN.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise FetchFailed(f"fetch: header {name[:60]!r} cannot be sent", Cause.URI)
        headers[entry[0]] = value
        if len(headers) > _MOST_GUEST_HEADERS:
            raise FetchFailed(f"fetch: more than {_MOST_GUEST_HEADERS} headers", Cause.TOO_LARGE)
    return headers


def _place(permission: Permission) -> str:
    """What is left alone together: the origin and the first segment of the path, as the official worker does it."""
    return f"{permission.origin}/{permission.url.path.lstrip('/').partition('/')[0][:200]}"
