"""Connections: whom they trust, and how soon they know that they are over."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from supervisor.export.sinks.wire import READ_BYTES, SAID_BYTES_MAX, Peer, Tls, Wire, WireError
from tests.support.receiver import free_port
from tests.unit.export.sinks.samples import plain, secure
from tests.unit.export.sinks.servers import Certificates, Served, Stub, Talk, stub


def run(
    go: Callable[[Stub], Coroutine[Any, Any, None]],
    talk: Talk | None = None,
    context: ssl.SSLContext | None = None,
) -> None:
    with stub(talk, context) as made:
        asyncio.run(go(made))


def saying(*texts: bytes) -> Talk:
    """Say something, then end the connection."""

    def talk(connection: socket.socket, one: Served) -> None:
        for text in texts:
            connection.sendall(text)

    return talk


@pytest.mark.parametrize(
    "given",
    [
        {"tls": None},
        {"tls": Tls(ca=Path("ca"), name="a.test"), "plain_because": "no need"},
        {"tls": None, "plain_because": "here", "port": 0},
        {"tls": None, "plain_because": "here", "port": 65536},
    ],
)
def test_a_peer_has_tls_or_a_reason(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"TLS|port"):
        Peer(**{"host": "127.0.0.1", "port": 1, **given})


@pytest.mark.parametrize("given", [{"name": ""}, {"certificate": Path("c")}, {"key": Path("k")}])
def test_tls_needs_a_name_and_both_files(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"certificate"):
        Tls(**{"ca": Path("ca"), "name": "a.test", **given})


def test_files_that_are_none(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    chain, empty = certificates.chain("client.test"), tmp_path / "empty"
    empty.write_bytes(b"")
    locked = tmp_path / "locked.pem"
    key = serialization.load_pem_private_key(chain.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    for tls in (
        Tls(ca=tmp_path / "none", name="a.test"),
        Tls(ca=empty, name="a.test"),
        Tls(ca=certificates.ca, name="a.test", certificate=chain, key=empty),
        Tls(ca=certificates.ca, name="a.test", certificate=chain, key=locked),
    ):
        with pytest.raises(WireError):
            tls.context()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_none(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    context = certificates.context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1

    async def go(made: Stub) -> None:
        with pytest.raises(WireError, match="no TLS with it"):
            await Wire.open(secure(made.port, certificates.tls()))

    run(go, context=context)


def test_who_never_shakes_hands(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)

    async def go(made: Stub) -> None:
        peer = Peer(host="127.0.0.1", port=made.port, tls=certificates.tls(), connect_s=0.2)
        with pytest.raises(WireError, match="no connection"):
            await Wire.open(peer)

    run(go)


def test_where_nobody_is_is_said() -> None:
    port = free_port()

    async def main() -> None:
        with pytest.raises(WireError, match=f"^127.0.0.1:{port}: Connection refused$"):
            await Wire.open(plain(port))

    asyncio.run(main())
    assert Peer(host="::1", port=1, tls=None, plain_because="a test").where == "[::1]:1"


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_end_is_seen_while_nothing_is_sent(tmp_path: Path, encrypted: bool) -> None:
    certificates = Certificates(tmp_path)

    async def go(made: Stub) -> None:
        peer = secure(made.port, certificates.tls()) if encrypted else plain(made.port)
        wire = await Wire.open(peer)
        assert not wire.over.is_set()
        await asyncio.to_thread(made.until, lambda: bool(made.served) and made.served[0].talks)
        made.drop()
        await wire.over.wait()
        for use in (wire.write(b"a"), wire.settled(), wire.read(), wire.alive_for(0)):
            with pytest.raises(WireError):
                await use
        await wire.close()

    run(go, context=certificates.context() if encrypted else None)


def test_what_was_said_before_the_end_is_read(tmp_path: Path) -> None:
    certificates, said = Certificates(tmp_path), bytes(range(256)) * 100

    async def go(made: Stub) -> None:
        wire = await Wire.open(secure(made.port, certificates.tls()), heeds=True)
        await wire.over.wait()
        got = b""
        while len(got) < len(said):
            got += await wire.read()
        assert got == said
        with pytest.raises(WireError):
            await wire.read()
        await wire.close()

    run(go, saying(said), certificates.context())


def test_who_says_more_than_anybody_reads_is_not_listened_to() -> None:
    said, go_on = bytes(8 * SAID_BYTES_MAX), threading.Event()

    async def go(made: Stub) -> None:
        wire = await Wire.open(plain(made.port), heeds=True)
        got = 0
        while len(wire._said) <= SAID_BYTES_MAX:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
            assert len(wire._said) <= SAID_BYTES_MAX + READ_BYTES
        while got < len(said):
            got += len(await wire.read())
        go_on.set()
        await wire.close()

    run(go, saying(said))


def test_a_number_that_is_used_again_is_the_new_ones() -> None:
    """The loop forgets a closed connection at once, and not the one that has its number then."""

    async def go(made: Stub) -> None:
        numbers = set()
        for _ in range(20):
            wire = await Wire.open(plain(made.port))
            numbers.add(wire._socket.fileno())
            await asyncio.sleep(0)  # so that it listens
            wire.abort()
            wire.abort()
            fresh = socket.create_connection(("127.0.0.1", made.port))
            numbers.add(fresh.fileno())
            there = asyncio.Event()
            asyncio.get_running_loop().add_reader(fresh, there.set)
            fresh.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(there.wait(), 10.0)
            asyncio.get_running_loop().remove_reader(fresh)
            fresh.close()
        assert len(numbers) < 40

    run(go)


def test_settled_waits_for_the_other_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go(made: Stub) -> None:
        wire = await Wire.open(plain(made.port, stall_s=0.2))
        left = [5, 3, 0]
        monkeypatch.setattr(wire, "_unacknowledged", lambda: left.pop(0))
        await wire.settled()
        assert not left
        monkeypatch.setattr(wire, "_unacknowledged", lambda: 7)
        with pytest.raises(WireError, match="7 bytes"):
            await wire.settled()
        await wire.close()

    run(go)
