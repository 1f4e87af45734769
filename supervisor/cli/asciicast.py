"""A recorded call as asciicast, version 3: what terminal players read.

One JSON document a line: a header, then `[interval, code, data]` with the seconds since the line
before (https://docs.asciinema.org/manual/asciicast/v3). The format holds text alone: a character
that stands across two pieces is put together, bytes that are no UTF-8 become U+FFFD. Escape
sequences are in it as they were, as JSON escapes: the player's terminal obeys them.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from supervisor.call import outcome
from supervisor.call.safe import command as shown
from supervisor.call.safe import safe
from supervisor.call.types import Stream, Terminal
from supervisor.cli.playback import NS, Gap, Moment, Piece, Size, beginning_ns, terminal_of

if TYPE_CHECKING:
    from supervisor.client import Record

COLUMNS, ROWS = 80, 24
"""The format wants a size, also of a call that has no terminal."""

OUTPUT, INPUT, RESIZE, MARKER, EXIT = "o", "i", "r", "m", "x"
COMMAND_WIDTH = 4000
US = 1_000_000


def lines(
    record: Record, moments: Iterable[Moment], *, idle_max_s: float | None = None
) -> Iterator[str]:
    """Give the lines of the file, without their ends."""
    terminal = terminal_of(record)
    yield _dump(_header(record, terminal, idle_max_s))
    clock = _Clock()
    texts = {stream: _Text(stream, cooked=terminal is None) for stream in Stream}
    at_ns = 0
    for moment in moments:
        at_ns = moment.at_ns
        match moment:
            case Piece(stream=stream, data=data):
                yield from texts[stream].event(clock, at_ns, data)
            case Size(rows=rows, columns=columns):
                yield clock.line(at_ns, RESIZE, f"{columns}x{rows}")
            case Gap(what=what):
                for text in texts.values():
                    yield from text.event(clock, at_ns, b"", final=True)
                yield clock.line(at_ns, MARKER, safe(what))
    for text in texts.values():
        yield from text.event(clock, at_ns, b"", final=True)
    if record.call.finished is not None:
        yield clock.line(at_ns, EXIT, str(outcome.exit_code(record.call.finished.outcome)))


def _header(record: Record, terminal: Terminal | None, idle_max_s: float | None) -> dict[str, Any]:
    term: dict[str, Any] = {"cols": COLUMNS, "rows": ROWS}
    if terminal is not None:
        term = {"cols": terminal.columns, "rows": terminal.rows, "type": safe(terminal.term)}
    header: dict[str, Any] = {
        "version": 3,
        "term": term,
        "timestamp": beginning_ns(record) // NS,
        "command": shown(list(record.call.argv), COMMAND_WIDTH),
        "title": f"call {safe(record.call.call_id)}",
    }
    if idle_max_s is not None:
        header["idle_time_limit"] = idle_max_s
    return header


class _Clock:
    """Gives intervals whose sum is right: each is from the time that was written, to the µs."""

    def __init__(self) -> None:
        self._written_us = 0

    def line(self, at_ns: int, code: str, data: str) -> str:
        """Give one event."""
        at_us = at_ns * US // NS
        interval_us, self._written_us = at_us - self._written_us, at_us
        return f"[{interval_us // US}.{interval_us % US:06d}, {_dump(code)}, {_dump(data)}]"


class _Text:
    """The bytes of one stream as text, a piece at a time; `cooked` where no terminal had them."""

    def __init__(self, stream: Stream, *, cooked: bool) -> None:
        self._code = INPUT if stream is Stream.STDIN else OUTPUT
        self._cooked = cooked and self._code == OUTPUT
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def event(
        self, clock: _Clock, at_ns: int, data: bytes, *, final: bool = False
    ) -> Iterator[str]:
        """Give the event for a piece; none where no character is whole yet."""
        text = self._decoder.decode(data, final)
        if self._cooked:
            # As a terminal's line discipline does: without it, lines would step to the right.
            text = text.replace("\n", "\r\n")
        if text:
            yield clock.line(at_ns, self._code, text)


def _dump(value: object) -> str:
    """Give JSON in ASCII: to look at the file in a terminal does no harm."""
    return json.dumps(value)
