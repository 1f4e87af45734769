"""File locks, which the kernel charges to nobody.

A record lock costs about 200 bytes of kernel memory that no memory cgroup sees (fs/locks.c, Linux
6.18), so a program could hold gigabytes with them. The kernel lists them in /proc/locks, a page at
a time and from the first one for each page: the whole of a list takes the square of its length (a
million locks were seen to take 15 s), so only its beginning is looked at.
"""

from __future__ import annotations

import collections
import contextlib
import os
from pathlib import Path

LOCK_BYTES = 200
READ_BYTES_MAX = 4 << 20
"""About 60 000 locks: some tenths of a second."""


def holders(path: Path = Path("/proc/locks")) -> tuple[dict[int, int], bool]:
    """Count the record locks that each process holds, among those that are looked at, and say
    whether that was all of them. Those of open file descriptions have no process and are not in it
    (proc_locks(5))."""
    counts: collections.Counter[int] = collections.Counter()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        rest, left = b"", READ_BYTES_MAX
        while left > 0 and (data := os.read(fd, 1 << 16)):
            left -= len(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                fields = line.split()
                if len(fields) >= 5 and fields[1] == b"POSIX":
                    counts[int(fields[4])] += 1
    finally:
        os.close(fd)
    return dict(counts), left > 0


def flock_holder(file: Path, path: Path = Path("/proc/locks")) -> int:
    """Give the process that holds a file's lock (flock(2)), without touching the lock; 0 where
    nobody does, or where the file is not there."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0
    with path.open("rb") as listed:
        for line in listed:
            fields = line.split()
            if len(fields) < 6 or fields[1] != b"FLOCK":
                continue
            # The device there is not stat(2)'s on every file system: the number is a first hint.
            pid, inode = int(fields[4]), int(fields[5].rpartition(b":")[2])
            if inode == status.st_ino and _has_open(pid, status):
                return pid
    return 0


def _has_open(pid: int, status: os.stat_result) -> bool:
    try:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if os.path.samestat(fd.stat(), status):
                    return True
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has ended, and its locks with it
    return False
