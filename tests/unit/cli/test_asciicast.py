"""asciicast: the lines that a player reads, whatever the program wrote."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from supervisor.call.types import Stream
from supervisor.cli import asciicast
from supervisor.cli.playback import End, Gap, Moment, Piece, Size
from supervisor.client import Record, wire
from supervisor.v1 import types_pb2
from tests.unit.cli.record import MS, written
from tests.unit.client import fake_daemon as fake

CALL = fake.call(finished=fake.finish(exited=types_pb2.Exited(code=3)))


def cast(
    *moments: Moment, live: bool = False, idle_max_s: float | None = None
) -> tuple[dict[str, Any], list[list[Any]]]:
    made = Record(call=wire.call(fake.call() if live else CALL), entries=())
    lines = list(asciicast.lines(made, moments, idle_max_s=idle_max_s))
    assert all(line.isascii() and line.isprintable() for line in lines)
    header, *events = map(json.loads, lines)
    return header, events


def piece(at_ns: int, data: bytes, stream: Stream = Stream.STDOUT) -> Piece:
    return Piece(at_ns=at_ns, stream=stream, offset=0, data=data)


def test_header() -> None:
    header, _ = cast()
    assert header == {
        "version": 3,
        "term": {"cols": 80, "rows": 24},
        "timestamp": fake.START_NS // 1_000_000_000,
        "command": "python3 -c 'print(6*7)'",
        "title": "call call-1",
    }
    assert cast(idle_max_s=2.0)[0]["idle_time_limit"] == 2.0


def test_a_terminal_has_its_own_size_and_line_ends() -> None:
    terminal = {"rows": 30, "columns": 100, "term": "vt100"}
    entries = written((0, "intent", {"request": {"terminal": terminal}})).entries
    made = Record(call=wire.call(CALL), entries=entries)
    moments = [
        piece(MS, b"a\nb\r\n"), Size(at_ns=2 * MS, rows=50, columns=132), End(at_ns=2 * MS),
    ]  # fmt: skip
    header, *events = map(json.loads, asciicast.lines(made, moments))
    assert header["term"] == {"rows": 30, "cols": 100, "type": "vt100"}
    assert events == [[0.001, "o", "a\nb\r\n"], [0.001, "r", "132x50"], [0.0, "x", "3"]]


def test_intervals_and_codes() -> None:
    _, events = cast(
        piece(1500 * MS, b"a\n"), piece(1500 * MS, b"typed\n", Stream.STDIN),
        piece(1750 * MS, b"\x1b[1m", Stream.STDERR), Gap(at_ns=2000 * MS, what="stdout: \x1b"),
        End(at_ns=4000 * MS),
    )  # fmt: skip
    assert events == [
        [1.5, "o", "a\r\n"], [0.0, "i", "typed\n"], [0.25, "o", "\x1b[1m"],
        [0.25, "m", "stdout: \\e"], [2.0, "x", "3"],
    ]  # fmt: skip


def test_a_call_without_an_end_has_no_exit() -> None:
    assert cast(End(at_ns=MS), live=True)[1] == []


def test_a_character_over_a_border_is_whole_and_takes_no_time() -> None:
    """Also where the other stream speaks in between; the interval is not lost."""
    euro = "€".encode()
    _, events = cast(
        piece(1000 * MS, euro[:1]), piece(2000 * MS, b"e", Stream.STDERR),
        piece(5000 * MS, euro[1:]), End(at_ns=5000 * MS),
    )  # fmt: skip
    assert events == [[2.0, "o", "e"], [3.0, "o", "€"], [0.0, "x", "3"]]


def test_what_is_no_text_is_replaced() -> None:
    euro = "€".encode()
    _, events = cast(
        piece(0, b"a\xffb"), piece(0, euro[:2]), Gap(at_ns=0, what="gap"),
        piece(0, euro[2:] + b"c"), piece(0, euro[:1]), End(at_ns=0),
    )  # fmt: skip
    assert [event[1:] for event in events] == [
        ["o", "a\ufffdb"], ["o", "\ufffd"], ["m", "gap"], ["o", "\ufffdc"], ["o", "\ufffd"],
        ["x", "3"],
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 10**10), st.binary(min_size=1))))
def test_any_bytes_however_they_are_cut(pieces: list[tuple[int, bytes]]) -> None:
    times = list(itertools.accumulate(pause_ns for pause_ns, _ in pieces))
    moments = [piece(at_ns, data) for at_ns, (_, data) in zip(times, pieces, strict=True)]
    end_ns = times[-1] if times else 0
    _, events = cast(*moments, End(at_ns=end_ns))
    whole = b"".join(data for _, data in pieces).decode(errors="replace")
    assert "".join(event[2] for event in events if event[1] == "o") == whole.replace("\n", "\r\n")
    assert sum(round(event[0] * 1_000_000) for event in events) == end_ns // 1000
