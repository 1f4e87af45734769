"""Our own terminal: raw, resized, and as it was afterwards; and what is asked for by it."""

from __future__ import annotations

import os
import signal
import termios
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.call.types import TERM_DEFAULT, TERMINAL_SIDE_MAX, Terminal
from supervisor.cli import output, terminal
from supervisor.cli.terminal import LocalTerminal, kind_of_terminal, size_of, unprocessed
from supervisor.errors import CallStateError, CapacityError, StockadeError, Unreachable
from supervisor.linux.terminal import set_size
from tests.support.following import wait_for

OFLAG, LFLAG = 1, 3
COOKED = termios.ICANON | termios.ECHO | termios.ISIG


@pytest.fixture
def ours() -> Iterator[int]:
    """Give a terminal of 80x24."""
    master, peer = os.openpty()
    set_size(master, rows=24, columns=80)
    yield peer
    os.close(master)
    os.close(peer)


class Call:
    """Takes note of the sizes that its terminal is given."""

    def __init__(self, *failures: StockadeError) -> None:
        self.sizes: list[tuple[int, int]] = []
        self._failures = list(failures)

    def resize_terminal(self, *, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))
        if self._failures:
            raise self._failures.pop(0)


def following(ours: int, call: Call) -> LocalTerminal:
    return LocalTerminal(ours).follow(call)  # type: ignore[arg-type]


def is_raw(fd: int) -> bool:
    attributes: Any = termios.tcgetattr(fd)
    return not attributes[LFLAG] & COOKED and not attributes[OFLAG] & termios.OPOST


def test_it_is_raw_inside_and_as_it_was_outside(ours: int) -> None:
    before = termios.tcgetattr(ours)
    handlers = [signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGWINCH)]
    with pytest.raises(ValueError, match="inside"), following(ours, Call()) as local:
        assert is_raw(ours)
        assert local.terminal == Terminal(rows=24, columns=80, term=kind_of_terminal())
        raise ValueError("inside")
    assert termios.tcgetattr(ours) == before
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTSTP, signal.SIGWINCH)]
    with following(ours, Call()) as local:
        local.restore()
        assert termios.tcgetattr(ours) == before
        local.restore()


def test_where_nobody_stops_us_it_stays_raw(ours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes no SIGTSTP to a process group without a parent in the session."""
    sent: list[tuple[bool, int]] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append((is_raw(ours), number)))
    with following(ours, Call()):
        stop = signal.getsignal(signal.SIGTSTP)
        assert callable(stop)
        stop(signal.SIGTSTP, None)
        assert sent == [(False, signal.SIGTSTP)]
        assert is_raw(ours)
        assert signal.getsignal(signal.SIGTSTP) == stop


def test_lines_that_we_say_end_as_a_raw_terminal_needs(
    ours: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with following(ours, Call()):
        output.note("inside")
    output.note("outside")
    assert capsys.readouterr().err == "stockade: inside\r\nstockade: outside\n"


def test_another_size_is_told_once(ours: int) -> None:
    call = Call()
    with following(ours, call):
        for size in ((50, 132), (50, 132), (10, 20)):
            set_size(ours, rows=size[0], columns=size[1])
            os.kill(os.getpid(), signal.SIGWINCH)
            wait_for(lambda size=size: call.sizes[-1:] == [size])  # type: ignore[misc]
    assert call.sizes == [(50, 132), (10, 20)]


def test_a_size_that_changed_before_is_told(ours: int) -> None:
    call = Call()
    local = following(ours, call)
    set_size(ours, rows=30, columns=90)
    with local:
        wait_for(lambda: call.sizes == [(30, 90)])


@pytest.mark.parametrize(
    ("failure", "said", "goes_on"),
    [
        (CallStateError("CALL_CLOSED", "it has ended"), "", False),
        (CapacityError("RESIZES_LIMIT", "too often"), "too often", False),
        (Unreachable("NO_ANSWER", "nobody there"), "nobody there", True),
    ],
)
def test_a_size_that_is_not_taken(
    ours: int,
    failure: StockadeError,
    said: str,
    goes_on: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = Call(failure)
    with following(ours, call):
        set_size(ours, rows=30, columns=90)
        os.kill(os.getpid(), signal.SIGWINCH)
        wait_for(lambda: bool(call.sizes))
        os.kill(os.getpid(), signal.SIGWINCH)
        if goes_on:
            wait_for(lambda: len(call.sizes) == 2)
        else:
            name = "stockade-resize"
            wait_for(lambda: all(thread.name != name for thread in threading.enumerate()))
    told = capsys.readouterr().err
    assert said in told
    assert bool(told) == bool(said)
    assert call.sizes == [(30, 90)] * (2 if goes_on else 1)


def test_a_size_is_one_that_a_call_may_have(ours: int) -> None:
    set_size(ours, rows=0, columns=0)
    assert size_of(ours) == (terminal.ROWS, terminal.COLUMNS)
    set_size(ours, rows=5000, columns=65_535)
    assert size_of(ours) == (TERMINAL_SIDE_MAX, TERMINAL_SIDE_MAX)


@pytest.mark.parametrize(
    ("term", "asked"),
    [
        ("xterm-256color", "xterm-256color"),
        ("", TERM_DEFAULT),
        ("../../etc/passwd", TERM_DEFAULT),
        ("a b", TERM_DEFAULT),
        ("ä", TERM_DEFAULT),
        ("x" * 65, TERM_DEFAULT),
    ],
)
def test_the_kind_is_ours_where_it_is_a_name(
    term: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    assert kind_of_terminal() == asked


def test_line_ends_are_left_alone_inside_and_made_again_outside(ours: int) -> None:
    before: Any = termios.tcgetattr(ours)
    assert before[OFLAG] & termios.OPOST
    with unprocessed(ours):
        inside: Any = termios.tcgetattr(ours)
        assert not inside[OFLAG] & termios.OPOST
        assert inside[LFLAG] == before[LFLAG]
    assert termios.tcgetattr(ours) == before
    read, write = os.pipe()
    with unprocessed(write):
        os.write(write, b"\n")
    assert os.read(read, 9) == b"\n"
    os.close(read)
    os.close(write)


def test_a_terminal_that_has_hung_up_is_left_alone() -> None:
    master, peer = os.openpty()
    local = following(peer, Call())
    with local:
        os.close(master)
    os.close(peer)
