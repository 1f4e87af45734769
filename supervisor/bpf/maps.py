"""Maps by descriptor, with typed keys and values."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from typing import Generic, TypeVar

from supervisor.bpf.libbpf import check, failed, library

BPF_MAP_TYPE_HASH = 1
BPF_MAP_TYPE_RINGBUF = 27
BPF_ANY, BPF_NOEXIST, BPF_EXIST = 0, 1, 2
BPF_F_RDONLY_PROG = 1 << 7
"""Programs may look rows up and change none."""

K = TypeVar("K", bound="ctypes._CData")
V = TypeVar("V", bound="ctypes._CData")


class BpfMap(Generic[K, V]):
    """A map; the descriptor is its own, and closed with it."""

    def __init__(self, fd: int, key: type[K], value: type[V], name: str) -> None:
        self.fd = fd
        self.name = name
        self._key = key
        self._value = value
        self._lib = library()

    def close(self) -> None:
        """Close the descriptor; a pinned map stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def get(self, key: K) -> V | None:
        """Give a copy of the value; None where there is none.

        Raises:
            OSError: as the kernel says.
        """
        value = self._value()
        code = self._lib.bpf_map_lookup_elem(self.fd, ctypes.byref(key), ctypes.byref(value))
        if code == -errno.ENOENT or (code == -1 and ctypes.get_errno() == errno.ENOENT):
            return None
        check(code, f"{self.name}: look up")
        return value

    def put(self, key: K, value: V, flags: int = BPF_ANY) -> None:
        """Write a row.

        Raises:
            OSError: as the kernel says: E2BIG where the map is full, EEXIST with BPF_NOEXIST.
        """
        code = self._lib.bpf_map_update_elem(self.fd, ctypes.byref(key), ctypes.byref(value), flags)
        check(code, f"{self.name}: write")

    def delete(self, key: K) -> bool:
        """Delete a row; say whether there was one.

        Raises:
            OSError: as the kernel says.
        """
        code = self._lib.bpf_map_delete_elem(self.fd, ctypes.byref(key))
        if code < 0 and failed("", code).errno == errno.ENOENT:
            return False
        check(code, f"{self.name}: delete")
        return True

    def all_keys(self) -> Iterator[K]:
        """Give the keys; rows that come or go meanwhile may be missed or given twice."""
        last: K | None = None
        while True:
            key = self._key()
            before = ctypes.byref(last) if last is not None else None
            code = self._lib.bpf_map_get_next_key(self.fd, before, ctypes.byref(key))
            if code < 0:
                if failed("", code).errno == errno.ENOENT:
                    return
                check(code, f"{self.name}: next key")
            yield key
            last = key


def make_ring(size_bytes: int, name: str = "ring") -> int:
    """Make a ring buffer; give its descriptor.

    Raises:
        OSError: as the kernel says.
    """
    fd: int = library().bpf_map_create(BPF_MAP_TYPE_RINGBUF, name.encode(), 0, 0, size_bytes, None)
    return check(fd, "make a ring")


class _CreateOptions(ctypes.Structure):
    """struct bpf_map_create_opts of bpf/bpf.h, which says how long it is."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("btf", ctypes.c_uint32 * 4),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    ]


def make_hash(name: str, key_bytes: int, value_bytes: int, rows_max: int, flags: int) -> int:
    """Make a hash; give its descriptor.

    Raises:
        OSError: as the kernel says.
    """
    options = _CreateOptions(sz=ctypes.sizeof(_CreateOptions), map_flags=flags)
    fd: int = library().bpf_map_create(
        BPF_MAP_TYPE_HASH, name.encode(), key_bytes, value_bytes, rows_max, ctypes.byref(options)
    )
    return check(fd, f"make the map {name}")


class _Info(ctypes.Structure):
    """The beginning of struct bpf_map_info (linux/bpf.h)."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    ]


def shape_of(fd: int) -> tuple[int, int, int, int, int]:
    """Give a map's type, the bytes of key and value, how many rows it takes, and its flags.

    Raises:
        OSError: as the kernel says.
    """
    info, size = _Info(), ctypes.c_uint32(ctypes.sizeof(_Info))
    code = library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    check(code, "ask about a map")
    return info.type, info.key_size, info.value_size, info.max_entries, info.map_flags


def map_by_id(number: int) -> int:
    """Give a descriptor for the map with this id, as a lookup in a map of maps gives it.

    Raises:
        OSError: as the kernel says.
    """
    return check(library().bpf_map_get_fd_by_id(number), "open a map by id")
