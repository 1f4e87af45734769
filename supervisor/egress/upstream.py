"""One question to one name server, and what of its answer counts.

Over a socket and with an id of its own, and only what answers that very question is taken. Of an
answer only the addresses at the end of its CNAME chain are, as `dns.message` follows it.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.wire

from supervisor.profile.addresses import Address

UDP_S = 2.0
TCP_S = 4.0

PAYLOAD_BYTES = 1232
"""What we say that we take over UDP (RFC 9715 recommends 1400 or less)."""

ANSWER_BYTES_MAX = 16 * 1024
RECORDS_MAX = 512
STRAYS_MAX = 64
"""Datagrams on one socket that answer something else."""

ADDRESSES_MAX = 16
"""Of one answer that are taken."""

PORT = 53

# Here, since the broker's root is empty: nothing can be imported when it is first needed.
dns.rdata.load_all_types()  # type: ignore[no-untyped-call]

_LENGTH = struct.Struct("!H")
_HEADER = struct.Struct("!HHHHHH")
_NO_EDNS = (dns.rcode.FORMERR, dns.rcode.NOTIMP)


class Reason(StrEnum):
    """Why a name has no address."""

    NXDOMAIN = "NXDOMAIN"
    NO_ADDRESS = "NO_ADDRESS"
    TIMEOUT = "TIMEOUT"
    SERVFAIL = "SERVFAIL"
    MALFORMED = "MALFORMED"


class ResolveError(Exception):
    """A name has no address that could be dialled now."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Nameserver:
    """Where questions go; `scope` is the interface of a link-local address, else 0."""

    address: Address
    port: int = PORT
    scope: int = 0

    @classmethod
    def of(cls, text: str) -> Nameserver:
        """Read "192.0.2.53", "192.0.2.53:5353", "2001:db8::53" or "[2001:db8::53]:5353".

        Raises:
            ValueError: it is none of these.
        """
        host, port = text, str(PORT)
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ValueError(f"{text!r} is not the address of a name server")
            port = rest[1:] if rest else port
        elif text.count(":") == 1:
            host, _, port = text.partition(":")
        host, _, zone = host.partition("%")
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
            raise ValueError(f"{text!r} has no port that there is")
        return cls(
            address=ip_address(host),
            port=int(port),
            scope=_scope(zone),
        )

    @property
    def family(self) -> socket.AddressFamily:
        """Give its address family."""
        return socket.AF_INET if isinstance(self.address, IPv4Address) else socket.AF_INET6

    @property
    def place(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """Give its address as sockets take it."""
        if isinstance(self.address, IPv4Address):
            return str(self.address), self.port
        return str(self.address), self.port, 0, self.scope

    def __str__(self) -> str:
        """Write it as `of` reads it."""
        if isinstance(self.address, IPv4Address):
            return f"{self.address}:{self.port}"
        zone = f"%{self.scope}" if self.scope else ""
        return f"[{self.address}{zone}]:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The addresses of one family that an answer holds."""

    addresses: tuple[Address, ...]
    canonical: str
    ttl_s: float


def read_answer(query: dns.message.QueryMessage, wire: bytes) -> dns.message.QueryMessage | None:
    """Read an answer to `query`; None where it answers something else.

    Raises:
        ResolveError: it is no message, or one that we take no part of.
    """
    if len(wire) < _HEADER.size:
        return None
    number, flags, *_ = _HEADER.unpack_from(wire)
    if number != query.id:
        return None  # a forger does not know it: what is malformed beyond is the server's own
    try:
        cut = bool(flags & dns.flags.TC)
        if not cut:
            _check_records(wire)
        message = dns.message.from_wire(wire, question_only=cut, ignore_trailing=True)
        if isinstance(message, dns.message.QueryMessage) and query.is_response(message):
            return message
    except dns.exception.DNSException as error:
        raise ResolveError(Reason.MALFORMED, type(error).__name__) from error
    return None


def found_in(message: dns.message.QueryMessage) -> Found:
    """Give the addresses at the end of the chain that an answer to a question for them holds.

    Raises:
        ResolveError: there are none.
    """
    rcode = message.rcode()
    if rcode == dns.rcode.NXDOMAIN:
        raise ResolveError(Reason.NXDOMAIN)
    if rcode != dns.rcode.NOERROR:
        raise ResolveError(Reason.SERVFAIL, f"the name server says {dns.rcode.to_text(rcode)}")
    try:
        result = message.resolve_chaining()
    except dns.exception.DNSException as error:
        raise ResolveError(Reason.MALFORMED, type(error).__name__) from error
    if result.answer is None:
        raise ResolveError(Reason.NO_ADDRESS)
    addresses = tuple(ip_address(rdata.address) for rdata in result.answer)
    return Found(
        addresses=addresses[:ADDRESSES_MAX],
        canonical=result.canonical_name.to_text(omit_final_dot=True),
        ttl_s=float(result.minimum_ttl),
    )


def _check_records(wire: bytes) -> None:
    """Refuse what is too large, or holds records of other classes: each kind of record that is
    decoded stays in the memory of `dns.rdata`.

    Raises:
        dns.exception.FormError: so it is.
    """
    if len(wire) > ANSWER_BYTES_MAX:
        raise dns.exception.FormError
    parser = dns.wire.Parser(wire)
    _, _, questions, *counts = parser.get_struct(_HEADER.format)
    if questions > 1 or sum(counts) > RECORDS_MAX:
        raise dns.exception.FormError
    for _ in range(questions):
        parser.get_name(decompress=True)
        parser.get_struct("!HH")
    for _ in range(sum(counts)):
        parser.get_name(decompress=True)
        rdtype, rdclass, _, length = parser.get_struct("!HHIH")
        if rdclass != dns.rdataclass.IN and rdtype != dns.rdatatype.OPT:
            raise dns.exception.FormError
        parser.get_bytes(length)


async def exchange(
    server: Nameserver, name: dns.name.Name, rdtype: dns.rdatatype.RdataType
) -> dns.message.QueryMessage:
    """Ask one server once: over TCP, too, where the answer is cut, and without EDNS where it does
    not know that.

    Raises:
        ResolveError, OSError, TimeoutError: there is no answer.
    """
    query = _query(name, rdtype, edns=0)
    message = await _over_udp(server, query)
    if message.rcode() in _NO_EDNS:
        query = _query(name, rdtype, edns=-1)
        message = await _over_udp(server, query)
    if message.flags & dns.flags.TC:
        message = await _over_tcp(server, query)
    return message


def _query(
    name: dns.name.Name, rdtype: dns.rdatatype.RdataType, *, edns: int
) -> dns.message.QueryMessage:
    number = secrets.randbelow(1 << 16)
    return dns.message.make_query(name, rdtype, id=number, use_edns=edns, payload=PAYLOAD_BYTES)


async def _over_udp(
    server: Nameserver, query: dns.message.QueryMessage
) -> dns.message.QueryMessage:
    loop = asyncio.get_running_loop()
    with _socket(server, socket.SOCK_DGRAM) as one:
        # Connected: the kernel picks a port at random, and takes datagrams of this server only.
        one.connect(server.place)
        async with asyncio.timeout(UDP_S):
            await loop.sock_sendall(one, query.to_wire())
            for _ in range(STRAYS_MAX):
                wire = await loop.sock_recv(one, ANSWER_BYTES_MAX + 1)
                if (message := read_answer(query, wire)) is not None:
                    return message
    raise ResolveError(Reason.MALFORMED, f"{server} answers something else")


async def _over_tcp(
    server: Nameserver, query: dns.message.QueryMessage
) -> dns.message.QueryMessage:
    loop = asyncio.get_running_loop()
    with _socket(server, socket.SOCK_STREAM) as one:
        async with asyncio.timeout(TCP_S):
            await loop.sock_connect(one, server.place)
            wire = query.to_wire()
            await loop.sock_sendall(one, _LENGTH.pack(len(wire)) + wire)
            (length,) = _LENGTH.unpack(await _exactly(one, _LENGTH.size))
            if length > ANSWER_BYTES_MAX:
                raise ResolveError(Reason.MALFORMED, f"{length} bytes are too many for an answer")
            message = read_answer(query, await _exactly(one, length))
    if message is None or message.flags & dns.flags.TC:
        raise ResolveError(Reason.MALFORMED, f"{server} answers something else")
    return message


async def _exactly(one: socket.socket, length: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < length:
        more = await loop.sock_recv(one, length - len(data))
        if not more:
            raise ResolveError(Reason.SERVFAIL, "the name server hung up")
        data += more
    return data


def _socket(server: Nameserver, kind: socket.SocketKind) -> socket.socket:
    return socket.socket(server.family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _scope(zone: str) -> int:
    """Give the number of an interface; in the broker only numbers can be read."""
    if not zone:
        return 0
    if zone.isascii() and zone.isdigit():
        return int(zone)
    try:
        return socket.if_nametoindex(zone)
    except OSError as error:
        raise ValueError(f"there is no interface {zone!r}") from error
