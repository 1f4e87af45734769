"""Bytes through a gate: requests and answers, bodies that are spliced, ends, budgets."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from supervisor.call.events import Verdict, Wall
from supervisor.egress import connection as connection_module
from supervisor.egress import dial as dial_module
from supervisor.egress import passage as passage_module
from supervisor.egress.actions import Action, Close, SpliceFromServer, ToClient, ToServer, Upgraded
from supervisor.egress.control import Secret
from supervisor.egress.ends import splice_now
from supervisor.egress.gates import Unspliced
from supervisor.egress.passage import Passage
from supervisor.egress.relay import PIPE_BYTES
from supervisor.egress.watch import URGENT_REASON
from supervisor.profile.model import EgressRule, Inspect
from tests.support.brokers import rule
from tests.unit.egress.hellos import openssl_hello, record, server_hello
from tests.unit.egress.pairs import receive, send
from tests.unit.egress.wired import Rig, accepted, wired

NAME = "api.example.com"
BODY = random.Random(7).randbytes(3 << 20)
SECRET = Secret(
    name="github", header="Authorization", host=NAME, value="s3cret",
    placeholder="stockade-secret-github-00112233445566778899aabbccddeeff",
)  # fmt: skip


def http(port: int) -> tuple[EgressRule, ...]:
    return (rule(NAME, port, inspect=Inspect.HTTP),)


def tls(port: int) -> tuple[EgressRule, ...]:
    return (rule(NAME, port, inspect=Inspect.TLS),)


def none(port: int) -> tuple[EgressRule, ...]:
    return (rule(NAME, port, inspect=Inspect.NONE),)


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def head(rig_port: int, method: str = "GET", *more: str) -> bytes:
    lines = [f"{method} /x HTTP/1.1", f"Host: {NAME}:{rig_port}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


async def until_head(end: socket.socket) -> tuple[bytes, bytes]:
    """Read a head; give it and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await receive(end, 1)
        assert more, data
        data += more
    before, _, after = data.partition(b"\r\n\r\n")
    return before, after


async def begun(
    rig: Rig, server: socket.socket, *, down: bool, bytes_count: int
) -> tuple[socket.socket, socket.socket]:
    """Begin a body of that length in one direction; give the client and the far side."""
    port = port_of(server)
    rig.asks(NAME, port)
    client = rig.connect()
    length = f"Content-Length: {bytes_count}"
    await send(client, head(port) if down else head(port, "POST", length))
    far = await accepted(server)
    await until_head(far)
    if down:
        await send(far, f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode())
    return client, far


def test_requests_and_answers_pass_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        port = port_of(server)
        rig.asks(NAME, port)
        client = rig.connect()
        await send(client, head(port))
        far = await accepted(server)
        for number in range(3):
            before, _ = await until_head(far)
            assert before.startswith(b"GET /x HTTP/1.1\r\n")
            await send(far, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            answer, _ = await until_head(client)
            assert answer.startswith(b"HTTP/1.1 200")
            assert await receive(client, 2) == b"ok"
            if number < 2:
                await send(client, head(port))
        client.close()
        assert await receive(far) == b""
        far.close()
        flow = await rig.flow()
        assert flow.verdict is Verdict.CLOSED
        assert flow.received == 3 * len(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert flow.sent > 0

    wired(monkeypatch, scenario, http)


def test_large_bodies_pass_whole_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        port = port_of(server)
        rig.asks(NAME, port)
        client = rig.connect()
        length = f"Content-Length: {len(BODY)}"
        await send(client, head(port, "POST", length))
        sending = asyncio.create_task(send(client, BODY))
        far = await accepted(server)
        await until_head(far)
        assert await receive(far, len(BODY)) == BODY
        await sending
        await send(far, f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode())
        sending = asyncio.create_task(send(far, BODY))
        await until_head(client)
        assert await receive(client, len(BODY)) == BODY
        await sending
        client.close()
        flow = await rig.flow()
        assert flow.verdict is Verdict.CLOSED
        assert flow.sent > len(BODY)
        assert flow.received > len(BODY)
        far.close()

    wired(monkeypatch, scenario, http)


def test_a_request_to_another_host_is_answered_and_never_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        port = port_of(server)
        rig.asks(NAME, port)
        client = rig.connect()
        await send(client, head(port))
        far = await accepted(server)
        await until_head(far)
        await send(far, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await until_head(client)
        await send(client, head(port).replace(NAME.encode(), b"evil.example.com"))
        answer, rest = await until_head(client)
        assert answer.startswith(b"HTTP/1.1 403")
        assert b"stockade" in rest + await receive(client)
        client.close()
        with pytest.raises(ConnectionResetError):
            await receive(far)
        flow = await rig.flow()
        assert flow.verdict is Verdict.DENIED
        (denied,) = rig.denials
        assert (denied.name, denied.wall, denied.pid) == ("http", Wall.NETWORK, 42)
        assert denied.rule == f"egress: {NAME}:{port}"
        far.close()

    wired(monkeypatch, scenario, http)


def test_who_cannot_be_reached_is_told_so_in_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        port = port_of(server)
        server.close()
        rig.asks(NAME, port)
        client = rig.connect()
        await send(client, head(port))
        answer, rest = await until_head(client)
        assert answer.startswith(b"HTTP/1.1 502")
        said = rest + await receive(client)
        client.close()
        flow = await rig.flow()
        assert (flow.verdict, flow.sent) == (Verdict.FAILED, 0)
        assert flow.reason.encode() in said
        assert f"rule: egress: {NAME}:{port}".encode() in said
        assert rig.denials == []

    wired(monkeypatch, scenario, http)


def test_a_place_that_must_not_be_dialled_is_told_so_in_a_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        monkeypatch.setattr(dial_module, "refusal", lambda address, rule: "private")
        port = port_of(server)
        rig.asks(NAME, port)
        client = rig.connect()
        await send(client, head(port, "POST", "Content-Length: 100") + bytes(100))
        answer, rest = await until_head(client)
        assert answer.startswith(b"HTTP/1.1 403")
        assert b"private" in rest + await receive(client)
        client.close()
        flow = await rig.flow()
        assert (flow.verdict, flow.sent) == (Verdict.DENIED, 0)
        (denied,) = rig.denials
        assert denied.name == "dial"

    wired(monkeypatch, scenario, http)


def test_an_answer_that_is_early_does_not_wait_for_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        port = port_of(server)
        rig.asks(NAME, port)
        client = rig.connect()
        await send(client, head(port, "POST", "Content-Length: 1000000000"))
        far = await accepted(server)
        await until_head(far)
        await send(far, b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")
        answer, rest = await until_head(client)
        assert answer.startswith(b"HTTP/1.1 413")
        assert rest + await receive(client) == b"no!"
        client.close()
        await rig.flow()
        far.close()

    wired(monkeypatch, scenario, http)


@pytest.mark.parametrize("down", [True, False], ids=["down", "up"])
def test_a_spliced_body_is_charged_to_the_byte(monkeypatch: pytest.MonkeyPatch, down: bool) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        client, far = await begun(rig, server, down=down, bytes_count=len(BODY))
        sending = asyncio.create_task(send(far if down else client, BODY))
        # What nobody reads is held in bounds, which are below the budget.
        reading = asyncio.create_task(receive(client if down else far))
        flow = await rig.flow()
        sending.cancel()
        assert flow.verdict is Verdict.BUDGET
        assert flow.sent + flow.received == 1 << 20
        (denied,) = rig.denials
        assert (denied.used, denied.allowed) == (1 << 20, 1 << 20)
        await asyncio.gather(sending, reading, return_exceptions=True)
        client.close()
        far.close()

    wired(monkeypatch, scenario, http, budget=1 << 20)


def test_tls_is_joined_after_the_hellos(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        said, answer = openssl_hello(NAME), record(server_hello())
        for part in (said[:50], said[50:]):
            await send(client, part)
            await asyncio.sleep(0.01)
        far = await accepted(server)
        assert await receive(far, len(said)) == said
        await send(far, answer + b"sealed")
        assert await receive(client, len(answer) + 6) == answer + b"sealed"
        await send(client, b"more")
        assert await receive(far, 4) == b"more"
        far.close()
        assert await receive(client) == b""
        client.close()
        flow = await rig.flow()
        assert flow.verdict is Verdict.CLOSED
        assert (flow.sent, flow.received) == (len(said) + 4, len(answer) + 6)

    wired(monkeypatch, scenario, tls)


def test_a_reset_in_the_middle_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        await send(client, openssl_hello(NAME))
        far = await accepted(server)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        with pytest.raises(ConnectionResetError):
            await receive(client)
        client.close()
        assert (await rig.flow()).verdict is Verdict.RESET

    wired(monkeypatch, scenario, tls)


@pytest.mark.parametrize("told", [b"", b"x" * 6 + b"\r\nzz\r\n"], ids=["end", "no chunk"])
def test_an_answer_that_is_cut_does_not_look_whole(
    monkeypatch: pytest.MonkeyPatch, told: bytes
) -> None:
    """HTTP/1.0 knows no chunks: its body ends with the connection."""

    async def scenario(rig: Rig, server: socket.socket) -> None:
        port = port_of(server)
        rig.asks(NAME, port)
        client = rig.connect()
        await send(client, head(port).replace(b"HTTP/1.1", b"HTTP/1.0"))
        far = await accepted(server)
        await until_head(far)
        await send(far, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhe")
        await until_head(client)
        assert await receive(client, 2) == b"he"
        await send(far, told)
        far.close()
        with pytest.raises(ConnectionResetError):
            await receive(client)
        client.close()
        assert (await rig.flow()).verdict is Verdict.RESET

    wired(monkeypatch, scenario, http)


def test_a_secret_is_put_in_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        port = port_of(server)
        rig.asks(NAME, port)
        client = rig.connect()
        await send(client, head(port, "GET", f"Authorization: Bearer {SECRET.placeholder}"))
        far = await accepted(server)
        before, _ = await until_head(far)
        assert b"Bearer s3cret" in before
        assert SECRET.placeholder.encode() not in before
        client.close()
        far.close()
        await rig.flow()

    wired(monkeypatch, scenario, http, secrets=(SECRET,))


def test_who_speaks_first_does_not_matter_where_bytes_are_only_scanned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        far = await accepted(server)
        await send(far, b"220 hello")
        assert await receive(client, 9) == b"220 hello"
        await send(client, b"EHLO")
        client.shutdown(socket.SHUT_WR)
        assert await receive(far) == b"EHLO"
        await send(far, b"250 ok")
        far.close()
        assert await receive(client) == b"250 ok"
        client.close()
        flow = await rig.flow()
        assert (flow.verdict, flow.sent, flow.received) == (Verdict.CLOSED, 4, 15)

    wired(monkeypatch, scenario, none, secrets=(SECRET,))


def test_a_placeholder_in_what_nobody_inspects_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        far = await accepted(server)
        await send(client, SECRET.placeholder.encode())
        flow = await rig.flow()
        assert flow.verdict is Verdict.DENIED
        assert rig.denials[0].name == "secret"
        assert SECRET.placeholder not in rig.denials[0].detail
        with pytest.raises(ConnectionResetError):
            await receive(far)
        client.close()
        far.close()

    wired(monkeypatch, scenario, none, secrets=(SECRET,))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("down", [True, False], ids=["down", "up"])
def test_a_spliced_body_arrives_whole_however_it_is_read(
    monkeypatch: pytest.MonkeyPatch, seed: int, down: bool
) -> None:
    """Both sides stop and go at random, so that each is waited for in every order."""
    chance = random.Random(seed)

    async def feed(end: socket.socket) -> None:
        left = memoryview(BODY)
        while left:
            part = chance.choice((1, 1000, 70_000, 600_000, len(BODY)))
            await send(end, bytes(left[:part]))
            left = left[part:]
            await asyncio.sleep(chance.choice((0.0, 0.0, 0.002, 0.01)))

    async def drink(end: socket.socket) -> bytes:
        data = b""
        while len(data) < len(BODY):
            wanted = chance.choice((1, 5000, 100_000, 900_000))
            data += await receive(end, min(wanted, len(BODY) - len(data)))
            await asyncio.sleep(chance.choice((0.0, 0.0, 0.002, 0.01)))
        return data

    async def scenario(rig: Rig, server: socket.socket) -> None:
        client, far = await begun(rig, server, down=down, bytes_count=len(BODY))
        if down:
            await until_head(client)
        source, sink = (far, client) if down else (client, far)
        feeding = asyncio.create_task(feed(source))
        assert await drink(sink) == BODY
        await feeding
        # What comes behind it still has its turn.
        if not down:
            await send(far, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await until_head(client)
            assert await receive(client, 2) == b"ok"
        await send(client, head(port_of(server)))
        await until_head(far)
        client.close()
        far.close()
        assert (await rig.flow()).verdict in (Verdict.CLOSED, Verdict.RESET)

    wired(monkeypatch, scenario, http)


class Both(Unspliced):
    """A gate that lets all of a server's bytes by, and answers its client in between."""

    def __init__(self) -> None:
        self._asked = False

    def from_client(self, data: bytes) -> list[Action]:
        if self._asked:
            return [ToClient(b"pong")]
        self._asked = True
        return [ToServer(data), SpliceFromServer(len(BODY))]

    def from_server(self, data: bytes) -> list[Action]:
        return [ToClient(data)]

    def client_ended(self) -> list[Action]:
        return [Close()]

    server_ended = client_ended

    def spliced_from_server(self, count: int) -> list[Action]:
        return []


def test_what_a_pipe_still_holds_arrives_before_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        client, far = await begun(rig, server, down=True, bytes_count=len(BODY))
        await send(far, BODY)  # All of it is on its way: much in a pipe, since nobody reads.
        await asyncio.sleep(0.05)
        far.close()
        await asyncio.sleep(0.05)  # Its end is seen.
        await until_head(client)
        assert await receive(client) == BODY
        assert (await rig.flow()).verdict is Verdict.CLOSED
        client.close()

    wired(monkeypatch, scenario, http)


@pytest.mark.parametrize("down", [True, False], ids=["down", "up"])
def test_urgent_data_ends_a_flow(monkeypatch: pytest.MonkeyPatch, down: bool) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        client, far = await begun(rig, server, down=down, bytes_count=len(BODY))
        source = far if down else client
        await send(source, BODY[:100_000])
        source.send(b"!", socket.MSG_OOB)
        flow = await rig.flow()
        assert (flow.verdict, flow.reason) == (Verdict.RESET, URGENT_REASON)
        client.close()
        far.close()

    wired(monkeypatch, scenario, http)


@pytest.mark.parametrize("down", [True, False], ids=["down", "up"])
def test_room_that_was_told_of_before_anybody_waited_is_used(
    monkeypatch: pytest.MonkeyPatch, down: bool
) -> None:
    body = BODY[: PIPE_BYTES // 4]
    moved, withheld = 0, False

    def late(source: int, sink: int, count: int) -> int:
        """Take nothing of the last bytes at first, as a sink that has room again at once: epoll
        tells nothing more of it."""
        nonlocal moved, withheld
        if moved + count == len(body) and not withheld:
            withheld = True
            return 0
        sent = splice_now(source, sink, count)
        moved += sent
        return sent

    monkeypatch.setattr(passage_module, "splice_now", late)

    async def scenario(rig: Rig, server: socket.socket) -> None:
        client, far = await begun(rig, server, down=down, bytes_count=len(body))
        if down:
            await until_head(client)
        source, sink = (far, client) if down else (client, far)
        await asyncio.sleep(0.05)  # It may be spliced from here on.
        sending = asyncio.create_task(send(source, body))
        assert await receive(sink, len(body)) == body
        await sending
        assert withheld
        client.close()
        far.close()

    wired(monkeypatch, scenario, http)


def test_who_is_muted_goes_on_where_another_has_made_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "make_gate", lambda *_, **__: Both())

    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        await send(client, b"ask")
        far = await accepted(server)
        assert await receive(far, 3) == b"ask"
        sending = asyncio.create_task(send(far, BODY))
        await asyncio.sleep(0.05)  # What can be moved is: the client's side is full.
        await send(client, b"ping")
        await asyncio.sleep(0.05)  # The answer waits for room in its task.
        got = await receive(client, len(BODY) + 4)
        at = got.index(b"pong")
        assert got[:at] + got[at + 4 :] == BODY
        await sending
        client.close()
        far.close()
        assert (await rig.flow()).received == len(BODY)

    wired(monkeypatch, scenario, http)


class Agrees(Unspliced):
    """A gate that need not look any more once the far side has said something."""

    def from_client(self, data: bytes) -> list[Action]:
        return [ToServer(data)]

    def from_server(self, data: bytes) -> list[Action]:
        return [ToClient(data), Upgraded()]

    def client_ended(self) -> list[Action]:
        return [Close()]

    server_ended = client_ended


def test_what_was_read_before_both_are_joined_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "make_gate", lambda *_, **__: Agrees())
    wake = Passage._wake_readers

    def late(passage: Passage) -> None:
        """As where it was read in the same turn of the loop, to a far side that was busy."""
        passage._client.undone = [ToServer(b"late ")]
        wake(passage)

    monkeypatch.setattr(Passage, "_wake_readers", late)

    async def scenario(rig: Rig, server: socket.socket) -> None:
        rig.asks(NAME, port_of(server))
        client = rig.connect()
        await send(client, b"ask")
        far = await accepted(server)
        assert await receive(far, 3) == b"ask"
        await asyncio.sleep(0.05)  # The client's task waits.
        await send(far, b"yes")
        assert await receive(client, 3) == b"yes"
        await send(client, b"more")
        client.close()
        assert await receive(far) == b"late more"
        far.close()
        assert (await rig.flow()).sent == len(b"asklate more")

    wired(monkeypatch, scenario, http)


@pytest.mark.parametrize("down", [True, False], ids=["down", "up"])
def test_a_sink_that_goes_in_the_middle_of_a_body_ends_the_flow(
    monkeypatch: pytest.MonkeyPatch, down: bool
) -> None:
    async def scenario(rig: Rig, server: socket.socket) -> None:
        client, far = await begun(rig, server, down=down, bytes_count=len(BODY) * 4)
        source, sink = (far, client) if down else (client, far)
        sending = asyncio.create_task(send(source, BODY * 4))
        await receive(sink, 100_000)
        await asyncio.sleep(0.05)  # What can be moved is: the sink is full.
        sink.close()
        flow = await rig.flow()
        assert flow.verdict is Verdict.RESET
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        source.close()

    wired(monkeypatch, scenario, http)
