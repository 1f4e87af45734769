"""DNS towards a sandbox: names of the profile have an address, no other name does.

`Answerer` is pure, bytes to bytes. It has no upstream: nothing that a sandbox asks ever leaves the
host, and what it is told of a name is no more than the profile says. A name that a rule covers is
answered with its synthetic addresses, and with an empty answer for every other type (so there is no
HTTPS or SVCB record to lead around them); all other names do not exist. Answers are a little longer
than their questions, whatever was asked.

`Server` moves messages between it and open sockets, and takes no more than a call may ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.wire

from supervisor.call.events import Denied, Wall
from supervisor.egress.plan import Names, NamesExhausted
from supervisor.profile.hosts import HostnameError, canonical

TTL_S = 60

QUERY_BYTES_MAX = 1232
"""A question is 271 octets at most; the rest is room for EDNS options."""

PAYLOAD_BYTES = 1232
"""What we say that we take over UDP (RFC 9715 recommends 1400 or less)."""

ADDITIONAL_MAX = 4
QUERIES_PER_S = 200.0
QUERIES_BURST = 1000.0
REFUSALS_PER_S = 50.0
"""Of one call, beyond its queries; then nothing is read for `PAUSE_S`."""

PAUSE_S = 0.1
TURN_MAX = 32
"""Datagrams that are taken before other work gets its turn."""

STREAMS_MAX = 16
STREAM_QUERIES_MAX = 256
STREAM_IDLE_S = 10.0
"""For one query over TCP, from the end of the answer before it to the end of its own."""

ACCEPTS_PER_S = 50.0
ACCEPTS_BURST = 200.0

NO_RULE = "egress: no rule for this name"
ONLY_QUERIES = "egress: only plain questions are answered"
RATE = f"egress: at most {QUERIES_PER_S:.0f} questions a second"

# Here, since the broker's root is empty: nothing can be imported when it is first needed.
dns.rdata.load_all_types()  # type: ignore[no-untyped-call]

_HEADER = struct.Struct("!HHHHHH")
_LENGTH = struct.Struct("!H")
_HOST_LABEL = re.compile(rb"[A-Za-z0-9-]+")
_IN = dns.rdataclass.IN


class Bucket:
    """Tokens that come at `rate` a second, and `burst` of which can be saved."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens = burst
        self._at = clock()

    def take(self) -> bool:
        """Take a token, if there is one."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is read of a question; `edns` is the version of EDNS, -1 without."""

    id: int
    flags: int
    name: dns.name.Name
    rdtype: dns.rdatatype.RdataType
    rdclass: dns.rdataclass.RdataClass
    edns: int

    def __str__(self) -> str:
        """Write it in ASCII, without controls, as zone files do; classes other than IN named."""
        name = self.name.canonicalize().to_text(omit_final_dot=len(self.name) > 1)
        rdclass = "" if self.rdclass == _IN else f" {dns.rdataclass.to_text(self.rdclass)}"
        return f"{name} {dns.rdatatype.to_text(self.rdtype)}{rdclass}"


class Answerer:
    """The DNS of one call. `tell` gets what was denied, `taken` each name when it is first given
    its addresses, with its number."""

    def __init__(
        self,
        names: Names,
        *,
        tell: Callable[[Denied], None],
        taken: Callable[[str, int], None],
        clock: Callable[[], float] = time.monotonic,
        ttl_s: int = TTL_S,
    ) -> None:
        self._names = names
        self._tell = tell
        self._taken = taken
        self._ttl_s = ttl_s
        self._told: set[int] = set()
        self._queries = Bucket(QUERIES_PER_S, QUERIES_BURST, clock)
        self._refusals = Bucket(REFUSALS_PER_S, REFUSALS_PER_S, clock)
        self.refused = 0
        """How many were beyond the call's rate."""
        self.flooded = False
        """The last one was beyond even the rate of refusals: who reads should pause."""

    def answer(self, data: bytes) -> bytes | None:
        """Give the answer to a message, None where there is to be none."""
        if not self._admit():
            return self._refused(data)
        if len(data) < _HEADER.size:
            self._deny("a message that is too short", ONLY_QUERIES)
            return None  # there is no header to answer to
        number, flags, *_ = _HEADER.unpack_from(data)
        if flags & dns.flags.QR:
            self._deny("an answer", ONLY_QUERIES)
            return None  # two that answer each other's answers would never end
        opcode = dns.opcode.from_flags(flags)
        if opcode != dns.opcode.QUERY:
            self._deny(f"a message of kind {dns.opcode.to_text(opcode)}", ONLY_QUERIES)
            return _error(number, flags, dns.rcode.NOTIMP)
        try:
            query = parse(data)
        except dns.exception.DNSException:
            self._deny("a malformed question", ONLY_QUERIES)
            return _error(number, flags, dns.rcode.FORMERR)
        return self._answer(query)

    def _refused(self, data: bytes) -> bytes | None:
        """Answer what is beyond the rate, where there is to be an answer at all."""
        if self.flooded or len(data) < _HEADER.size:
            return None
        number, flags, *_ = _HEADER.unpack_from(data)
        return None if flags & dns.flags.QR else _refusal(number, flags, data)

    def _admit(self) -> bool:
        self.flooded = False
        if self._queries.take():
            return True
        self.refused += 1
        self.flooded = not self._refusals.take()
        self._deny("too many questions", RATE)
        return False

    def _answer(self, query: Query) -> bytes:
        if query.edns > 0:
            return _reply(query, dns.rcode.BADVERS)
        if query.rdclass != _IN:
            self._deny(str(query), ONLY_QUERIES)
            return _reply(query, dns.rcode.REFUSED)
        name = host_of(query.name)
        try:
            addresses = self._names.take(name) if name else None
        except NamesExhausted as error:
            self._deny(f"{query}: {error}", f"egress: {error.pattern}")
            return _reply(query, dns.rcode.SERVFAIL)
        if addresses is None:
            self._deny(str(query), NO_RULE)
            return _reply(query, dns.rcode.NXDOMAIN)
        self._tell_taken(name)
        wanted = [one for one in addresses if _type_of(one) == query.rdtype]
        return _reply(query, dns.rcode.NOERROR, wanted, self._ttl_s)

    def _tell_taken(self, name: str) -> None:
        number = self._names.number_of(name)
        if number is not None and number not in self._told:
            self._told.add(number)
            self._taken(name, number)

    def _deny(self, detail: str, rule: str) -> None:
        self._tell(Denied(wall=Wall.NETWORK, name="dns", detail=detail, rule=rule))


def parse(data: bytes) -> Query:
    """Read a query: one question, nothing else but additional records, which are skipped.

    `dns.message` would decode every record, and keep in memory each type that it has ever seen.

    Raises:
        dns.exception.FormError: it is not that.
    """
    if len(data) > QUERY_BYTES_MAX:
        raise dns.exception.FormError
    parser = dns.wire.Parser(data)
    number, flags, *counts = parser.get_struct(_HEADER.format)
    if counts[:3] != [1, 0, 0] or counts[3] > ADDITIONAL_MAX:
        raise dns.exception.FormError
    name = parser.get_name()
    rdtype, rdclass = parser.get_struct("!HH")
    edns = -1
    for _ in range(counts[3]):
        owner = parser.get_name(decompress=True)
        kind, _, ttl, length = parser.get_struct("!HHIH")
        parser.get_bytes(length)
        if kind != dns.rdatatype.OPT:
            continue
        if edns >= 0 or owner != dns.name.root:
            raise dns.exception.FormError
        edns = ttl >> 16 & 0xFF
    if parser.remaining():
        raise dns.exception.FormError
    return Query(
        id=number,
        flags=flags,
        name=name,
        rdtype=dns.rdatatype.RdataType.make(rdtype),
        rdclass=dns.rdataclass.RdataClass.make(rdclass),
        edns=edns,
    )


def host_of(name: dns.name.Name) -> str:
    """Give the canonical name of a host that was asked for, "" where it can be none."""
    labels = name.labels[:-1]
    if not all(_HOST_LABEL.fullmatch(label) for label in labels):
        return ""  # a label may hold anything on the wire, dots and NULs included
    try:
        return canonical(b".".join(labels).decode("ascii"))
    except HostnameError:
        return ""


def _type_of(address: IPv4Address | IPv6Address) -> dns.rdatatype.RdataType:
    return dns.rdatatype.A if isinstance(address, IPv4Address) else dns.rdatatype.AAAA


def _reply(
    query: Query,
    rcode: dns.rcode.Rcode,
    addresses: Iterable[IPv4Address | IPv6Address] = (),
    ttl_s: int = 0,
) -> bytes:
    """Give an answer whose question is the query's to the bit: clients check it, also its case."""
    message = dns.message.QueryMessage(id=query.id)
    message.flags = dns.flags.QR | dns.flags.RA | (query.flags & dns.flags.RD)
    message.question.append(dns.rrset.RRset(query.name, query.rdclass, query.rdtype))
    for address in addresses:
        rdata = dns.rdata.from_wire(_IN, _type_of(address), address.packed, 0, len(address.packed))
        message.answer.append(dns.rrset.from_rdata(query.name, ttl_s, rdata))
    if query.edns >= 0:
        message.use_edns(0, 0, PAYLOAD_BYTES)
    message.set_rcode(rcode)
    return message.to_wire()


def _refusal(number: int, flags: int, data: bytes) -> bytes:
    """Refuse a query, with its question: glibc takes no other for an answer."""
    try:
        return _reply(parse(data), dns.rcode.REFUSED)
    except dns.exception.DNSException:
        return _error(number, flags, dns.rcode.REFUSED)


def _error(number: int, flags: int, rcode: dns.rcode.Rcode) -> bytes:
    """Give an answer to what was not read."""
    message = dns.message.Message(id=number)
    message.flags = dns.flags.QR | dns.flags.RA | (flags & (dns.flags.RD | 0x7800))
    message.set_rcode(rcode)
    return message.to_wire()


class Server:
    """Answers on sockets that are open: UDP sockets, and TCP sockets that listen."""

    def __init__(
        self,
        answerer: Answerer,
        *,
        udp: Iterable[socket.socket],
        tcp: Iterable[socket.socket],
        idle_s: float = STREAM_IDLE_S,
    ) -> None:
        """Take the sockets: they are closed with the server."""
        self._answerer = answerer
        self._udp, self._tcp = tuple(udp), tuple(tcp)
        self._idle_s = idle_s
        self._streams: set[asyncio.Task[None]] = set()
        self._accepts = Bucket(ACCEPTS_PER_S, ACCEPTS_BURST, time.monotonic)
        self._loop = asyncio.get_running_loop()
        self._held: dict[socket.socket, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Answer from now on."""
        for one in (*self._udp, *self._tcp):
            one.setblocking(False)
            self._read(one)

    def close(self) -> None:
        """Close the sockets and all that was accepted."""
        for timer in self._held.values():
            timer.cancel()
        for stream in self._streams:
            stream.cancel()
        for one in (*self._udp, *self._tcp):
            self._loop.remove_reader(one.fileno())
            one.close()

    def _read(self, one: socket.socket) -> None:
        self._held.pop(one, None)
        take = self._datagrams if one in self._udp else self._accept
        self._loop.add_reader(one.fileno(), take, one)

    def _hold(self, one: socket.socket) -> None:
        """Read nothing for a while: what comes meanwhile waits in the kernel, or is dropped there,
        at the sandbox's own cost."""
        self._loop.remove_reader(one.fileno())
        self._held[one] = self._loop.call_later(PAUSE_S, self._read, one)

    def _datagrams(self, one: socket.socket) -> None:
        for _ in range(TURN_MAX):
            try:
                data, sender = one.recvfrom(QUERY_BYTES_MAX + 1)
            except BlockingIOError:
                return
            answer = self._answerer.answer(data)
            if self._answerer.flooded:
                self._hold(one)
                return
            if answer is not None:
                # Nobody reads there any more, or not fast enough: it was for them alone.
                with contextlib.suppress(OSError):
                    one.sendto(answer, sender)

    def _accept(self, one: socket.socket) -> None:
        if len(self._streams) >= STREAMS_MAX or not self._accepts.take():
            self._hold(one)
            return
        try:
            connection, _ = one.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # whoever it was has gone
        except OSError:
            self._hold(one)  # no descriptor is left: it can wait for one
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._stream(connection))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
        task.add_done_callback(lambda _: connection.close())

    async def _stream(self, connection: socket.socket) -> None:
        """Answer one query after the other: the next is not read before its answer is written."""
        # Its client has gone, is silent, or reads nothing: there is nobody to tell.
        with contextlib.suppress(OSError, TimeoutError, EOFError):
            for _ in range(STREAM_QUERIES_MAX):
                async with asyncio.timeout(self._idle_s):
                    (length,) = _LENGTH.unpack(await self._exactly(connection, _LENGTH.size))
                    if length > QUERY_BYTES_MAX:
                        return
                    answer = self._answerer.answer(await self._exactly(connection, length))
                    if answer is None:
                        return
                    await self._loop.sock_sendall(connection, _LENGTH.pack(len(answer)) + answer)
                await asyncio.sleep(0)

    async def _exactly(self, connection: socket.socket, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = await self._loop.sock_recv(connection, length - len(data))
            if not more:
                raise EOFError
            data += more
        return data
