"""Letting go of unix sockets in which others may have put descriptors.

Whoever may connect to a unix socket may send descriptors over it (SCM_RIGHTS, unix(7)), asked for
or not. They are closed with the socket, and closing one can take as long as its sender likes: a TCP
socket with SO_LINGER is waited for (socket(7)), by the thread that closes it. From Linux 6.16 on
the kernel can be told to take none (`fds.take_no_descriptors`); before, such a socket is given to a
process that ends at once. A process that ends does not wait (net/ipv4/af_inet.c, inet_release:
PF_EXITING).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket

from supervisor.linux import process
from supervisor.linux.fds import make_pipe

AT_ONCE = 64
"""Sockets that one process ends with."""

WAITING_MAX = 2 * AT_ONCE

AGAIN_MAX_S = 5.0
ENDS_S = 5.0

GATHERED_S = 0.05
"""How long more of them are waited for, so that whoever sends many starts few processes."""

PROGRAM = "/bin/cat"
"""Ends once its standard input does, and does nothing else with what it was given."""

FIRST_FD = 3

log = logging.getLogger("stockade.linux")


class Undertaker:
    """Closes unix sockets without waiting for what is in them. On an event loop."""

    def __init__(self) -> None:
        self._waiting: list[socket.socket] = []
        self._fewer = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def bury(self, end: socket.socket) -> None:
        """Close a socket, now or soon: nothing more is read from it, or comes into it."""
        with contextlib.suppress(OSError):  # The other side has gone.
            end.shutdown(socket.SHUT_RDWR)
        if _is_empty(end):
            end.close()
        else:
            self.give_away(end)

    def give_away(self, end: socket.socket) -> None:
        """Close a socket soon, and leave it as it is until then, since others may have it too: one
        that listens, with the connections that nobody has accepted."""
        self._waiting.append(end)
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="stockade-undertaker")

    async def room(self) -> None:
        """Wait while many are to be closed: who takes more connections runs out of descriptors."""
        while len(self._waiting) >= WAITING_MAX:
            self._fewer.clear()
            await self._fewer.wait()

    async def close(self, patience_s: float = 5.0) -> None:
        """Wait until all are closed. What is not by then is left to the end of this process."""
        if self._running is not None:
            await asyncio.wait([self._running], timeout=patience_s)
        if self._running is not None:
            self._running.cancel()
            log.warning("%d sockets are closed with this process", len(self._waiting))
        for end in self._waiting:
            end.detach()  # Whoever collects it must not close it.
        self._waiting.clear()

    async def _run(self) -> None:
        wait_s = GATHERED_S
        try:
            while self._waiting:
                await asyncio.sleep(wait_s)
                some = self._waiting[:AT_ONCE]
                try:
                    pidfd = _give_away(some)
                except OSError as error:
                    # Not closed here instead: that is what may take for ever.
                    if wait_s == GATHERED_S:
                        log.warning("%d sockets cannot be closed yet: %s", len(some), error)
                    wait_s = min(2 * wait_s, AGAIN_MAX_S)
                    continue
                wait_s = GATHERED_S
                del self._waiting[: len(some)]
                self._fewer.set()
                await _ended(pidfd)
        finally:
            self._running = None


async def _ended(pidfd: int) -> None:
    """Wait for a process, and end it where it stays."""
    try:
        try:
            async with asyncio.timeout(ENDS_S):
                await process.wait(pidfd)
        except TimeoutError:
            process.send_signal(pidfd, signal.SIGKILL)
            await process.wait(pidfd)
    except OSError as error:
        log.warning("a process that closes sockets: %s", error)
    finally:
        os.close(pidfd)


def take_all_in_order(end: socket.socket) -> None:
    """Have what is sent out of band (MSG_OOB) come in its place, so that MSG_PEEK shows it."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def _is_empty(end: socket.socket) -> bool:
    """Say whether nothing is left in a socket into which nothing more can come."""
    for _ in range(2):
        try:
            return not end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except ConnectionResetError:  # That is told once, whatever is in it.
            continue
        except OSError:
            break
    return False


def _give_away(ends: list[socket.socket]) -> int:
    """Close sockets of which a process has a copy each, which ends once they are; give its pidfd.

    Raises:
        OSError: there is no such process; nothing is closed.
    """
    pipe = make_pipe()
    try:
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            theirs = {FIRST_FD + place: end.fileno() for place, end in enumerate(ends)}
            pid = process.spawn([PROGRAM], fds={0: pipe.read, 1: null, 2: null, **theirs})
        finally:
            os.close(null)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            process.disown(pid)
            raise
        for end in ends:
            end.close()
    finally:
        os.close(pipe.read)
        os.close(pipe.write)
    return pidfd
