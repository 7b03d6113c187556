"""Pure: what kind of machine an IP address leads to.

A job must not reach through the worker what only the worker can reach: the machine itself, its network, the cloud's
metadata. So every address is sorted before anything connects to it. Addresses that carry another inside (IPv4-mapped,
NAT64) are what that other one is; tunnels whose other end nobody knows (6to4, Teredo) are refused.
"""

from __future__ import annotations

import enum
import ipaddress
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Kind(enum.StrEnum):
    PUBLIC = "public"
    PRIVATE = "private"
    """Private networks, unique local addresses, carrier-grade NAT (100.64/10)."""
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    METADATA = "metadata"
    """Where clouds tell a machine its secrets."""
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"
    RESERVED = "reserved"


#: What a host name may lead to when the owner allowed that very name. The rest needs the address itself as the name.
OWN_NETWORK: Final = frozenset({Kind.PUBLIC, Kind.PRIVATE, Kind.LOOPBACK})

_TABLE: Final[tuple[tuple[str, Kind], ...]] = (
    # The first match counts.
    ("169.254.169.254/32", Kind.METADATA),  # most clouds
    ("169.254.170.2/32", Kind.METADATA),  # Amazon's containers
    ("169.254.170.23/32", Kind.METADATA),
    ("168.63.129.16/32", Kind.METADATA),  # Azure's machine agent, a public address by its looks
    ("100.100.100.200/32", Kind.METADATA),  # Alibaba
    ("192.0.0.192/32", Kind.METADATA),  # Oracle
    ("fd00:ec2::/64", Kind.METADATA),  # Amazon
    ("fd20:ce::254/128", Kind.METADATA),  # Google
    ("0.0.0.0/8", Kind.UNSPECIFIED),
    ("::/128", Kind.UNSPECIFIED),
    ("127.0.0.0/8", Kind.LOOPBACK),
    ("::1/128", Kind.LOOPBACK),
    ("10.0.0.0/8", Kind.PRIVATE),
    ("172.16.0.0/12", Kind.PRIVATE),
    ("192.168.0.0/16", Kind.PRIVATE),
    ("100.64.0.0/10", Kind.PRIVATE),
    ("198.18.0.0/15", Kind.PRIVATE),  # laboratories
    ("fc00::/7", Kind.PRIVATE),
    ("fec0::/10", Kind.PRIVATE),  # site-local, long given up
    ("169.254.0.0/16", Kind.LINK_LOCAL),
    ("fe80::/10", Kind.LINK_LOCAL),
    ("224.0.0.0/4", Kind.MULTICAST),
    ("ff00::/8", Kind.MULTICAST),
    ("64:ff9b:1::/48", Kind.PRIVATE),  # NAT64 for local use
    ("2001::/32", Kind.RESERVED),  # Teredo
    ("2002::/16", Kind.RESERVED),  # 6to4
)
_NETWORKS: Final[tuple[tuple[_Network, Kind], ...]] = tuple((ipaddress.ip_network(text), kind) for text, kind in _TABLE)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


def parse(text: str) -> Address | None:
    """The address that `text` spells in the one usual way, None for anything else (odd spellings, zones, names)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return None if isinstance(address, ipaddress.IPv6Address) and address.scope_id else address


def kind(address: Address) -> Kind:
    """Where a connection to it leads."""
    address = _innermost(address)
    for network, found in _NETWORKS:
        if address.version == network.version and address in network:
            return found
    return Kind.PUBLIC if address.is_global and not address.is_reserved else Kind.RESERVED


def _innermost(address: Address) -> Address:
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_numeric_host(host: str) -> bool:
    """Whether resolvers take the name for an IPv4 address in some spelling: `127.1`, `0x7f.1`, `2130706433`, `017.1`.

    That is so when the last label is a number, as in the URL standard.
    """
    last = host.rstrip(".").rpartition(".")[2].lower()
    if last.isdigit():
        return True
    return last.startswith("0x") and all(digit in "0123456789abcdef" for digit in last[2:])
