"""Pure: where an image lies, from the name under which the Engine knows it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import InvalidInput

_NAME: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:]+\])(?::\d{1,5})?")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """An image by its digest: `registry` is host[:port], `name` the repository there."""

    registry: str
    name: str
    digest: str

    @property
    def base_url(self) -> str:
        """Without TLS only for this very machine, as the Engine does."""
        host = "registry-1.docker.io" if self.registry == "docker.io" else self.registry
        return f"{'http' if is_loopback(self.registry) else 'https'}://{host}/v2/{self.name}"

    @property
    def signature_tag(self) -> str:
        """Where cosign puts the signatures of an image."""
        return self.digest.replace(":", "-") + ".sig"

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}@{self.digest}"


def parse(repo_digest: str) -> Reference:
    """`name@sha256:…`, as the Engine lists it. Names without a host are Docker Hub's. Raises `InvalidInput`."""
    full, at, digest = repo_digest.partition("@")
    host, slash, rest = full.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, rest = "docker.io", full if slash else f"library/{full}"
    if not at or not _DIGEST.fullmatch(digest) or not _NAME.fullmatch(rest) or not _HOST.fullmatch(host):
        raise InvalidInput(f"{repo_digest!r} does not name an image by its digest")
    return Reference("docker.io" if host == "index.docker.io" else host, rest, digest)


def is_loopback(registry: str) -> bool:
    host = registry.rpartition(":")[0] if re.search(r":\d+$", registry) else registry
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
