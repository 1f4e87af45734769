"""What was replaced, and how the bytes that are left lie in the stream that they are from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from supervisor.call.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was replaced: where in the unredacted stream, by which rule, and the HMAC's begin.

    In a value that is no stream, `pointer` (RFC 6901) says in which part of it.
    """

    offset: int
    length: int
    rule: str
    hmac8: str
    pointer: str = ""

    @property
    def end(self) -> int:
        """Give where it ended in the unredacted stream."""
        return self.offset + self.length

    @property
    def mark(self) -> bytes:
        """Give what stands in its place."""
        return f"[REDACTED:{self.rule}:{self.hmac8}]".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes that stand for [offset, end) of a stream: as they were, or the mark of `found`."""

    offset: int
    end: int
    data: bytes
    found: Found | None = None


def pieces(data: bytes, begin: int, end: int, found: Sequence[Found]) -> Iterator[Piece]:
    """Take redacted bytes apart that stand for [begin, end) of a stream.

    Raises:
        ValueError: they do not.
    """
    at, place = begin, 0
    for one in found:
        clear = data[place : place + one.offset - at]
        place += len(clear)
        if len(clear) != one.offset - at or not data.startswith(one.mark, place):
            raise ValueError(f"what was redacted at {one.offset} is not where it has to be")
        if clear:
            yield Piece(offset=at, end=one.offset, data=clear)
        yield Piece(offset=one.offset, end=one.end, data=one.mark, found=one)
        at, place = one.end, place + len(one.mark)
    if len(data) - place != end - at:
        raise ValueError(f"{len(data)} redacted bytes do not stand for {begin} to {end}")
    if at < end:
        yield Piece(offset=at, end=end, data=data[place:])


class Placed:
    """Where the bytes of a stream lie among those that are left of it: `found` is all of it, in
    order."""

    def __init__(self, found: Sequence[Found]) -> None:
        self._found = [(one.offset, one.end, len(one.mark)) for one in found]
        self._next = 0
        self._shift = 0

    def place(self, offset: int) -> int:
        """Give the place of a byte; offsets must not go back. Of what was replaced, only the first
        lies before the mark."""
        while self._next < len(self._found):
            begin, end, mark_bytes = self._found[self._next]
            if offset <= begin:
                break
            if offset < end:
                return begin + self._shift + mark_bytes
            self._shift += mark_bytes - (end - begin)
            self._next += 1
        return offset + self._shift


def found_to_json(found: Sequence[Found]) -> list[Json]:
    """Give what was replaced in a stream as it stands in an entry."""
    return [[one.offset, one.length, one.rule, one.hmac8] for one in found]


def found_from_json(value: Json) -> tuple[Found, ...]:
    """Undo `found_to_json`."""
    if not isinstance(value, list):
        raise TypeError(f"not a list: {value!r}")
    return tuple(_found(one) for one in value)


def _found(value: Json) -> Found:
    match value:
        case [int(offset), int(length), str(rule), str(hmac8)]:
            return Found(offset=offset, length=length, rule=rule, hmac8=hmac8)
    raise TypeError(f"not what was redacted: {value!r}")
