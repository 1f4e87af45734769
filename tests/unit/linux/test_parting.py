"""Nobody waits for what others have put into a socket."""

from __future__ import annotations

import array
import asyncio
import errno
import gc
import os
import socket
import threading
from pathlib import Path

import pytest

from supervisor.linux import parting
from supervisor.linux.parting import (
    AT_ONCE,
    FIRST_FD,
    WAITING_MAX,
    Undertaker,
    take_all_in_order,
)
from tests.support.lingering import lingering

IN_TIME_S = 20.0
"""Of a minute that a close would take."""


def holding(fd: int) -> socket.socket:
    """Give a socket with a descriptor in it that nobody has read."""
    ours, theirs = socket.socketpair()
    socket.send_fds(theirs, [b"x"], [fd])
    theirs.close()
    return ours


def buried(*ends: socket.socket) -> None:
    async def main() -> None:
        undertaker = Undertaker()
        for end in ends:
            undertaker.bury(end)
        await undertaker.close()

    asyncio.run(asyncio.wait_for(main(), IN_TIME_S))
    assert all(end.fileno() == -1 for end in ends)


def test_a_plain_close_is_held_up() -> None:
    """So the tests below show something."""
    with lingering() as (fd, let_go):
        end = holding(fd)
        let_go()
        closing = threading.Thread(target=end.close)
        closing.start()
        closing.join(2)
        assert closing.is_alive()
    closing.join()


def test_reading_is_held_up_as_well() -> None:
    with lingering() as (fd, let_go), holding(fd) as end:
        let_go()
        reading = threading.Thread(target=end.recv, args=(1,))
        reading.start()
        reading.join(2)
        assert reading.is_alive()
    reading.join()


def test_an_undertaker_is_not() -> None:
    with lingering() as (fd, let_go):
        end = holding(fd)
        let_go()
        buried(end)


def test_nor_by_many() -> None:
    with lingering() as (fd, let_go):
        ends = [holding(fd) for _ in range(2 * AT_ONCE + 1)]
        let_go()
        buried(*ends)


def test_what_nobody_has_accepted(tmp_path: Path) -> None:
    with lingering() as (fd, let_go), socket.socket(socket.AF_UNIX) as client:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client.connect(str(tmp_path / "s"))
        socket.send_fds(client, [b"x"], [fd])
        let_go()

        async def main() -> None:
            undertaker = Undertaker()
            undertaker.give_away(listener)
            await undertaker.close()

        asyncio.run(asyncio.wait_for(main(), IN_TIME_S))


@pytest.mark.parametrize("how", ["nothing in it", "the other side has gone", "reset"])
def test_most_need_no_process(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(parting.process, "spawn", lambda *_, **__: pytest.fail("a process"))
    ours, theirs = socket.socketpair()
    if how == "reset":
        ours.send(b"unread")
    if how != "nothing in it":
        theirs.close()
    buried(ours)
    theirs.close()


def test_nothing_comes_into_one_that_is_to_be_closed() -> None:
    async def main() -> None:
        undertaker = Undertaker()
        ours, theirs = socket.socketpair()
        theirs.send(b"unread")
        undertaker.bury(ours)
        with pytest.raises(BrokenPipeError):
            theirs.send(b"more")
        await undertaker.close()
        theirs.close()

    asyncio.run(asyncio.wait_for(main(), IN_TIME_S))


def test_without_a_process_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()  # What earlier tests have left would close meanwhile.
    spawn, tries = parting.process.spawn, []

    def fails_twice(*given: object, **named: object) -> int:
        tries.append(len(list(Path("/proc/self/fd").iterdir())))
        if len(tries) < 3:
            raise OSError(errno.EAGAIN, "no process")
        return spawn(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(parting.process, "spawn", fails_twice)
    with lingering() as (fd, let_go):
        end = holding(fd)
        let_go()
        buried(end)
    assert len(tries) == 3
    assert tries[-1] <= tries[0]  # no descriptor was lost; others of this process may go


def test_many_that_wait_leave_no_room() -> None:
    async def main() -> None:
        undertaker = Undertaker()
        with lingering() as (fd, let_go):
            for _ in range(WAITING_MAX):
                await undertaker.room()
                undertaker.bury(holding(fd))
            let_go()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await undertaker.room()
            await undertaker.room()
            await undertaker.close()

    asyncio.run(asyncio.wait_for(main(), IN_TIME_S))


def test_a_process_that_stays_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parting, "ENDS_S", 0.2)
    monkeypatch.setattr(parting, "PROGRAM", "/bin/yes")
    with lingering() as (fd, let_go):
        end = holding(fd)
        let_go()
        buried(end)


def test_what_cannot_be_closed_is_left_to_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parting, "PROGRAM", "/nonexistent")

    async def main(end: socket.socket) -> int:
        undertaker = Undertaker()
        number = end.fileno()
        undertaker.bury(end)
        await undertaker.close(0.5)
        return number

    with lingering() as (fd, let_go):
        end = holding(fd)
        let_go()
        number = asyncio.run(asyncio.wait_for(main(end), IN_TIME_S))
        del end  # That closes nothing, and waits for nothing:
        assert socket.socket(fileno=os.dup(number)).getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        gone = Undertaker()
        monkeypatch.setattr(parting, "PROGRAM", "/bin/cat")

        async def rest() -> None:
            gone.bury(socket.socket(fileno=number))
            await gone.close()

        asyncio.run(rest())
    assert sum("cannot be closed yet" in one for one in caplog.messages) == 1


def test_what_comes_out_of_band_is_seen() -> None:
    with lingering() as (fd, let_go):
        ours, theirs = socket.socketpair()
        take_all_in_order(ours)
        right = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        theirs.sendmsg([b"x"], right, socket.MSG_OOB)
        theirs.close()
        let_go()
        flags = ours.recvmsg(1, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)[2]
        assert flags & socket.MSG_CTRUNC
        buried(ours)


def test_the_process_has_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    spawn, given = parting.process.spawn, []

    def noted(argv: list[str], *, fds: dict[int, int]) -> int:
        given.append(sorted(fds))
        return spawn(argv, fds=fds)

    monkeypatch.setattr(parting.process, "spawn", noted)
    with lingering() as (fd, let_go):
        end = holding(fd)
        let_go()
        buried(end)
    assert given == [[0, 1, 2, FIRST_FD]]
