"""The /dev of all sandboxes: six devices of our own, and links.

Not the host's nodes, as the runtime would bind them: whoever may write to such a device may also
set its times, which everybody else can see. These are shown read-only, which a device can be
written through all the same.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from supervisor.linux.mounts import unmount
from supervisor.linux.syscalls import MS_NOEXEC, MS_NOSUID, mount

NODES = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9),
    "tty": (5, 0),
}  # fmt: skip
"""Name → major and minor (Documentation/admin-guide/devices.txt)."""

LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
FOLDERS = ("pts", "shm")
"""What is mounted on."""


def make_devices(folder: Path) -> None:
    """Mount a tmpfs on `folder`, which is made where it is missing, with devices in it.

    Raises:
        OSError: as the kernel says.
    """
    folder.mkdir(exist_ok=True, mode=0o755)
    remove_mount(folder)
    mount("dev", folder, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k,nr_inodes=64")
    for name, (major, minor) in NODES.items():
        path = folder / name
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
        path.chmod(0o666)  # whatever the umask says
    for name, target in LINKS.items():
        (folder / name).symlink_to(target)
    for name in FOLDERS:
        (folder / name).mkdir(mode=0o755)


def remove_mount(folder: Path) -> None:
    """Take away what is mounted on `folder`, if anything is."""
    if folder.is_mount():
        unmount(folder)
