"""File locks, which the kernel charges to nobody.

A record lock costs about 200 bytes of kernel memory that no memory cgroup sees (fs/locks.c, Linux
6.18), so a program could hold gigabytes with them. The kernel lists them in /proc/locks, a page at
a time and from the first one for each page: the whole of a list takes the square of its length (a
million locks were seen to take 15 s), so only its beginning is looked at.
"""

from __future__ import annotations

import collections
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
