"""Sockets that are more than TCP, UDP and Unix: each family is attack surface of its own.

Copy Fail (CVE-2026-31431) came through AF_ALG out of a default container; raw and packet sockets
forge traffic; vsock reaches the hypervisor; netlink reaches netfilter.
"""

from __future__ import annotations

import socket

from tests.escape.arena import Row, expect_refused
from tests.support.daemon import Daemon

STREAM, DGRAM, RAW, SEQPACKET, DCCP = 1, 2, 3, 5, 6
UNIX, INET, INET6, KEY, NETLINK, PACKET, RDS = 1, 2, 10, 15, 16, 17, 21
CAN, TIPC, BLUETOOTH, RXRPC, ALG, NFC, VSOCK, KCM, SMC, XDP = (
    29, 30, 31, 33, 38, 39, 40, 41, 43, 44,
)  # fmt: skip
SOCK_DIAG, XFRM, AUDIT, NETFILTER, KOBJECT_UEVENT, GENERIC = 4, 6, 9, 12, 15, 16
ICMP, UDPLITE, SCTP, MPTCP = 1, 136, 132, 262
CLOEXEC = socket.SOCK_CLOEXEC

FAMILIES = (
    Row("socket", (ALG, SEQPACKET, 0)),
    Row("socket", (PACKET, RAW, 0x300)),
    Row("socket", (PACKET, DGRAM | CLOEXEC, 0x300)),
    Row("socket", (VSOCK, STREAM, 0)),
    Row("socket", (KEY, RAW, 2)),
    Row("socket", (XDP, RAW, 0)),
    Row("socket", (RDS, SEQPACKET, 0)),
    Row("socket", (CAN, RAW, 1)),
    Row("socket", (TIPC, SEQPACKET, 0)),
    Row("socket", (BLUETOOTH, RAW, 1)),
    Row("socket", (RXRPC, DGRAM, INET)),
    Row("socket", (NFC, SEQPACKET, 0)),
    Row("socket", (KCM, DGRAM, 0)),
    Row("socket", (SMC, STREAM, 0)),
)
RAW_SOCKETS = (
    Row("socket", (INET, RAW, ICMP)),
    Row("socket", (INET, RAW | CLOEXEC, 255)),
    Row("socket", (INET6, RAW, 58)),
    Row("socket", (INET, DGRAM, ICMP)),
)
PROTOCOLS = (
    Row("socket", (INET, STREAM, SCTP)),
    Row("socket", (INET, STREAM, MPTCP)),
    Row("socket", (INET, DGRAM, UDPLITE)),
    Row("socket", (INET, DCCP, 0)),
    Row("socket", (UNIX, RAW, 0)),
    Row("socketpair", (INET, STREAM, 0, 8)),
)
NETLINKS = tuple(
    Row("socket", (NETLINK, RAW, protocol))
    for protocol in (SOCK_DIAG, XFRM, AUDIT, NETFILTER, KOBJECT_UEVENT, GENERIC)
)
INTERNET = (
    Row("socket", (INET, STREAM, 0)),
    Row("socket", (INET, DGRAM, 0)),
    Row("socket", (INET6, STREAM, 6)),
    Row("socket", (NETLINK, RAW, 0)),
)


def test_foreign_families(daemon: Daemon) -> None:
    expect_refused(daemon, FAMILIES, profile="net")


def test_raw_sockets(daemon: Daemon) -> None:
    expect_refused(daemon, RAW_SOCKETS, profile="net")


def test_other_protocols(daemon: Daemon) -> None:
    expect_refused(daemon, PROTOCOLS, profile="net")


def test_netlink_beyond_routing(daemon: Daemon) -> None:
    expect_refused(daemon, NETLINKS, profile="net")


def test_a_profile_without_a_network_has_no_internet_sockets(daemon: Daemon) -> None:
    expect_refused(daemon, INTERNET)
