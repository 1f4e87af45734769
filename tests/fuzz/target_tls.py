"""`ClientHelloCheck`: what passes names the allowed server, by yet another reader.

The first byte chooses how the rest is cut.
"""

from __future__ import annotations

from supervisor.egress.tls import ClientHelloCheck, NeedMore, Passed
from tests.fuzz.hello_reader import EVIL, GOOD, NAME, TOKENS, handshakes, names_the_server
from tests.fuzz.runner import Target
from tests.fuzz.target_http import SIZES
from tests.unit.egress import hellos


def check_hello(data: bytes) -> None:
    """What is passed names the allowed server, once, and hides nothing."""
    choice, data = data[:1] or b"\0", data[1:]
    size = SIZES[choice[0] & 7]
    reader, said = ClientHelloCheck(hellos.NAME), None
    for at in range(0, len(data), size):
        said = reader.feed(data[at : at + size])
        if not isinstance(said, NeedMore):
            break
    if isinstance(said, Passed):
        assert data.startswith(said.hello), said
        [message] = handshakes(said.hello)
        names_the_server(message)
    whole = ClientHelloCheck(hellos.NAME).feed(data)
    assert isinstance(whole, Passed) == isinstance(said, Passed), (whole, said)


TARGET = Target(
    check=check_hello,
    seeds=tuple(
        b"\x07" + data
        for data in (
            GOOD,
            EVIL,
            hellos.records(GOOD[5:], 100),
            hellos.hello(hellos.sni(NAME), hellos.extension(0xFE0D, bytes(8))),
            hellos.hello(hellos.sni(NAME, b"evil.example.com")),
            hellos.hello(hellos.sni(NAME), hellos.sni(b"evil.example.com")),
            hellos.hello(hellos.extension(16, b"\0\x0c\x02h2\x08http/1.1"), hellos.sni(NAME)),
            hellos.hello(hellos.sni(NAME), hellos.extension(35, b""), hellos.extension(42, b"")),
        )
    ),
    tokens=TOKENS,
)
