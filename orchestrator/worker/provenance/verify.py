"""An image of the Engine, a key, and the signatures that its registry has."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Sequence
from typing import Final

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.worker.provenance import cosign, reference
from orchestrator.worker.provenance.cosign import Claim, NotSigned, PublicKey
from orchestrator.worker.provenance.reference import Reference
from orchestrator.worker.provenance.registry import Registry

_TIMEOUT_S: Final = 60.0
_MOST_SIGNATURES: Final = 20
_MOST_PAYLOAD: Final = 64 * 1024


async def verify(public_key: pathlib.Path, repo_digests: Sequence[str], pin: str | None = None) -> str:
    """The `name@sha256:…` for which the key vouches: of those under which the Engine knows the image, the first.

    `pin` leaves only that digest, when it is one of a registry. Raises `NotSigned`, `NetworkFailure` (the registry
    cannot be asked), `InvalidInput` (no such key).
    """
    key = await asyncio.to_thread(PublicKey.read, public_key)
    images = []
    for one in repo_digests:
        try:
            images.append(reference.parse(one))
        except InvalidInput:
            continue
    if pin is not None and any(image.digest == pin for image in images):
        images = [image for image in images if image.digest == pin]
    if not images:
        raise NotSigned("it came from no registry, and signatures lie in one: `docker pull` it from there")
    failures: list[OrchestratorError] = []
    async with asyncio.timeout(_TIMEOUT_S):
        for image in images:
            try:
                await _check(image, key)
            except OrchestratorError as error:
                failures.append(error)
            else:
                return str(image)
    # Of several names the one that says most: a signature that is wrong before a registry that is away.
    raise next((error for error in failures if isinstance(error, NotSigned)), failures[0])


async def _check(image: Reference, key: PublicKey) -> None:
    async with Registry(image) as registry:
        manifest = await registry.manifest(image.signature_tag)
        if manifest is None:
            raise NotSigned(f"{image.registry} has no cosign signature of {image.name}@{image.digest}")
        claims = []
        for digest, size, signature in cosign.claims_in(manifest)[:_MOST_SIGNATURES]:
            payload = await registry.blob(digest) if size <= _MOST_PAYLOAD else None
            if payload is not None:
                claims.append(Claim(payload, signature))
    cosign.check(claims, key, image.digest)
