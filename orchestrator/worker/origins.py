"""Pure: from where a job may make this worker fetch, and whither send, by purpose.

A rule speaks about an *origin* (scheme, host, port), never about a whole URL. `data:` needs no permission. The
Scheduler's own origin, and sub-domains of its host with the same scheme and port, are allowed for the four named
purposes, as the official worker does by default. `file:` is allowed path by path.
"""

from __future__ import annotations

import dataclasses
import enum
import urllib.parse
from collections.abc import Iterable, Mapping

from orchestrator.errors import Fault, InvalidInput, OrchestratorError


class OriginForbidden(OrchestratorError):
    """The worker's owner has not allowed this origin for this purpose."""

    code = "EPERM_ORIGIN"
    fault = Fault.JOB


class Purpose(enum.StrEnum):
    """What the worker wants of a URL; the names that dcp-client 5.6.1's `allowOrigins` has."""

    ANY = "any"
    WORK_FUNCTIONS = "fetchWorkFunctions"
    ARGUMENTS = "fetchArguments"
    DATA = "fetchData"
    RESULTS = "sendResults"


EVERY = "*"
_PORTS = {"http": 80, "https": 443}


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of an http or https URL; raises `InvalidInput`."""
        try:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidInput(f"{url[:200]!r} is not a URL: {error}") from None
        if parts.scheme not in _PORTS or not host:
            raise InvalidInput(f"{url[:200]!r} is not an http or https URL with a host")
        if parts.username is not None or parts.password is not None:
            raise InvalidInput(f"the URL of host {host!r} carries a user name: not accepted")
        return cls(parts.scheme, host.lower().rstrip("."), port or _PORTS[parts.scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    def covers(self, other: Origin) -> bool:
        """Whether `other` is this origin or lies on a sub-domain of it."""
        same = self.scheme == other.scheme and self.port == other.port
        return same and (other.host == self.host or other.host.endswith("." + self.host))


@dataclasses.dataclass(frozen=True, slots=True)
class OriginRules:
    """What is allowed. `by_purpose[ANY]` holds for every purpose; `everywhere` lists purposes without limits."""

    scheduler: Origin
    by_purpose: Mapping[Purpose, frozenset[Origin]] = dataclasses.field(default_factory=dict)
    everywhere: frozenset[Purpose] = frozenset()
    files: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, scheduler_url: str, entries: Iterable[str]) -> OriginRules:
        """Read `[purpose=]origin` entries, e.g. `https://a.example`, `fetchData=*`, `file:///srv/data.json`.

        Raises `InvalidInput` naming the entry.
        """
        by_purpose: dict[Purpose, set[Origin]] = {}
        everywhere: set[Purpose] = set()
        files: set[str] = set()
        for entry in entries:
            name, equals, value = entry.partition("=")
            purpose = Purpose.ANY
            if equals and "/" not in name:
                try:
                    purpose = Purpose(name)
                except ValueError:
                    names = ", ".join(Purpose)
                    raise InvalidInput(f"allow-origin {entry!r}: {name!r} is not one of {names}") from None
            else:
                value = entry
            if value == EVERY:
                everywhere.add(purpose)
            elif value.startswith("file:"):
                files.add(_file_path(value))
            else:
                by_purpose.setdefault(purpose, set()).add(_origin_entry(entry, value))
        return cls(
            Origin.of(scheduler_url),
            {purpose: frozenset(origins) for purpose, origins in by_purpose.items()},
            frozenset(everywhere),
            frozenset(files),
        )

    def check(self, url: str, purpose: Purpose) -> None:
        """Return if `url` may be used for `purpose`; raise `OriginForbidden` (with the remedy) otherwise."""
        if url.startswith("data:"):
            return
        if url.startswith("file:"):
            if _file_path(url) in self.files:
                return
            raise OriginForbidden(f"file {url[:200]!r} is not allowed for {purpose}: --allow-origin {url[:200]}")
        try:
            origin = Origin.of(url)
        except InvalidInput as error:
            raise OriginForbidden(error.message) from None
        if not self._allows(origin, purpose):
            raise OriginForbidden(
                f"origin {origin} is not allowed for {purpose}: --allow-origin {purpose}={origin}",
                info={"origin": str(origin), "purpose": purpose.value},
            )

    def _allows(self, origin: Origin, purpose: Purpose) -> bool:
        if purpose is not Purpose.ANY and self.scheduler.covers(origin):
            return True
        return any(
            one in self.everywhere or origin in self.by_purpose.get(one, frozenset()) for one in (purpose, Purpose.ANY)
        )


def _origin_entry(entry: str, value: str) -> Origin:
    try:
        origin, parts = Origin.of(value), urllib.parse.urlsplit(value)
    except InvalidInput as error:
        raise InvalidInput(f"allow-origin {entry!r}: {error.message}") from None
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InvalidInput(f"allow-origin {entry!r}: an origin has no path, write {origin}")
    return origin


def _file_path(url: str) -> str:
    """The path of a file: URL on this machine; raises `OriginForbidden` for other hosts and dot segments."""
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or ".." in path.split("/"):
        raise OriginForbidden(f"{url[:200]!r} is not an absolute path on this machine")
    return path
