"""Events as lines on standard output. A batch is sent once the kernel has it: in a pipe's buffer,
which is gone with who reads it. So it trails until it was read.

The descriptor may be shared with other processes, so it stays as it is: a write is never larger
than what poll(2) says there is room for.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.export.event import Event
from supervisor.export.sink import Rejected, SinkError
from supervisor.export.sinks.file import LINE_BYTES_MAX
from supervisor.export.sinks.lane import Lane
from supervisor.export.sinks.message import text

LOOK_S = 0.1
MARGIN_S = 5.0
"""The thread ends a write by itself, well before nobody waits for it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StdoutOptions:
    """`stall_s` is how long who reads may take nothing."""

    fd: int = 1
    stall_s: float = 30.0


class StdoutSink:
    """The sink. Errors are those of `Sink`. The descriptor stays open: it is not ours."""

    def __init__(self, options: StdoutOptions) -> None:
        self._fd = options.fd
        self._stall_s = options.stall_s
        self._lane = Lane("stdout", options.stall_s + MARGIN_S)
        self._closed = threading.Event()
        self._torn = True  # Who wrote before us may have been killed in the middle of a line.
        self._written = 0
        self._ends: deque[tuple[int, int]] = deque()  # Bytes, and how many events they end.

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Write a batch.

        Raises:
            SinkError: nobody takes it. Part of a line may be out; the next one begins anew.
        """
        data, rejected = text(batch, LINE_BYTES_MAX)
        if data:
            await self._lane.run(self._write, data)
            self._ends.append((self._written, len(batch) - len(rejected)))
        return rejected

    def trails(self) -> int:
        """Give how many of the last events nobody has read out of the pipe or socket yet."""
        read = self._written - unread_bytes(self._fd)
        while self._ends and self._ends[0][0] <= read:
            self._ends.popleft()
        return sum(count for _, count in self._ends)

    async def close(self) -> None:
        """Write nothing more."""
        self._closed.set()
        self._lane.close()

    def _write(self, data: bytes) -> None:
        view = memoryview(b"\n" + data if self._torn else data)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        until = time.monotonic() + self._stall_s
        try:
            while view:
                if self._closed.is_set():
                    raise SinkError("it was closed")
                if time.monotonic() > until:
                    raise SinkError(f"nobody reads it for {self._stall_s:g} s")
                if not poll.poll(LOOK_S * 1000):
                    continue
                done = os.write(self._fd, view[: select.PIPE_BUF])
                self._torn = view[done - 1] != ord("\n")
                view = view[done:]
                self._written += done
        except OSError as error:
            raise SinkError(f"standard output: {error.strerror}") from None


def unread_bytes(fd: int) -> int:
    """Give how much lies in a pipe or in a stream socket that was written and not read (FIONREAD on
    a pipe, see pipe(7); SIOCOUTQ, see unix(7)); 0 for what is neither."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode):
        question = termios.FIONREAD
    elif stat.S_ISSOCK(mode):
        question = termios.TIOCOUTQ
    else:
        return 0
    return int(struct.unpack("i", fcntl.ioctl(fd, question, bytes(4)))[0])
