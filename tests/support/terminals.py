"""A person at a terminal: a program runs in a pseudo-terminal, and what it shows is a screen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyte

WAIT_S = 60.0
READ_BYTES = 1 << 16


class Picture:
    """What a terminal shows of what was written to it."""

    def __init__(self, *, rows: int, columns: int) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)

    def feed(self, data: bytes) -> None:
        """Write to it."""
        self._stream.feed(data)

    def resize(self, *, rows: int, columns: int) -> None:
        """Give it another size."""
        self._screen.resize(rows, columns)

    @property
    def lines(self) -> list[str]:
        """Give the text of each row."""
        return [line.rstrip() for line in self._screen.display]

    def seen(self) -> tuple[object, ...]:
        """Give all that can be seen: each cell with its colours, and the cursor."""
        screen = self._screen
        cells = tuple(
            tuple(screen.buffer[y][x] for x in range(screen.columns)) for y in range(screen.lines)
        )
        cursor = screen.cursor
        return cells, (screen.lines, screen.columns), (cursor.x, cursor.y, cursor.hidden)


class Seat:
    """A program in a terminal, and who sits there."""

    def __init__(
        self, command: Sequence[str | Path], *, rows: int, columns: int, env: Mapping[str, str]
    ) -> None:
        self.picture = Picture(rows=rows, columns=columns)
        self.wrote = b""
        self.master, self._peer = os.openpty()
        self.size(rows=rows, columns=columns)
        self.attributes_before = self.attributes()
        # A session of its own, whose terminal this is: signals of the keyboard reach it.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *map(str, command)],
            stdin=self._peer, stdout=self._peer, stderr=self._peer, env=dict(env),
        )  # fmt: skip

    def size(self, *, rows: int, columns: int) -> None:
        """Give the terminal another size, as a window that is dragged."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.picture.resize(rows=rows, columns=columns)

    def type(self, data: bytes) -> None:
        """Type."""
        os.write(self.master, data)

    def read(self, timeout_s: float) -> bool:
        """Read what comes; say whether anything did."""
        if not select.select([self.master], [], [], timeout_s)[0]:
            return False
        data = os.read(self.master, READ_BYTES)
        self.wrote += data
        self.picture.feed(data)
        return bool(data)

    def until(self, condition: Callable[[], bool]) -> None:
        """Read until something is so."""
        end_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end_s, "\n".join(self.picture.lines)
            self.read(0.05)

    def until_shown(self, text: str) -> None:
        """Read until a row has this text."""
        self.until(lambda: any(text in line for line in self.picture.lines))

    def wait(self) -> int:
        """Wait for the program's end, and give its exit code."""
        self.until(lambda: self.process.poll() is not None)
        while self.read(0):
            pass
        return int(self.process.returncode)

    def attributes(self) -> list[object]:
        """Give how the terminal is set: cooked or raw."""
        return termios.tcgetattr(self._peer)

    def close(self) -> None:
        """End the program, and take the terminal away; how that was left is kept."""
        self.attributes_after = self.attributes()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self.master)
        os.close(self._peer)


@contextlib.contextmanager
def seated(
    command: Sequence[str | Path], *, rows: int = 24, columns: int = 80, env: Mapping[str, str]
) -> Iterator[Seat]:
    """Run a program in a terminal for the body of a `with`."""
    seat = Seat(command, rows=rows, columns=columns, env=env)
    try:
        yield seat
    finally:
        seat.close()
