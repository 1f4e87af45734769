"""An end of a passage: when it is busy, and what can be sent to it at once."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from select import EPOLLERR, EPOLLIN

import pytest

from supervisor.call.events import Verdict
from supervisor.egress import connection as connection_module
from supervisor.egress.actions import Action, Close, ToClient, ToServer
from supervisor.egress.ends import End, send_now, splice_now
from supervisor.egress.gates import Unspliced
from supervisor.egress.passage import Passage
from supervisor.egress.relay import RESET_ON_CLOSE
from supervisor.linux.fds import make_pipe
from tests.unit.egress.pairs import receive, send, tcp_pair, until
from tests.unit.egress.test_passage import NAME, begun, http, port_of, until_head
from tests.unit.egress.wired import Rig, accepted, wired

MANY = bytes(1 << 20)


def test_an_end_is_busy_while_something_goes_first() -> None:
    near, far = tcp_pair()
    with near, far:
        end = End(near, lock=asyncio.Lock())
        assert not end.busy
        for name, value in (("senders", 1), ("owed", memoryview(b"a")), ("held", 1)):
            other = End(near, lock=asyncio.Lock())
            setattr(other, name, value)
            assert other.busy


def read_all(far: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += far.recv(1 << 20)
    return data


def test_what_can_be_sent_at_once_is_sent_and_counted() -> None:
    near, far = tcp_pair()
    with near, far:
        near.setblocking(False)
        far.setblocking(True)
        end = End(near, lock=asyncio.Lock())
        assert send_now(end, memoryview(b"abc")) == 3
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sent = send_now(end, memoryview(MANY * 16))
        assert 0 < sent < len(MANY) * 16
        assert len(read_all(far, 3 + sent)) == 3 + sent


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "broken"])
def test_what_is_last_need_not_be_heard(reset: bool) -> None:
    """What is not, is lost."""
    for last in (True, False):
        near, far = tcp_pair()
        end = End(near, lock=asyncio.Lock())
        with near:
            if reset:
                far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            else:
                near.shutdown(socket.SHUT_WR)
            far.close()
            if last:
                assert send_now(end, memoryview(b"bye"), last=True) == len(b"bye")
                assert end.lost is None
                continue
            with pytest.raises((BrokenPipeError, ConnectionResetError)) as caught:
                send_now(end, memoryview(b"part of an answer"))
            assert end.lost is caught.value


def test_what_is_last_waits_for_room_as_all_else() -> None:
    near, far = tcp_pair()
    with near, far:
        near.setblocking(False)
        end = End(near, lock=asyncio.Lock())
        while send_now(end, memoryview(MANY)) == len(MANY):
            continue
        assert send_now(end, memoryview(MANY), last=True) == 0


def test_what_a_pipe_holds_is_spliced_and_counted() -> None:
    near, far = tcp_pair()
    pipe = make_pipe(1 << 20)
    try:
        with near, far:
            near.setblocking(False)
            far.setblocking(True)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            total = 0
            while True:
                os.set_blocking(pipe.write, False)
                try:
                    held = os.write(pipe.write, MANY)
                except BlockingIOError:
                    break
                sent = splice_now(pipe.read, near.fileno(), held)
                total += sent
                if sent < held:
                    break
            assert splice_now(pipe.read, near.fileno(), 1) == 0
            assert len(read_all(far, total)) == total > 0
    finally:
        os.close(pipe.read)
        os.close(pipe.write)


def test_a_reset_that_was_met_in_sending_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells of a reset once; behind that, reading gives an end."""
    ready = Passage._ready

    def met(passage: Passage, end: End, events: int) -> None:
        """As where a body is sent in the turn of the loop in which the reset comes."""
        if end is passage._server and events & EPOLLERR:
            ready(passage, passage._client, EPOLLIN)
        ready(passage, end, events)

    monkeypatch.setattr(Passage, "_ready", met)

    async def scenario(rig: Rig, server: socket.socket) -> None:
        client, far = await begun(rig, server, down=False, bytes_count=1000)
        await send(far, b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await until_head(client)
        assert await receive(client, len(b"4\r\nhalf\r\n")) == b"4\r\nhalf\r\n"
        # All of it in one turn of the loop.
        client.send(b"body")
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        far.close()
        with pytest.raises(ConnectionResetError):
            assert not await receive(client, 1), "the last chunk was sent"
        client.close()
        assert (await rig.flow()).verdict is Verdict.RESET

    wired(monkeypatch, scenario, http)


BYE = b"bye"
LARGE = bytes(16 << 20)
"""More than the kernel takes from one who does not read."""


class Says(Unspliced):
    """A gate that says what it is told to once the far side says something, and ends in order."""

    def __init__(self, *actions: Action) -> None:
        self._actions = list(actions)
        self.ended = False

    def from_client(self, data: bytes) -> list[Action]:
        return [ToServer(data)]

    def from_server(self, data: bytes) -> list[Action]:
        return self._actions

    def client_ended(self) -> list[Action]:
        self.ended = True
        return [Close()]

    server_ended = client_ended


async def asked(
    rig: Rig, server: socket.socket, gate: Says, monkeypatch: pytest.MonkeyPatch
) -> tuple[socket.socket, socket.socket]:
    """Have the far side asked something, and say a word."""
    monkeypatch.setattr(connection_module, "make_gate", lambda *_, **__: gate)
    rig.asks(NAME, port_of(server))
    client = rig.connect()
    await send(client, b"ask")
    far = await accepted(server)
    assert await receive(far, 3) == b"ask"
    await asyncio.sleep(0.05)  # The client's task waits.
    await send(far, b"!")
    return client, far


@pytest.mark.parametrize("to", [ToServer, ToClient])
@pytest.mark.parametrize("last", [True, False], ids=["last", "part"])
def test_an_end_in_order_is_one_where_only_a_farewell_is_not_heard(
    monkeypatch: pytest.MonkeyPatch, to: type[ToServer | ToClient], last: bool
) -> None:
    do = Passage._do

    async def gone(passage: Passage, actions: list[Action]) -> None:
        """As where the side is reset just before it is sent something."""
        side = passage._server if to is ToServer else passage._client
        if side is not None and any(isinstance(one, Close) for one in actions):
            side.socket.shutdown(socket.SHUT_WR)
        await do(passage, actions)

    monkeypatch.setattr(Passage, "_do", gone)

    async def scenario(rig: Rig, server: socket.socket) -> None:
        first = ToServer(b"", last=True)  # What is behind it waits for the task.
        gate = Says(ToClient(b"yes"), first, to(BYE, last=last), Close())
        client, far = await asked(rig, server, gate, monkeypatch)
        assert await receive(client, 3) == b"yes"
        flow = await rig.flow()
        told = (Verdict.CLOSED, "") if last else (Verdict.RESET, "Broken pipe")
        assert (flow.verdict, flow.reason) == told
        client.close()
        far.close()

    wired(monkeypatch, scenario, http)


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "goes"])
def test_an_end_in_order_waits_for_what_is_still_sent(
    monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    """An answer of which its reader got a part only is never told as one that was whole."""

    async def scenario(rig: Rig, server: socket.socket) -> None:
        gate = Says(ToClient(LARGE))
        client, far = await asked(rig, server, gate, monkeypatch)
        assert await receive(client, 1) == LARGE[:1]
        client.shutdown(socket.SHUT_WR)
        await until(lambda: gate.ended)
        await asyncio.sleep(0.05)
        assert rig.flows == []
        if stays:
            assert len(await receive(client)) == len(LARGE) - 1
        else:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        client.close()
        flow = await rig.flow()
        assert flow.verdict is (Verdict.CLOSED if stays else Verdict.RESET)
        far.close()

    wired(monkeypatch, scenario, http)


def test_the_gates_word_goes_before_a_reset_that_comes_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All was said, and heard: that the client then leaves with a reset changes nothing."""
    do = Passage._do

    async def reset(passage: Passage, actions: list[Action]) -> None:
        """As where it comes in the same turn of the loop as the gate's word."""
        waits = passage._client.reads
        if any(isinstance(one, Close) for one in actions) and waits is not None:
            waits.set_exception(ConnectionResetError(errno.ECONNRESET, "reset"))
        await do(passage, actions)

    monkeypatch.setattr(Passage, "_do", reset)

    async def scenario(rig: Rig, server: socket.socket) -> None:
        client, far = await asked(rig, server, Says(ToClient(b"yes"), Close()), monkeypatch)
        assert await receive(client) == b"yes"
        client.close()
        assert (await rig.flow()).verdict is Verdict.CLOSED
        far.close()

    wired(monkeypatch, scenario, http)
