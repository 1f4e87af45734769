"""A name server on the loopback whose every answer a test decides."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable

import dns.flags
import dns.message
import dns.rrset

Reply = Iterable[bytes] | None
Handler = Callable[[dns.message.Message, bool], Reply]
"""Gets a query, and whether it came over TCP; gives the messages to send, None for none."""


class NameServer:
    """What was asked, as (name, type, over TCP), and how to answer it."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.asked: list[tuple[str, str, bool]] = []
        self.queries: list[dns.message.Message] = []
        self.address = ""

    def replies(self, wire: bytes, *, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        self.queries.append(query)
        self.asked.append((question.name.to_text(omit_final_dot=True), question.rdtype.name, tcp))
        return list(self.handler(query, tcp) or [])


def answer(query: dns.message.Message, *records: str, rcode: int = 0) -> dns.message.Message:
    """Make an answer of records such as "a.example.com. 60 IN A 192.0.2.1"."""
    message = dns.message.make_response(query, recursion_available=True)
    message.set_rcode(rcode)  # type: ignore[arg-type]
    for record in records:
        name, ttl, rdclass, rdtype, rdata = record.split(None, 4)
        message.answer.append(dns.rrset.from_text(name, int(ttl), rdclass, rdtype, rdata))
    return message


def cut(query: dns.message.Message) -> dns.message.Message:
    """Make an answer that says that it is to be asked for over TCP."""
    message = answer(query)
    message.flags |= dns.flags.TC
    return message


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[NameServer]:
    """Run one, on UDP and TCP at the same port; its `address` is "ip:port"."""
    server = NameServer(handler)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        listener = _bind(udp)
        server.address = f"127.0.0.1:{udp.getsockname()[1]}"
        udp.setblocking(False)

        def datagram() -> None:
            wire, sender = udp.recvfrom(65_535)
            for reply in server.replies(wire, tcp=False):
                udp.sendto(reply, sender)

        async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            for reply in server.replies(await reader.readexactly(length), tcp=True):
                writer.write(struct.pack("!H", len(reply)) + reply)
            writer.close()

        loop.add_reader(udp.fileno(), datagram)
        listening = await asyncio.start_server(stream, sock=listener)
        try:
            yield server
        finally:
            loop.remove_reader(udp.fileno())
            listening.close()


def _bind(udp: socket.socket) -> socket.socket:
    """Bind to a port that is free for TCP, too; give a socket bound to that."""
    for _ in range(100):
        with contextlib.ExitStack() as opened:
            tcp = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            tcp.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):  # the same port is taken for UDP
                udp.bind(tcp.getsockname())
                opened.pop_all()
                return tcp
    raise RuntimeError("no port is free for both")
