"""Dead letters: events that the other side will never take, each with why. One file a sink.

    {"index":…,"uid":"…","why":"…","time_ns":…}    an event that was refused
    {"delivered":"UID","time_ns":…}                it was taken after all
    {"discarded":"UID","time_ns":…}                somebody decided that it never need be

The event itself is not there: it is made again from its entry, which the log keeps. What is refused
again is a letter again, with the new why. A file that gets too large is written anew, with what
waits; where that is too much, no letter is taken, and the sink stays where it is until somebody has
seen to those that wait.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from supervisor.audit.space import write_whole

BYTES_MAX = 32 << 20
WAITING_BYTES_MAX = 24 << 20
"""Of a file that was just written anew."""

WHY_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """An event that was refused: of which entry, and why. `uid` is the event's, or the entry's
    where no event could be made of it."""

    index: int
    uid: str
    why: str
    time_ns: int

    def is_of(self, uid: str) -> bool:
        """Say whether it stands for an event."""
        return uid == self.uid or uid.rpartition("-")[0] == self.uid


_FIELDS = {field.name for field in fields(Letter)}
_ENDS = ({"delivered", "time_ns"}, {"discarded", "time_ns"})


class Letters:
    """The dead letters of one sink."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._full_bytes = -1

    def add(self, letters: Iterable[Letter]) -> None:
        """Keep letters, durably.

        Raises:
            OSError: as the kernel says, or EDQUOT: too many wait; none of them counts as kept then.
            ValueError: as `waiting`.
        """
        lines = [_line(letter) for letter in letters]
        with self._turn:
            self._make_room(sum(map(len, lines)) + len(lines))
            self._write(lines)

    def delivered(self, uids: Iterable[str], time_ns: int) -> None:
        """Note that letters were taken after all, durably; raises as `add`."""
        self._append(orjson.dumps({"delivered": uid, "time_ns": time_ns}) for uid in uids)

    def discarded(self, uids: Iterable[str], time_ns: int) -> None:
        """Note that letters will not be sent again, durably; raises as `add`."""
        self._append(orjson.dumps({"discarded": uid, "time_ns": time_ns}) for uid in uids)

    def waiting(self) -> list[Letter]:
        """Give the letters that were neither delivered nor discarded, in the order of the log.

        Raises:
            OSError: as the kernel says.
            ValueError: a line of the file is none of ours, with its number.
        """
        found: dict[str, Letter] = {}
        for line in self._lines():
            uid = line.get("delivered") or line.get("discarded")
            if uid is not None:
                found.pop(uid, None)
            else:
                letter = Letter(**line)
                found[letter.uid] = letter
        return sorted(found.values(), key=lambda letter: (letter.index, letter.uid))

    def _append(self, lines: Iterable[bytes]) -> None:
        with self._turn:
            self._write(lines)

    def _make_room(self, more: int) -> None:
        size = self._path.stat().st_size if self._path.exists() else 0
        if size + more <= BYTES_MAX:
            return
        if size != self._full_bytes:
            data = b"".join(_line(letter) + b"\n" for letter in self.waiting())
            if len(data) + more <= WAITING_BYTES_MAX:
                write_whole(self._path, data)
                return
        self._full_bytes = size
        why = "too many dead letters wait: send them again, or discard them"
        raise OSError(errno.EDQUOT, why, str(self._path))

    def _write(self, lines: Iterable[bytes]) -> None:
        data = b"".join(line + b"\n" for line in lines)
        if not data:
            return
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._path, flags, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                data = b"\n" + data  # Half a line, of a daemon that was killed.
            if os.write(fd, data) != len(data):
                os.ftruncate(fd, size)
                raise OSError(28, os.strerror(28), str(self._path))
            os.fsync(fd)
        finally:
            os.close(fd)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        lines = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                found = orjson.loads(line)
                if found.keys() not in (_FIELDS, *_ENDS):
                    raise ValueError("it has not the fields of a dead letter")
            except (ValueError, AttributeError, TypeError) as error:
                if number == len(lines) or _is_torn(line):
                    continue
                raise ValueError(f"{self._path}:{number}: {error}") from error
            yield found


def _line(letter: Letter) -> bytes:
    return orjson.dumps(asdict(letter) | {"why": letter.why[:WHY_CHARACTERS_MAX]})


def _is_torn(line: bytes) -> bool:
    """Say whether it may be the beginning of a line: it ends before its object does."""
    return line.startswith(b"{") and not line.endswith(b"}")
