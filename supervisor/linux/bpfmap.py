"""Look up a row of a map by its descriptor, without libbpf and without privileges.

For who is handed a descriptor that was opened for reading: since Linux 5.19 the kernel asks no
capability of whoever looks a row up, also where unprivileged bpf(2) is disabled (kernel commit
c8644cd0efe7). Writing through such a descriptor is refused with EPERM.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from supervisor.profile.syscall_numbers import NUMBERS

BPF_MAP_LOOKUP_ELEM = 1
BPF_OBJ_GET = 7
BPF_F_RDONLY = 1 << 3

_libc = ctypes.CDLL(None, use_errno=True)


class _Element(ctypes.Structure):
    """The part of union bpf_attr (linux/bpf.h) for rows; pointers are 64 bits wide."""

    _fields_ = [
        ("map_fd", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    ]


class _Pin(ctypes.Structure):
    """The part of union bpf_attr for pins."""

    _fields_ = [
        ("pathname", ctypes.c_uint64),
        ("bpf_fd", ctypes.c_uint32),
        ("file_flags", ctypes.c_uint32),
    ]


def bpf(command: int, attributes: ctypes.Structure) -> int:
    """Ask the kernel (bpf(2)); give its result, or a negative errno."""
    result: int = _libc.syscall(
        ctypes.c_long(NUMBERS["bpf"]), ctypes.c_int(command), ctypes.byref(attributes),
        ctypes.c_uint(ctypes.sizeof(attributes)),
    )  # fmt: skip
    return result if result >= 0 else -ctypes.get_errno()


def lookup(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """Give the value of a row, None where there is none. `key` and `value_bytes` must be as long as
    the map's: the kernel reads and writes as many as it has.

    Raises:
        OSError: as the kernel says.
    """
    held = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(value_bytes)
    element = _Element(map_fd=fd, key=ctypes.addressof(held), value=ctypes.addressof(value))
    code = bpf(BPF_MAP_LOOKUP_ELEM, element)
    if code == -errno.ENOENT:
        return None
    if code < 0:
        raise OSError(-code, f"bpf: look up a row: {os.strerror(-code)}")
    return value.raw


def open_to_read(pin: Path) -> int:
    """Give a descriptor of a pinned map through which nothing can be written.

    Raises:
        OSError: as the kernel says.
    """
    path = ctypes.create_string_buffer(os.fsencode(pin))
    code = bpf(BPF_OBJ_GET, _Pin(pathname=ctypes.addressof(path), file_flags=BPF_F_RDONLY))
    if code < 0:
        raise OSError(-code, f"bpf: open: {os.strerror(-code)}", str(pin))
    return code
