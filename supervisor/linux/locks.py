"""File locks, which the kernel charges to nobody.

A record lock costs about 200 bytes of kernel memory that no memory cgroup sees (fs/locks.c, Linux
6.18), so a program could hold gigabytes with them. The kernel lists them in /proc/locks.
"""

from __future__ import annotations

import collections
import os
from pathlib import Path

LOCK_BYTES = 200
READ_BYTES_MAX = 256 << 20
"""About four million locks: more than all calls of a host can make between two looks."""


def holders(path: Path = Path("/proc/locks")) -> dict[int, int]:
    """Count the record locks that each process holds; those of open file descriptions have no
    process and are not in it (proc_locks(5))."""
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
    return dict(counts)
