"""The child's own life: told what to do, ready, and at its end; with a real one:
tests/system/test_broker.py."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
from dataclasses import dataclass, field

import pytest

from supervisor.egress import broker
from supervisor.egress.control import (
    MESSAGE_BYTES_MAX,
    Done,
    Failed,
    Finish,
    Listening,
    Policy,
    Ready,
    decode,
    encode,
    encode_policy,
)
from supervisor.egress.outbox import Outbox
from tests.support.brokers import rule

POLICY = Policy(
    call_id="call", call=1, rules=(rule("203.0.113.0/24", 443),), egress_bytes=1,
    listening=Listening(tcp=1, dns_udp=1, dns_tcp=1), resolvers=("203.0.113.53",),
)  # fmt: skip


FIRST_FDS = itertools.count(200, 20)
"""A broker's descriptors go with its process; here each test has numbers of its own."""


@dataclass
class Child:
    """A broker in a thread, with descriptors in a row as a child has them."""

    daemon: socket.socket
    codes: list[int] = field(default_factory=list)
    thread: threading.Thread | None = None

    def hears(self) -> object:
        return decode(self.daemon.recv(MESSAGE_BYTES_MAX))

    def ends(self) -> int:
        assert self.thread is not None
        self.thread.join(20)
        return self.codes[0]


def start(policy: Policy = POLICY, listeners: int = 3) -> Child:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memfd = os.memfd_create("policy")
    os.write(memfd, encode_policy(policy))
    os.lseek(memfd, 0, os.SEEK_SET)
    made = [socket.socket(socket.AF_INET, kind) for kind in (1, 2, 1)][:listeners]
    for one in made:
        one.bind(("127.0.0.1", 0))
        if one.type == socket.SOCK_STREAM:
            one.listen()
    origins = os.open(os.devnull, os.O_RDONLY)
    fds = [theirs.detach(), memfd, origins, *(one.detach() for one in made)]
    first = next(FIRST_FDS)
    for number, fd in enumerate(fds):
        os.dup2(fd, first + number)
        os.close(fd)
    ours.settimeout(20)
    child = Child(ours)

    def run() -> None:
        try:
            child.codes.append(broker.run(broker.prepare(first, len(fds))))
        except ValueError:
            child.codes.append(-1)

    child.thread = threading.Thread(target=run)
    child.thread.start()
    return child


def test_it_is_ready_and_ends_when_it_is_asked_to() -> None:
    child = start()
    assert child.hears() == Ready()
    child.daemon.send(encode(Finish()))
    assert child.hears() == Done()
    assert child.ends() == broker.OK


def test_it_ends_without_a_daemon() -> None:
    child = start()
    assert child.hears() == Ready()
    child.daemon.close()
    assert child.ends() == broker.ALONE


def test_a_daemon_that_reads_no_more_loses_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "FLUSH_S", 0.05)
    monkeypatch.setattr(Outbox, "empty", lambda _: asyncio.sleep(60))
    child = start()
    assert child.hears() == Ready()
    child.daemon.send(encode(Finish()))
    assert child.ends() == broker.ALONE
    assert child.hears() == Done()  # and no `Failed`


def test_an_unknown_request_ends_it() -> None:
    child = start()
    assert child.hears() == Ready()
    child.daemon.send(b"what?")
    assert child.hears() == Failed(reason="ControlError: an unknown request")
    assert child.ends() == broker.BROKEN


def test_descriptors_and_policy_must_agree() -> None:
    assert start(listeners=2).ends() == -1


def test_an_error_that_nobody_expected_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(broker.CallBroker, "_accepted", broken)
    found: list[socket.socket] = []
    door = broker.Door

    def kept(listeners: list[socket.socket], *rest: object) -> object:
        found.extend(listeners)
        return door(listeners, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(broker, "Door", kept)
    child = start()
    assert child.hears() == Ready()
    with socket.create_connection(found[0].getsockname()):
        assert child.hears() == Failed(reason="KeyError: 'surprise'")
    assert child.ends() == broker.BROKEN
