"""How far each stream of a live call is, and what of it is stored: as it was, or redacted.

What a redactor holds back is the beginning of what may become a secret. It was delivered, an entry
counts it, and its content goes on record once it is known what it is, or at the stream's end; not
earlier, however long a program pauses in the middle of a token. Until then it is kept here as it
was, for who follows the call meanwhile.

Past the cap the last bytes are kept in memory, redacted where the stream is, and stored when the
stream has ended: its tail.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.audit.redaction.found import Found, Piece, pieces
from supervisor.audit.redaction.literals import RedactionFailed
from supervisor.audit.redaction.redactor import Redactor
from supervisor.audit.tails import ROOM, Tail, TailRoom

if TYPE_CHECKING:
    from supervisor.profile.model import Capture

STEP_BYTES = 64 * 1024
PART_BYTES = 512 * 1024
PART_FOUND_MAX = 256
"""Each is told in the entry of its part: some hundred bytes of at most 64 KiB."""

REDACTIONS_MAX = 64 * 1024
"""Of one stream. Each takes far more of the log than it had bytes; past it, nothing is stored."""

HELD_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is stored next: `data` stands for [begin, end) of the stream."""

    data: bytes
    begin: int
    end: int
    found: tuple[Found, ...] = ()


class StreamState:
    """How far a stream is: bytes seen, bytes that are on record, and whether storing has ended."""

    def __init__(
        self, capture: Capture, redactor: Redactor | None = None, room: TailRoom = ROOM
    ) -> None:
        self.lock = threading.Lock()
        self.hasher = hashlib.sha256()
        self.size = 0
        self.stored = 0
        self.kept = 0
        self.redactions = 0
        self.truncated = False
        self.seen = False
        self.cap = 0 if capture.mode == "digest" else capture.bytes_max
        self.redactor = redactor
        self.tail: Tail | None = None
        self.tail_bytes = 0
        self._tail_bytes_max = capture.tail_bytes
        self._room = room
        self.is_redacted = redactor is not None
        self._told = 0
        self._found_total = 0
        self._held = bytearray()
        self._held_from = 0

    def room(self, offset: int, length: int) -> int:
        """Give how many of the next `length` bytes, at `offset`, are stored."""
        if self.truncated:
            return 0
        return length if self.cap is None else max(0, min(length, self.cap - offset))

    def is_stored(self, part: Part) -> None:
        """Note that a part is on record."""
        self.stored = part.end
        self.kept += part.end - part.begin
        self.redactions += len(part.found)

    def begin_tail(self) -> None:
        """Keep the end of what comes from now on: it is past the cap."""
        self.tail = self._room.tail(self._tail_bytes_max)

    def pass_by(self, data: bytes, offset: int) -> None:
        """Take what is past the cap, and as it would be stored: no redactor sees it."""
        if self.tail is not None and not self.is_redacted:
            self.tail.take(Piece(offset=offset, end=offset + len(data), data=data))

    def end_tail(self) -> Part | None:
        """Give the tail, once, when the stream has ended; None where there is none."""
        taken = self.tail.pieces if self.tail is not None else []
        self.tail = None
        return _joined(taken) if taken else None

    def redact(self, data: bytes) -> list[Part]:
        """Take the next bytes; give what is known to be clean, up to the cap.

        Raises:
            RedactionFailed: nothing more of the stream may be stored.
        """
        redactor = self._redactor()
        self._hold(data)
        ready: list[Piece] = []
        for begin in range(0, len(data), STEP_BYTES):
            ready += self._pieces(redactor, redactor.feed(data[begin : begin + STEP_BYTES]))
        return list(self._parts(ready))

    def rest(self) -> list[Part]:
        """Give what was held back, at the end of the stream.

        Raises:
            RedactionFailed: it may not be stored.
        """
        redactor = self._redactor()
        ready = list(self._pieces(redactor, redactor.finish()))
        self.redactor = None
        return list(self._parts(ready))

    def held(self) -> tuple[int, bytes]:
        """Give what was delivered and is not on record yet, as it was, and where it begins; nothing
        that is past the cap."""
        with self.lock:
            begin = max(self._told, self._held_from)
            held = bytes(self._held[begin - self._held_from :])
            if self.cap is None:
                return begin, held
            return min(begin, self.cap), held[: max(0, self.cap - begin)]

    def _redactor(self) -> Redactor:
        if self.redactor is None:
            raise RedactionFailed("the stream has ended")
        return self.redactor

    def _hold(self, data: bytes) -> None:
        self._held += data
        over = len(self._held) - HELD_BYTES_MAX
        if over > 0:  # a secret without an end: who comes now sees its mark, once it is over
            del self._held[:over]
            self._held_from += over

    def _pieces(self, redactor: Redactor, data: bytes) -> Iterator[Piece]:
        """Take apart what the redactor gave, and see that it stands for what it should."""
        found, begin, self._told = tuple(redactor.found), self._told, redactor.settled
        redactor.found.clear()
        self._found_total += len(found)
        if self._found_total != redactor.found_total or self._found_total > REDACTIONS_MAX:
            raise RedactionFailed("there are more secrets than can be told")
        gone = max(0, self._told - self._held_from)
        del self._held[:gone]
        self._held_from += gone
        try:
            yield from pieces(data, begin, self._told, found)
        except ValueError as error:
            raise RedactionFailed(str(error)) from None

    def _parts(self, ready: list[Piece]) -> Iterator[Part]:
        """Put pieces together to what is stored at once; what is past the cap is for the tail."""
        taken: list[Piece] = []
        found = size = 0
        for piece in ready:
            if self.cap is not None and piece.end > self.cap:
                if self.tail is not None and (past := _past(piece, self.cap)) is not None:
                    self.tail.take(past)
                piece = _cut(piece, self.cap)
            if piece.offset >= piece.end:
                continue
            taken.append(piece)
            found, size = found + (piece.found is not None), size + len(piece.data)
            if found >= PART_FOUND_MAX or size >= PART_BYTES:
                yield _joined(taken)
                taken, found, size = [], 0, 0
        if taken:
            yield _joined(taken)


def _cut(piece: Piece, cap: int) -> Piece:
    """Cut a piece at the cap; a mark stays whole, and stands for less."""
    end = max(piece.offset, cap)
    if piece.found is None:
        return Piece(offset=piece.offset, end=end, data=piece.data[: end - piece.offset])
    one = piece.found
    length = end - piece.offset
    found = Found(offset=one.offset, length=length, rule=one.rule, hmac8=one.hmac8)
    return Piece(offset=piece.offset, end=end, data=piece.data, found=found)


def _past(piece: Piece, cap: int) -> Piece | None:
    """Give what of a piece is past the cap; nothing of a mark that begins before it."""
    if piece.offset >= cap:
        return piece
    if piece.found is not None:
        return None
    return Piece(offset=cap, end=piece.end, data=piece.data[cap - piece.offset :])


def _joined(taken: list[Piece]) -> Part:
    return Part(
        data=b"".join(piece.data for piece in taken),
        begin=taken[0].offset,
        end=taken[-1].end,
        found=tuple(piece.found for piece in taken if piece.found is not None),
    )
