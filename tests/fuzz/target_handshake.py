"""`TlsGate`: whatever both sides say, no hello goes on that names another server."""

from __future__ import annotations

from supervisor.egress.tls import Refused, TlsGate
from tests.fuzz.hello_reader import EVIL, GOOD, TOKENS, handshakes, names_the_server
from tests.fuzz.runner import Target
from tests.unit.egress import hellos


def check(data: bytes) -> None:
    """Whatever both sides say, in whichever pieces, no hello goes on that names another server
    while the gate is not free. Each piece begins with its direction and length."""
    tls, sent = TlsGate(hellos.NAME), bytearray()
    while len(data) >= 3 and not tls.free:
        from_client, length = data[0] & 1, int.from_bytes(data[1:3], "big")
        piece, data = data[3 : 3 + length], data[3 + length :]
        step = tls.from_client(piece) if from_client else tls.from_server(piece)
        if isinstance(step, Refused):
            assert not tls.free
            assert tls.from_client(b"x") == step
            break
        sent += step.to_server
    for message in handshakes(bytes(sent)):
        names_the_server(message)


def _piece(data: bytes, *, client: bool) -> bytes:
    return bytes((client,)) + len(data).to_bytes(2, "big") + data


_ANSWER = hellos.record(hellos.server_hello(bytes(range(32))))

TARGET = Target(
    check=check,
    seeds=tuple(
        b"".join(_piece(data, client=client) for data, client in pieces)
        for pieces in (
            ((GOOD, True), (_ANSWER, False)),
            ((GOOD + hellos.EARLY, True), (hellos.retry() + hellos.CCS, False),
             (hellos.CCS + GOOD, True), (_ANSWER, False)),
            ((GOOD, True), (hellos.retry(), False), (EVIL, True), (_ANSWER, False)),
            ((GOOD + EVIL, True), (_ANSWER, False)),
            ((GOOD, True), (hellos.WARNING + _ANSWER[:9], False), (EVIL[:9], True),
             (_ANSWER[9:], False), (EVIL[9:], True)),
        )
    ),
    tokens=TOKENS,
)  # fmt: skip
