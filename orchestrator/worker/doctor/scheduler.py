"""The Scheduler: does it answer, is it one and the same as ever, does it speak as we do, and what time is it there?"""

from __future__ import annotations

import asyncio
import email.utils
import pathlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import aiohttp
from yarl import URL

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.protocol.client import DcpClient, fetch_config
from orchestrator.protocol.identity_cache import IdentityCache
from orchestrator.wallet.keys import PrivateKey
from orchestrator.worker import trusting
from orchestrator.worker.doctor import check
from orchestrator.worker.doctor.check import Check
from orchestrator.worker.scheduler_link.services import service_url
from orchestrator.worker.trusting import KeyChange

SERVICES: Final = ("taskDistributor", "resultSubmitter", "eventRouter")
#: What this Worker implements, as Schedulers name it.
DCP_VERSION: Final = (5, 6, 1)
WORK_VERSION: Final = (1, 0, 0)
_TIMEOUT_S: Final = 10.0
#: Messages older or newer than this are refused by the other side.
_CLOCK_LIMIT_S: Final = 600.0
_CLOCK_GOOD_S: Final = 30.0
KEY: Final = "scheduler key"
_KEY_WANTED: Final = "the key that it had before, or one that accept_scheduler_key names"
_RANGE: Final = re.compile(r"\^?(\d+)\.(\d+)\.(\d+)")


async def examine(url: str, identities: pathlib.Path, accepted: Iterable[str] = ()) -> list[Check]:
    """All of it. `identities` is the file that remembers the services' keys; it is read only. `accepted` are the keys
    that the settings accept. Never raises but when cancelled."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            config = await fetch_config(url)
    except (OrchestratorError, TimeoutError) as error:
        message = error.message if isinstance(error, OrchestratorError) else f"{url} did not answer in {_TIMEOUT_S:g} s"
        unreachable = check.fail(
            "scheduler", message, f"a Scheduler at {url}",
            "Start it (`dcp-orchestrator scheduler run`), correct --scheduler, or look at firewall and proxy.",
        )  # fmt: skip
        return [
            unreachable,
            *(check.skip(name, "no Scheduler answers") for name in ("protocol", "session", KEY, "clock")),
        ]
    judged = [judge_config(url, config), judge_protocol(config)]
    session, key, skew = await asyncio.gather(_session(config), _key(config, identities, accepted), _clock_skew(url))
    return [*judged, session, key, judge_clock(skew)]


def judge_config(url: str, config: Mapping[str, Any]) -> Check:
    wanted = "a configuration that names " + ", ".join((*SERVICES, "packageManager"))
    try:
        for name in SERVICES:
            service_url(config, "scheduler", "services", name)
        service_url(config, "packageManager")
    except InvalidInput as error:
        return check.fail(
            "scheduler", error.message, wanted, "Ask the Scheduler's operator: it is not one for workers."
        )
    return check.ok("scheduler", f"{url} answers with a configuration", wanted)


def judge_protocol(config: Mapping[str, Any]) -> Check:
    """What the Scheduler says it accepts, against what this Worker implements."""
    name, ours = "protocol", ".".join(map(str, DCP_VERSION))
    scheduler = config.get("scheduler")
    compatibility = scheduler.get("compatibility") if isinstance(scheduler, Mapping) else None
    if not isinstance(compatibility, Mapping):
        return check.ok(name, "the Scheduler does not say what it accepts", f"DCP {ours}")
    minimum, operations = compatibility.get("minimum"), compatibility.get("operations")
    asked = {
        "dcp": (minimum.get("dcp") if isinstance(minimum, Mapping) else None, DCP_VERSION),
        "work": (operations.get("work") if isinstance(operations, Mapping) else None, WORK_VERSION),
    }
    for what, (span, have) in asked.items():
        fits = in_range(span, have)
        if fits is False:
            return check.fail(
                name, f"the Scheduler wants {what} {span}; this Worker implements {'.'.join(map(str, have))}",
                f"{what} {span}", "Use a version of this Worker that fits the Scheduler.",
            )  # fmt: skip
    return check.ok(name, ", ".join(f"{what} {span}" for what, (span, _have) in asked.items() if span), f"DCP {ours}")


def in_range(span: Any, version: tuple[int, int, int]) -> bool | None:
    """Whether a version is within `^1.2.3` (or is at least `1.2.3`, without the caret); None for other spellings."""
    match = _RANGE.fullmatch(span) if isinstance(span, str) else None
    if match is None:
        return None
    floor = (int(match[1]), int(match[2]), int(match[3]))
    return version >= floor and (not str(span).startswith("^") or version[0] == floor[0])


async def _session(config: Mapping[str, Any]) -> Check:
    """A signed session under a key of the moment: signatures, framing and clocks are proved by an answer."""
    wanted = "a signed session, and an answer in it"
    began = time.monotonic()
    try:
        async with asyncio.timeout(_TIMEOUT_S), DcpClient(PrivateKey.generate()) as client:
            connection = client.connect(service_url(config, "scheduler", "services", "taskDistributor"))
            await connection.request("keepalive", round(time.time() * 1000))
            peer = connection.peer
    except (OrchestratorError, TimeoutError, OSError) as error:
        text = error.message if isinstance(error, OrchestratorError) else (str(error) or "no answer in time")
        return check.fail(
            "session", text, wanted, "Compare clocks and versions of both sides; see the Scheduler's log."
        )
    return check.ok("session", f"answered in {1000 * (time.monotonic() - began):.0f} ms, signed by {peer}", wanted)


async def _key(config: Mapping[str, Any], identities: pathlib.Path, accepted: Iterable[str]) -> Check:
    """Who signs at each service, against who did before."""
    try:
        cache = IdentityCache(identities)
        keys = trusting.accepted_keys(accepted)
        urls = [service_url(config, "scheduler", "services", name) for name in SERVICES]
    except InvalidInput as error:
        return check.fail(KEY, error.message, _KEY_WANTED, "Correct what it names; see docs/faults.md.")
    except OSError as error:
        return check.fail(
            KEY, f"{identities} cannot be read: {error.strerror}", _KEY_WANTED, "Run this as the Worker's own user."
        )
    async with DcpClient(PrivateKey.generate()) as client:
        presented = await asyncio.gather(*(_peer(client, url) for url in urls))
    return judge_key(
        [(url, cache.lookup(url), now) for url, now in zip(urls, presented, strict=True) if now is not None], keys
    )


async def _peer(client: DcpClient, url: str) -> str | None:
    """The address that a service signs with; None when it does not answer, of which `session` tells."""
    try:
        connection = client.connect(url)
        async with asyncio.timeout(_TIMEOUT_S):
            await connection.request("keepalive", round(time.time() * 1000))
            return connection.peer
    except (OrchestratorError, TimeoutError, OSError):
        return None


def judge_key(services: Sequence[tuple[str, str | None, str]], accepted: frozenset[str]) -> Check:
    """`services` are (URL, address of before, address now) of those that answer."""
    if not services:
        return check.skip(KEY, "no service answers")
    changed = [KeyChange(url, before, now) for url, before, now in services if before not in (None, now)]
    refused = [change for change in changed if change.now not in accepted]
    if refused:
        remedy = refused[0].remedy
        return check.fail(KEY, refused[0].what, _KEY_WANTED, f"{remedy[:1].upper()}{remedy[1:]}; see docs/faults.md.")
    if changed:
        return check.ok(KEY, f"{changed[0].now}: changed, and accepted by accept_scheduler_key", _KEY_WANTED)
    now = ", ".join(dict.fromkeys(now for _url, _before, now in services))
    known = any(before is not None for _url, before, _now in services)
    return check.ok(KEY, f"{now}, as before" if known else f"{now}, seen for the first time", _KEY_WANTED)


async def _clock_skew(url: str) -> float | None:
    """The Scheduler's clock less ours in seconds, by its Date header (whole seconds); None when it does not say."""
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as http:
            before = time.time()
            async with http.head(URL(url).with_path("/etc/dcp-config.kvin"), allow_redirects=False) as response:
                after = time.time()
                date = response.headers.get("Date", "")
        there = email.utils.parsedate_to_datetime(date).timestamp()
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
    return skew_of(there, before, after)


def skew_of(there: float, before: float, after: float) -> float:
    """The least skew that explains a time in whole seconds, read somewhere between `before` and `after`."""
    if there + 1 < before:
        return there + 1 - before
    return max(there - after, 0.0)


def judge_clock(skew_s: float | None) -> Check:
    name, wanted = "clock", f"within {_CLOCK_GOOD_S:g} s of the Scheduler's"
    if skew_s is None:
        return check.skip(name, "the Scheduler does not say what time it is")
    found = (
        "agrees with the Scheduler's"
        if skew_s == 0
        else f"the Scheduler's is {abs(skew_s):.0f} s " + ("ahead" if skew_s > 0 else "behind")
    )
    remedy = (
        "Set this machine's clock and keep it set (`timedatectl set-ntp true`), or ask the Scheduler's operator to."
    )
    if abs(skew_s) >= _CLOCK_LIMIT_S:
        return check.fail(name, f"{found}: it refuses our messages", wanted, remedy)
    if abs(skew_s) > _CLOCK_GOOD_S:
        return check.warn(name, found, wanted, remedy)
    return check.ok(name, found, wanted)
