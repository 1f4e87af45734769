"""What the process is short of, which says nothing about the disk: descriptors, memory, a folder
that somebody deleted.

Whoever hits such an error opening a file fails alone. It is never a reason to give up the record,
so it never goes through `Journal.fail`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from supervisor.errors import AuditUnavailable, CapacityError, StockadeError

NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})
SHORTAGES = NO_DESCRIPTORS | {errno.ENOMEM}
RETRY_AFTER_S = 1.0


def shortage(what: str, error: OSError) -> StockadeError | None:
    """Give the error for a file that could not be opened or made; None where the disk failed.

    A CapacityError `FDS_EXHAUSTED` or `MEMORY_EXHAUSTED`, or an AuditUnavailable
    `RECORD_UNAVAILABLE` where the file or its folder is gone.
    """
    if error.errno in NO_DESCRIPTORS:
        return CapacityError(
            "FDS_EXHAUSTED",
            f"there is no descriptor left for {what}: {error.strerror}",
            hint="raise LimitNOFILE of the daemon, or lower its limits on calls and callers",
            metadata={"errno": errno.errorcode[error.errno or 0]},
            retry_after_s=RETRY_AFTER_S,
        )
    if error.errno == errno.ENOMEM:
        return CapacityError(
            "MEMORY_EXHAUSTED",
            f"the kernel has no memory for {what}: {error.strerror}",
            hint="give the daemon more memory, or lower its limits on calls and callers",
            retry_after_s=RETRY_AFTER_S,
        )
    if error.errno in GONE:
        return unavailable(what, error)
    return None


def unavailable(what: str, error: Exception) -> AuditUnavailable:
    """Make the error for what cannot be recorded while everything else still can."""
    detail = error.strerror if isinstance(error, OSError) else error
    return AuditUnavailable(
        "RECORD_UNAVAILABLE",
        f"{what} cannot be put on record: {detail}",
        hint="is something deleting files of the state directory, or is the daemon out of"
        " descriptors or memory?",
        retry_after_s=RETRY_AFTER_S,
    )


def open_to_read(path: Path) -> int:
    """Open a file of the record.

    Raises:
        FileNotFoundError: it is not there.
        CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        short = shortage("reading the record", error) if error.errno in SHORTAGES else None
        if short is None:
            raise
        raise short from error


class Spare:
    """A descriptor that is held for nothing, to have one where the process has none left.

    Another thread may be faster once it was given away, so whoever uses this must be able to
    fail. Not thread-safe.
    """

    def __init__(self) -> None:
        self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def held(self) -> bool:
        """Say whether there is one to give."""
        return self._fd >= 0

    def give(self) -> None:
        """Close it, so that the next open has room."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def take_back(self) -> None:
        """Hold one again, where there is one by now."""
        if self._fd < 0:
            with contextlib.suppress(OSError):  # the next roll of the log tries again
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
