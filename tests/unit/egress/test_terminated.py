"""A sandbox, the broker and a far side, with TLS on both sides and a secret in between."""

from __future__ import annotations

import pytest

from supervisor.egress.actions import Close
from supervisor.egress.http import HttpGate
from supervisor.egress.pipe import PipeError, TlsPipe
from supervisor.egress.secrets import Swap
from supervisor.egress.terminate import Terminator, make_authority, server_context, upstream_context
from supervisor.egress.terminated import TerminatedGate
from supervisor.egress.tls import refusal_alert
from tests.unit.egress import hellos
from tests.unit.egress.battery import EVIL, HOST
from tests.unit.egress.gates import Talk, rule
from tests.unit.egress.test_secrets import OTHER, TOKEN, VALUE

INSIDE = make_authority([HOST])
OUTSIDE = make_authority([HOST])
TERMINATOR = Terminator(INSIDE, OUTSIDE.certificate)
IN_SANDBOX = upstream_context(INSIDE.certificate)
FAR = server_context(OUTSIDE)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
SIZES = [1, 100, 1 << 20]


class Chain:
    """All three, and the bytes between them in pieces of `size`."""

    def __init__(
        self, size: int = 1 << 20, *, name: str = HOST, terminator: Terminator = TERMINATOR
    ) -> None:
        self.size = size
        http = HttpGate(name=HOST, port=443, rule=rule(), swap=Swap([TOKEN, OTHER], name=HOST))
        self.talk = Talk(TerminatedGate(name=HOST, terminator=terminator, http=http))  # type: ignore[arg-type]
        self.client, self.far = TlsPipe(IN_SANDBOX, name), TlsPipe(FAR)
        self.told_client = self.told_far = b""
        self.told_client += self.client.feed()

    def run(self) -> Chain:
        """Carry bytes until there are none."""
        talk, moved = self.talk, True
        while moved:
            moved = False
            if out := self.client.outgoing():
                talk.client(out, self.size)
                moved = True
            if out := talk.taken_to_server():
                self.told_far += self.far.feed(out)
                moved = True
            if out := self.far.outgoing():
                talk.server(out, self.size)
                moved = True
            if out := talk.taken_to_client():
                self.told_client += self.client.feed(out)
                moved = True
        return self

    def say(self, *lines: str) -> Chain:
        head = ("GET /a HTTP/1.1", f"Host: {HOST}", *lines, "", "")
        self.client.write("\r\n".join(head).encode())
        return self.run()

    def answer(self, data: bytes = OK) -> Chain:
        self.far.write(data)
        return self.run()


@pytest.mark.parametrize("size", SIZES)
def test_requests_pass_and_get_their_secret(size: int) -> None:
    chain = Chain(size).run()
    for _ in range(2):
        chain.say(f"Authorization: Bearer {TOKEN.placeholder}").answer()
    assert chain.told_far.count(f"Authorization: Bearer {VALUE}\r\n".encode()) == 2
    assert chain.told_client == OK * 2
    assert chain.talk.closed is None


def test_the_sandbox_is_answered_when_the_far_side_has_shown_itself() -> None:
    chain = Chain()
    chain.talk.client(chain.client.outgoing())
    assert chain.talk.to_server
    assert not chain.talk.to_client


def test_a_far_side_with_another_certificate_gets_nothing() -> None:
    chain = Chain(terminator=Terminator(INSIDE, INSIDE.certificate))
    with pytest.raises(PipeError, match=r"(?i)handshake.failure"):
        chain.run()
    assert chain.talk.closed is not None
    assert "a certificate that does not hold" in chain.talk.closed.reason
    assert chain.told_far == b""


def test_another_host_within_is_refused_within() -> None:
    chain = Chain().run()
    chain.client.write(f"GET / HTTP/1.1\r\nHost: {EVIL}\r\n\r\n".encode())
    chain.run()
    assert chain.talk.denied is not None
    assert EVIL in chain.talk.denied.reason
    assert chain.told_client.startswith(b"HTTP/1.1 403 ")
    assert chain.client.ended
    assert chain.told_far == b""


def test_a_placeholder_elsewhere_is_refused_within() -> None:
    chain = Chain().run().say(f"X: {TOKEN.placeholder}")
    assert chain.talk.denied is not None
    assert chain.talk.denied.name == "secret"
    assert chain.told_far == b""


@pytest.mark.parametrize(
    "hello",
    [hellos.hello(hellos.sni(EVIL.encode())), b"GET / HTTP/1.1\r\n", hellos.openssl_hello(None)],
)
def test_another_name_outside_is_refused_before_anything_is_dialled(hello: bytes) -> None:
    talk = Chain().talk.client(hello)
    assert talk.denied is not None
    assert talk.denied.name == "tls"
    assert talk.to_server == b""


def test_large_bodies_pass_both_ways() -> None:
    chain, large = Chain().run(), b"x" * 1_000_000
    chain.client.write(
        f"PUT /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(large)}\r\n\r\n".encode() + large
    )
    chain.run()
    assert chain.told_far.endswith(b"\r\n\r\n" + large)
    chain.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(large) + large)
    assert chain.told_client.endswith(large)
    assert not chain.talk.offers


def test_a_websocket_passes_within() -> None:
    chain = Chain().run()
    chain.say("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
    chain.answer(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00")
    assert not chain.talk.upgraded
    chain.client.write(b"\n raw")
    chain.run()
    assert chain.told_client.endswith(b"\x81\x00")
    assert chain.told_far.endswith(b"\n raw")


def test_a_response_that_ends_with_its_connection_ends_in_order() -> None:
    chain = Chain().run().say()
    chain.answer(b"HTTP/1.1 200 OK\r\n\r\nabc")
    chain.far.finish()
    chain.run()
    assert chain.told_client.endswith(b"3\r\nabc\r\n0\r\n\r\n")
    assert chain.client.ended
    assert chain.talk.closed is not None
    assert chain.talk.closed.reason == ""


def test_what_says_that_all_was_said_is_last_and_nothing_else() -> None:
    """Of a response with its end, of which the far side asks for no more."""
    chain = Chain().run().say().answer(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert chain.talk.closed == Close()
    alert = 5 + 2 + 1 + 16  # record, alert, its type, the tag (RFC 8446, section 5.2)
    assert len(chain.talk.last_to_client) == len(chain.talk.last_to_server) == alert
    assert chain.client.ended
    assert chain.far.ended


def test_a_refusal_is_last() -> None:
    chain = Chain().run().say()
    chain.client.write(b"GET / HTTP/1.1\r\nHost: " + EVIL.encode() + b"\r\n\r\n")
    chain.run()
    assert chain.talk.denied is not None
    assert len(chain.talk.last_to_client) > len(b"HTTP/1.1 403 Forbidden")
    talk = Chain().talk.client(hellos.openssl_hello(EVIL))
    assert talk.denied is not None
    assert talk.last_to_client == refusal_alert


def test_a_response_that_is_cut_off_does_not_look_whole() -> None:
    chain = Chain().run().say()
    chain.answer(b"HTTP/1.1 200 OK\r\n\r\nabc")
    chain.talk.do(chain.talk.gate.server_ended())
    chain.run()
    assert not chain.told_client.endswith(b"0\r\n\r\n")
    assert chain.talk.closed is not None
    assert "cut off" in chain.talk.closed.reason
    assert chain.talk.closed.cut


def test_chunks_that_are_cut_off_do_not_look_whole_to_http_1_0() -> None:
    chain = Chain().run()
    chain.client.write(f"GET /a HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
    chain.run().answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc")
    chain.far.finish()
    chain.run()
    assert chain.told_client.endswith(b"\r\n\r\nabc")
    assert not chain.client.ended
    assert chain.talk.closed is not None
    assert chain.talk.closed.cut


def test_ends_within_a_handshake() -> None:
    for ended in ("client_ended", "server_ended"):
        chain = Chain()
        chain.talk.client(chain.client.outgoing())
        chain.talk.do(getattr(chain.talk.gate, ended)())
        assert chain.talk.closed is not None
        assert "within its handshake" in chain.talk.closed.reason


def test_a_client_that_does_not_wait_for_its_answer_is_bounded() -> None:
    chain = Chain()
    chain.talk.client(chain.client.outgoing() + b"x" * 70_000, 10_000)
    assert chain.talk.closed is not None
    assert "more than its hello" in chain.talk.closed.reason
