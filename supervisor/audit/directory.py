"""A state directory: the names in it, and its lock, which one daemon at a time holds."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from supervisor.errors import AuditUnavailable

LOG_NAME = "log"
TREE_NAME = "tlog"
BLOBS_NAME = "blobs"
INDEX_NAME = "index.db"
KEYS_NAME = "keys"
LOCK_NAME = "lock"
LOCK_TRIES, LOCK_WAIT_S = 10, 0.02
"""Whoever asks whether there is a daemon holds the lock for an instant."""

OF_ITS_OWN = "stop it, or give this one a --state of its own"
"""What a daemon is told to do that finds another one there."""

AGAIN = "stop it, and do this again"
"""What is told to who is none."""


def lock_state(directory: Path, *, hint: str = OF_ITS_OWN) -> int:
    """Take the lock of a state directory; closing the descriptor gives it back. `hint` says what
    to do where another has it.

    Raises:
        AuditUnavailable: `STATE_LOCKED`.
    """
    fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for attempt in range(LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt < LOCK_TRIES - 1:
                time.sleep(LOCK_WAIT_S)
        else:
            return fd
    os.close(fd)
    raise AuditUnavailable(
        "STATE_LOCKED",
        f"a daemon has the state directory {directory}, or another key is just being given to it",
        hint=hint,
    )


def is_locked(directory: Path) -> bool:
    """Say whether a daemon has a state directory open."""
    try:
        fd = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
