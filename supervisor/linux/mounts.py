"""The daemon's own mount namespace, and the read-only overlays in it.

The daemon mounts nothing in the host's namespace: what it mounts is gone when it and its
sandboxes are, however they ended, so there is nothing to clean up after a crash.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from supervisor.linux.syscalls import (
    CLONE_NEWNS,
    MNT_DETACH,
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_SLAVE,
    mount,
    umount2,
    unshare,
)


def enter_private_mounts() -> None:
    """Move this process into a mount namespace of its own that follows the host's mounts.

    Must run before the first thread is started: unshare(CLONE_NEWNS) moves one thread only.
    """
    unshare(CLONE_NEWNS)
    mount("none", Path("/"), "none", MS_REC | MS_SLAVE)


def mount_overlay(lower: Sequence[Path], target: Path) -> None:
    """Mount `lower` on `target`, read-only, the first folder uppermost.

    Raises:
        OSError: a path holds a character that overlayfs uses as a separator, or the mount failed.
    """
    paths = [os.fspath(path) for path in lower]
    if any(character in path for path in paths for character in ":,\\"):
        raise OSError(22, f"a path of an overlay holds ':', ',' or '\\': {paths}")
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV
    mount("overlay", target, "overlay", flags, f"lowerdir={':'.join(paths)}")


def unmount(target: Path) -> None:
    """Detach what is mounted on `target`, also while it is in use."""
    umount2(target, MNT_DETACH)
