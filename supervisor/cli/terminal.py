"""The terminal that we run in: raw while a program of a sandbox has it, and as it was afterwards.

What we change is put back in every case that there is a case for: at the end, on an error, on a
signal that ends us, and while we are stopped. SIGKILL is none: `reset` mends that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import signal
import termios
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from supervisor.call.types import TERM_DEFAULT, TERMINAL_SIDE_MAX, Terminal
from supervisor.cli import output as out
from supervisor.errors import CallStateError, CapacityError, StockadeError

if TYPE_CHECKING:
    from supervisor.client import Execution

IFLAG, OFLAG, CFLAG, LFLAG, CC = 0, 1, 2, 3, 6
_COOKED_IN = (
    termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
    | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
)  # fmt: skip
_COOKED = termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN
"""What is off in a raw terminal (cfmakeraw in termios(3))."""

SET_TRIES_MAX = 100
ROWS, COLUMNS = 24, 80
"""Of a terminal that has no size."""

TERM_CHARACTERS_MAX = 64
DEADLY = (signal.SIGQUIT, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGVTALRM)
"""Signals that end us and that nobody else here takes."""


def size_of(fd: int) -> tuple[int, int]:
    """Give rows and columns, as far as a call may have them."""
    found = os.get_terminal_size(fd)
    rows, columns = found.lines or ROWS, found.columns or COLUMNS
    return min(rows, TERMINAL_SIDE_MAX), min(columns, TERMINAL_SIDE_MAX)


def kind_of_terminal() -> str:
    """Give TERM, where it can be the name of a kind of terminal."""
    term = os.environ.get("TERM", "")
    plain = term.isascii() and term[:1].isalnum() and len(term) <= TERM_CHARACTERS_MAX
    return term if plain and not set(term) - _TERM_CHARACTERS else TERM_DEFAULT


_TERM_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")


@contextlib.contextmanager
def unprocessed(fd: int) -> Iterator[None]:
    """Let a terminal make no line ends of its own; anything else is left alone."""
    if not os.isatty(fd):
        yield
        return
    former = termios.tcgetattr(fd)
    plain = [*former[:OFLAG], former[OFLAG] & ~termios.OPOST, *former[OFLAG + 1 :]]
    termios.tcsetattr(fd, termios.TCSADRAIN, plain)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, former)


class LocalTerminal:
    """Our terminal as the one that a call has: raw, and of one size. A context manager.

    `terminal` is what to ask the daemon for. Handlers only queue, as those of `Signals` do.
    """

    def __init__(self, fd: int) -> None:
        rows, columns = size_of(fd)
        self.terminal = Terminal(rows=rows, columns=columns, term=kind_of_terminal())
        self._fd = fd
        self._former = termios.tcgetattr(fd)
        self._raw = False
        self._told = (rows, columns)
        self._handlers: dict[int, Any] = {}
        self._queue: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def follow(self, execution: Execution) -> Self:
        """Say whose terminal follows ours."""
        self._thread = threading.Thread(
            target=self._resize, args=(execution,), name="stockade-resize", daemon=True
        )
        return self

    def __enter__(self) -> Self:
        for number in DEADLY:
            self._handle(number, self._die)
        self._handle(signal.SIGWINCH, self._note_size)
        self._handle(signal.SIGTSTP, self._stop)
        self._handle(signal.SIGCONT, self._go_on)
        self._set_raw()
        if self._thread is not None:
            self._thread.start()
        self._queue.put(True)  # it may have changed since it was asked for
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.restore()
        self._queue.put(False)
        while self._handlers:
            signal.signal(*self._handlers.popitem())
        self.restore()  # a SIGCONT in between has made it raw again

    def restore(self) -> None:
        """Make it what it was; more than once does no harm."""
        if self._raw:
            self._raw = False
            out.line_end("\n")
            self._set(self._former)

    def _set_raw(self) -> None:
        attributes = [*self._former[:CC], [*self._former[CC]]]
        attributes[IFLAG] &= ~_COOKED_IN
        attributes[OFLAG] &= ~termios.OPOST
        attributes[CFLAG] = attributes[CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        attributes[LFLAG] &= ~_COOKED
        attributes[CC][termios.VMIN], attributes[CC][termios.VTIME] = 1, 0
        self._set(attributes)
        self._raw = True
        out.line_end("\r\n")

    def _set(self, attributes: list[Any]) -> None:
        """Set the attributes; a terminal that has hung up has none any more."""
        for _ in range(SET_TRIES_MAX):
            try:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, attributes)
            except termios.error as error:
                # Interrupted: we were in the background, stopped, and are in the foreground now.
                if error.args[0] == errno.EINTR:
                    continue
                if error.args[0] != errno.EIO:
                    raise
            return

    def _handle(self, number: int, handler: Any) -> None:
        former = signal.getsignal(number)
        if former is not signal.SIG_IGN:  # whoever started us wants it ignored
            self._handlers[number] = former
            signal.signal(number, handler)

    def _note_size(self, *_: object) -> None:
        self._queue.put(True)

    def _die(self, number: int, _: FrameType | None) -> None:
        self.restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _stop(self, *_: object) -> None:
        """Be stopped with a terminal that a shell can use."""
        self.restore()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        self._go_on()  # the kernel stops none whose process group is an orphan

    def _go_on(self, *_: object) -> None:
        """Also where it was SIGSTOP, of which nobody is told: a shell has changed the terminal."""
        if signal.SIGTSTP in self._handlers:
            signal.signal(signal.SIGTSTP, self._stop)
        self._set_raw()
        self._queue.put(True)

    def _resize(self, execution: Execution) -> None:
        while self._queue.get():
            try:
                size = size_of(self._fd)
            except OSError:
                return  # it has hung up, and has no size any more
            if size != self._told and not self._tell(execution, *size):
                return

    def _tell(self, execution: Execution, rows: int, columns: int) -> bool:
        """Tell the daemon; say whether to go on."""
        try:
            execution.resize_terminal(rows=rows, columns=columns)
        except CallStateError:
            return False  # it has ended, which its follower hears by itself
        except CapacityError as error:
            out.report(error, as_json=False)
            return False
        except StockadeError as error:
            out.report(error, as_json=False)
        else:
            self._told = (rows, columns)
        return True
