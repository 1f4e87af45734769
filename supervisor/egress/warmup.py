"""Have the code that a connection runs through run before there is one.

The interpreter makes code faster once it has run a few times, in place, and a child of the zygote
inherits that: the first connections of a call are no slower than its last. Nothing is opened, and
nothing of it is kept.
"""

from __future__ import annotations

import dns.message
import dns.name
import dns.rdatatype
import dns.rrset

from supervisor.call.events import Denied
from supervisor.egress import dns as answering
from supervisor.egress.http import HttpGate
from supervisor.egress.plan import Names, Plan
from supervisor.egress.upstream import found_in, read_answer
from supervisor.profile.model import EgressRule, PortRange

ROUNDS = 24
"""The interpreter looks again at what has run eight times (PEP 659), and some of it at what that
has changed."""

NAME = "warmup.example.com"
RULES = (EgressRule(host=NAME, ports=(PortRange(low=80, high=80),), why="Nothing is sent."),)

REQUEST = (
    f"GET /a?b=c HTTP/1.1\r\nHost: {NAME}\r\nUser-Agent: warmup\r\nAccept: */*\r\n"
    "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\r\n"
).encode()
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: warmup\r\nDate: Thu, 26 Nov 2026 12:00:00 GMT\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}"
)


def warm_up() -> None:
    """Pass a question, its answer, requests and responses through what judges them."""
    plan = Plan.of(RULES)
    names = Names(plan)
    gate = HttpGate(name=NAME, port=80, rule=RULES[0])
    answerer = answering.Answerer(names, tell=_nobody, taken=lambda _name, _number: None)
    name = dns.name.from_text(NAME)
    for _ in range(ROUNDS):
        gate.from_client(REQUEST)
        gate.from_server(RESPONSE)
        for rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            _resolve(answerer, name, rdtype)


def _resolve(
    answerer: answering.Answerer, name: dns.name.Name, rdtype: dns.rdatatype.RdataType
) -> None:
    """Ask ourselves, and read the answer as one of an upstream."""
    query = dns.message.make_query(name, rdtype, use_edns=0)
    wire = answerer.answer(query.to_wire())
    message = None if wire is None else read_answer(query, wire)
    if message is None:
        raise RuntimeError(f"no answer for {NAME}")
    found_in(message)


def _nobody(denied: Denied) -> None:
    raise RuntimeError(f"what is allowed was denied: {denied}")
