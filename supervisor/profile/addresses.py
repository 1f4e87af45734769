"""Which addresses are not the public internet, and which no rule may ever reach.

From IANA's registries of special-purpose addresses (RFC 6890 and its updates), written out here
because what `ipaddress` calls private differs between versions of Python. The documentation
networks (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32) count as public: nothing
routes them, and tests play the internet with them.

An IPv6 address that carries an IPv4 address is judged by that one: a gateway would send it there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SYNTHETIC4 = IPv4Network("198.18.0.0/15")
"""What names are answered with inside a sandbox (RFC 2544: never on the internet)."""

SYNTHETIC6 = IPv6Network("fd40:b1a3:129e::/48")
"""The same for IPv6: a prefix of our own (RFC 4193)."""

NEVER = frozenset(
    {"loopback", "link-local", "multicast", "metadata", "unspecified", "broadcast", "synthetic"}
)
"""Kinds of address that neither `cidr:` nor `private: true` opens."""

TRANSLATED = "translated"

METADATA_NAMES = frozenset(
    {
        "metadata.google.internal",
        "metadata.goog",
        "instance-data.ec2.internal",
        "metadata.tencentyun.com",
    }
)
"""Names of those services, by the clouds' own documents. That no name leads to their addresses is
seen to whenever one is dialled: these only tell early that a rule is in vain."""

KNOWN_MAX = 1024
"""Addresses whose kind is remembered: each is judged several times, whenever it is dialled."""

# The first network that holds an address says what it is.
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # The services that hand a machine its credentials, by the clouds' own documents.
    ("metadata", ("169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32",
                  "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32",
                  "fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128",
                  "fd00:c1::a9fe:a9fe/128", "fd00:42::42/128", "fe80::a9fe:a9fe/128")),
    ("synthetic", (str(SYNTHETIC4), str(SYNTHETIC6))),
    ("unspecified", ("0.0.0.0/8", "::/128")),
    ("loopback", ("127.0.0.0/8", "::1/128")),
    ("link-local", ("169.254.0.0/16", "fe80::/10")),
    ("broadcast", ("255.255.255.255/32",)),
    ("multicast", ("224.0.0.0/4", "ff00::/8")),
    ("private", ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10")),
    ("shared", ("100.64.0.0/10",)),
    ("reserved", ("192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4",
                  "2001::/23", "3fff::/20")),
)  # fmt: skip
_NETWORKS: tuple[tuple[str, Network], ...] = tuple(
    (kind, ip_network(network)) for kind, networks in _KINDS for network in networks
)
_NEVER_NETWORKS = tuple((kind, network) for kind, network in _NETWORKS if kind in NEVER)
_GLOBAL6 = IPv6Network("2000::/3")
"""All of IPv6 that is handed out; the rest is reserved."""

_MAPPED = IPv6Network("::ffff:0:0/96")
_TEREDO = IPv6Network("2001::/32")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
# Networks whose addresses carry an IPv4 address right behind the prefix.
_CARRIERS = (
    _MAPPED,
    IPv6Network("::ffff:0:0:0/96"),  # RFC 7915
    IPv6Network("64:ff9b::/96"),  # RFC 6052
    IPv6Network("2002::/16"),  # 6to4, RFC 3056
    IPv6Network("::/96"),  # "IPv4-compatible", RFC 4291
)
# What nobody has a use for on the internet, also where the address inside is public.
_NEVER_PUBLIC = (IPv6Network("::/96"), IPv6Network("::ffff:0:0:0/96"), _NAT64_LOCAL)


@functools.lru_cache(KNOWN_MAX)
def special(ip: Address) -> str:
    """Give "" where `ip` is public, else its kind: what a name must not lead to on its own."""
    found = inside(ip)
    for carried in found:
        if kind := special(carried):
            return kind
    if found:
        return TRANSLATED if any(ip in network for network in _NEVER_PUBLIC) else ""
    for kind, network in _NETWORKS:
        if ip in network:
            return kind
    if ip in _NAT64_LOCAL:
        return TRANSLATED
    return "reserved" if isinstance(ip, IPv6Address) and ip not in _GLOBAL6 else ""


@functools.lru_cache(KNOWN_MAX)
def never(ip: Address) -> str:
    """Give "" or the kind of `ip` for which no rule may reach it."""
    kinds = [special(carried) for carried in inside(ip)] or [special(ip)]
    return next((kind for kind in kinds if kind in NEVER), "")


def never_in(network: Network) -> str:
    """Give "" or what `network` holds that no rule may reach: its kind, and where it lies."""
    for kind, other in _NEVER_NETWORKS:
        if network.version == other.version and network.overlaps(other):
            return f"{kind} ({other})"
    if isinstance(network, IPv4Network):
        return ""
    for carrier in (*_CARRIERS, _TEREDO, _NAT64_LOCAL):
        if not network.overlaps(carrier):
            continue
        carried = carried_network(network, carrier)
        if carried is None:
            return f"{TRANSLATED} ({carrier})"
        return never_in(carried)
    return ""


def unmapped(network: Network) -> Network:
    """Give the IPv4 network that `network` is where all of it is v4-mapped, else `network`."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return carried_network(network, _MAPPED) or network
    return network


def carried_network(network: IPv6Network, carrier: IPv6Network) -> IPv4Network | None:
    """Give the IPv4 network that `network` stands for inside `carrier`, None where it is none."""
    if carrier not in _CARRIERS or not network.subnet_of(carrier):
        return None
    length = network.prefixlen - carrier.prefixlen
    return IPv4Network((_bits(int(network.network_address), carrier.prefixlen), min(length, 32)))


def inside(ip: Address) -> tuple[IPv4Address, ...]:
    """Give the IPv4 addresses that a translator may read in `ip`."""
    if isinstance(ip, IPv4Address) or int(ip) <= 1:
        return ()  # "::" and "::1" lie in ::/96, and are what they are
    if ip in _TEREDO:
        number = int(ip)  # RFC 4380: the server, and the client's with every bit flipped
        return (IPv4Address(_bits(number, 32)), IPv4Address(~number & 0xFFFFFFFF))
    if ip in _NAT64_LOCAL:
        return tuple(_nat64_readings(int(ip)))
    for carrier in _CARRIERS:
        if ip in carrier:
            return (IPv4Address(_bits(int(ip), carrier.prefixlen)),)
    return ()


def _nat64_readings(number: int) -> Iterator[IPv4Address]:
    """Read an address of RFC 8215's prefix with each length that RFC 6052 (section 2.2) has room
    for: which one is in use is known to the gateway alone. None sends to 0.0.0.0/8."""
    for length in (48, 56, 64):
        suffix = 128 - length - 40
        before, after = 64 - length, 32 - (64 - length)
        if number >> 56 & 0xFF == 0 and number & ((1 << suffix) - 1) == 0:
            high = number >> 64 & ((1 << before) - 1)
            low = number >> suffix & ((1 << after) - 1)
            yield from _sendable(high << after | low)
    yield from _sendable(number & 0xFFFFFFFF)


def _sendable(number: int) -> Iterator[IPv4Address]:
    if number >> 24:
        yield IPv4Address(number)


def _bits(number: int, start: int) -> int:
    """Give the 32 bits of an IPv6 address that follow the first `start`."""
    return number >> (96 - start) & 0xFFFFFFFF
