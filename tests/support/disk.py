"""A small disk that can be filled: an ext4 file system on a loop device."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

STEPS = (1 << 20, 4096, 1)


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Have an ext4 mounted below `folder`; whatever happens, it is gone in the end."""
    image, mount = folder / "disk.img", folder / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        yield mount
    finally:
        # Lazy, so that the loop device goes with the last process that holds a file open.
        busy = subprocess.run(["umount", mount], check=False).returncode
        if busy:
            subprocess.run(["umount", "--lazy", mount], check=True)
    assert not busy, "something on the disk was still open"


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Leave not one free block for the time of a `with` block."""
    path = disk / "filler"
    try:
        fill(path)
        yield
    finally:
        path.unlink()


def fill(path: Path) -> None:
    """Write into a file until nothing more fits."""
    with path.open("ab", buffering=0) as file:
        for size in STEPS:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        os.fsync(file.fileno())
