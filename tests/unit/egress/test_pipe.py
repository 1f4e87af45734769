"""Two ends of TLS in memory."""

from __future__ import annotations

import pytest

from supervisor.egress.pipe import PipeError, TlsPipe
from supervisor.egress.terminate import make_authority, server_context, upstream_context
from tests.unit.egress.battery import EVIL, HOST

AUTHORITY = make_authority([HOST])
SERVER = server_context(AUTHORITY)
CLIENT = upstream_context(AUTHORITY.certificate)


def talk(client: TlsPipe, server: TlsPipe) -> tuple[bytes, bytes]:
    """Carry bytes until neither has any; give what the client and the server were told."""
    to_client = to_server = b""
    to_client += client.feed()
    while (out := client.outgoing()) or (back := server.outgoing()):
        to_server += server.feed(out) if out else b""
        to_client += client.feed(server.outgoing()) if out else client.feed(back)
    return to_client, to_server


def joined() -> tuple[TlsPipe, TlsPipe]:
    client, server = TlsPipe(CLIENT, HOST), TlsPipe(SERVER)
    assert talk(client, server) == (b"", b"")
    assert client.ready
    assert server.ready
    return client, server


def test_what_is_said_arrives() -> None:
    client, server = joined()
    large = b"x" * 1_000_000
    client.write(large)
    server.write(b"hello")
    assert talk(client, server) == (b"hello", large)
    assert not client.ended


def test_an_end_arrives() -> None:
    client, server = joined()
    client.write(b"last")
    client.finish()
    assert server.feed(client.outgoing()) == b"last"
    assert server.ended
    server.write(b"still")
    server.finish()
    assert client.feed(server.outgoing()) == b"still"
    assert client.ended


@pytest.mark.parametrize("authorities", [AUTHORITY.certificate, ""])
def test_another_name_or_authority_does_not_hold(authorities: str) -> None:
    client = TlsPipe(upstream_context(authorities), EVIL if authorities else HOST)
    with pytest.raises(PipeError, match="a certificate that does not hold"):
        talk(client, TlsPipe(SERVER))


def test_what_is_no_tls_does_not_hold() -> None:
    with pytest.raises(PipeError, match="TLS that does not hold"):
        TlsPipe(SERVER).feed(b"GET / HTTP/1.1\r\n\r\n")


def test_nothing_is_said_behind_an_end() -> None:
    client, _ = joined()
    client.finish()
    with pytest.raises(PipeError, match="over"):
        client.write(b"x")
    client.finish()
