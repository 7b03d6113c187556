"""Pure: does a key vouch for a digest? Cosign's signed payloads, ECDSA on the curve P-256 over SHA-256."""

from __future__ import annotations

import base64
import binascii
import json
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from Crypto.Hash import SHA256
from Crypto.PublicKey import ECC
from Crypto.Signature import DSS

from orchestrator.errors import Fault, InvalidInput, OrchestratorError

PAYLOAD_TYPE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE: Final = "dev.cosignproject.cosign/signature"
_KIND: Final = "cosign container image signature"
_CURVES: Final = ("NIST P-256", "P-256", "p256", "prime256v1", "secp256r1")


class NotSigned(OrchestratorError):
    """Nothing that the key signed says that this is the image. The message says what was found instead."""

    code = "ENOTSIGNED"
    fault = Fault.WORKER


@dataclass(frozen=True)
class PublicKey:
    """A cosign public key."""

    _key: Any

    @classmethod
    def parse(cls, text: str, where: str = "image_public_key") -> PublicKey:
        """PEM text (`cosign.pub`). Raises `InvalidInput`."""
        try:
            key = ECC.import_key(text)
        except (ValueError, IndexError, TypeError) as error:
            raise InvalidInput(f"{where} is not a public key in PEM form, such as cosign.pub: {error}") from None
        if key.has_private():
            raise InvalidInput(f"{where} holds a private key: give the public one (cosign.pub)")
        if key.curve not in _CURVES:
            raise InvalidInput(f"{where} is a key on the curve {key.curve}: cosign's key pairs are on P-256")
        return cls(key)

    @classmethod
    def read(cls, path: pathlib.Path) -> PublicKey:
        """Blocks on the disk. Raises `InvalidInput`."""
        try:
            return cls.parse(path.read_text(encoding="ascii"), f"image_public_key {path}")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"image_public_key {path} cannot be read: {error}") from None

    def signed(self, payload: bytes, signature: str) -> bool:
        """`signature` is base64 of the DER form."""
        try:
            raw = base64.b64decode(signature, validate=True)
            DSS.new(self._key, "fips-186-3", encoding="der").verify(SHA256.new(payload), raw)
        except (binascii.Error, ValueError):
            return False
        return True


@dataclass(frozen=True)
class Claim:
    """A payload and what is said to be its signature."""

    payload: bytes
    signature: str


def claims_in(manifest: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """(digest of the payload, its size, signature) of each signature in cosign's manifest; others are skipped."""
    found = []
    layers = manifest.get("layers")
    for layer in layers if isinstance(layers, list) else ():
        if not isinstance(layer, Mapping) or layer.get("mediaType") != PAYLOAD_TYPE:
            continue
        annotations = layer.get("annotations")
        signature = annotations.get(SIGNATURE) if isinstance(annotations, Mapping) else None
        digest, size = layer.get("digest"), layer.get("size")
        if isinstance(signature, str) and isinstance(digest, str) and isinstance(size, int):
            found.append((digest, size, signature))
    return found


def check(claims: Sequence[Claim], key: PublicKey, digest: str) -> None:
    """Return when one of the claims is the key's, and is about `digest`. Raises `NotSigned`."""
    if not claims:
        raise NotSigned(f"nobody signed {digest}")
    why = ""
    for claim in claims:
        if not key.signed(claim.payload, claim.signature):
            why = why or "it is signed by another key, or the signature was changed"
        elif (about := _digest_in(claim.payload)) == digest:
            return
        else:
            why = f"the signature is about {about or 'something else'}"
    raise NotSigned(f"{digest}: {why}")


def _digest_in(payload: bytes) -> str | None:
    try:
        critical = json.loads(payload)["critical"]
        return str(critical["image"]["docker-manifest-digest"]) if critical["type"] == _KIND else None
    except (ValueError, KeyError, TypeError):
        return None
