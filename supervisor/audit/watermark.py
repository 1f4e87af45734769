"""How much of the state folder's file system has to be left for new calls to be taken.

What sinks have not taken yet stays on the disk, and so does what retention may not remove before
that. Below the soft mark it is said; below the hard one no new call begins. Calls that run go on,
and what they still have to write is reserved (see `space`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import CapacityError

LOOK_S = 1.0
"""How old what is known of the disk may be."""

RETRY_AFTER_S = 5.0

log = logging.getLogger("stockade.audit")


@dataclass(frozen=True, slots=True)
class Mark:
    """An amount of free space: bytes, or per mille of the file system."""

    size_bytes: int = 0
    per_mille: int = 0

    def of(self, total: int) -> int:
        """Give it in bytes, of a file system of `total` bytes."""
        return max(self.size_bytes, total * self.per_mille // 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What was seen: bytes that are free, and both marks in bytes."""

    free: int
    soft: int
    hard: int


class Watermark:
    """Both marks of a folder's file system. May be used from any thread."""

    def __init__(
        self,
        directory: Path,
        *,
        soft: Mark,
        hard: Mark,
        clock: Callable[[], float] = time.monotonic,
        look: Callable[[Path], os.statvfs_result] = os.statvfs,
    ) -> None:
        self._directory = directory
        self._soft, self._hard = soft, hard
        self._clock, self._look = clock, look
        self._seen: tuple[float, Room] | None = None
        self._low = False

    def room(self) -> Room:
        """Give what is free, at most `LOOK_S` old, and say once when it gets below the soft mark.

        Raises:
            OSError: as the kernel says.
        """
        now = self._clock()
        if self._seen is None or now - self._seen[0] >= LOOK_S:
            found = self._look(self._directory)
            total = found.f_blocks * found.f_frsize
            room = Room(
                free=found.f_bavail * found.f_frsize,
                soft=self._soft.of(total),
                hard=self._hard.of(total),
            )
            self._seen = now, room
            self._tell(room)
        return self._seen[1]

    def require(self) -> None:
        """Make sure that a new call may begin.

        Raises:
            CapacityError: `AUDIT_BACKLOG`, with a delay; also where it cannot be told.
        """
        try:
            room = self.room()
        except OSError as error:
            raise _full(
                f"what {self._directory} has left cannot be told: {error.strerror}"
            ) from error
        if room.free < room.hard:
            raise _full(
                f"{room.free >> 20} MiB are left for the record; new calls need {room.hard >> 20}"
            )

    def _tell(self, room: Room) -> None:
        low = room.free < room.soft
        if low != self._low:
            self._low = low
            log.log(
                logging.WARNING if low else logging.INFO,
                "%s: %d MiB are free, the soft mark is %d MiB%s",
                self._directory, room.free >> 20, room.soft >> 20,
                f"; below {room.hard >> 20} MiB no new call begins" if low else "",
            )  # fmt: skip


def _full(message: str) -> CapacityError:
    return CapacityError(
        "AUDIT_BACKLOG",
        message,
        hint="stockade export status says which sink is behind; make room, or set "
        "record.watermark in the configuration",
        retry_after_s=RETRY_AFTER_S,
    )
