"""Space on disk: blocks that are allocated before they are needed.

The log allocates blocks past its end (fallocate(2) with FALLOC_FL_KEEP_SIZE), so that the
outcome of a running call can be written when the disk is full. Where the filesystem cannot do
that, the free space is looked at instead, which is a hope and not a promise; `Allocator.promised`
says which.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

FALLOC_FL_KEEP_SIZE = 0x01
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.fallocate.restype = ctypes.c_int


def fallocate_keep_size(fd: int, offset: int, length: int) -> None:
    """Allocate blocks for a range of a file and leave its size (fallocate(2)).

    Raises:
        OSError: as the kernel says; ENOSPC where there is no room.
    """
    while _libc.fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, length) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, f"fallocate: {os.strerror(code)}")


def free_bytes(directory: Path) -> int:
    """Give what an ordinary user could still write to the filesystem of `directory`."""
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


def make_folder(directory: Path) -> None:
    """Make a folder for us alone, and those above it, where they are missing; their names are
    durable then."""
    if directory.is_dir():
        return
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700 if path == directory else 0o755, exist_ok=True)
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file whole and durable, or not at all; nobody else may write it meanwhile.

    Raises:
        OSError: as the kernel says; what was there before still is.
    """
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:  # noqa: PTH123 (no path)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


class Allocator:
    """Keeps blocks allocated past the end of a file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.promised = True

    def extend(self, fd: int, end: int, wanted_end: int, step: int) -> int:
        """Have blocks allocated from `end` to `wanted_end`, and by `step` further if there is
        room; give the new end.

        Raises:
            OSError: ENOSPC where there is no room.
        """
        if self.promised:
            try:
                return self._allocate(fd, end, wanted_end, step)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                self.promised = False
        if free_bytes(self._directory) < wanted_end - end:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return wanted_end

    def _allocate(self, fd: int, end: int, wanted_end: int, step: int) -> int:
        try:
            fallocate_keep_size(fd, end, wanted_end + step - end)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            fallocate_keep_size(fd, end, wanted_end - end)
            return wanted_end
        return wanted_end + step
