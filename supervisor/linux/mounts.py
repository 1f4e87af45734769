"""The daemon's own mount namespace, the read-only overlays in it, and one mount outside of it.

What the daemon mounts in its own namespace is gone when it and its sandboxes are, however they
ended. In the host's namespace it mounts one thing, a bpf file system for its pins: that is to be
there after a crash, so that the fence stands until the next daemon takes it over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from supervisor.linux.host import find_program, run_program
from supervisor.linux.syscalls import (
    CLONE_NEWNS,
    MNT_DETACH,
    MS_NODEV,
    MS_NOEXEC,
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


class BpfFolder:
    """A bpf file system on a folder of ours, in the mount namespace where it was opened."""

    def __init__(self, path: Path) -> None:
        """Mount it, or find it mounted. Before `enter_private_mounts`, so that it outlives us.

        Raises:
            OSError: it cannot be mounted.
        """
        self.path = path
        self._closed = False
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        # What is found below a descriptor is what is mounted there in the namespace it is of.
        self._above = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if not path.is_mount():
            mount("bpf", path, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700")
        self._device = path.stat().st_dev

    def mounted(self) -> bool:
        """Say whether it is still mounted in the namespace where it was opened: where the host's
        mounts are private, a daemon that has left that namespace sees no change by itself."""
        try:
            found = os.stat(self.path.name, dir_fd=self._above, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return found.st_dev == self._device

    def pins(self) -> Iterator[Path]:
        """Give what was pinned, without the kernel's own files, whose names have a dot."""
        return (entry for entry in self.path.iterdir() if "." not in entry.name)

    def close_if_empty(self) -> None:
        """Unmount it where nothing is pinned in it, as after a start that failed.

        Raises:
            OSError: it cannot be unmounted.
        """
        if not self._closed and not any(self.pins()):
            self.close()
            with contextlib.suppress(OSError):  # What else is in it is not ours to judge.
                self.path.parent.rmdir()

    def close(self) -> None:
        """Unmount it, with all pins that are left, in the namespace where it was mounted. Once:
        also where this raises.

        Raises:
            OSError: it cannot be unmounted.
            HostError: the same, in another namespace.
        """
        self._closed = True
        try:
            here = Path("/proc/self/ns/mnt").stat()
            there = os.fstat(self._namespace)
            if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                unmount(self.path)
            else:
                self._unmount_there()
                # Where the host's mounts are private, nothing is handed on.
                if self.path.is_mount():
                    unmount(self.path)
        finally:
            os.close(self._namespace)
            os.close(self._above)
        self.path.rmdir()

    def _unmount_there(self) -> None:
        if not self.mounted():
            return  # somebody has done it by hand: see `mounted`
        # A process with threads cannot go back.
        command = [find_program("nsenter"), f"--mount=/proc/self/fd/{self._namespace}"]
        command += [find_program("umount"), "--lazy", os.fspath(self.path)]
        run_program(command, pass_fds=(self._namespace,))
