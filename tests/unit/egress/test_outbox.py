"""Messages in order, though nobody reads for a while."""

from __future__ import annotations

import asyncio
import socket

import pytest

from supervisor.call.events import Lost
from supervisor.egress import outbox as outbox_module
from supervisor.egress.control import MESSAGE_BYTES_MAX, Failed, Message, decode
from supervisor.egress.outbox import Outbox, OutboxFull
from tests.unit.egress.pairs import until


def lost(count: int) -> Message:
    return Lost(what="flow", count=count, reason="x" * 200)


def both() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def test_all_comes_in_order_once_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "WAITING_MUCH", 10)

    async def main() -> None:
        ours, theirs = both()
        drained: list[int] = []
        outbox = Outbox(ours, lambda: drained.append(1))
        for number in range(2000):
            outbox.send(lost(number))
        assert outbox.much
        assert not drained
        found: list[Message] = []

        def read() -> bool:
            try:
                found.append(decode(theirs.recv(MESSAGE_BYTES_MAX)))
            except BlockingIOError:
                return False
            return len(found) == 2000

        await until(lambda: any(read() for _ in range(100)))
        assert found == [lost(number) for number in range(2000)]
        await asyncio.wait_for(outbox.empty(), 10)
        assert drained
        assert not outbox.much
        ours.close()
        theirs.close()

    asyncio.run(main())


def test_a_daemon_that_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "WAITING_MAX", 5)

    async def main() -> None:
        ours, theirs = both()
        outbox = Outbox(ours, lambda: None)
        with pytest.raises(OutboxFull):
            for number in range(10_000):
                outbox.send(lost(number))
        ours.close()
        theirs.close()

    asyncio.run(main())


def test_a_daemon_that_has_gone_is_an_error() -> None:
    async def main() -> None:
        ours, theirs = both()
        theirs.close()
        with pytest.raises(OSError, match="pipe"):
            Outbox(ours, lambda: None).send(lost(1))
        ours.close()

    asyncio.run(main())


def test_the_last_word() -> None:
    async def main() -> None:
        ours, theirs = both()
        Outbox(ours, lambda: None).last_word("why")
        assert decode(theirs.recv(MESSAGE_BYTES_MAX)) == Failed(reason="why")
        ours.close()
        theirs.close()

    asyncio.run(main())
