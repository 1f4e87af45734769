"""ClientHellos in pieces and tricks, and both directions around a HelloRetryRequest."""

from __future__ import annotations

import ssl

import pytest

from supervisor.egress import tls
from supervisor.egress.hello import RETRY_RANDOM, HelloError
from supervisor.egress.tls import ClientHelloCheck, NeedMore, Passed, Refused, Step, TlsGate
from tests.unit.egress import hellos
from tests.unit.egress.hellos import CCS, EARLY, NAME, WARNING

GOOD = hellos.hello(hellos.sni(NAME.encode()))
EVIL = hellos.hello(hellos.sni(b"evil.example.com"))
ANSWER = hellos.record(hellos.server_hello())


def fed(data: bytes, size: int = 1 << 20) -> NeedMore | Passed | Refused:
    check, said = ClientHelloCheck(NAME), NeedMore()
    for at in range(0, len(data), size):
        said = check.feed(data[at : at + size])  # type: ignore[assignment]
    return said


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1 << 20])
def test_openssls_own_hello_passes_however_it_is_cut(size: int) -> None:
    hello = hellos.openssl_hello(alpn=("h2", "http/1.1"))
    assert fed(hello, size) == Passed(hello=hello, rest=b"")
    assert fed(hello[:-1], size) == NeedMore()


@pytest.mark.parametrize("size", [1, 5, 50, 400])
def test_a_hello_in_several_records_passes(size: int) -> None:
    hello = hellos.records(hellos.openssl_hello()[5:], size)
    assert fed(hello, 3) == Passed(hello=hello, rest=b"")


def test_what_comes_behind_is_given_back() -> None:
    assert fed(GOOD + EARLY) == Passed(hello=GOOD, rest=EARLY)


def test_case_and_the_last_dot_do_not_matter() -> None:
    assert isinstance(fed(hellos.hello(hellos.sni(b"API.GitHub.com"))), Passed)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not TLS"),
        (b"\x16\x02", "not TLS"),
        (b"\x80\x2e\x01\x00\x02", "SSLv2"),
        (b"\x80\x2e\x04\x00\x02", "not TLS"),
        (EVIL, "server name evil.example.com where api.github.com was asked for"),
        (hellos.hello(), "no server name"),
        (hellos.openssl_hello(None), "no server name"),
        (hellos.hello(hellos.sni(NAME.encode()), hellos.extension(0xFE0D, b"\0" * 9)), "encrypted"),
        (CCS + GOOD, "type 20 before"),
        (EARLY, "type 23 before"),
        (hellos.record(b""), "empty"),
        (hellos.record(GOOD[5:9]) + hellos.record(b""), "empty"),
        (hellos.record(GOOD[5:] + b"\x01"), "behind the ClientHello"),
        (hellos.record(GOOD[5:] + GOOD[5:]), "behind the ClientHello"),
        (hellos.record(hellos.server_hello()), "type 2 where"),
        (hellos.record(b"\x01\x01\x00\x00"), "more than 65536"),
        (b"\x16\x03\x01\x40\x01", "16385 bytes"),
    ],
)
def test_what_names_nobody_or_another_is_refused(data: bytes, reason: str) -> None:
    for size in (1 << 20, 1):
        said = fed(data, size)
        assert isinstance(said, Refused)
        assert reason in said.reason


def test_a_hello_that_never_ends_is_refused_in_bounds() -> None:
    check = ClientHelloCheck(NAME)
    part = hellos.record(b"\x00")
    check.feed(hellos.record(b"\x01\x00\xff\x00"))
    parts = 1
    while isinstance(check.feed(part), NeedMore):
        parts += 1
    assert parts * len(part) <= tls.HELLO_BYTES_MAX + len(part)


def test_a_refusal_stays() -> None:
    check = ClientHelloCheck(NAME)
    first = check.feed(EVIL)
    assert check.feed(GOOD) == first


def test_readers_that_differ_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "openssl_name", lambda _hello: "other.example.com")
    said = fed(GOOD)
    assert isinstance(said, Refused)
    assert "two readers" in said.reason


def test_openssl_must_read_it_too() -> None:
    broken = hellos.hello(hellos.sni(NAME.encode()), hellos.extension(16, b"\x00\x05\x01"))
    with pytest.raises(HelloError, match="OpenSSL does not take"):
        tls.openssl_name(broken)
    assert isinstance(fed(broken), Refused)


def test_the_alert_is_one_that_openssl_understands() -> None:
    incoming = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(incoming, ssl.MemoryBIO(), server_hostname=NAME)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write(tls.refusal_alert)
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        client.do_handshake()


def passed(step: Step | Refused) -> Step:
    assert isinstance(step, Step), step
    return step


def refused(step: Step | Refused) -> str:
    assert isinstance(step, Refused), step
    return step.reason


def greeted() -> TlsGate:
    gate = TlsGate(NAME)
    assert passed(gate.from_client(GOOD)) == Step(to_server=GOOD)
    return gate


def test_nothing_passes_before_the_hello_is_whole() -> None:
    gate = TlsGate(NAME)
    assert passed(gate.from_client(GOOD[:40])) == Step()
    assert not gate.said_hello
    assert passed(gate.from_client(GOOD[40:])) == Step(to_server=GOOD)
    assert gate.said_hello
    assert not gate.free


def test_a_server_hello_sets_both_free() -> None:
    gate = greeted()
    assert passed(gate.from_server(ANSWER[:20])) == Step()
    assert passed(gate.from_server(ANSWER[20:] + b"more")) == Step(to_client=ANSWER + b"more")
    assert gate.free
    assert passed(gate.from_client(b"anything")) == Step(to_server=b"anything")
    assert passed(gate.from_server(b"at all")) == Step(to_client=b"at all")


def test_an_answer_in_several_records_sets_free() -> None:
    gate = greeted()
    answer = hellos.records(ANSWER[5:], 10)
    sent = b"".join(passed(gate.from_server(bytes((b,)))).to_client for b in answer)
    assert sent == answer
    assert gate.free


def test_a_warning_before_the_answer_passes() -> None:
    gate = greeted()
    assert passed(gate.from_server(WARNING)).to_client == WARNING
    assert not gate.free
    assert passed(gate.from_server(ANSWER)).to_client == ANSWER
    assert gate.free


def test_early_data_passes_and_what_is_held_is_let_go_with_the_answer() -> None:
    gate = TlsGate(NAME)
    assert passed(gate.from_client(GOOD + CCS + EARLY[:50])).to_server == GOOD + CCS + EARLY[:50]
    assert passed(gate.from_client(EARLY[50:] + EARLY[:3])).to_server == EARLY[50:]
    assert passed(gate.from_server(ANSWER)) == Step(to_server=EARLY[:3], to_client=ANSWER)


@pytest.mark.parametrize("between", [b"", CCS, EARLY, CCS + EARLY])
def test_a_second_hello_is_checked_as_the_first(between: bytes) -> None:
    gate = greeted()
    assert passed(gate.from_server(hellos.retry() + CCS)).to_client == hellos.retry() + CCS
    assert not gate.free
    assert gate.said_hello
    assert passed(gate.from_client(between + GOOD)).to_server == between + GOOD
    assert not gate.free
    passed(gate.from_server(ANSWER))
    assert gate.free


@pytest.mark.parametrize("size", [1, 30, 1 << 20])
def test_a_second_hello_to_another_is_refused(size: int) -> None:
    gate = greeted()
    passed(gate.from_server(hellos.retry()))
    sent, step = b"", Step()
    second = CCS + EARLY + EVIL
    for at in range(0, len(second), size):
        step = gate.from_client(second[at : at + size])  # type: ignore[assignment]
        sent += b"" if isinstance(step, Refused) else step.to_server
    assert "evil.example.com" in refused(step)
    assert b"evil" not in sent
    assert not gate.free


def test_a_second_hello_nobody_asked_for_is_refused() -> None:
    gate = greeted()
    assert "before the server's answer" in refused(gate.from_client(GOOD))


def test_a_second_hello_behind_the_first_is_refused() -> None:
    assert "before the server's answer" in refused(TlsGate(NAME).from_client(GOOD + EVIL))
    assert refused(TlsGate(NAME).from_client(GOOD + EARLY + EVIL))


def test_a_second_hello_that_waits_half_held_is_not_let_go() -> None:
    gate = greeted()
    assert "before the server's answer" in refused(gate.from_client(EVIL[:5]))
    assert refused(gate.from_server(ANSWER))
    assert not gate.free


def test_a_second_retry_is_refused() -> None:
    gate = greeted()
    passed(gate.from_server(hellos.retry()))
    passed(gate.from_client(GOOD))
    assert "second HelloRetryRequest" in refused(gate.from_server(hellos.retry()))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "not TLS"),
        (EARLY, "before its ServerHello"),
        (hellos.record(b"\x00\x00\x00\x00"), "of type 0"),
        (hellos.record(b"\x0b\x00\x00\x00"), "of type 11"),
        (hellos.record(hellos.server_hello(RETRY_RANDOM, b"\x02")), "went on behind"),
        (hellos.retry() + ANSWER, "went on behind"),
        (hellos.record(b"\x01\x01\x01", 20), "malformed ChangeCipherSpec"),
        (hellos.record(b"\x01", 21), "malformed alert"),
    ],
)
def test_a_server_that_says_what_it_may_not_is_refused(said: bytes, reason: str) -> None:
    assert reason in refused(greeted().from_server(said))


def test_a_server_may_not_speak_first() -> None:
    assert "before the client" in refused(TlsGate(NAME).from_server(ANSWER))


def test_a_client_that_ends_too_soon_is_refused() -> None:
    gate = TlsGate(NAME)
    passed(gate.from_client(GOOD[:-1]))
    assert "ended before" in refused(gate.client_ended())
    assert passed(greeted().client_ended()) == Step()
