"""System calls that Python 3.11 does not wrap, each a function of three lines named after it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REC = 0x4000
MS_SLAVE = 0x80000
MNT_DETACH = 0x2
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_DUMPABLE = 4

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, name: str, subject: str = "") -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}", subject or None)


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own (unshare(2))."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, flags: int) -> None:
    """Move the calling thread into the namespace that `fd` is of (setns(2))."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)), "setns")


def mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
    """Attach a file system (mount(2))."""
    result = _libc.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _check(result, "mount", str(target))


def umount2(target: Path, flags: int) -> None:
    """Detach a file system (umount2(2))."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), "umount2", str(target))


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process (prctl(2))."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero), "prctl")
