"""Reading a manifest and small blobs from a container registry: anonymous, or with what `docker login` wrote down."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from yarl import URL

from orchestrator.errors import NetworkFailure
from orchestrator.worker.provenance.reference import Reference, is_loopback

_ACCEPT: Final = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)
_MOST_BYTES: Final = 1 << 20
_PART: Final = re.compile(r'(\w+)="([^"]*)"')


class Registry:
    """`async with` it. Every call raises `NetworkFailure` when the registry cannot be reached or refuses."""

    def __init__(self, image: Reference) -> None:
        self._image = image
        self._http: aiohttp.ClientSession | None = None
        self._token: str | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=_TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._http is not None
        await self._http.close()

    async def manifest(self, tag: str) -> dict[str, Any] | None:
        """None when there is none of that name. Raises `NetworkFailure`."""
        body = await self._get(f"manifests/{tag}")
        if body is None:
            return None
        try:
            manifest = json.loads(body)
        except ValueError as error:
            raise NetworkFailure(f"{self._image.registry} answered with a manifest that is no JSON: {error}") from None
        return manifest if isinstance(manifest, dict) else {}

    async def blob(self, digest: str) -> bytes | None:
        """None when it is not there, or is not what its digest says."""
        body = await self._get(f"blobs/{digest}")
        return body if body is not None and "sha256:" + hashlib.sha256(body).hexdigest() == digest else None

    async def _get(self, path: str) -> bytes | None:
        assert self._http is not None
        url = URL(f"{self._image.base_url}/{path}", encoded=True)
        try:
            for attempt in (1, 2):
                headers = {"Accept": _ACCEPT}
                if self._token is not None:
                    headers["Authorization"] = self._token
                async with self._http.get(url, headers=headers) as response:
                    if response.status == 401 and attempt == 1:
                        self._token = await self._authorise(response.headers.get("WWW-Authenticate", ""))
                        continue
                    if response.status == 404:
                        return None
                    if response.status != 200:
                        raise NetworkFailure(f"{url} answered {response.status} {response.reason}")
                    body = await response.content.read(_MOST_BYTES + 1)
                    while len(body) <= _MOST_BYTES and (more := await response.content.read(_MOST_BYTES)):
                        body += more
                    if len(body) > _MOST_BYTES:
                        raise NetworkFailure(f"{url} answered with more than {_MOST_BYTES} bytes")
                    return body
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NetworkFailure(f"{url} cannot be reached: {error or type(error).__name__}") from error
        raise NetworkFailure(f"{url} wants a login: `docker login {self._image.registry}` as this user")

    async def _authorise(self, challenge: str) -> str:
        """An Authorization header for what a registry asks: basic, or a token of the place that it names."""
        assert self._http is not None
        login = credentials(self._image.registry)
        basic = None if login is None else aiohttp.encode_basic_auth(*login)
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() != "bearer":
            return basic or ""
        parts = dict(_PART.findall(rest))
        realm = URL(parts.get("realm", ""))
        if realm.scheme != "https" and not (realm.host and is_loopback(realm.host)):
            raise NetworkFailure(f"{self._image.registry} sends for its token to {realm}, which is not https")
        asked = {name: parts[name] for name in ("service", "scope") if name in parts}
        async with self._http.get(
            realm.update_query(asked), headers={"Authorization": basic} if basic else {}
        ) as response:
            answer = await response.json(content_type=None) if response.status == 200 else {}
        token = answer.get("token") or answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str):
            raise NetworkFailure(f"{realm} gave no token: `docker login {self._image.registry}` as this user")
        return f"Bearer {token}"


def credentials(registry: str, environ: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """User and password that `docker login` wrote down. Those kept by a helper program are not asked for."""
    environ = os.environ if environ is None else environ
    folder = environ.get("DOCKER_CONFIG")
    path = pathlib.Path(folder) if folder else pathlib.Path.home() / ".docker"
    try:
        auths = json.loads((path / "config.json").read_text()).get("auths", {})
        entry = auths.get(registry) or auths.get(f"https://{registry}") or {}
        if registry == "docker.io":
            entry = entry or auths.get("https://index.docker.io/v1/") or {}
        user, colon, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
    except (OSError, ValueError, AttributeError, binascii.Error):
        return None
    return (user, password) if colon else None
