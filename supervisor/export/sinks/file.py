"""Events as lines of a file. A batch is sent once fdatasync(2) has returned.

The file is ours alone: it is locked (flock(2)) for as long as it is open, belongs to who runs this
process, and nobody else may write it. Whoever rotates it (logrotate, say) may rename or remove it
at any time: the next batch goes into a new file of its name. `rotate_bytes` rotates it here.

After a kill, a file may end in part of a line. That was never acknowledged, since a batch ends in a
whole line: it is cut off when the file is opened, and is never more than that. After an error, the
file is cut back to where the batch began.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.export.event import Event
from supervisor.export.sink import Rejected, SinkError
from supervisor.export.sinks.lane import Lane
from supervisor.export.sinks.message import text

LINE_BYTES_MAX = 1024 * 1024
_MODE = 0o600
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """With `rotate_bytes`, a file that would get larger becomes `PATH.1`, that one `PATH.2`, up to
    `keep`, and the last is removed; 0 leaves that to others."""

    path: Path
    rotate_bytes: int = 0
    keep: int = 0
    deadline_s: float = 60.0

    def __post_init__(self) -> None:
        if bool(self.rotate_bytes) != bool(self.keep) or min(self.rotate_bytes, self.keep) < 0:
            raise ValueError("a file is rotated at a size, and so many are kept")


class FileSink:
    """The sink. Errors are those of `Sink`."""

    def __init__(self, options: FileOptions) -> None:
        self._options = options
        self._path = options.path
        self._lane = Lane("file", options.deadline_s)
        self._fd = -1

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Append a batch; return once it is on the disk.

        Raises:
            SinkError: the file cannot be written, or is none that may be.
        """
        data, rejected = text(batch, LINE_BYTES_MAX)
        if data:
            await self._lane.run(self._append, data)
        return rejected

    def trails(self) -> int:
        """Give none: what is on the disk is there."""
        return 0

    async def close(self) -> None:
        """Close the file, once what is being written has been."""
        with contextlib.suppress(SinkError, RuntimeError):
            await self._lane.run(self._close)
        self._lane.close()

    def _append(self, data: bytes) -> None:
        try:
            self._follow()
            begin = os.fstat(self._fd).st_size
            if begin and 0 < self._options.rotate_bytes < begin + len(data):
                self._rotate()
                begin = 0
            self._write(data, begin)
        except OSError as error:
            self._close()  # the next one looks at its end again
            raise SinkError(f"{self._path}: {error.strerror or error}") from None
        except SinkError:
            self._close()
            raise

    def _write(self, data: bytes, begin: int) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
            os.fdatasync(self._fd)
        except OSError:
            # Not where somebody else has written after us: that is theirs.
            if os.fstat(self._fd).st_size <= begin + len(data):
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, begin)
            raise

    def _follow(self) -> None:
        """Have the file open that has the name now."""
        if self._fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                there = self._path.lstat()
                if os.path.samestat(there, os.fstat(self._fd)):
                    return
            self._close()
        self._open()

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, _FLAGS)
        except FileNotFoundError:
            self._fd = os.open(self._path, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            raise SinkError(f"{self._path} is no plain file")
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SinkError(f"{self._path} can be written by others")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SinkError(f"{self._path} is being written by another process") from None
        self._mend(found.st_size)
        _sync_folder(self._path.parent)  # the name may be as new as the file

    def _mend(self, size: int) -> None:
        """Cut off the part of a line that a kill has left."""
        if not size or os.pread(self._fd, 1, size - 1) == b"\n":
            return
        begin = max(0, size - LINE_BYTES_MAX - 1)
        found = os.pread(self._fd, size - begin, begin).rfind(b"\n")
        if found < 0 and begin:
            raise SinkError(f"{self._path} does not end in a line of ours")
        os.ftruncate(self._fd, begin + found + 1)

    def _rotate(self) -> None:
        for number in range(self._options.keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))
        _sync_folder(self._path.parent)
        self._close()
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
