"""Host ids for sandboxes: a range of 65536 each, of its own for as long as it lives.

The ranges lie where systemd leaves the 32-bit space unused (systemd's UIDS-GIDS document). A lease
is a lock on one byte of a file that all daemons of a host share, so that no two lend the same
range; the lock goes with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from supervisor.errors import CapacityError
from supervisor.oci.spec import ID_RANGE

FIRST_ID = 1879048192
RANGES = 4096 - 16
"""Ends below 2147352576, where systemd's foreign range begins."""


def base_of(ids: Iterable[int]) -> int:
    """Give the first id of the range that these host ids of one sandbox are from; 0 where none is
    from a range, as of a runtime's own programs."""
    for number in ids:
        if 0 <= number - FIRST_ID < RANGES * ID_RANGE:
            return number - (number - FIRST_ID) % ID_RANGE
    return 0


class UidRanges:
    """The ranges that sandboxes of this host lease."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._leased: set[int] = set()
        self._next = 0

    def close(self) -> None:
        """Let go of the file, and of every lease."""
        os.close(self._fd)

    @contextlib.contextmanager
    def lease(self) -> Iterator[int]:
        """Lend a range; gives its first id.

        Raises:
            CapacityError: `UID_RANGES_EXHAUSTED`.
        """
        slot = self._lock_one()
        self._leased.add(slot)
        try:
            yield FIRST_ID + slot * ID_RANGE
        finally:
            self._leased.discard(slot)
            self._lock(slot, fcntl.F_UNLCK)

    def _lock(self, slot: int, kind: int) -> None:
        # struct flock: l_type, l_whence, l_start, l_len, l_pid. An open file description lock
        # belongs to this descriptor alone (fcntl(2), F_OFD_SETLK).
        request = struct.pack("hhqqi4x", kind, os.SEEK_SET, slot, 1, 0)
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, request)

    def _lock_one(self) -> int:
        for attempt in range(RANGES):
            # Round robin: an id is not lent again at once, so a stray reference to it misses.
            slot = (self._next + attempt) % RANGES
            if slot in self._leased:
                continue
            try:
                self._lock(slot, fcntl.F_WRLCK)
            except (BlockingIOError, PermissionError):
                continue
            self._next = (slot + 1) % RANGES
            return slot
        raise CapacityError(
            "UID_RANGES_EXHAUSTED", f"all {RANGES} id ranges are in use", retry_after_s=1.0
        )
