"""`upstream.read_answer` and `found_in`: whatever a name server sends, an address comes from a
record at the end of the chain that begins with the name that was asked for."""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from supervisor.egress.upstream import (
    ADDRESSES_MAX,
    ANSWER_BYTES_MAX,
    ResolveError,
    found_in,
    read_answer,
)
from tests.fuzz.runner import Target

NAME = dns.name.from_text("api.example.com")
QUERIES = tuple(
    dns.message.make_query(NAME, rdtype, id=4711)
    for rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
)

TYPE_AT = 12 + len(NAME.to_wire() or b"") + 1


def check(data: bytes) -> None:
    """Read it as the answer to the question that it most likely answers."""
    check_answer(QUERIES[data[TYPE_AT : TYPE_AT + 1] == b"\x1c"], data)


def check_answer(query: dns.message.QueryMessage, data: bytes) -> None:
    """Hold what is found to what the answer says."""
    try:
        message = read_answer(query, data)
        if message is None:
            return
        found = found_in(message)
    except ResolveError as error:
        assert str(error).isascii() and str(error).isprintable()
        return
    assert len(data) <= ANSWER_BYTES_MAX
    assert data[:2] == query.id.to_bytes(2, "big")
    assert data[2] & 0x80
    assert 0 < len(found.addresses) <= ADDRESSES_MAX
    assert found.ttl_s >= 0
    if message.flags & dns.flags.TC:
        raise AssertionError("an address of an answer that is cut")
    chain = reachable(message)
    assert dns.name.from_text(found.canonical) in chain
    records = {
        rdata.address
        for rrset in message.answer
        if rrset.name in chain and rrset.rdtype == query.question[0].rdtype
        for rdata in rrset
    }
    assert {str(address) for address in found.addresses} <= records, "from another record"


def reachable(message: dns.message.Message) -> set[dns.name.Name]:
    """Give all names that the CNAME records lead to from the name that was asked for."""
    chain, grows = {NAME}, True
    while grows:
        targets = {
            rdata.target
            for rrset in message.answer
            if rrset.rdtype == dns.rdatatype.CNAME and rrset.name in chain
            for rdata in rrset
        }
        grows = not targets <= chain
        chain |= targets
    return chain


def answers() -> tuple[bytes, ...]:
    """Give real answers."""
    sections: list[list[str]] = [
        ["api.example.com. 60 IN A 192.0.2.1", "api.example.com. 60 IN A 192.0.2.2"],
        ["api.example.com. 60 IN AAAA 2001:db8::1"],
        ["api.example.com. 60 IN CNAME a.example.net.", "a.example.net. 60 IN A 192.0.2.1",
         "a.example.net. 60 IN AAAA 2001:db8::1"],
        ["api.example.com. 60 IN CNAME a.example.net.", "a.example.net. 9 IN CNAME b.example.org.",
         "b.example.org. 0 IN A 192.0.2.7", "evil.example.org. 60 IN A 203.0.113.66"],
        ["api.example.com. 60 IN CNAME api.example.com."],
        ["evil.example.org. 60 IN A 203.0.113.66", "api.example.com. 60 IN TXT abc"],
        [],
    ]  # fmt: skip
    made = []
    for query in QUERIES:
        for records in sections:
            for rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL):
                message = dns.message.make_response(query, recursion_available=True)
                message.set_rcode(rcode)
                for record in records:
                    name, ttl, rdclass, rdtype, rdata = record.split(None, 4)
                    rrset = dns.rrset.from_text(name, int(ttl), rdclass, rdtype, rdata)
                    message.answer.append(rrset)
                soa = "ns.example.com. root.example.com. 1 3600 600 86400 60"
                message.authority.append(dns.rrset.from_text("example.com.", 60, "IN", "SOA", soa))
                message.use_edns(0, 0, 1232)
                made.append(message.to_wire())
    return tuple(made)


TARGET = Target(
    check=check,
    seeds=answers(),
    tokens=(
        b"\xc0\x0c", b"\xc0\x10", b"\xc0\x14", b"\xc0\x1d", b"\0\x01\0\x01", b"\0\x1c\0\x01",
        b"\0\x05\0\x01", b"\0\x04\xcb\0\x71\x42",
        b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x09",
        b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x02\xc0\x10", b"\0\0\x29\x04\xd0\0\0\0\0\0\0",
        b"\x04evil\x07example\x03org\0", b"\x82\x00", b"\x81\x80", b"\xff\xff\xff\xff",
        b"\0\xfa\0\xff", b"\0\x2e\0\x01", b"\0\x41\0\x01",
    ),
)  # fmt: skip
