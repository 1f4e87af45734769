"""Bytes arrive as they were sent, credentials are the kernel's, and nothing is left behind."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest import mock

import pytest

from supervisor.api import front
from supervisor.api.front import Front
from supervisor.api.peers import STRANGERS_MAX, Peer, Peers, peer_of
from tests.support.lingering import lingering

NOBODY = 65534


@pytest.fixture(autouse=True, params=["from 6.16 on", "before"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All of it also as on a kernel that cannot refuse descriptors."""
    kernel: str = request.param
    if kernel == "before":
        monkeypatch.setattr(front, "take_no_descriptors", lambda end: False)
    return kernel


class Backend:
    """Stands in for gRPC: keeps what arrives and by which name, and echoes it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.received: list[bytes] = []
        self.reply_first = b""
        self.hold = asyncio.Event()
        self.hold.set()
        self.hang_up = False
        self.writers: list[asyncio.StreamWriter] = []

    def cut(self) -> None:
        """Close every connection at once, with what has not been sent yet."""
        for writer in self.writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = writer.get_extra_info("peername")
        self.names.append(name[1:].decode())
        self.writers.append(writer)
        writer.write(self.reply_first)
        if self.hang_up and not self.reply_first:
            writer.write(b"the end")
            writer.close()
            return
        data = bytearray()
        await self.hold.wait()
        while piece := await reader.read(1 << 16):
            data += piece
            writer.write(piece)
            await writer.drain()
        self.received.append(bytes(data))
        writer.write(b"the end")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def fronted(
    folder: Path,
    connections_max: int = 8,
    tcp: bool = False,
    knows: Callable[[Peer], bool] = lambda _: True,
    on_refused: Callable[[Peer], None] = lambda _: None,
) -> AsyncIterator[tuple[Front, Peers, Backend, str | tuple[str, int]]]:
    """Run a front before an echo server."""
    backend = Backend()
    server = await asyncio.start_unix_server(backend.serve, str(folder / "inner"))
    peers = Peers(connections_max, knows)
    if tcp:
        listener = socket.create_server(("127.0.0.1", 0))
        address: str | tuple[str, int] = listener.getsockname()
    else:
        listener = socket.socket(socket.AF_UNIX)
        address = str(folder / "outer")
        listener.bind(address)
        listener.listen()
    door = Front(listener, str(folder / "inner"), peers, on_refused)
    door.start()
    try:
        yield door, peers, backend, address
    finally:
        await door.close()
        server.close()


async def gone(peers: Peers, left: int = 0) -> None:
    """Wait until the connections are forgotten."""
    async with asyncio.timeout(5):
        while len(peers) > left:
            await asyncio.sleep(0.005)


def test_bytes_both_ways_and_half_close(tmp_path: Path) -> None:
    async def main() -> None:
        async with fronted(tmp_path) as (_, peers, backend, address):
            reader, writer = await asyncio.open_unix_connection(str(address))
            data = os.urandom(5_000_000)

            async def send() -> None:
                writer.write(data)
                await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            back = await reader.read(-1)
            await sending
            assert back == data + b"the end"
            assert backend.received == [data]
            writer.close()
            await gone(peers)

    asyncio.run(main())


def test_a_reader_that_stops_stops_the_writer(tmp_path: Path) -> None:
    async def main() -> None:
        async with fronted(tmp_path) as (_, peers, backend, address):
            backend.hold.clear()
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(address))
            client.setblocking(False)
            sent = 0
            quiet = 0
            while quiet < 20:  # until nobody takes any more
                try:
                    sent += client.send(bytes(1 << 16))
                    quiet = 0
                except BlockingIOError:
                    quiet += 1
                    await asyncio.sleep(0.005)
            # What is under way is what the kernel's and the stream's buffers hold, one piece here.
            assert sent < 4 << 20
            backend.hold.set()
            client.setblocking(True)
            await asyncio.to_thread(client.shutdown, socket.SHUT_WR)
            total = 0
            while data := await asyncio.to_thread(client.recv, 1 << 20):
                total += len(data)
            assert total == sent + len(b"the end")
            client.close()
            await gone(peers)

    asyncio.run(main())


def test_what_the_server_closes_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        async with fronted(tmp_path) as (_, peers, backend, address):
            backend.hang_up = True
            reader, writer = await asyncio.open_unix_connection(str(address))
            assert await reader.read() == b"the end"
            await gone(peers)  # though this end is still open
            writer.close()

    asyncio.run(main())


def test_what_the_server_closes_is_closed_though_nobody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "SWEEP_S", 0.02)

    async def main() -> None:
        async with fronted(tmp_path) as (_, peers, backend, address):
            backend.hang_up = True
            backend.reply_first = bytes(16 << 20)
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(address))
            async with asyncio.timeout(5):
                while not backend.names:
                    await asyncio.sleep(0.01)
            assert len(peers) == 1
            backend.cut()
            await gone(peers)
            client.close()

    asyncio.run(main())


def test_the_kernel_says_who_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with fronted(tmp_path) as (_, peers, backend, address):
            backend.reply_first = b"hello"
            reader, writer = await asyncio.open_unix_connection(str(address))
            await reader.readexactly(5)
            found = peers.find(f"unix-abstract:{backend.names[0]}")
            assert found == Peer(
                transport="unix",
                address=f"uid {os.getuid()}",
                uid=os.getuid(),
                gid=os.getgid(),
                pid=os.getpid(),
            )
            writer.close()
            await gone(peers)
            assert peers.find(f"unix-abstract:{backend.names[0]}") is None

    asyncio.run(main())


@pytest.mark.root
def test_another_user_is_another_peer() -> None:
    program = (
        "import os, socket, sys\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(5); s.recv(1)\n"
    )

    async def main() -> None:
        with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
            folder = Path(name)
            folder.chmod(0o711)
            await connect_as_nobody(folder)

    async def connect_as_nobody(folder: Path) -> None:
        async with fronted(folder) as (_, peers, backend, address):
            Path(str(address)).chmod(0o666)
            backend.reply_first = b"hello"
            child = subprocess.Popen([sys.executable, "-c", program, str(address)])
            try:
                async with asyncio.timeout(20):
                    while not backend.names:
                        await asyncio.sleep(0.01)
                found = peers.find(f"unix-abstract:{backend.names[0]}")
                assert found is not None
                assert (found.uid, found.gid, found.pid) == (NOBODY, NOBODY, child.pid)
            finally:
                child.kill()
                child.wait()
            await gone(peers)

    asyncio.run(main())


def test_tcp_gives_the_address(tmp_path: Path) -> None:
    async def main() -> None:
        async with fronted(tmp_path, tcp=True) as (_, peers, backend, address):
            backend.reply_first = b"hello"
            reader, writer = await asyncio.open_connection(*address)
            await reader.readexactly(5)
            found = peers.find(f"unix-abstract:{backend.names[0]}")
            assert found is not None
            host, port = writer.get_extra_info("sockname")
            assert (found.transport, found.address) == ("tls", f"{host}:{port}")
            assert found.uid is None
            writer.close()
            await gone(peers)

    asyncio.run(main())


def test_more_connections_than_there_is_room_for(tmp_path: Path) -> None:
    heard: list[Peer] = []

    async def main() -> None:
        room = fronted(tmp_path, connections_max=2, on_refused=heard.append)
        async with room as (_, peers, backend, address):
            backend.reply_first = b"hello"
            streams = [await asyncio.open_unix_connection(str(address)) for _ in range(2)]
            for reader, _writer in streams:
                await reader.readexactly(5)
            refused, _ = await asyncio.open_unix_connection(str(address))
            assert await refused.read() == b""
            assert len(peers) == 2
            assert [peer.pid for peer in heard] == [os.getpid()]
            streams[0][1].close()
            await gone(peers, left=1)
            reader, writer = await asyncio.open_unix_connection(str(address))
            assert await reader.readexactly(5) == b"hello"
            writer.close()

    asyncio.run(main())


def test_who_connects_too_often_is_heard_of(tmp_path: Path) -> None:
    heard: list[Peer] = []

    async def main() -> None:
        room = fronted(tmp_path, knows=lambda _: False, on_refused=heard.append)
        async with room as (_, peers, _backend, address):
            with mock.patch.object(peers, "meet", return_value=False):
                reader, _ = await asyncio.open_unix_connection(str(address))
                assert await reader.read() == b""
            assert [peer.uid for peer in heard] == [os.getuid()]

    asyncio.run(main())


def test_a_connection_that_breaks_does_not_close_the_door(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with fronted(tmp_path) as (_, peers, backend, address):
            backend.reply_first = b"hello"
            broken = [OSError("gone"), ValueError("a bug"), mock.DEFAULT]
            with mock.patch.object(front, "peer_of", wraps=peer_of, side_effect=broken):
                for _ in range(2):
                    reader, _writer = await asyncio.open_unix_connection(str(address))
                    assert await reader.read() == b""
                reader, writer = await asyncio.open_unix_connection(str(address))
                assert await reader.readexactly(5) == b"hello"
            writer.transport.abort()
            await gone(peers)

    asyncio.run(main())
    assert [record.exc_info is not None for record in caplog.records] == [False, True]  # a bug


def test_nobody_behind_the_door(tmp_path: Path) -> None:
    async def main() -> None:
        async with fronted(tmp_path) as (_, peers, _backend, address):
            (tmp_path / "inner").unlink()
            reader, _writer = await asyncio.open_unix_connection(str(address))
            assert await reader.read() == b""
            assert len(peers) == 0

    asyncio.run(main())


def test_closing_cuts_what_stands(tmp_path: Path) -> None:
    async def main() -> None:
        async with fronted(tmp_path) as (door, peers, backend, address):
            backend.reply_first = b"hello"
            reader, _writer = await asyncio.open_unix_connection(str(address))
            await reader.readexactly(5)
            await door.stop_accepting()
            assert len(peers) == 1
            await door.close()
            assert await reader.read() == b""
            assert len(peers) == 0
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_unix_connection(str(address))

    asyncio.run(main())


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    async def main() -> None:
        async with fronted(tmp_path) as (_, peers, backend, address):
            backend.reply_first = b"hello"
            before = descriptors()
            for _ in range(20):
                reader, writer = await asyncio.open_unix_connection(str(address))
                await reader.readexactly(5)
                writer.close()
                await writer.wait_closed()
            await gone(peers)
            async with asyncio.timeout(5):
                while descriptors() > before:
                    await asyncio.sleep(0.01)

    asyncio.run(main())


@pytest.mark.parametrize("first", [b"", b"x" * 300_000], ids=["alone", "behind others"])
@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize("flags", [0, socket.MSG_OOB], ids=["in band", "out of band"])
def test_who_sends_a_socket_that_lingers_holds_nobody_up(
    tmp_path: Path, kernel: str, first: bytes, hangs_up: bool, flags: int
) -> None:
    """The thread that closes it would wait for a minute (tests/unit/linux/test_parting.py)."""

    async def main() -> None:
        async with fronted(tmp_path) as (_, peers, backend, address):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(address)
            for at in range(0, len(first), 10_000):
                connection.sendall(first[at : at + 10_000])
                await asyncio.sleep(0.001)
            with lingering() as (fd, let_go):
                if kernel != "before":
                    # fronted() makes a plain listener: the front has the kernel refuse it.
                    with pytest.raises(PermissionError):
                        socket.send_fds(connection, [b"y"], [fd])
                    connection.close()
                    return
                right = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
                connection.sendmsg([b"y"], right, flags)
                let_go()
                if flags:
                    with contextlib.suppress(OSError):
                        connection.send(b"more")
                if hangs_up:
                    connection.close()
                await gone(peers)
                reader, writer = await asyncio.open_unix_connection(str(address))
                writer.write(b"hello")
                writer.write_eof()
                assert await reader.read() == b"hellothe end"
                writer.close()
            assert b"y" not in b"".join(backend.received)
            connection.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_nobody_is_accepted_while_too_many_are_to_be_closed(tmp_path: Path, kernel: str) -> None:
    async def main() -> None:
        async with fronted(tmp_path) as (door, peers, _, address):
            if kernel != "before":
                assert door._undertaker is None
                return
            assert door._undertaker is not None
            room = asyncio.Event()
            with mock.patch.object(door._undertaker, "room", room.wait):
                reader, writer = await asyncio.open_unix_connection(str(address))
                writer.write(b"hello")
                writer.write_eof()
                for _ in range(50):
                    await asyncio.sleep(0.001)
                assert len(peers) == 0
                room.set()
                assert await reader.read() == b"hellothe end"
                writer.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_names_that_somebody_else_has_bound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every user of the host may bind in the abstract namespace."""
    taken = "0" * 32

    async def main() -> None:
        async with fronted(tmp_path) as (_, peers, backend, address):
            backend.reply_first = b"hello"
            tokens = mock.Mock(side_effect=[taken, taken, "1" * 32, *[taken] * 100])
            with (
                socket.socket(socket.AF_UNIX) as thief,
                mock.patch("supervisor.api.peers.secrets.token_hex", tokens),
            ):
                thief.bind(f"\0stockade-{taken}")
                reader, writer = await asyncio.open_unix_connection(str(address))
                assert await reader.readexactly(5) == b"hello"
                for _ in range(3):  # a thief who can guess them all
                    refused, other = await asyncio.open_unix_connection(str(address))
                    assert await refused.read() == b""
                    other.close()
            assert backend.names == ["stockade-" + "1" * 32]
            assert len(peers) == 1
            writer.close()
            await gone(peers)

    asyncio.run(main())
    (line,) = caplog.records
    assert (line.levelname, line.exc_info) == ("WARNING", None)


def test_strangers_have_their_own_few_places_and_little_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "STRANGER_S", 0.2)
    caller = True

    async def main() -> None:
        nonlocal caller
        async with fronted(tmp_path, knows=lambda _: caller) as (_, peers, backend, address):
            backend.reply_first = b"hello"
            reader, writer = await asyncio.open_unix_connection(str(address))
            await reader.readexactly(5)
            caller = False
            strangers = [
                await asyncio.open_unix_connection(str(address)) for _ in range(STRANGERS_MAX + 1)
            ]
            for its, _own in strangers[:STRANGERS_MAX]:
                assert await its.read() == b"hello"  # and the end, though nobody closed
            assert await strangers[-1][0].read() == b""
            await gone(peers, left=1)
            writer.write_eof()
            assert await reader.read() == b"the end"
            for _its, own in strangers:
                own.close()

    asyncio.run(main())
