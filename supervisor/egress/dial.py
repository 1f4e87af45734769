"""Connect to where a rule leads, by address, after that address was judged.

A name is resolved when it is dialled, every time; of its addresses only those are dialled that the
rule allows. A socket is connected to the very address that was judged, so a resolver that answers
otherwise the next time changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

import aiohappyeyeballs
from aiohappyeyeballs.types import AddrInfoType

from supervisor.egress.relay import prepare
from supervisor.egress.resolver import Answer, ResolveError
from supervisor.profile.addresses import Address, inside, never, special
from supervisor.profile.model import EgressRule

CONNECT_S = 10.0
"""For all addresses of a name together, its resolution included."""

EYEBALLS_S = 0.25
"""How long an address has before the next one is tried beside it (RFC 8305, section 5)."""

ADDRESSES_MAX = 8
"""Of one name that are dialled."""

OWN = "the host's own address"
LEADS_TO = "the name leads to "
"""Said before the addresses: who asked for a name has not seen them."""


class Resolves(Protocol):
    """Who finds the real addresses of a name: `resolver.Resolver`."""

    async def resolve(self, name: str) -> Answer:
        """Give its addresses.

        Raises:
            ResolveError: there are none now.
        """


class DialRefused(Exception):
    """No address that there is may be dialled under the rule; the text says why."""


class DialFailed(Exception):
    """Nobody answered; `address` is what was tried, "" where nothing was."""

    def __init__(self, reason: str, address: str = "") -> None:
        super().__init__(reason)
        self.address = address


async def dial(
    resolver: Resolves, place: str | Address, port: int, rule: EgressRule
) -> tuple[socket.socket, str]:
    """Give a socket that is connected to `place`, a name or an address, and the address.

    Raises:
        DialRefused: policy is against it.
        DialFailed: the network is.
    """
    allowed: list[Address] = []
    try:
        async with asyncio.timeout(CONNECT_S):
            allowed = allowed_of(await _addresses(resolver, place), rule)
            connection = await aiohappyeyeballs.start_connection(
                [_info(address, port) for address in allowed[:ADDRESSES_MAX]],
                happy_eyeballs_delay=EYEBALLS_S,
                socket_factory=_socket,
            )
    except TimeoutError:
        raise DialFailed(f"no connection in {CONNECT_S:.0f} s", _first(allowed)) from None
    except OSError as error:
        raise DialFailed(_reason(error), _first(allowed)) from None
    return connection, str(ip_address(connection.getpeername()[0].partition("%")[0]))


async def _addresses(resolver: Resolves, place: str | Address) -> Sequence[Address]:
    if not isinstance(place, str):
        return [place]
    try:
        return (await resolver.resolve(place)).addresses
    except ResolveError as error:
        raise DialFailed(f"no address for the name: {error}") from None


def allowed_of(addresses: Sequence[Address], rule: EgressRule) -> list[Address]:
    """Give those of the addresses that the rule lets be dialled.

    Raises:
        DialRefused: none; with each address and what is against it.
    """
    refused = {address: refusal(address, rule) for address in addresses}
    allowed = [address for address, reason in refused.items() if not reason]
    if not allowed:
        told = [f"{address}: {reason}" for address, reason in refused.items()][:ADDRESSES_MAX]
        led = LEADS_TO if rule.host else ""
        raise DialRefused(led + "; ".join(told) if told else "the name has no address")
    return allowed


def refusal(address: Address, rule: EgressRule) -> str:
    """Say why an address may not be dialled under a rule, "" where it may.

    What no rule opens stays closed for every rule; what is not public is opened by the network that
    a `cidr:` rule names, or by `private: true`.
    """
    if kind := never(address):
        return kind
    if rule.host and not rule.private and (kind := special(address)):
        return kind
    # A translator would send to what is carried, perhaps right back to us.
    return OWN if any(map(is_own, (address, *inside(address)))) else ""


def is_own(address: Address) -> bool:
    """Say whether it is an address of this host: only those can be bound to.

    With net.ipv4.ip_nonlocal_bind (or its twin for IPv6) every address looks like one, and nothing
    is dialled at all.
    """
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        probe = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            # A host without IPv6 has no such address, and cannot dial one either.
            return False
        raise
    with probe:
        try:
            probe.bind((str(address), 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
    return True


def _info(address: Address, port: int) -> AddrInfoType:
    if isinstance(address, IPv6Address):
        return (
            socket.AF_INET6,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            "",
            (str(address), port, 0, 0),
        )
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port))


def _socket(info: AddrInfoType) -> socket.socket:
    """Make a socket that is reset from the start where the broker is killed."""
    made = socket.socket(info[0], info[1] | socket.SOCK_CLOEXEC, info[2])
    prepare(made)
    return made


def _reason(error: OSError) -> str:
    """Say in the kernel's words why; several addresses may have failed in several ways."""
    if error.errno is None:
        return str(error)
    with contextlib.suppress(ValueError):
        return os.strerror(error.errno)
    return str(error)


def _first(addresses: Sequence[Address]) -> str:
    return str(addresses[0]) if addresses else ""
