"""`dns.Answerer`: whatever a sandbox sends, only a name that a rule covers has an address."""

from __future__ import annotations

import itertools
import struct

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.update

from supervisor.call.events import Denied
from supervisor.egress.dns import Answerer
from supervisor.egress.plan import Names, Plan
from supervisor.profile.model import EgressRule, PortRange
from tests.fuzz.runner import Target

HTTPS = (PortRange(low=443, high=443),)
EXACT = (b"api.example.com", b"a.b.example.com")
SUFFIX = b".wild.example.com"
PLAN = Plan.of([
    EgressRule(host="api.example.com", ports=HTTPS),
    EgressRule(host="a.b.example.com", ports=HTTPS),
    EgressRule(host="*.wild.example.com", ports=HTTPS),
])  # fmt: skip
NAMES_FRESH = 1000
"""Inputs after which a new call begins: a block of names fills up."""

RCODES = {
    dns.rcode.NOERROR, dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NXDOMAIN, dns.rcode.NOTIMP,
    dns.rcode.REFUSED, dns.rcode.BADVERS,
}  # fmt: skip
ADDRESS_RECORD = {1: (4, b"\xc6"), 28: (16, b"\xfd\x40\xb1\xa3\x12\x9e")}
"""For A and AAAA: how long an address is, and how the synthetic ones begin."""


class Call:
    """A call whose clock runs so fast that nothing is beyond its rate."""

    def __init__(self) -> None:
        self.denied: list[Denied] = []
        self.taken: list[str] = []
        self.names = Names(PLAN)
        clock = itertools.count(step=10.0)
        self.answerer = Answerer(
            self.names,
            tell=self.denied.append,
            taken=lambda name, _: self.taken.append(name),
            clock=lambda: next(clock),
        )
        self.inputs = 0


_call = [Call()]


def check(data: bytes) -> None:
    """Ask, and hold the answer to what is promised."""
    call = _call[0]
    call.inputs += 1
    if call.inputs > NAMES_FRESH:
        call = _call[0] = Call()
    call.denied.clear()
    call.taken.clear()
    answer = call.answerer.answer(data)
    for denied in call.denied:
        assert denied.detail.isascii() and denied.detail.isprintable(), "a name to look at"
    for name in call.taken:
        assert covered(name.encode().split(b".")), "a name that no rule covers was taken"
    if answer is None:
        assert len(data) < 12 or data[2] & 0x80, "silence without a reason"
        assert call.denied, "silence that is on no record"
        return
    check_answer(data, answer, denied=bool(call.denied))


def check_answer(data: bytes, answer: bytes, *, denied: bool) -> None:
    """Read the answer by hand, for what it has to do with the question."""
    number, flags, questions, answers, authority, additional = struct.unpack_from("!6H", answer)
    assert number == int.from_bytes(data[:2], "big")
    assert flags & dns.flags.QR
    assert not flags & dns.flags.TC
    assert len(answer) <= len(data) + 28
    assert (questions <= 1, answers <= 1, authority, additional <= 1) == (True, True, 0, True)
    rcode = flags & 0xF
    if not questions:
        assert rcode in (dns.rcode.FORMERR, dns.rcode.NOTIMP)
        assert denied
        return
    labels, end = read_name(answer, 12)
    assert answer[12 : end + 4] == data[12 : end + 4], "another question than was asked"
    rdtype, rdclass = struct.unpack_from("!HH", answer, end)
    if rcode == dns.rcode.NXDOMAIN:
        assert denied and not covered(labels) and not answers
    if answers:
        assert rcode == dns.rcode.NOERROR
        assert covered(labels), "an address for a name that no rule covers"
        assert rdclass == 1
        length, beginning = ADDRESS_RECORD[rdtype]
        record = answer[end + 4 : end + 4 + 12 + length]
        assert record[:12] == struct.pack("!HHHIH", 0xC00C, rdtype, 1, 60, length)
        assert record[12:].startswith(beginning), "an address that is not ours"
    elif rcode == dns.rcode.NOERROR and additional == 0:
        # No address and no error: it was asked for something else than an address.
        assert covered(labels) and rdtype not in ADDRESS_RECORD


def read_name(data: bytes, at: int) -> tuple[list[bytes], int]:
    """Read a name without pointers; give its labels and where it ends."""
    labels = []
    while data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return labels, at + 1


def covered(labels: list[bytes]) -> bool:
    """Say whether a rule covers a name, without any of the code under test."""
    if any(b"." in label for label in labels):
        return False
    name = b".".join(labels).lower()
    fits = all(_plain(label.lower()) for label in labels)
    return fits and (name in EXACT or (name.endswith(SUFFIX) and len(name) > len(SUFFIX)))


def _plain(label: bytes) -> bool:
    if label.startswith(b"xn--"):
        try:
            dns.name.IDNA_2008_Strict.decode(label)
        except dns.exception.DNSException:
            return False
    letters = b"abcdefghijklmnopqrstuvwxyz0123456789-"
    return all(one in letters for one in label) and not (
        label.startswith(b"-") or label.endswith(b"-")
    )


def queries() -> tuple[bytes, ...]:
    """Give real queries."""
    options = [
        dns.edns.GenericOption(dns.edns.OptionType.PADDING, b"\0" * 20),
        dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678"),
    ]
    plain = [
        dns.message.make_query(name, rdtype, id=4711, **edns)
        for name in ("api.example.com", "A.b.Example.com", "x.wild.example.com", "wild.example.com",
                     "xn--bcher-kva.wild.example.com", "evil.example.org", "1.0.0.127.in-addr.arpa",
                     "api.example.com.wild.example.com", ".", "a_b.wild.example.com")
        for rdtype in ("A", "AAAA", "HTTPS", "ANY", "TXT")
        for edns in ({}, {"use_edns": 0, "payload": 4096, "options": options}, {"use_edns": 1})
    ]  # fmt: skip
    chaos = dns.message.make_query("version.bind", "TXT", "CH", id=4711)
    update = dns.update.UpdateMessage("example.com", id=4711)
    update.add("api.example.com", 60, "A", "192.0.2.1")
    return tuple(one.to_wire() for one in (*plain, chaos, update))


TARGET = Target(
    check=check,
    seeds=queries(),
    tokens=(
        b"\0", b"\xc0\x0c", b"\xc0\0", b"\x3f", b"\x40", b"\x03api\x07example\x03com\0",
        b"\x04wild\x07example\x03com\0", b"\x01.", b"\x01\0", b"\0\x01", b"\0\x1c", b"\0\xff",
        b"\0\x41", b"\0\0\x29\x04\xd0\0\0\0\0\0\0", b"\0\0\x29\x04\xd0\0\x01\0\0\0\0",
        b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01", b"\0\0\xfa\0\xff\0\0\0\0\0\0",
        b"\x04xn--", b"\x09localhost\0", b"\x01-",
    ),
)  # fmt: skip
