"""What a recorded call wrote, in order and with its times, out of its entries and its bytes.

The entries say which bytes of which stream came when; the bytes come apart from them, stream by
stream. Here the two are put together again, and what is not on record is named where it is
missing. Pure, but for `read`; at most one piece of each stream is held.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from supervisor.audit.redaction.found import Found, Placed, found_from_json
from supervisor.call.types import TERMINAL_SIDE_MAX, Stream, Terminal
from supervisor.errors import AuditCorrupt

if TYPE_CHECKING:
    from supervisor.client import Record

NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of a stream, `at_ns` after the beginning."""

    at_ns: int
    stream: Stream
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What is not on record, from here on or up to here; `what` says it."""

    at_ns: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The terminal has another size from here on."""

    at_ns: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The call ended, or the record does so far."""

    at_ns: int


Moment = Piece | Gap | Size | End
Read = Callable[[Stream], Iterator[bytes]]


def beginning_ns(record: Record) -> int:
    """Give when the program was let go; when the call was accepted where it never was."""
    for entry in record.entries:
        if entry.kind == "started":
            return entry.time_ns
    return accepted_ns(record)


def accepted_ns(record: Record) -> int:
    """Give when the call was accepted; when its first entry was written where that is not told."""
    return record.call.accepted_ns or (record.entries[0].time_ns if record.entries else 0)


def terminal_of(record: Record) -> Terminal | None:
    """Give the terminal that the call began with; None where it had none.

    Raises:
        AuditCorrupt: `RECORD_UNREADABLE`.
    """
    intent = _map(record.entries[0].body().get("body")) if record.entries else {}
    asked = _map(_map(intent.get("request") or intent.get("request_preview")).get("terminal"))
    if not asked:
        return None
    return Terminal(rows=_side(asked, "rows"), columns=_side(asked, "columns"),
                    term=str(asked.get("term")))  # fmt: skip


def sizes(record: Record) -> Iterator[tuple[int, int]]:
    """Give columns and rows of each other size that the terminal had.

    Raises:
        AuditCorrupt: `RECORD_UNREADABLE`.
    """
    for entry in record.entries:
        if entry.kind == "resized":
            body = _map(entry.body().get("body"))
            yield _side(body, "columns"), _side(body, "rows")


def _side(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if not isinstance(value, int) or not 1 <= value <= TERMINAL_SIDE_MAX:
        raise AuditCorrupt("RECORD_UNREADABLE", f"no terminal has {value!r} {name}")
    return value


def moments(record: Record, streams: Collection[Stream], read: Read) -> Iterator[Moment]:
    """Give what there was on `streams`, in the order of the record; `read` gives the bytes of one.

    Times never go back: a clock that was set back meanwhile is a pause of nothing.

    Raises:
        AuditCorrupt: `RECORDING_SHORT`, `RECORD_UNREADABLE`.
    """
    start_ns, at_ns = beginning_ns(record), 0
    sources = {stream: _Source(stream, read, _stored(record, stream)) for stream in streams}
    for entry in record.entries:
        body = _map(entry.body().get("body")) if entry.kind == "truncated" else {}
        stream = _stream(body)
        source = sources.get(stream) if stream else None
        if "length" in body and source is not None:
            source.gap_to_come = True
    for entry in record.entries:
        at_ns = max(at_ns, entry.time_ns - start_ns)
        body = _map(entry.body().get("body"))
        stream = _stream(body)
        source = sources.get(stream) if stream else None
        if entry.kind == "output" and source is not None:
            yield from source.take(at_ns, int(body["offset"]), int(body["length"]))
        elif entry.kind == "truncated" and source is not None:
            yield from source.cut(at_ns, body)
        elif entry.kind == "resized":
            yield Size(at_ns=at_ns, rows=_side(body, "rows"), columns=_side(body, "columns"))
        elif entry.kind == "lost" and body.get("what") == "output":
            count = body.get("count") or "an unknown number"
            yield Gap(at_ns=at_ns, what=f"lost {count} of output: {body.get('reason')}")
    yield End(at_ns=at_ns)


class _Source:
    """The recorded bytes of one stream, asked for when the first are wanted. Of a redacted stream,
    a secret comes as its mark, when its first byte came."""

    def __init__(self, stream: Stream, read: Read, stored: _Stored | None) -> None:
        self.stream = stream
        self._stored = stored
        self._read = read
        self._pieces: Iterator[bytes] | None = None
        self._left = b""
        self._following = 0
        self.gap_to_come = False

    def cut(self, at_ns: int, body: Mapping[str, Any]) -> Iterator[Moment]:
        """Tell of a place from which on bytes are not stored; where it is known up to where, tell
        that alone."""
        begin, why = int(body["offset"]), body.get("why")
        if "length" not in body:
            if self.gap_to_come:
                return
            what = f"{self.stream}: what follows byte {begin} is not stored ({why})"
            yield Gap(at_ns=at_ns, what=what)
            return
        self._following, self.gap_to_come = begin + int(body["length"]), False
        if self._following > begin:
            missing = f"{self.stream}: bytes {begin} to {self._following} are not on record"
            yield Gap(at_ns=at_ns, what=f"{missing} ({why})")

    def take(self, at_ns: int, offset: int, length: int) -> Iterator[Moment]:
        """Give the next `length` bytes, which stand at `offset` of the stream."""
        if not length:
            return  # what was held back came before, and has its entry
        if offset > self._following:
            missing = f"{self.stream}: bytes {self._following} to {offset} are not on record"
            yield Gap(at_ns=at_ns, what=missing)
        self._following = offset + length
        if self._stored is not None:
            length = self._stored.length(offset, length)
        if self._pieces is None:
            self._pieces = self._read(self.stream)
        while length:
            data = self._left or next(self._pieces, b"")
            if not data:
                raise AuditCorrupt(
                    "RECORDING_SHORT",
                    f"{length} bytes of {self.stream} that an entry names, before byte "
                    f"{self._following}, were not given",
                )
            part, self._left = data[:length], data[length:]
            yield Piece(at_ns=at_ns, stream=self.stream, offset=offset, data=part)
            offset, length = offset + len(part), length - len(part)


@dataclass(slots=True, kw_only=True)
class _Stored:
    """How a redacted stream lies on record, up to `end`."""

    places: Placed
    end: int

    def length(self, offset: int, length: int) -> int:
        """Give how many bytes there are for `length` bytes of the stream; in order."""
        first = self.places.place(min(offset, self.end))
        return self.places.place(min(offset + length, self.end)) - first


def _stored(record: Record, stream: Stream) -> _Stored | None:
    """Give how a stream lies on record; None where it is as it was."""
    found: list[Found] = []
    end, is_redacted = 0, False
    for entry in record.entries:
        body = _map(entry.body().get("body")) if entry.kind == "output" else {}
        if not body or _stream(body) is not stream:
            continue
        redacted = body.get("redacted")
        if isinstance(redacted, dict):
            found += found_from_json(redacted["found"])
            end, is_redacted = int(redacted["end"]), True
        else:
            end = int(body["offset"]) + int(body["length"])
    return _Stored(places=Placed(found), end=end) if is_redacted else None


class Pace:
    """When each moment is due, in seconds after the first: at `speed` times the recorded one, and
    no recorded pause longer than `idle_max_s`, where set."""

    def __init__(self, *, speed: float = 1.0, idle_max_s: float | None = None) -> None:
        self._speed = speed
        self._idle_max_ns = None if idle_max_s is None else int(idle_max_s * NS)
        self._last_ns = 0
        self._due_ns = 0

    def due_s(self, at_ns: int) -> float:
        """Give when the next moment is due."""
        pause_ns, self._last_ns = at_ns - self._last_ns, at_ns
        if self._idle_max_ns is not None:
            pause_ns = min(pause_ns, self._idle_max_ns)
        self._due_ns += pause_ns
        return self._due_ns / NS / self._speed


def _stream(body: Mapping[str, Any]) -> Stream | None:
    """Give the stream that an entry names; one that is not known here is nobody's."""
    name = body.get("stream")
    return Stream(name) if name in set(Stream) else None


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
