"""One question to one name server: what counts as its answer, and what of that is taken."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from supervisor.egress import upstream
from supervisor.egress.upstream import (
    ADDRESSES_MAX,
    ANSWER_BYTES_MAX,
    RECORDS_MAX,
    STRAYS_MAX,
    Found,
    Nameserver,
    Reason,
    ResolveError,
    exchange,
    found_in,
    read_answer,
)
from tests.unit.egress.nameserver import Handler, NameServer, answer, cut, serving

NAME = dns.name.from_text("api.example.com")
A, AAAA = dns.rdatatype.A, dns.rdatatype.AAAA
ADDRESS = "api.example.com. 60 IN A 192.0.2.1"


def query(rdtype: dns.rdatatype.RdataType = A) -> dns.message.QueryMessage:
    return dns.message.make_query(NAME, rdtype, id=4711)


def reason_of(call: Callable[[], object]) -> Reason:
    with pytest.raises(ResolveError) as caught:
        call()
    return caught.value.reason


@pytest.mark.parametrize(
    ("text", "server", "written"),
    [
        ("192.0.2.53", ("192.0.2.53", 53), "192.0.2.53:53"),
        ("192.0.2.53:5353", ("192.0.2.53", 5353), "192.0.2.53:5353"),
        ("2001:db8::53", ("2001:db8::53", 53, 0, 0), "[2001:db8::53]:53"),
        ("[2001:db8::53]", ("2001:db8::53", 53, 0, 0), "[2001:db8::53]:53"),
        ("[2001:db8::53]:5353", ("2001:db8::53", 5353, 0, 0), "[2001:db8::53]:5353"),
        ("fe80::1%1", ("fe80::1", 53, 0, 1), "[fe80::1%1]:53"),
        ("fe80::1%lo", ("fe80::1", 53, 0, 1), "[fe80::1%1]:53"),
    ],
)
def test_name_servers(text: str, server: tuple[object, ...], written: str) -> None:
    one = Nameserver.of(text)
    assert one.place == server
    assert one.family == (socket.AF_INET6 if len(server) == 4 else socket.AF_INET)
    assert str(one) == written
    assert Nameserver.of(written) == one


@pytest.mark.parametrize(
    "text",
    ["", "dns.example.com", "192.0.2.53:", "192.0.2.53:0", "192.0.2.53:65536", "192.0.2.53:x",
     "192.0.2:53", "[2001:db8::53", "[2001:db8::53]53", "2001:db8::g", "fe80::1%no-such-one",
     "192.0.2.53:\u0661", "127.1"],
)  # fmt: skip
def test_what_is_no_name_server(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Nameserver.of(text)


def found(*records: str, rdtype: dns.rdatatype.RdataType = A, rcode: int = 0) -> Found:
    asked = query(rdtype)
    message = read_answer(asked, answer(asked, *records, rcode=rcode).to_wire())
    assert message is not None
    return found_in(message)


def test_addresses() -> None:
    assert found(ADDRESS, "api.example.com. 40 IN A 192.0.2.2") == Found(
        addresses=(IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")),
        canonical="api.example.com",
        ttl_s=40.0,
    )
    assert found("api.example.com. 60 IN AAAA 2001:db8::1", rdtype=AAAA).addresses == (
        IPv6Address("2001:db8::1"),
    )


def test_a_chain_is_followed_and_only_its_end_taken() -> None:
    assert found(
        "api.example.com. 50 IN CNAME a.example.net.",
        "a.example.net. 40 IN CNAME b.example.org.",
        "b.example.org. 60 IN A 192.0.2.7",
        "evil.example.org. 60 IN A 203.0.113.66",
    ) == Found(addresses=(IPv4Address("192.0.2.7"),), canonical="b.example.org", ttl_s=40.0)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], Reason.NO_ADDRESS),
        (["evil.example.org. 60 IN A 203.0.113.66"], Reason.NO_ADDRESS),
        (["api.example.com. 60 IN AAAA 2001:db8::1"], Reason.NO_ADDRESS),
        (["api.example.com. 60 IN TXT x"], Reason.NO_ADDRESS),
        (["api.example.com. 60 IN CNAME a.example.net."], Reason.NO_ADDRESS),
        (["a.example.net. 60 IN CNAME api.example.com.", "a.example.net. 60 IN A 203.0.113.66"],
         Reason.NO_ADDRESS),
        (["api.example.com. 60 IN CNAME api.example.com."], Reason.MALFORMED),
        (["api.example.com. 60 IN CNAME a.example.net.",
          "a.example.net. 60 IN CNAME api.example.com."], Reason.MALFORMED),
        ([f"{name} 60 IN CNAME {target}" for name, target in zip(
            ["api.example.com.", *(f"n{n}.example.com." for n in range(20))],
            [f"n{n}.example.com." for n in range(21)], strict=True)], Reason.MALFORMED),
    ],
)  # fmt: skip
def test_no_address(records: list[str], reason: Reason) -> None:
    assert reason_of(lambda: found(*records)) is reason


@pytest.mark.parametrize(
    ("rcode", "reason"),
    [
        (dns.rcode.NXDOMAIN, Reason.NXDOMAIN),
        (dns.rcode.SERVFAIL, Reason.SERVFAIL),
        (dns.rcode.REFUSED, Reason.SERVFAIL),
        (dns.rcode.YXDOMAIN, Reason.SERVFAIL),
    ],
)
def test_an_address_beside_an_error_is_not_taken(rcode: int, reason: Reason) -> None:
    assert reason_of(lambda: found(ADDRESS, rcode=rcode)) is reason


def test_so_many_addresses_are_taken() -> None:
    records = [f"api.example.com. 60 IN A 192.0.2.{n}" for n in range(ADDRESSES_MAX + 1)]
    assert len(found(*records).addresses) == ADDRESSES_MAX


def test_what_answers_something_else_is_none() -> None:
    asked = query()
    good = answer(asked, ADDRESS)
    assert read_answer(asked, good.to_wire()) is not None
    other_id = answer(asked, ADDRESS)
    other_id.id = 4712
    other_name = answer(dns.message.make_query("evil.example.com", A, id=4711), ADDRESS)
    other_type = answer(query(AAAA), ADDRESS)
    no_question = answer(asked, ADDRESS)
    no_question.question.clear()
    update = struct.pack("!HHHHHH", 4711, 0x8000 | 5 << 11, 0, 0, 0, 0)
    for message in (other_id, other_name, other_type, no_question):
        assert read_answer(asked, message.to_wire()) is None
    for wire in (asked.to_wire(), update, b"", b"\0" * 11):
        assert read_answer(asked, wire) is None


def test_malformed_answers() -> None:
    asked = query()
    wire = answer(asked, ADDRESS).to_wire()
    other_class = wire.replace(b"\xc0\x0c\0\x01\0\x01", b"\xc0\x0c\0\x01\0\x04")
    many = answer(asked, *[f"n{n}.example.com. 60 IN A 192.0.2.1" for n in range(RECORDS_MAX + 1)])
    large = answer(asked, *[f"api.example.com. 60 IN TXT {'a' * 250}{n:03}" for n in range(80)])
    assert other_class != wire
    assert len(large.to_wire()) > ANSWER_BYTES_MAX > len(many.to_wire())
    for bad in (wire[:-1], wire[:20], other_class, many.to_wire(), large.to_wire()):
        assert reason_of(lambda: read_answer(asked, bad)) is Reason.MALFORMED  # noqa: B023


def test_of_a_cut_answer_the_question_alone_is_read() -> None:
    asked = query()
    message = read_answer(asked, cut(asked).to_wire() + b"\xff" * 7)
    assert message is not None
    assert message.flags & dns.flags.TC
    assert not message.answer


# Over the loopback.


def ask(handler: Handler, check: Callable[[NameServer], None] | None = None) -> Found:
    async def main() -> Found:
        async with asyncio.timeout(60), serving(handler) as server:
            try:
                message = await exchange(Nameserver.of(server.address), NAME, A)
            finally:
                if check is not None:
                    check(server)
            return found_in(message)

    return asyncio.run(main())


def good(asked: dns.message.Message, tcp: bool) -> list[bytes]:
    return [answer(asked, ADDRESS).to_wire()]


def test_an_answer_over_udp() -> None:
    assert str(ask(good).addresses[0]) == "192.0.2.1"


def test_each_question_has_an_id_and_a_port_of_its_own() -> None:
    async def main() -> set[tuple[int, int]]:
        seen = set()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind(("127.0.0.1", 0))
            one.setblocking(False)
            server = Nameserver.of(f"127.0.0.1:{one.getsockname()[1]}")
            for _ in range(8):
                asking = asyncio.create_task(exchange(server, NAME, A))
                await asyncio.sleep(0.01)
                wire, sender = one.recvfrom(2048)
                seen.add((dns.message.from_wire(wire).id, sender[1]))
                asking.cancel()
        return seen

    seen = asyncio.run(main())
    assert len({number for number, _ in seen}) > 4
    assert len({port for _, port in seen}) > 4


def test_strays_are_passed_over() -> None:
    def handler(asked: dns.message.Message, tcp: bool) -> list[bytes]:
        forged = answer(asked, "api.example.com. 60 IN A 203.0.113.66")
        forged.id = asked.id ^ 1
        other = answer(dns.message.make_query("evil.example.com", A, id=asked.id))
        malformed = forged.to_wire()[:-1]
        return [b"", malformed, forged.to_wire(), other.to_wire(), *good(asked, tcp)]

    assert [str(one) for one in ask(handler).addresses] == ["192.0.2.1"]


def test_strays_without_end_are_not_waited_for() -> None:
    def handler(asked: dns.message.Message, tcp: bool) -> list[bytes]:
        return [b"\0" * 12] * (STRAYS_MAX + 1)

    assert reason_of(lambda: ask(handler)) is Reason.MALFORMED


def test_a_malformed_answer_is_not_waited_beyond() -> None:
    def handler(asked: dns.message.Message, tcp: bool) -> list[bytes]:
        return [good(asked, tcp)[0][:-1]]

    assert reason_of(lambda: ask(handler)) is Reason.MALFORMED


def test_a_cut_answer_is_asked_for_over_tcp() -> None:
    def handler(asked: dns.message.Message, tcp: bool) -> list[bytes]:
        return good(asked, tcp) if tcp else [cut(asked).to_wire()]

    def check(server: NameServer) -> None:
        assert [tcp for _, _, tcp in server.asked] == [False, True]

    assert ask(handler, check).addresses


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        (lambda _: [], Reason.SERVFAIL),
        (lambda asked: [cut(asked).to_wire()], Reason.MALFORMED),
        (lambda asked: [answer(asked).to_wire()[:5]], Reason.MALFORMED),
        (lambda _: [b"\0" * (ANSWER_BYTES_MAX + 1)], Reason.MALFORMED),
    ],
)
def test_tcp_without_an_answer(
    replies: Callable[[dns.message.Message], list[bytes]], reason: Reason
) -> None:
    def handler(asked: dns.message.Message, tcp: bool) -> list[bytes]:
        return replies(asked) if tcp else [cut(asked).to_wire()]

    assert reason_of(lambda: ask(handler)) is reason


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP])
def test_a_server_without_edns_is_asked_without(rcode: dns.rcode.Rcode) -> None:
    def handler(asked: dns.message.Message, tcp: bool) -> list[bytes]:
        if asked.edns < 0:
            return good(asked, tcp)
        bare = dns.message.Message(id=asked.id)
        bare.flags = dns.flags.QR
        bare.set_rcode(rcode)
        return [bare.to_wire()]

    assert ask(handler).addresses


def test_silence_and_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "UDP_S", 0.05)
    with pytest.raises(TimeoutError):
        ask(lambda asked, tcp: None)

    async def nobody() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        await exchange(Nameserver.of(f"127.0.0.1:{port}"), NAME, A)

    with pytest.raises(ConnectionRefusedError):
        run(nobody)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())
