"""Network addresses: what counts as one place, and who is believed about whom it speaks for. Without I/O."""

from __future__ import annotations

import functools
import ipaddress

__all__ = ["TrustedProxies", "place_of"]


@functools.lru_cache(4096)
def place_of(address: str | None) -> str:
    """What counts as one place: an IPv4 address, or the /64 that a machine with IPv6 has for itself."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


class TrustedProxies:
    """Which addresses are believed about whom they speak for."""

    def __init__(self, networks: tuple[str, ...] = ()) -> None:
        """Raises ValueError for what is no address or network."""
        self._networks = tuple(ipaddress.ip_network(one, strict=False) for one in networks)

    def trusts(self, address: str | None) -> bool:
        try:
            parsed = ipaddress.ip_address((address or "").partition("%")[0])
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._networks)

    def client(self, remote: str | None, forwarded_for: str) -> str | None:
        """The address of the client. `forwarded_for` (X-Forwarded-For) grows at its end: what the last trusted proxy
        has written there is true, and what stands before it anybody may have written."""
        address = remote
        for hop in reversed(forwarded_for.split(",")):
            if not self.trusts(address) or not hop.strip():
                break
            address = hop.strip()
        return address
