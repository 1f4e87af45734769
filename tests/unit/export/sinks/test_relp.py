"""RELP against a stub that reads frames in its own way and answers as a test has it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.export.sink import SinkError
from supervisor.export.sinks.relp import (
    ANSWER_BYTES_MAX,
    TXNR_MAX,
    Answer,
    Answers,
    RelpOptions,
    RelpSink,
    code_of,
    relp_frame,
)
from supervisor.export.sinks.wire import Peer, WireError
from tests.unit.export.sinks.samples import event, line_bytes, parse, plain, secure
from tests.unit.export.sinks.servers import Certificates, Served, Stub, stub

WELCOME = b"200 OK\nrelp_version=0\nrelp_software=stub\ncommands=syslog"
OPEN, CLOSE, SYSLOG = b"open", b"close", b"syslog"


class Heard(NamedTuple):
    txnr: int
    command: bytes
    data: bytes


def read_frame(stream: bytes) -> tuple[Heard, bytes] | None:
    """Read the frame at the beginning, where it is whole."""
    parts = stream.split(b" ", 2)
    if len(parts) < 3 or (length := re.match(rb"([0-9]{1,9})([ \n])", parts[2])) is None:
        return None
    size, rest = int(length[1]), parts[2][length.end(1) :]
    rest = rest[1:] if size else rest
    if len(rest) <= size:
        return None
    assert rest[size : size + 1] == b"\n"
    return Heard(int(parts[0]), parts[1], rest[:size]), rest[size + 1 :]


Reply = Callable[[Heard], Iterator[bytes]]


def rsp(txnr: int, data: bytes = b"200 OK") -> bytes:
    return b"%d rsp %d %s\n" % (txnr, len(data), data)


def politely(heard: Heard) -> Iterator[bytes]:
    """Answer as a receiver does that takes all."""
    answer = rsp(heard.txnr, WELCOME if heard.command == OPEN else b"200 OK")
    yield answer + (b"0 serverclose 0\n" if heard.command == CLOSE else b"")


class Receiver:
    """What was heard over all connections, and what is answered."""

    def __init__(self, reply: Reply = politely) -> None:
        self.heard: list[Heard] = []
        self.reply = reply

    def talk(self, connection: socket.socket, one: Served) -> None:
        stream = b""
        while data := connection.recv(65536):
            stream += data
            while (found := read_frame(stream)) is not None:
                heard, stream = found
                self.heard.append(heard)
                for answer in self.reply(heard):
                    if not answer:
                        return
                    connection.sendall(answer)

    @property
    def indices(self) -> list[int]:
        return [int(parse(one.data).params["index"]) for one in self.heard if one.command == SYSLOG]


@contextlib.asynccontextmanager
async def sink(peer: Peer, **options: object) -> AsyncIterator[RelpSink]:
    given_: dict[str, object] = {"host": "h", "facility": 1, **options}
    made = RelpSink(RelpOptions(peer=peer, **given_))  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.close()


def answering(answers: Callable[[int, int], bytes]) -> Reply:
    """Answer messages by what `answers` gives for number and index; b"" ends the connection."""

    def reply(heard: Heard) -> Iterator[bytes]:
        if heard.command != SYSLOG:
            yield from politely(heard)
        else:
            yield answers(heard.txnr, int(parse(heard.data).params["index"]))

    return reply


@pytest.mark.parametrize("window", [1, 7, 1024])
def test_each_message_is_answered(window: int) -> None:
    receiver = Receiver()

    async def go(made: Stub) -> None:
        async with sink(plain(made.port), window_events=window) as to:
            assert await to.send([event(number) for number in range(100)]) == []
            assert receiver.indices == list(range(100))
            await to.send([event(100)])

    with stub(receiver.talk) as made:
        asyncio.run(go(made))
    assert [one.command for one in receiver.heard] == [OPEN, *[SYSLOG] * 101, CLOSE]
    assert [one.txnr for one in receiver.heard] == list(range(1, 104))


def test_over_tls_both_ways(tmp_path: Path) -> None:
    certificates, receiver = Certificates(tmp_path), Receiver()

    async def go(made: Stub) -> None:
        async with sink(secure(made.port, certificates.tls(client="client.test"))) as to:
            await to.send([event(number) for number in range(100)])

    with stub(receiver.talk, certificates.context(client=True)) as made:
        asyncio.run(go(made))
        made.until(lambda: bool(made.served[0].ended))
        assert made.served[0].ended == "eof"
    assert receiver.indices == list(range(100))


def test_numbers_begin_again() -> None:
    receiver = Receiver()

    async def go(made: Stub) -> None:
        async with sink(plain(made.port)) as to:
            await to.send([event(0)])
            assert to._session is not None
            to._session._txnr = TXNR_MAX - 2
            await to.send([event(number) for number in range(1, 5)])

    with stub(receiver.talk) as made:
        asyncio.run(go(made))
    assert [one.txnr for one in receiver.heard][2:] == [TXNR_MAX - 1, TXNR_MAX, 1, 2, 3]


def test_what_is_never_taken_is_rejected_in_its_place() -> None:
    never = answering(lambda txnr, index: rsp(txnr, b"500 no" if index in {2, 4} else b"200 OK"))
    receiver = Receiver(never)

    async def go(made: Stub) -> None:
        batch = [event(0), event(1, b"\0"), *(event(number) for number in range(2, 6))]
        async with sink(plain(made.port)) as to:
            rejected = await to.send(batch)
            assert [one.position for one in rejected] == [1, 2, 4]
            assert rejected[1].why == "500 no"

    with stub(receiver.talk) as made:
        asyncio.run(go(made))


@pytest.mark.parametrize(
    "answer",
    [
        lambda txnr, index: rsp(txnr, b"403 not now"),
        lambda txnr, index: rsp(txnr + 5000),
        lambda txnr, index: rsp(txnr, b"what"),
        lambda txnr, index: b"%d syslog 6 200 OK\n" % txnr,
        lambda txnr, index: b"0 serverclose 0\n",
        lambda txnr, index: b"%d rsp 3 200 OK\n" % txnr,
        lambda txnr, index: b"%d rsp 99999999 200 OK\n" % txnr,
        lambda txnr, index: b"x" * 100,
        lambda txnr, index: rsp(txnr) if index < 3 else b"",
    ],
)
def test_what_is_no_yes_is_sent_again(answer: Callable[[int, int], bytes]) -> None:
    receiver = Receiver(answering(answer))

    async def go(made: Stub) -> None:
        batch = [event(number) for number in range(6)]
        async with sink(plain(made.port)) as to:
            with pytest.raises(SinkError):
                await to.send(batch)
            receiver.reply = politely
            await to.send(batch)
            assert receiver.indices[-6:] == list(range(6))

    with stub(receiver.talk) as made:
        asyncio.run(go(made))


def test_who_answers_nothing_is_not_waited_for_long() -> None:
    receiver = Receiver(lambda heard: politely(heard) if heard.command == OPEN else iter(()))

    async def go(made: Stub) -> None:
        async with sink(plain(made.port, stall_s=0.2)) as to:
            with pytest.raises(SinkError):
                await to.send([event(0)])

    with stub(receiver.talk) as made:
        asyncio.run(go(made))


def test_answers_in_another_order() -> None:
    kept: list[int] = []

    def late(heard: Heard) -> Iterator[bytes]:
        if heard.command != SYSLOG:
            yield from politely(heard)
            return
        kept.append(heard.txnr)
        if len(kept) == 5:
            yield b"".join(rsp(txnr) for txnr in reversed(kept))

    receiver = Receiver(late)

    async def go(made: Stub) -> None:
        async with sink(plain(made.port)) as to:
            assert await to.send([event(number) for number in range(5)]) == []

    with stub(receiver.talk) as made:
        asyncio.run(go(made))


@pytest.mark.parametrize(
    "welcome", [b"500 no", b"200 OK\ncommands=eventlog", b"200 OK", b"200 OK\nsyslog"]
)
def test_no_session(welcome: bytes) -> None:
    receiver = Receiver(lambda heard: iter([rsp(heard.txnr, welcome)]))

    async def go(made: Stub) -> None:
        async with sink(plain(made.port)) as to:
            with pytest.raises(SinkError):
                await to.send([event(0)])
        assert [one.command for one in receiver.heard] == [OPEN]

    with stub(receiver.talk) as made:
        asyncio.run(go(made))


@given(st.lists(st.tuples(st.integers(1, TXNR_MAX), line_bytes() | st.binary()), max_size=5))
def test_no_data_end_their_frame(sent: list[tuple[int, bytes]]) -> None:
    stream, found = b"".join(relp_frame(txnr, SYSLOG, data) for txnr, data in sent), []
    while stream:
        read = read_frame(stream)
        assert read is not None
        found.append((read[0].txnr, read[0].data))
        stream = read[1]
    assert found == sent


@given(
    st.lists(st.tuples(st.integers(0, TXNR_MAX), st.binary(max_size=30)), max_size=5),
    st.lists(st.integers(0, 300), max_size=8),
)
def test_answers_come_in_any_pieces(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(
        b"%d rsp %d %s\n" % (txnr, len(data), data) if data else b"%d rsp 0\n" % txnr
        for txnr, data in sent
    )
    reader, found, at = Answers(), [], 0
    for cut in [*sorted(cuts), len(stream)]:
        found += reader.feed(stream[at:cut])
        at = max(at, cut)
    assert found == [Answer(txnr, b"rsp", data) for txnr, data in sent]


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_are_answers_or_an_error(pieces: list[bytes]) -> None:
    reader = Answers()
    with contextlib.suppress(WireError):
        for piece in pieces:
            for answer in reader.feed(piece):
                with contextlib.suppress(WireError):
                    code_of(answer)
            assert len(reader._rest) <= ANSWER_BYTES_MAX + 200


@pytest.mark.parametrize("window", [0, 1 << 17])
def test_windows_that_there_are_not(window: int) -> None:
    with pytest.raises(ValueError, match="window"):
        RelpOptions(peer=plain(1), host="h", facility=1, window_events=window)
