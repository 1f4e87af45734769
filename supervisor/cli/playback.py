"""What a recorded call wrote, in order and with its times, out of its entries and its bytes.

The entries say which bytes of which stream came when; the bytes come apart from them, stream by
stream. Here the two are put together again, and what is not on record is named where it is
missing. Pure, but for `read`; at most one piece of each stream is held.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from supervisor.call.types import Stream
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
class End:
    """The call ended, or the record does so far."""

    at_ns: int


Moment = Piece | Gap | End
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


def moments(record: Record, streams: Collection[Stream], read: Read) -> Iterator[Moment]:
    """Give what there was on `streams`, in the order of the record; `read` gives the bytes of one.

    Times never go back: a clock that was set back meanwhile is a pause of nothing.

    Raises:
        AuditCorrupt: `RECORDING_SHORT`.
    """
    start_ns, at_ns = beginning_ns(record), 0
    sources = {stream: _Source(stream, read) for stream in streams}
    for entry in record.entries:
        at_ns = max(at_ns, entry.time_ns - start_ns)
        body = _map(entry.body().get("body"))
        stream = _stream(body)
        source = sources.get(stream) if stream else None
        if entry.kind == "output" and source is not None:
            yield from source.take(at_ns, int(body["offset"]), int(body["length"]))
        elif entry.kind == "truncated" and source is not None:
            what = f"{source.stream}: what follows byte {body.get('offset')} is not stored "
            yield Gap(at_ns=at_ns, what=f"{what}({body.get('why')})")
        elif entry.kind == "lost" and body.get("what") == "output":
            count = body.get("count") or "an unknown number"
            yield Gap(at_ns=at_ns, what=f"lost {count} of output: {body.get('reason')}")
    yield End(at_ns=at_ns)


class _Source:
    """The recorded bytes of one stream, asked for when the first are wanted."""

    def __init__(self, stream: Stream, read: Read) -> None:
        self.stream = stream
        self._read = read
        self._pieces: Iterator[bytes] | None = None
        self._left = b""
        self._following = 0

    def take(self, at_ns: int, offset: int, length: int) -> Iterator[Moment]:
        """Give the next `length` bytes, which stand at `offset` of the stream."""
        if offset > self._following:
            missing = f"{self.stream}: bytes {self._following} to {offset} are not on record"
            yield Gap(at_ns=at_ns, what=missing)
        self._following = offset + length
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
