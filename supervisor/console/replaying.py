"""What a call wrote, in windows of a bounded size: with its times, and with controls shown.

A window is found by going through the recording from its beginning, so that its place is the same
whoever asks, and no more than one piece of each stream is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from supervisor.call.safe import SafeStream
from supervisor.call.types import Stream
from supervisor.cli import output as out
from supervisor.cli.playback import Gap, Moment, Piece, Size

WINDOW_BYTES = 64 * 1024
ROWS_MAX = 1000
TOGETHER_NS = 100_000_000
"""Pieces of one stream within so much are shown together."""

UTF8_MAX = 4
NS = 10**9


@dataclass(slots=True, kw_only=True)
class Row:
    """What one stream had at a time, or what is to be said there where `stream` is ""."""

    at_ns: int
    stream: str
    data: bytearray = field(default_factory=bytearray)
    said: str = ""

    @property
    def at(self) -> str:
        """Give the time after the beginning."""
        return f"+{out.duration(self.at_ns / NS)}"

    @property
    def text(self) -> str:
        """Give it as text that nothing obeys."""
        if self.said:
            return self.said
        stream = SafeStream()
        return stream.feed(bytes(self.data)) + stream.end()


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of a recording, by its number from 1; `more` says that another one follows."""

    number: int
    rows: tuple[Row, ...]
    more: bool


def window(moments: Iterable[Moment], number: int) -> Window:
    """Give the window of a number: no rows where the recording is shorter."""
    rows: list[Row] = []
    at, room = 1, WINDOW_BYTES
    for piece in _cut(moments):
        left: Row | None = piece
        while left is not None:
            extends = bool(rows) and _together(rows[-1], left)
            if room < min(UTF8_MAX, len(left.data) or 1) or (len(rows) >= ROWS_MAX and not extends):
                if at == number:
                    return Window(number=number, rows=tuple(rows), more=True)
                at, room, rows, extends = at + 1, WINDOW_BYTES, [], False
            part, left = _split(left, room)
            room -= len(part.data) or 1
            if extends:
                rows[-1].data += part.data
            else:
                rows.append(part)
    return Window(number=number, rows=tuple(rows) if at == number else (), more=False)


def _split(row: Row, room: int) -> tuple[Row, Row | None]:
    """Give as much of a row as there is room for, and the rest."""
    if len(row.data) <= room:
        return row, None
    end = _whole(row.data[:room])
    first = Row(at_ns=row.at_ns, stream=row.stream, data=row.data[:end])
    return first, Row(at_ns=row.at_ns, stream=row.stream, data=row.data[end:])


def _together(last: Row, piece: Row) -> bool:
    return (
        bool(piece.stream)
        and last.stream == piece.stream
        and piece.at_ns - last.at_ns <= TOGETHER_NS
    )


def _cut(moments: Iterable[Moment]) -> Iterator[Row]:
    """Give moments as rows of which none ends within a character."""
    held: dict[Stream, bytes] = {}
    for moment in moments:
        match moment:
            case Piece(at_ns=at_ns, stream=stream, data=data):
                left = held.pop(stream, b"") + data
                end = _whole(left)
                if end:
                    yield Row(at_ns=at_ns, stream=stream, data=bytearray(left[:end]))
                if left[end:]:
                    held[stream] = left[end:]
            case Gap(at_ns=at_ns, what=what):
                yield Row(at_ns=at_ns, stream="", said=what)
            case Size(at_ns=at_ns, rows=rows, columns=columns):
                said = f"the terminal has {columns}x{rows} from here on"
                yield Row(at_ns=at_ns, stream="", said=said)
            case _:
                for stream, rest in held.items():
                    yield Row(at_ns=moment.at_ns, stream=stream, data=bytearray(rest))


def _whole(data: bytes | bytearray) -> int:
    """Give how many bytes there are before a character of UTF-8 that is not all here."""
    for back in range(1, min(UTF8_MAX, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return len(data) - back if needed > back else len(data)
    return len(data)
