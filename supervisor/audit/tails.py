"""The end of a stream that has more than its cap: kept in memory until the stream ends.

What is kept is what would be stored: of a redacted stream, the marks of secrets and what is between
them. A mark that does not fit whole is left out, so no part of a secret is left at an end.
"""

from __future__ import annotations

import collections
import threading
import weakref
from dataclasses import replace

from supervisor.audit.redaction.found import Piece

TAIL_FOUND_MAX = 256
"""Secrets in a tail: it is one entry, which tells each."""

TAILS_MAX = 512
"""Of all live calls at once; of 64 KiB each, so 32 MiB. A stream that is past its cap when there
are as many has none."""

JOIN_BYTES = 4 * 1024
"""Up to this size, what follows is joined to a piece: many small ones would take much room."""


class Tail:
    """The last pieces of a stream: `bytes_max` bytes of it at most, in as many bytes at most."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._pieces: collections.deque[Piece] = collections.deque()
        self._size = 0
        self._found = 0

    @property
    def pieces(self) -> list[Piece]:
        """Give what is kept, without holes, up to the last byte that was taken."""
        return list(self._pieces)

    def take(self, piece: Piece) -> None:
        """Take what follows, and forget what is too far back for it."""
        last = self._pieces[-1] if self._pieces else None
        if piece.found is None:
            over = len(piece.data) - self._bytes_max
            if over > 0:
                piece, last = _without(piece, over), None
            elif last is not None and last.found is None and len(last.data) < JOIN_BYTES:
                self._pieces.pop()
                self._size -= len(last.data)
                piece = replace(last, end=piece.end, data=last.data + piece.data)
        if last is None:
            self._pieces.clear()
            self._size = self._found = 0
        self._pieces.append(piece)
        self._size += len(piece.data)
        self._found += piece.found is not None
        self._forget()

    def _forget(self) -> None:
        while self._pieces:
            first = self._pieces[0]
            span = self._pieces[-1].end - first.offset
            over = max(span, self._size) - self._bytes_max
            if over <= 0 and self._found <= TAIL_FOUND_MAX:
                return
            self._pieces.popleft()
            self._size -= len(first.data)
            self._found -= first.found is not None
            if first.found is None and 0 < over < len(first.data):
                rest = _without(first, over)
                self._pieces.appendleft(rest)
                self._size += len(rest.data)


class TailRoom:
    """Counts the tails that there are, so that there are never more than `tails_max`."""

    def __init__(self, tails_max: int = TAILS_MAX) -> None:
        self._tails_max = tails_max
        self._tails: weakref.WeakSet[Tail] = weakref.WeakSet()
        self._lock = threading.Lock()

    def tail(self, bytes_max: int) -> Tail | None:
        """Give a new one; None where there is no room, or nothing to keep. It counts until nobody
        has it any more."""
        with self._lock:
            if bytes_max <= 0 or len(self._tails) >= self._tails_max:
                return None
            made = Tail(bytes_max)
            self._tails.add(made)
            return made


ROOM = TailRoom()
"""That of this process, for all its calls."""


def _without(piece: Piece, count: int) -> Piece:
    """Give a piece that is no mark without its first bytes."""
    return Piece(offset=piece.offset + count, end=piece.end, data=piece.data[count:])
