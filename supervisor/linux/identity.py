"""Act on files as another user for a moment, in one thread."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

_libc = ctypes.CDLL(None, use_errno=True)
_QUERY = ctypes.c_uint(0xFFFFFFFF)
"""An id that cannot be set: the calls then only tell the present one (setfsuid(2))."""


@contextlib.contextmanager
def filesystem_identity(uid: int, gid: int) -> Iterator[None]:
    """Let the calling thread, and no other, reach files as `uid` and `gid`.

    Its capabilities over files are gone meanwhile. The block must not leave its thread.

    Raises:
        PermissionError: the identity could not be taken.
    """
    gid_before = int(_libc.setfsgid(ctypes.c_uint(gid)))
    uid_before = int(_libc.setfsuid(ctypes.c_uint(uid)))
    try:
        if _libc.setfsuid(_QUERY) != uid or _libc.setfsgid(_QUERY) != gid:
            raise PermissionError(f"cannot act on files as {uid}:{gid}")
        yield
    finally:
        _libc.setfsuid(ctypes.c_uint(uid_before))
        _libc.setfsgid(ctypes.c_uint(gid_before))
