"""The configuration that a Scheduler publishes, and fetching it.

Clients ask for `<origin>/etc/dcp-config.kvin?ver=2.1.0` (KVIN v9, dcp-client 5.x) or `?ver=2.0.0` (KVIN v8, 4.x) before
anything else. Which members a client needs was found by leaving them out one by one (dcp-client 5.6.1). Locations must
be of the client's own URL class and end in `/`; the members `worker`, `evaluator`, `bundle` and `system` would be
ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import aiohttp
from yarl import URL

from orchestrator import kvin
from orchestrator.errors import InvalidInput, NetworkFailure
from orchestrator.protocol.certificates import untrusted

__all__ = ["SCHEDULER_SERVICES", "build_config", "config_text", "fetch_config"]

SCHEDULER_SERVICES = ("jobSubmit", "taskDistributor", "resultSubmitter", "eventRouter", "computeGroups", "pheme")
_FORMATS: dict[int, str] = {9: "2.1.0", 8: "2.0.0"}
_MAX_CONFIG_BYTES = 4 * 1024 * 1024
_TIMEOUT = aiohttp.ClientTimeout(total=30)

# Seconds, except deployCloseTimeout (milliseconds) and the upload sizes (characters).
_JOB: dict[str, Any] = {
    "maxDeployTime": 300,
    "deployAttempts": 10,
    "deployCloseTimeout": 10_000,
    "uploadIncreaseFactor": 3,
    "uploadSlicesTarget": 1_000_000,
    "uploadSlicesCeiling": 10_000_000,
    "uploadInitialNumberOfSlices": 5,
    "sliceUploadErrorTolerance": 3,
    "modules": {},
}

# How the reference clients batch what they send: by default 20 messages after waiting 30 ms (observed: a lone request
# takes 34 ms that way and 7 ms this way, 250 requests at once 0.70 s and 0.31 s).
_CONNECTION_OPTIONS: dict[str, Any] = {"default": {"maxMessagesPerBatch": 200, "batchWaitTime": 0.005}}


def build_config(
    base_url: str,
    *,
    services: Iterable[str] = SCHEDULER_SERVICES,
    job: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The configuration as a KVIN value, for a Scheduler whose services are at `<base_url><service>/`.

    `job` changes single job settings; `extra` adds or replaces members at the top.
    """
    url = URL(base_url)
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment:
        raise InvalidInput(f"{base_url!r} cannot be a Scheduler's base URL: expected http(s)://host[:port]/")
    base = str(url.with_path(url.path.rstrip("/") + "/"))

    def location(path: str = "") -> dict[str, Any]:
        return {"location": kvin.DcpUrl(base + path)}

    return {
        "scheduler": {
            **location(),
            "services": {name: location(f"{name}/") for name in services},
            "compatibility": {"minimum": {"dcp": "^5.0.0"}, "operations": {"work": "^1.0.0", "compute": "^1.0.0"}},
            "worker": {"types": ["v4"], "operations": "1.0.0"},
        },
        "bank": {**location(), "services": {"bankTeller": location("bankTeller/")}},
        "packageManager": location("packageManager/"),
        "portal": location(),
        "pxAuth": location(),
        "oAuth": location(),
        "cdn": location(),
        "job": {**_JOB, **(job or {})},
        "dcp": {"connectionOptions": _CONNECTION_OPTIONS},
        "network": {},
        "eventSubscriber": {"seenListSize": 1000},
        **(extra or {}),
    }


def config_text(config: Mapping[str, Any], version: Literal[8, 9]) -> str:
    """The body of the response to `GET /etc/dcp-config.kvin`."""
    return kvin.stringify(dict(config), version=version)


async def fetch_config(scheduler_url: str, version: Literal[8, 9] = 9) -> dict[str, Any]:
    """A Scheduler's configuration; URLs and addresses as `str`. `scheduler_url` may have any path.

    Raise `NetworkFailure` when the Scheduler cannot be reached or answers with an error, `UntrustedCertificate` when it
    does not prove who it is, `InvalidInput` when what it answers is no configuration.
    """
    url = URL(scheduler_url).with_path("/etc/dcp-config.kvin").with_query(ver=_FORMATS[version])
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as http, http.get(url) as response:
            if response.status != 200:
                raise NetworkFailure(f"{url} answered {response.status} {response.reason}: is a Scheduler there?")
            body = await response.content.read(_MAX_CONFIG_BYTES + 1)
            while len(body) <= _MAX_CONFIG_BYTES and (more := await response.content.read(_MAX_CONFIG_BYTES)):
                body += more
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        certificate = await untrusted(str(url), error)
        if certificate is not None:
            raise certificate from error
        raise NetworkFailure(f"{url} cannot be reached: {error or type(error).__name__}") from error
    if len(body) > _MAX_CONFIG_BYTES:
        raise InvalidInput(f"{url} answered with more than {_MAX_CONFIG_BYTES} bytes")
    try:
        config = kvin.parse(body.decode())
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{url} did not answer with UTF-8 text") from error
    if not isinstance(config, dict):
        raise InvalidInput(f"{url} did not answer with an object")
    return {key: _plain(value) for key, value in config.items()}


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(member) for key, member in value.items()}
        case list():
            return [_plain(element) for element in value]
        case kvin.DcpUrl(href) | kvin.Url(href):
            return href
        case kvin.EthAddress(text):
            return text
    return value
