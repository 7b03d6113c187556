"""Pure: from where a job may make this worker fetch, and whither send, by purpose.

A rule speaks about an *origin* (scheme, host, port), never about a whole URL. `data:` needs no permission. The
Scheduler's own origin, and sub-domains of its host with the same scheme and port, are allowed for what the worker
fetches or sends for a job, as the official worker does by default; not for what the job itself fetches. `file:` is
allowed path by path, and only to jobs that run on their deployer's own machine.

To *name* an origin is more than to allow it: only a named origin (or the Scheduler's own) may lie in a private network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Final

import yarl

from orchestrator.errors import Fault, InvalidInput, OrchestratorError
from orchestrator.worker.fetching import addresses


class OriginForbidden(OrchestratorError):
    """The worker's owner has not allowed this origin, address or file for this purpose."""

    code = "EPERM_ORIGIN"
    fault = Fault.JOB


class Purpose(enum.StrEnum):
    """What the worker wants of a URL; the first five names are those of dcp-client 5.6.1's `allowOrigins`."""

    ANY = "any"
    WORK_FUNCTIONS = "fetchWorkFunctions"
    ARGUMENTS = "fetchArguments"
    DATA = "fetchData"
    RESULTS = "sendResults"
    MODULES = "fetchModules"
    GUEST = "fetch"
    """`fetch` of a work function."""


class Reach(enum.Enum):
    """How far a permission goes."""

    PUBLIC = "public"
    """Public addresses only."""
    NAMED = "named"
    """The owner named this very origin: it may be in the worker's own network."""


@dataclasses.dataclass(frozen=True, slots=True)
class Permission:
    """`url` is what was checked, parsed: use this one, so that nobody reads the text in another way."""

    url: yarl.URL
    origin: Origin
    purpose: Purpose
    reach: Reach


EVERY = "*"
_ALIASES: Final = {"workerFetch": Purpose.GUEST}
_PORTS: Final = {"http": 80, "https": 443}
_MAX_URL: Final = 16_384
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?\.?")
#: Which entries hold for a purpose. Modules are code: who may give code may give modules.
_ENTRIES: Final = {
    Purpose.ANY: (Purpose.ANY,),
    Purpose.MODULES: (Purpose.MODULES, Purpose.WORK_FUNCTIONS, Purpose.ANY),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str | yarl.URL) -> Origin:
        """The origin of an http or https URL; raises `InvalidInput`."""
        text = str(url)[:200]
        try:
            parts = parse_url(url) if isinstance(url, str) else url
            host, port = parts.raw_host, parts.port
        except ValueError as error:
            raise InvalidInput(f"{text!r} is not a URL: {error}") from None
        if parts.scheme not in _PORTS or not host:
            raise InvalidInput(f"{text!r} is not an http or https URL with a host")
        if parts.user is not None or parts.password is not None:
            raise InvalidInput(f"the URL of host {host!r} carries a user name: not accepted")
        if not port:
            raise InvalidInput(f"{text!r} has port 0, where nothing can listen")
        if addresses.parse(host) is None:
            if addresses.is_numeric_host(host):
                raise InvalidInput(f"{host[:60]!r} is an IP address in an unusual spelling: write it in the usual one")
            if len(host) > 255 or not _HOST.fullmatch(host):
                raise InvalidInput(f"{text!r} has no host name that DNS could know")
        return cls(parts.scheme, host.rstrip("."), port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @property
    def address(self) -> addresses.Address | None:
        """The address that the host is, when it is one and not a name."""
        return addresses.parse(self.host)

    def covers(self, other: Origin) -> bool:
        """Whether `other` is this origin or lies on a sub-domain of it."""
        same = self.scheme == other.scheme and self.port == other.port
        below = self.address is None and other.host.endswith("." + self.host)
        return same and (other.host == self.host or below)


Allowed = Mapping[Purpose, frozenset[Origin]]


@dataclasses.dataclass(frozen=True, slots=True)
class OriginRules:
    """What is allowed. `by_purpose[ANY]` holds for every purpose; `everywhere` lists purposes without limits.

    `lent` origins were not named by the owner but by somebody the owner trusts: public addresses only.
    """

    scheduler: Origin
    by_purpose: Allowed = dataclasses.field(default_factory=dict)
    everywhere: frozenset[Purpose] = frozenset()
    files: frozenset[tuple[Purpose, str]] = frozenset()
    lent: Allowed = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, scheduler_url: str, entries: Iterable[str]) -> OriginRules:
        """Read `[purpose=]origin` entries: `https://a.example`, `fetchData=*`, `file:///srv/data.json`, `file:///srv/in/`.

        Raises `InvalidInput` naming the entry.
        """
        by_purpose: dict[Purpose, set[Origin]] = {}
        everywhere: set[Purpose] = set()
        files: set[tuple[Purpose, str]] = set()
        for entry in entries:
            purpose, value = _split(entry)
            if value == EVERY:
                everywhere.add(purpose)
            elif value.startswith("file:"):
                files.add((purpose, file_path(value)))
            else:
                by_purpose.setdefault(purpose, set()).add(_origin_entry(entry, value))
        return cls(Origin.of(scheduler_url), _frozen(by_purpose), frozenset(everywhere), frozenset(files))

    def lending(self, origins: Mapping[str, Iterable[str]]) -> OriginRules:
        """These rules with more origins by purpose, as others than the owner give them; what makes no sense is left
        out."""
        lent = {purpose: set(known) for purpose, known in self.lent.items()}
        for name, texts in origins.items():
            for text in texts:
                with contextlib.suppress(InvalidInput, ValueError):
                    lent.setdefault(_purpose(name), set()).add(Origin.of(text))
        return dataclasses.replace(self, lent=_frozen(lent))

    def check(self, url: str | yarl.URL, purpose: Purpose) -> Permission:
        """What may be done with an http(s) URL; raises `OriginForbidden` (with the remedy)."""
        try:
            parsed = parse_url(url) if isinstance(url, str) else url
            origin = Origin.of(parsed)
        except (InvalidInput, ValueError) as error:
            raise OriginForbidden(str(getattr(error, "message", error)), info={"cause": "uri"}) from None
        reach = self._reach(origin, purpose)
        if reach is None:
            raise OriginForbidden(
                f"origin {origin} is not allowed for {purpose}: --allow-origin {purpose}={origin}",
                info={"cause": "origin", "origin": str(origin), "purpose": purpose.value},
            )
        permission = Permission(parsed, origin, purpose, reach)
        if origin.address is not None and reach is not Reach.NAMED:
            kind = addresses.kind(origin.address)
            if not opens(reach, kind):
                raise address_refusal(permission, kind)
        return permission

    def check_file(self, url: str, purpose: Purpose) -> str:
        """The path of a file: URL that the owner allowed. Where it leads on disk is for the reader to check against
        `allows_path`. Raises `OriginForbidden`."""
        try:
            path = file_path(url)
        except InvalidInput as error:
            raise OriginForbidden(error.message, info={"cause": "file"}) from None
        if path.endswith("/") or not self.allows_path(path, self.file_entries(purpose)):
            raise OriginForbidden(
                f"file {url[:200]!r} is not allowed for {purpose}: --allow-origin {purpose}={url[:200]}",
                info={"cause": "file", "purpose": purpose.value},
            )
        return path

    def file_entries(self, purpose: Purpose) -> frozenset[str]:
        """Paths that are allowed; those that end in `/` are folders with all that is in them."""
        allowed = _ENTRIES.get(purpose, (purpose, Purpose.ANY))
        return frozenset(path for one, path in self.files if one in allowed)

    @staticmethod
    def allows_path(path: str, entries: Iterable[str]) -> bool:
        return any(path == entry or (entry.endswith("/") and path.startswith(entry)) for entry in entries)

    def _reach(self, origin: Origin, purpose: Purpose) -> Reach | None:
        for_job = purpose not in (Purpose.ANY, Purpose.GUEST)
        allowed = _ENTRIES.get(purpose, (purpose, Purpose.ANY))
        if (for_job and origin == self.scheduler) or any(origin in self.by_purpose.get(one, ()) for one in allowed):
            return Reach.NAMED
        if for_job and self.scheduler.covers(origin):
            return Reach.PUBLIC
        if any(one in self.everywhere or origin in self.lent.get(one, ()) for one in allowed):
            return Reach.PUBLIC
        return None


def opens(reach: Reach, kind: addresses.Kind) -> bool:
    """Whether a *name* may lead to an address of this kind. (An address that is itself the host is another matter.)"""
    return kind is addresses.Kind.PUBLIC or (reach is Reach.NAMED and kind in addresses.OWN_NETWORK)


def address_refusal(permission: Permission, kind: addresses.Kind) -> OriginForbidden:
    """The address is not in the message: a job must not learn from it where names lead in the worker's network."""
    origin, purpose = permission.origin, permission.purpose
    remedy = f"--allow-origin {purpose}={origin} opens it by name"
    if permission.reach is Reach.NAMED:
        remedy = "only an entry for the address itself opens it"
    return OriginForbidden(
        f"{origin} leads to a {kind} address, which is not open to jobs; {remedy}",
        info={"cause": "address", "origin": str(origin), "purpose": purpose.value, "kind": kind.value},
    )


def parse_url(text: str) -> yarl.URL:
    """Raises `ValueError`."""
    if len(text) > _MAX_URL:
        raise ValueError(f"a URL of {len(text)} characters is too long")
    return yarl.URL(text)


def file_path(url: str) -> str:
    """The path of a file: URL on this machine; raises `InvalidInput` for other hosts, dot segments and NUL."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise InvalidInput(f"{url[:200]!r} is not a URL: {error}") from None
    path = urllib.parse.unquote(parts.path)
    if (
        parts.netloc not in ("", "localhost")
        or not path.startswith("/")
        or "\0" in path
        or not {"..", "."}.isdisjoint(path.split("/"))
        or "//" in path
    ):
        raise InvalidInput(f"{url[:200]!r} is not an absolute path on this machine")
    return path


def _split(entry: str) -> tuple[Purpose, str]:
    name, equals, value = entry.partition("=")
    if not equals or "/" in name:
        return Purpose.ANY, entry
    try:
        return _purpose(name), value
    except ValueError:
        names = ", ".join(Purpose)
        raise InvalidInput(f"allow-origin {entry!r}: {name!r} is not one of {names}") from None


def _purpose(name: str) -> Purpose:
    return _ALIASES.get(name) or Purpose(name)


def _frozen(origins: Mapping[Purpose, set[Origin]]) -> Allowed:
    return {purpose: frozenset(found) for purpose, found in origins.items()}


def _origin_entry(entry: str, value: str) -> Origin:
    try:
        parts = parse_url(value)
        origin = Origin.of(parts)
    except (InvalidInput, ValueError) as error:
        raise InvalidInput(f"allow-origin {entry!r}: {getattr(error, 'message', error)}") from None
    if parts.path not in ("", "/") or parts.query_string or parts.fragment:
        raise InvalidInput(f"allow-origin {entry!r}: an origin has no path, write {origin}")
    return origin
