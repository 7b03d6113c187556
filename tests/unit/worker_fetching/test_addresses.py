"""Where an address leads."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.worker.fetching import addresses
from orchestrator.worker.fetching.addresses import Kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("93.184.216.34", Kind.PUBLIC),
        ("2606:2800:220:1::1", Kind.PUBLIC),
        ("10.1.2.3", Kind.PRIVATE),
        ("172.31.255.255", Kind.PRIVATE),
        ("172.32.0.1", Kind.PUBLIC),
        ("192.168.0.1", Kind.PRIVATE),
        ("100.64.0.1", Kind.PRIVATE),
        ("100.127.255.255", Kind.PRIVATE),
        ("100.128.0.1", Kind.PUBLIC),
        ("198.18.0.1", Kind.PRIVATE),
        ("fc00::1", Kind.PRIVATE),
        ("fdff::1", Kind.PRIVATE),
        ("fec0::1", Kind.PRIVATE),
        ("127.0.0.1", Kind.LOOPBACK),
        ("127.255.255.254", Kind.LOOPBACK),
        ("::1", Kind.LOOPBACK),
        ("169.254.1.1", Kind.LINK_LOCAL),
        ("fe80::1", Kind.LINK_LOCAL),
        ("169.254.169.254", Kind.METADATA),
        ("169.254.170.2", Kind.METADATA),
        ("168.63.129.16", Kind.METADATA),
        ("100.100.100.200", Kind.METADATA),
        ("fd00:ec2::254", Kind.METADATA),
        ("0.0.0.0", Kind.UNSPECIFIED),
        ("0.1.2.3", Kind.UNSPECIFIED),
        ("::", Kind.UNSPECIFIED),
        ("224.0.0.1", Kind.MULTICAST),
        ("239.255.255.255", Kind.MULTICAST),
        ("ff02::1", Kind.MULTICAST),
        ("240.0.0.1", Kind.RESERVED),
        ("255.255.255.255", Kind.RESERVED),
        ("192.0.2.1", Kind.RESERVED),
        ("2001:db8::1", Kind.RESERVED),
        ("2001::1", Kind.RESERVED),  # Teredo
        ("2002:7f00:1::", Kind.RESERVED),  # 6to4 around 127.0.0.1
        ("100::1", Kind.RESERVED),
        ("4000::1", Kind.RESERVED),
        # addresses inside addresses
        ("::ffff:127.0.0.1", Kind.LOOPBACK),
        ("::ffff:169.254.169.254", Kind.METADATA),
        ("::ffff:93.184.216.34", Kind.PUBLIC),
        ("::127.0.0.1", Kind.LOOPBACK),
        ("::10.0.0.1", Kind.PRIVATE),
        ("64:ff9b::7f00:1", Kind.LOOPBACK),
        ("64:ff9b::a9fe:a9fe", Kind.METADATA),
        ("64:ff9b::a00:1", Kind.PRIVATE),
        ("64:ff9b::5db8:d822", Kind.PUBLIC),
        ("64:ff9b:1::1", Kind.PRIVATE),
    ],
)
def test_kinds(text, kind):
    assert addresses.kind(ipaddress.ip_address(text)) is kind


@given(st.ip_addresses(v=4))
def test_nothing_that_python_calls_private_is_public(address):
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        assert addresses.kind(address) is not Kind.PUBLIC


@given(st.ip_addresses(v=4))
def test_wrapping_an_address_changes_nothing(address):
    for prefix in ("::ffff:", "64:ff9b::"):
        assert addresses.kind(ipaddress.ip_address(f"{prefix}{address}")) is addresses.kind(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "127.0.0.1.",
        "1.2.3.4.5",
        "a.0x1",
        "0x",
        "256.0.0.1",
    ],
)
def test_names_that_resolvers_take_for_addresses(host):
    assert addresses.is_numeric_host(host)


@pytest.mark.parametrize("host", ["a.example", "0x7f.example", "127.0.0.1.nip.io", "dead.beef", "x1"])
def test_names_that_are_names(host):
    assert not addresses.is_numeric_host(host)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "127.1", "0127.0.0.1", "a.example", "", "1.2.3.4 "])
def test_odd_spellings_are_no_addresses(text):
    assert addresses.parse(text) is None
