"""Which resources (accounts, identities) a request may use besides its sender's own.

A client lists `{resource, guardian, accessor}` in `payload.allow` and adds the resource's own signature over the whole
payload in `auth[resource]`. Guardian is the receiving service, accessor the sender.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.protocol import js_json, signing
from orchestrator.wallet import addresses

__all__ = ["authorized_resources"]

# Each one costs us a signature check.
_MOST_RESOURCES = 16
_PLACEHOLDERS = ("peerAddress", "identity.address")


def authorized_resources(payload: Mapping[str, Any], auth: Any, *, guardian: str, accessor: str) -> frozenset[str]:
    """The resources whose permission is proven: an allow entry for us and this peer, and a signature that fits.

    `payload` must be as it was received, before anything is unpacked. What is malformed proves nothing and is left out.

    Both reference clients drop the signatures when they put an authorised request into a batch, and leave placeholders
    for guardian and accessor. Then the envelope's signature is all there is: it proves the accessor's own resource and
    no other.
    """
    allow = payload.get("allow")
    if not isinstance(allow, list) or not allow:
        return frozenset()
    proven: set[str] = set()
    text: str | None = None
    for entry in allow[:_MOST_RESOURCES]:
        try:
            resource = addresses.checksum(entry["resource"])
            if (entry["guardian"], entry["accessor"]) == _PLACEHOLDERS:
                if resource == accessor:
                    proven.add(resource)
                continue
            if addresses.checksum(entry["guardian"]) != guardian or addresses.checksum(entry["accessor"]) != accessor:
                continue
            if text is None:
                text = js_json.dumps(payload)
            if signing.recover_signer(_signature_of(auth, resource), text) == resource:
                proven.add(resource)
        except (InvalidInput, KeyError, TypeError):
            continue
    return frozenset(proven)


def _signature_of(auth: Any, resource: str) -> Any:
    """`auth[resource]`, whatever the case of the key."""
    if not isinstance(auth, dict):
        return None
    if resource in auth:
        return auth[resource]
    return next((signature for key, signature in auth.items() if key.lower() == resource.lower()), None)
