"""Addresses: what is public, what is not and why, and what no rule opens."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.profile.addresses import (
    NEVER,
    SYNTHETIC4,
    SYNTHETIC6,
    never,
    never_in,
    special,
    unmapped,
)

KINDS = [
    ("8.8.8.8", ""), ("192.0.2.1", ""), ("198.51.100.1", ""), ("203.0.113.9", ""),
    ("198.17.255.255", ""), ("198.20.0.0", ""), ("172.15.255.255", ""), ("172.32.0.0", ""),
    ("10.1.2.3", "private"), ("172.16.0.1", "private"), ("172.31.255.255", "private"),
    ("192.168.0.1", "private"), ("100.64.0.1", "shared"), ("127.0.0.1", "loopback"),
    ("127.255.255.255", "loopback"), ("169.254.0.1", "link-local"), ("169.254.169.254", "metadata"),
    ("100.100.100.200", "metadata"), ("168.63.129.16", "metadata"), ("192.0.0.192", "metadata"),
    ("224.0.0.1", "multicast"), ("239.255.255.255", "multicast"), ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"), ("0.1.2.3", "unspecified"),
    ("0.0.0.0", "unspecified"),  # noqa: S104
    ("198.18.0.1", "synthetic"), ("198.19.255.255", "synthetic"), ("192.0.0.1", "reserved"),
    ("2001:db8::1", ""), ("2606:2800::1", ""), ("::1", "loopback"), ("::", "unspecified"),
    ("fe80::1", "link-local"), ("fe80::1%3", "link-local"), ("fec0::1", "private"),
    ("fd00::1", "private"), ("fc00::1", "private"), ("fd00:ec2::254", "metadata"),
    ("fd20:ce::254", "metadata"), ("fd40:b1a3:129e::1", "synthetic"), ("ff02::1", "multicast"),
    ("100::1", "reserved"), ("2001:2::1", "reserved"), ("4000::1", "reserved"),
    ("5f00::1", "reserved"), ("3fff::1", "reserved"),
]  # fmt: skip

CARRIED = [
    # IPv6 with an IPv4 address in it: what a translator or the kernel would make of it.
    ("::ffff:8.8.8.8", ""), ("::ffff:127.0.0.1", "loopback"), ("::ffff:10.0.0.1", "private"),
    ("::ffff:169.254.169.254", "metadata"), ("::127.0.0.1", "loopback"),
    ("::8.8.8.8", "translated"), ("::ffff:0:127.0.0.1", "loopback"),
    ("::ffff:0:8.8.8.8", "translated"), ("64:ff9b::8.8.8.8", ""),
    ("64:ff9b::10.0.0.1", "private"), ("64:ff9b::169.254.169.254", "metadata"),
    ("2002:808:808::1", ""), ("2002:7f00:1::1", "loopback"), ("2002:a9fe:a9fe::", "metadata"),
    # RFC 8215 with 8.8.8.8 and 127.0.0.1 as in the table of RFC 6052, section 2.4.
    ("64:ff9b:1::8.8.8.8", "translated"), ("64:ff9b:1::127.0.0.1", "loopback"),
    ("64:ff9b:1:808:8:800::", "translated"), ("64:ff9b:1:7f00:0:100::", "loopback"),
    ("64:ff9b:1:7f:0:1::", "loopback"), ("64:ff9b:1:0:7f:0:100:0", "loopback"),
    # Teredo: the server in the front, the client's address flipped at the end.
    ("2001:0:808:808::f7f7:f7f7", ""), ("2001:0:7f00:1::f7f7:f7f7", "loopback"),
    ("2001:0:808:808::80ff:fffe", "loopback"), ("2001:0:808:808::5601:5601", "metadata"),
]  # fmt: skip


PUBLIC_HERE = [
    ip_network(network)
    for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32",
                    "2002::/16", "2001::/32")
]  # fmt: skip
"""Documentation, which tests play the internet with; and what is judged by the address inside."""


@pytest.mark.parametrize(("text", "kind"), KINDS + CARRIED)
def test_kinds(text: str, kind: str) -> None:
    ip = ip_address(text)
    assert special(ip) == kind
    assert never(ip) == (kind if kind in NEVER else "")


@given(st.ip_addresses())
def test_what_python_calls_private_is_special(
    ip: ipaddress._IPAddressBase,
) -> None:
    assert isinstance(ip, IPv4Address | IPv6Address)
    if ip.is_private and not any(ip in network for network in PUBLIC_HERE):
        assert special(ip)
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        assert never(ip)


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_in_every_dress(ip: IPv4Address) -> None:
    number = int(ip)
    for prefix, shift in (("::ffff:0:0", 0), ("64:ff9b::", 0), ("2002::", 80)):
        dressed = IPv6Address(int(IPv6Address(prefix)) | number << shift)
        assert special(dressed) == special(ip), dressed
        assert never(dressed) == never(ip), dressed
    for prefix in ("::", "::ffff:0:0:0", "64:ff9b:1::"):
        if number >> 24:
            dressed = IPv6Address(int(IPv6Address(prefix)) | number)
            assert special(dressed), dressed
            assert never(dressed) == never(ip), dressed


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("10.0.0.0/8", ""), ("192.0.2.0/24", ""), ("192.168.1.1/32", ""), ("8.0.0.0/7", ""),
        ("2001:db8::/32", ""), ("fd12:3456:789a::/48", ""), ("::ffff:10.0.0.0/104", ""),
        ("64:ff9b::10.0.0.0/104", ""), ("2002:a00::/24", ""), ("0.0.0.0/0", "metadata"),
        ("169.254.169.254/32", "metadata"), ("169.254.3.0/24", "link-local"),
        ("127.0.0.0/9", "loopback"), ("100.64.0.0/10", "metadata (100.100.100.200/32)"),
        ("198.18.3.4/32", "synthetic"), ("255.255.255.255/32", "broadcast"),
        ("224.0.0.0/24", "multicast"), ("::/0", "metadata"), ("fd00::/8", "metadata"),
        ("fe80::/64", "metadata"), ("fe80:1::/64", "link-local"),
        ("fd40:b1a3:129e:1::/64", "synthetic"),
        ("::ffff:127.0.0.0/104", "loopback"), ("::ffff:0:0/96", "metadata"),
        ("64:ff9b::7f00:0/104", "loopback"), ("2002:a9fe:a9fe::/48", "metadata"),
        ("2002:a9fe:a9fe:1::/64", "metadata"), ("2000::/3", "translated"),
        ("2001::/32", "translated"), ("64:ff9b:1::/64", "translated"), ("::/90", "unspecified"),
    ],
)  # fmt: skip
def test_networks(network: str, reason: str) -> None:
    said = never_in(ip_network(network))
    assert said.startswith(reason) if reason else not said


@given(st.ip_addresses(), st.integers(0, 128), st.data())
def test_a_network_without_reason_holds_no_address_with_one(
    base: IPv4Address | IPv6Address, bits: int, data: st.DataObject
) -> None:
    network = ip_network((base, min(bits, base.max_prefixlen)), strict=False)
    if never_in(network):
        return
    within = data.draw(st.integers(0, network.num_addresses - 1))
    assert not never(network[within])


@given(st.ip_addresses())
def test_a_network_of_one_address_is_judged_as_that(ip: IPv4Address | IPv6Address) -> None:
    if never(ip):
        assert never_in(ip_network((ip, ip.max_prefixlen)))


def test_unmapped() -> None:
    assert unmapped(ip_network("::ffff:10.0.0.0/104")) == ip_network("10.0.0.0/8")
    for same in ("10.0.0.0/8", "2001:db8::/32", "::/0", "64:ff9b::/96"):
        assert unmapped(ip_network(same)) == ip_network(same)


def test_synthetic_addresses_of_both_families_have_numbers_alike() -> None:
    assert SYNTHETIC6.num_addresses >= SYNTHETIC4.num_addresses == 1 << 17
