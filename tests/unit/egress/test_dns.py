"""DNS towards a sandbox: what has an address, what has none, and what is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from ipaddress import ip_address

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.update
import pytest

from supervisor.call.events import Denied, Wall
from supervisor.egress import dns as module
from supervisor.egress.dns import (
    NO_RULE,
    ONLY_QUERIES,
    QUERIES_BURST,
    QUERIES_PER_S,
    QUERY_BYTES_MAX,
    RATE,
    REFUSALS_PER_S,
    STREAM_QUERIES_MAX,
    STREAMS_MAX,
    Answerer,
    Bucket,
    Server,
)
from supervisor.egress.plan import BLOCK_NAMES, Names, Plan
from supervisor.profile.model import EgressRule, PortRange

HTTPS = (PortRange(low=443, high=443),)
PLAN = Plan.of([
    EgressRule(host="api.example.com", ports=HTTPS),
    EgressRule(host="*.wild.example.com", ports=HTTPS),
])  # fmt: skip


class Call:
    """A call's DNS, with what it told and a clock that stands still."""

    def __init__(self) -> None:
        self.denied: list[Denied] = []
        self.taken: list[tuple[str, int]] = []
        self.now = 0.0
        self.answerer = Answerer(
            Names(PLAN),
            tell=self.denied.append,
            taken=lambda name, number: self.taken.append((name, number)),
            clock=lambda: self.now,
        )

    def answer(self, query: dns.message.Message | bytes) -> dns.message.Message | None:
        wire = query if isinstance(query, bytes) else query.to_wire()
        answer = self.answerer.answer(wire)
        return None if answer is None else dns.message.from_wire(answer)

    def ask(self, name: str, rdtype: str = "A", **options: object) -> dns.message.Message:
        query = dns.message.make_query(name, rdtype, **options)  # type: ignore[arg-type]
        answer = self.answer(query)
        assert answer is not None
        assert query.is_response(answer)
        assert answer.flags & dns.flags.RA, "glibc takes an empty answer without it for none"
        return answer


@pytest.fixture
def call() -> Call:
    return Call()


def addresses(answer: dns.message.Message) -> list[str]:
    return [rdata.address for rrset in answer.answer for rdata in rrset]


def question_name(answer: dns.message.Message) -> dns.name.Name:
    return answer.question[0].name


def test_an_allowed_name_has_synthetic_addresses(call: Call) -> None:
    answer = call.ask("api.example.com")
    assert answer.rcode() == dns.rcode.NOERROR
    assert addresses(answer) == ["198.18.0.1"]
    assert answer.answer[0].ttl == 60
    assert addresses(call.ask("api.example.com", "AAAA")) == ["fd40:b1a3:129e::1"]
    assert addresses(call.ask("a.wild.example.com")) == ["198.19.0.0"]
    assert addresses(call.ask("b.a.wild.example.com", "AAAA")) == ["fd40:b1a3:129e::1:1"]
    assert addresses(call.ask("a.wild.example.com")) == ["198.19.0.0"]
    assert call.taken == [
        ("api.example.com", 1),
        ("a.wild.example.com", 1 << 16),
        ("b.a.wild.example.com", (1 << 16) + 1),
    ]
    assert not call.denied


@pytest.mark.parametrize(
    "rdtype",
    ["HTTPS", "SVCB", "TXT", "MX", "NS", "SOA", "CNAME", "PTR", "SRV", "ANY", "AXFR", "TYPE65000",
     "DS", "DNSKEY", "CAA", "NULL"],
)  # fmt: skip
def test_an_allowed_name_has_nothing_else(call: Call, rdtype: str) -> None:
    for name in ("api.example.com", "x.wild.example.com"):
        answer = call.ask(name, rdtype)
        assert answer.rcode() == dns.rcode.NOERROR
        assert not any(answer.sections[1:])
    assert not call.denied


@pytest.mark.parametrize(
    ("name", "rdtype", "detail"),
    [
        ("evil.example.com", "A", "evil.example.com A"),
        ("EVIL.Example.com", "AAAA", "evil.example.com AAAA"),
        ("x.api.example.com", "A", "x.api.example.com A"),
        ("wild.example.com", "A", "wild.example.com A"),
        ("evilapi.example.com", "A", "evilapi.example.com A"),
        ("secret-data.evil.example.org", "TXT", "secret-data.evil.example.org TXT"),
        ("evil.example.com", "HTTPS", "evil.example.com HTTPS"),
        ("1.0.18.198.in-addr.arpa", "PTR", "1.0.18.198.in-addr.arpa PTR"),
        ("localhost", "A", "localhost A"),
        (".", "NS", ". NS"),
        ("127.0.0.1", "A", "127.0.0.1 A"),
        ("0x7f.1", "A", "0x7f.1 A"),
        ("api\\.example.com", "A", "api\\.example.com A"),
        ("x\\.wild.example.com", "A", "x\\.wild.example.com A"),
        ("api.example.com\\000.wild.example.com", "A", "api.example.com\\000.wild.example.com A"),
        ("a\\@b.wild.example.com", "A", "a\\@b.wild.example.com A"),
        ("a_b.wild.example.com", "A", "a_b.wild.example.com A"),
        ("\\027[31m.wild.example.com", "A", "\\027[31m.wild.example.com A"),
        ("\\195\\188.wild.example.com", "A", "\\195\\188.wild.example.com A"),
        ("evil.example.com", "TYPE65000", "evil.example.com TYPE65000"),
    ],
)
def test_no_other_name_exists(call: Call, name: str, rdtype: str, detail: str) -> None:
    answer = call.ask(name, rdtype)
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert not any(answer.sections[1:])
    assert call.denied == [Denied(wall=Wall.NETWORK, name="dns", detail=detail, rule=NO_RULE)]
    assert not call.taken


def test_the_question_comes_back_to_the_bit(call: Call) -> None:
    answer = call.ask("ApI.eXample.COM")
    assert question_name(answer).labels[0] == b"ApI"
    assert answer.answer[0].name.labels[1] == b"eXample"
    assert question_name(call.ask("EvIl.example.org")).labels[0] == b"EvIl"


def test_edns(call: Call) -> None:
    padding = dns.edns.GenericOption(dns.edns.OptionType.PADDING, b"\0" * 300)
    answer = call.ask("api.example.com", use_edns=0, payload=65535, options=[padding])
    assert (answer.edns, answer.payload, answer.options) == (0, 1232, ())
    assert call.ask("api.example.com").edns == -1
    answer = call.ask("api.example.com", use_edns=1)
    assert answer.rcode() == dns.rcode.BADVERS
    assert not answer.answer


def test_answers_are_little_longer_than_questions(call: Call) -> None:
    longest = ".".join(["a" * 63] * 3 + ["b" * 44, "wild.example.com"])
    assert len(longest) == 253
    for name in (longest, "api.example.com", "evil.example.org", "."):
        for rdtype in ("A", "AAAA", "ANY"):
            for edns in (-1, 0):
                query = dns.message.make_query(name, rdtype, use_edns=edns).to_wire()
                answer = call.answerer.answer(query)
                assert answer is not None
                assert len(answer) <= len(query) + 28, "an owner's pointer, a header, an address"


def wire(name: str = "api.example.com", **fields: object) -> bytes:
    query = dns.message.make_query(name, "A", id=7)
    for field, value in fields.items():
        setattr(query, field, value)
    return query.to_wire()


def header(flags: int = 0, counts: tuple[int, int, int, int] = (1, 0, 0, 0)) -> bytes:
    return struct.pack("!HHHHHH", 7, flags, *counts)


QUESTION = wire()[12:]
RECORD = b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04\xc0\0\x02\x01"
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (header(), dns.rcode.FORMERR),
        (header() + QUESTION[:-1], dns.rcode.FORMERR),
        (header() + QUESTION + b"\0", dns.rcode.FORMERR),
        (header(counts=(0, 0, 0, 0)), dns.rcode.FORMERR),
        (header(counts=(2, 0, 0, 0)) + QUESTION * 2, dns.rcode.FORMERR),
        (header(counts=(1, 1, 0, 0)) + QUESTION + RECORD, dns.rcode.FORMERR),
        (header(counts=(1, 0, 1, 0)) + QUESTION + RECORD, dns.rcode.FORMERR),
        (header(counts=(1, 0, 0, 2)) + QUESTION + OPT + OPT, dns.rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + QUESTION + b"\x01a" + OPT, dns.rcode.FORMERR),
        (header(counts=(1, 0, 0, 5)) + QUESTION + RECORD * 5, dns.rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + QUESTION + OPT[:-2], dns.rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + QUESTION + OPT[:-2] + b"\0\x09", dns.rcode.FORMERR),
        (header() + b"\xc0\x0c\0\x01\0\x01", dns.rcode.FORMERR),
        (header() + b"\x40a\0\0\x01\0\x01", dns.rcode.FORMERR),
        (header() + b"\x3f" + b"a" * 63 * 5, dns.rcode.FORMERR),
        (header() + b"\x01a" * 128 + b"\0\0\x01\0\x01", dns.rcode.FORMERR),
        (header() + QUESTION + b"\0" * QUERY_BYTES_MAX, dns.rcode.FORMERR),
        (header(flags=dns.opcode.to_flags(dns.opcode.STATUS)) + QUESTION, dns.rcode.NOTIMP),
        (header(flags=dns.opcode.to_flags(dns.opcode.NOTIFY)) + QUESTION, dns.rcode.NOTIMP),
        (dns.update.UpdateMessage("example.com", id=7).to_wire(), dns.rcode.NOTIMP),
        (header() + QUESTION[:-1] + b"\x03", dns.rcode.REFUSED),
        (header() + QUESTION[:-1] + b"\xff", dns.rcode.REFUSED),
    ],
)
def test_what_is_no_plain_question(call: Call, data: bytes, rcode: dns.rcode.Rcode) -> None:
    answer = call.answer(data)
    assert answer is not None
    assert (answer.id, answer.rcode()) == (7, rcode)
    assert answer.flags & dns.flags.QR
    assert answer.opcode() == dns.opcode.from_flags(int.from_bytes(data[2:4], "big"))
    assert not any(answer.sections[1:])
    assert len(call.answerer.answer(data) or b"") <= len(data) + 12
    assert {denied.rule for denied in call.denied} == {ONLY_QUERIES}
    assert not call.taken


def test_a_record_beside_the_question_is_skipped(call: Call) -> None:
    answer = call.answer(header(counts=(1, 0, 0, 2)) + QUESTION + RECORD + OPT)
    assert answer is not None
    assert (answer.rcode(), answer.edns) == (dns.rcode.NOERROR, 0)


@pytest.mark.parametrize("data", [b"", b"\0" * 11, header(flags=dns.flags.QR) + QUESTION])
def test_silence(call: Call, data: bytes) -> None:
    assert call.answerer.answer(data) is None
    assert [denied.rule for denied in call.denied] == [ONLY_QUERIES]


def test_a_block_without_room(call: Call) -> None:
    for number in range(BLOCK_NAMES):
        call.now += 1
        assert addresses(call.ask(f"n{number}.wild.example.com"))
    answer = call.ask("one.more.wild.example.com")
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert not answer.answer
    (denied,) = call.denied
    assert denied.rule == "egress: *.wild.example.com"
    assert denied.detail.startswith("one.more.wild.example.com A: 1024 names below")
    assert addresses(call.ask("n7.wild.example.com")), "those that have one keep it"


def test_questions_beyond_the_rate_are_refused_and_counted(call: Call) -> None:
    for _ in range(int(QUERIES_BURST)):
        assert call.ask("api.example.com").rcode() == dns.rcode.NOERROR
    assert call.ask("api.example.com").rcode() == dns.rcode.REFUSED
    assert call.ask("evil.example.com").rcode() == dns.rcode.REFUSED
    assert call.answerer.refused == 2
    assert [(denied.detail, denied.rule) for denied in call.denied] == [
        ("too many questions", RATE)
    ] * 2
    call.now += 10 / QUERIES_PER_S
    for _ in range(10):
        assert call.ask("api.example.com").rcode() == dns.rcode.NOERROR
    assert call.ask("api.example.com").rcode() == dns.rcode.REFUSED


def test_a_flood_is_not_even_refused(call: Call) -> None:
    query = wire()
    answers = [call.answerer.answer(query) for _ in range(int(QUERIES_BURST + REFUSALS_PER_S + 9))]
    assert sum(answer is None for answer in answers) == 9
    assert call.answerer.flooded
    assert sum(denied.count for denied in call.denied) == REFUSALS_PER_S + 9
    call.now += 1
    assert call.ask("api.example.com").rcode() == dns.rcode.NOERROR
    assert not call.answerer.flooded


@pytest.mark.parametrize("data", [b"", b"short", b"\0\0\x80" + bytes(20)], ids=["no", "cut", "QR"])
def test_what_is_no_question_has_no_rate_of_its_own(call: Call, data: bytes) -> None:
    for _ in range(int(QUERIES_BURST + REFUSALS_PER_S + 9)):
        assert call.answerer.answer(data) is None
    assert call.answerer.flooded
    assert call.denied[-1].detail == "too many questions"


def test_a_bucket_fills_to_its_brim_and_never_runs_backwards() -> None:
    now = 100.0
    bucket = Bucket(2.0, 3.0, lambda: now)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now = 50.0
    assert not bucket.take()
    now = 51.0
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now = 1000.0
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


# The server, on sockets of the loopback.


@contextlib.contextmanager
def listening() -> Iterator[tuple[socket.socket, socket.socket]]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with udp, tcp:
        udp.bind(("127.0.0.1", 0))
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(64)
        yield udp, tcp


@contextlib.asynccontextmanager
async def serving(call: Call, idle_s: float = 30.0) -> AsyncIterator[tuple[int, int]]:
    """Serve; give the ports for UDP and TCP."""
    with listening() as (udp, tcp):
        ports = udp.getsockname()[1], tcp.getsockname()[1]
        server = Server(call.answerer, udp=[udp], tcp=[tcp], idle_s=idle_s)
        server.start()
        try:
            yield ports
        finally:
            server.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(bounded())


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


def framed(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data


async def read_answer(reader: asyncio.StreamReader) -> dns.message.Message:
    (length,) = struct.unpack("!H", await reader.readexactly(2))
    return dns.message.from_wire(await reader.readexactly(length))


def test_a_real_client_over_udp_and_tcp(call: Call) -> None:
    async def test() -> None:
        async with serving(call) as (udp, tcp):
            query = dns.message.make_query("api.example.com", "A")
            for ask, port in ((dns.query.udp, udp), (dns.query.tcp, tcp)):
                answer = await asyncio.to_thread(ask, query, "127.0.0.1", timeout=30, port=port)
                assert addresses(answer) == ["198.18.0.1"]

    run(test)


def test_a_silent_or_oversized_datagram_hurts_nobody(call: Call) -> None:
    async def test() -> None:
        async with serving(call) as (udp, _):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.connect(("127.0.0.1", udp))
                loop = asyncio.get_running_loop()
                for data in (b"", b"\0", wire() + b"\0" * 20_000, wire()):
                    await loop.sock_sendall(client, data)
                first = dns.message.from_wire(await loop.sock_recv(client, 2048))
                assert first.rcode() == dns.rcode.FORMERR
                second = dns.message.from_wire(await loop.sock_recv(client, 2048))
                assert addresses(second) == ["198.18.0.1"]

    run(test)


def test_queries_in_a_row_and_in_pieces(call: Call) -> None:
    async def test() -> None:
        async with serving(call) as (_, tcp):
            reader, writer = await connect(tcp)
            writer.write(framed(wire()) * 3 + framed(wire("evil.example.org")))
            assert [(await read_answer(reader)).rcode() for _ in range(4)] == [0, 0, 0, 3]
            for byte in framed(wire()):
                writer.write(bytes([byte]))
                await writer.drain()
            assert addresses(await read_answer(reader)) == ["198.18.0.1"]
            writer.write_eof()
            assert not await reader.read()
            writer.close()

    run(test)


@pytest.mark.parametrize(
    "data", [b"\xff\xff", b"\0\0", struct.pack("!H", QUERY_BYTES_MAX + 1), framed(b"\0" * 5)]
)
def test_a_stream_that_is_none_is_closed(call: Call, data: bytes) -> None:
    async def test() -> None:
        async with serving(call) as (_, tcp):
            reader, writer = await connect(tcp)
            writer.write(data)
            assert not await reader.read()
            writer.close()

    run(test)


def test_a_stream_that_is_idle_or_never_ends_a_query_is_closed(call: Call) -> None:
    async def test() -> None:
        async with serving(call, idle_s=0.05) as (_, tcp):
            for data in (b"", b"\0", framed(wire())[:-1]):
                reader, writer = await connect(tcp)
                writer.write(data)
                assert not await reader.read()
                writer.close()

    run(test)


def test_a_stream_has_so_many_queries(call: Call) -> None:
    async def test() -> None:
        async with serving(call) as (_, tcp):
            reader, writer = await connect(tcp)
            writer.write(framed(wire()) * (STREAM_QUERIES_MAX + 1))
            for _ in range(STREAM_QUERIES_MAX):
                await read_answer(reader)
            with contextlib.suppress(ConnectionResetError):  # one query had not been read
                assert not await reader.read()
            writer.close()

    run(test)


def test_streams_beyond_the_limit_wait_and_udp_does_not(call: Call) -> None:
    async def test() -> None:
        async with serving(call) as (udp, tcp):
            streams = [await connect(tcp) for _ in range(STREAMS_MAX + 1)]
            for _, writer in streams:
                writer.write(framed(wire()))
            for reader, _ in streams[:-1]:
                await read_answer(reader)
            query = dns.message.make_query("api.example.com", "A")
            answer = await asyncio.to_thread(
                dns.query.udp, query, "127.0.0.1", timeout=30, port=udp
            )
            assert addresses(answer)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await streams[-1][0].readexactly(1)
            streams[0][1].close()
            assert addresses(await read_answer(streams[-1][0]))
            for _, writer in streams:
                writer.close()

    run(test)


def test_a_flood_is_left_in_the_kernel(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the flood has been paused the server answers again."""
    monkeypatch.setattr(module, "PAUSE_S", 0.01)

    async def test() -> None:
        async with serving(call) as (udp, _):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.connect(("127.0.0.1", udp))
                while not call.answerer.flooded:
                    for _ in range(50):
                        client.send(wire())
                    await asyncio.sleep(0)
                call.now += 60
                loop = asyncio.get_running_loop()
                query = dns.message.make_query("api.example.com", "A", id=4711)
                answer = dns.message.from_wire(wire())
                while answer.id != 4711:
                    await loop.sock_sendall(client, query.to_wire())
                    answer = dns.message.from_wire(await loop.sock_recv(client, 2048))
                assert answer.rcode() in (dns.rcode.NOERROR, dns.rcode.REFUSED)

    run(test)


def test_close_ends_streams_and_sockets(call: Call) -> None:
    async def test() -> None:
        async with serving(call) as (_, tcp):
            reader, writer = await connect(tcp)
            writer.write(framed(wire()))
            await read_answer(reader)
        assert not await reader.read()
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await connect(tcp)

    run(test)


def test_answers_are_the_same_for_v6_sockets(call: Call) -> None:
    async def test() -> None:
        udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        udp.bind(("::1", 0))
        port = udp.getsockname()[1]
        server = Server(call.answerer, udp=[udp], tcp=[])
        server.start()
        query = dns.message.make_query("api.example.com", "AAAA")
        answer = await asyncio.to_thread(dns.query.udp, query, "::1", timeout=30, port=port)
        assert [ip_address(address) for address in addresses(answer)] == [
            ip_address("fd40:b1a3:129e::1")
        ]
        server.close()

    run(test)
