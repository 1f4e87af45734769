"""Files that hold what nobody else may have: read where they are guarded, and nowhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

OTHERS = stat.S_IRWXO | stat.S_IWGRP
"""What others may not have: the group may read, as it does where systemd guards with an ACL."""

GROUP_AND_OTHERS = stat.S_IRWXO | stat.S_IRWXG


class NotPrivate(Exception):
    """A file that cannot be read, or that is not guarded as it has to be; `why` does not say where
    it is."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.why = why


class Exposed(NotPrivate):
    """A file that somebody else may read or write."""


class Foreign(NotPrivate):
    """A file of another user."""


def read_private(path: Path, bytes_max: int, *, denied: int = OTHERS, follow: bool = True) -> bytes:
    """Read a plain file of root or of this process's user, which nobody has the `denied`
    permissions of: to its end, or one byte more than `bytes_max`.

    Raises:
        NotPrivate: it is none, or cannot be read; `Exposed`, `Foreign`. Nothing was read then.
    """
    # Not blocking: a FIFO must not hold anybody up before it is seen to be none.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise NotPrivate(path, f"cannot be opened: {error.strerror}") from error
    try:
        _require_private(path, os.fstat(descriptor), denied)
        return _read(descriptor, bytes_max + 1)
    except OSError as error:
        raise NotPrivate(path, f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _read(descriptor: int, count: int) -> bytes:
    found = b""
    while len(found) < count and (chunk := os.read(descriptor, count - len(found))):
        found += chunk
    return found


def _require_private(path: Path, found: os.stat_result, denied: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotPrivate(path, "is no plain file")
    if found.st_uid not in (0, os.geteuid()):
        raise Foreign(path, f"belongs to user {found.st_uid}")
    if found.st_mode & denied:
        raise Exposed(path, f"(mode {stat.S_IMODE(found.st_mode):04o}) is open to others")
