"""Cursors: how far each exporter has come, as it says itself.

    cursors/NAME    the index of the first entry that is not acknowledged yet, and the leaf hash of
                    the one before it, which ties it to this log

An exporter moves its cursor once what it sent is safe elsewhere, and never before: what lies below
all cursors may be removed. A cursor that cannot be read says nothing, so it acknowledges nothing.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from supervisor.audit.entry import NO_LEAF
from supervisor.audit.space import sync_directory, write_whole
from supervisor.errors import InvalidRequest

CURSORS_NAME = "cursors"
CURSORS_MAX = 32
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_BYTES_MAX = 256
_TEXT = re.compile(r"stockade cursor v1\n([0-9]{1,19})\n([0-9a-f]{64})\n", re.ASCII)


class CursorError(Exception):
    """A cursor cannot be used, and why."""


class CursorMissing(CursorError):
    """There is no such cursor: nothing was acknowledged yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Everything below `index` is acknowledged; `leaf` is the leaf hash of the entry right before
    it, in hexadecimal."""

    index: int
    leaf: str = NO_LEAF.hex()

    def encode(self) -> bytes:
        """Give it as it lies in the file."""
        return f"stockade cursor v1\n{self.index}\n{self.leaf}\n".encode()

    @classmethod
    def decode(cls, data: bytes) -> Cursor:
        """Read it.

        Raises:
            CursorError: it is none.
        """
        found = _TEXT.fullmatch(data.decode("ascii", "replace"))
        if found is None:
            raise CursorError("it is damaged")
        return cls(index=int(found[1]), leaf=found[2])


class Cursors:
    """The cursors of one state folder."""

    def __init__(self, state: Path) -> None:
        self._folder = state / CURSORS_NAME

    def read(self, name: str) -> Cursor:
        """Give a cursor.

        Raises:
            CursorMissing, CursorError: it is missing, damaged, or cannot be read.
        """
        try:
            with (self._folder / _checked(name)).open("rb") as file:
                return Cursor.decode(file.read(_BYTES_MAX))
        except FileNotFoundError:
            raise CursorMissing("it is missing: nothing was acknowledged yet") from None
        except OSError as error:
            raise CursorError(f"it cannot be read: {error.strerror}") from error

    def advance(self, name: str, to: Cursor) -> None:
        """Acknowledge everything below `to.index`; durable when this returns.

        Raises:
            InvalidRequest: `CURSOR_INVALID`, where the name is none; `CURSOR_REWINDS`, where more
                had been acknowledged.
            CursorError: the cursor that is there cannot be read; remove it, to begin anew.
            OSError: as the kernel says.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # two that write: the second sees the first
            path = self._folder / _checked(name)
            if path.exists() and (there := self.read(name)).index > to.index:
                raise InvalidRequest(
                    "CURSOR_REWINDS",
                    f"{name} had acknowledged all below {there.index}, which is past {to.index}",
                    hint="what was acknowledged may be gone: a cursor only moves forward",
                )
            write_whole(path, to.encode())
            sync_directory(self._folder.parent)
        finally:
            os.close(folder)


class Exported:
    """How far all of some exporters have come. Not thread-safe.

    `leaf_at` gives the leaf hash of an entry, in hexadecimal, None where the log has none such;
    `names` gives those that count now, and `highest` is what each cursor was when it was last
    looked at.
    """

    def __init__(
        self,
        cursors: Cursors,
        names: Callable[[], Iterable[str]],
        leaf_at: Callable[[int], str | None],
        highest: dict[str, int],
    ) -> None:
        self._cursors = cursors
        self._names = names
        self._leaf_at = leaf_at
        self._proven: dict[str, Cursor] = {}
        self.highest = highest

    def below(self) -> int | None:
        """Give below which index everything is exported; None where nobody exports.

        Raises:
            CursorError: a cursor is missing, damaged, of another log, or has moved back.
        """
        return min((self._index_of(name) for name in self._names()), default=None)

    def _index_of(self, name: str) -> int:
        try:
            cursor = self._cursors.read(name)
            highest = self.highest.get(name, 0)
            if cursor.index < highest:
                raise CursorError(f"it was {highest} and is {cursor.index}: it moved back")
            if self._proven.get(name) != cursor:
                self._prove(cursor)
        except CursorError as error:
            raise CursorError(f"the cursor {name}: {error}") from error
        self._proven[name] = cursor
        self.highest[name] = cursor.index
        return cursor.index

    def _prove(self, cursor: Cursor) -> None:
        if cursor.index == 0:
            return  # it acknowledges nothing, so it fits any log
        leaf = self._leaf_at(cursor.index - 1)
        if leaf is None:
            raise CursorError(f"it is {cursor.index}, past the end of the log")
        if leaf != cursor.leaf:
            raise CursorError(f"entry {cursor.index - 1} of this log is not the one it names")


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidRequest("CURSOR_INVALID", f"{name[:80]!r} is no name of a cursor")
    return name
