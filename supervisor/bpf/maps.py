"""Maps by descriptor, with typed keys and values."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from typing import Generic, TypeVar

from supervisor.bpf.libbpf import check, failed, library

BPF_MAP_TYPE_RINGBUF = 27
BPF_ANY, BPF_NOEXIST, BPF_EXIST = 0, 1, 2

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


def map_by_id(number: int) -> int:
    """Give a descriptor for the map with this id, as a lookup in a map of maps gives it.

    Raises:
        OSError: as the kernel says.
    """
    return check(library().bpf_map_get_fd_by_id(number), "open a map by id")
