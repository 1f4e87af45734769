"""Host ids for sandboxes: a range of 65536 each, of its own for as long as it lives.

The ranges lie where systemd leaves the 32-bit space unused (systemd's UIDS-GIDS document). A lease
is a locked file, so that two daemons on a host never lend the same range; the lock goes with the
process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from supervisor.errors import CapacityError
from supervisor.oci.spec import ID_RANGE

FIRST_ID = 1879048192
RANGES = 4096 - 16
"""Ends below 2147352576, where systemd's foreign range begins."""


class UidRanges:
    """The ranges that sandboxes of this host lease."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._next = 0

    @contextlib.contextmanager
    def lease(self) -> Iterator[int]:
        """Lend a range; gives its first id.

        Raises:
            CapacityError: `UID_RANGES_EXHAUSTED`.
        """
        slot, fd = self._lock_one()
        try:
            yield FIRST_ID + slot * ID_RANGE
        finally:
            os.close(fd)

    def _lock_one(self) -> tuple[int, int]:
        for attempt in range(RANGES):
            # Round robin: an id is not lent again at once, so a stray reference to it misses.
            slot = (self._next + attempt) % RANGES
            fd = os.open(self._folder / str(slot), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            self._next = (slot + 1) % RANGES
            return slot, fd
        raise CapacityError(
            "UID_RANGES_EXHAUSTED", f"all {RANGES} id ranges are in use", retry_after_s=1.0
        )
