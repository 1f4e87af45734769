"""The folder of what is not finished: uploads, and the recordings of live calls.

Someone who tidies up may delete it under the daemon. It is made again with the next file, and
only what lay in it is affected. Its descriptor is held, so that a recording can be sealed when the
process has no descriptor left.
"""

from __future__ import annotations

import os
from pathlib import Path

from supervisor.audit.space import sync_directory

PART_NAME = "part"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class PartFolder:
    """`part/` in `parent`. Methods may be called from any thread."""

    def __init__(self, parent: Path) -> None:
        self.path = parent / PART_NAME
        self._parent = parent
        self._fd = -1

    def hold(self) -> None:
        """Make the folder where it is missing, and keep it open.

        Raises:
            OSError: as the kernel says.
        """
        self.path.mkdir(mode=0o700, exist_ok=True)
        self._hold()

    def create(self, name: str) -> int:
        """Make a file, and the folder where it is gone; give the descriptor.

        Raises:
            OSError: as the kernel says.
        """
        try:
            return os.open(self.path / name, _NEW_FILE, 0o600)
        except FileNotFoundError:
            self._make_again()
            return os.open(self.path / name, _NEW_FILE, 0o600)

    def sync(self) -> None:
        """Make the names in the folder durable.

        Raises:
            OSError: as the kernel says.
        """
        if self._fd < 0:
            sync_directory(self.path)
            return
        if not os.path.samestat(os.fstat(self._fd), self.path.stat()):
            self._hold()
        os.fsync(self._fd)

    def close(self) -> None:
        """Let go of the folder."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _make_again(self) -> None:
        parent = os.open(self._parent, _FOLDER)
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            os.fsync(parent)
        finally:
            os.close(parent)
        self._hold()

    def _hold(self) -> None:
        fd = os.open(self.path, _FOLDER)
        if self._fd < 0:
            self._fd = fd
            return
        os.dup2(fd, self._fd, inheritable=False)  # others may be syncing it right now
        os.close(fd)
