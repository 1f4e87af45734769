"""Pins: links and maps as files of a bpf file system, where they outlive the daemon."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from supervisor.bpf.libbpf import check, failed, library

INFO_BYTES = 256
"""More than struct bpf_link_info has in any kernel so far: it grows at its end only."""

CGROUP_AT = 16
"""Where `cgroup_id` of a cgroup's link lies in struct bpf_link_info."""


class Link:
    """A pinned link: attached for as long as the pin or the descriptor is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd: int = check(library().bpf_obj_get(os.fsencode(path)), f"open {path}")

    @property
    def name(self) -> str:
        """Give the program's name."""
        return self.path.name

    def cgroup(self) -> int:
        """Give the id of the cgroup that it is attached to; 0 where it is detached.

        Raises:
            OSError: as the kernel says.
        """
        buffer = ctypes.create_string_buffer(INFO_BYTES)
        size = ctypes.c_uint32(INFO_BYTES)
        code = library().bpf_obj_get_info_by_fd(self.fd, buffer, ctypes.byref(size))
        check(code, f"ask about {self.name}")
        return ctypes.c_uint64.from_buffer(buffer, CGROUP_AT).value

    def pinned(self) -> bool:
        """Say whether its pin is where it was."""
        return self.path.exists()

    def close(self) -> None:
        """Let go of the descriptor; a pinned link stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def object_ids(fd: int) -> tuple[int, int]:
    """Give the id of a map or link, and for a link that of its program.

    Raises:
        OSError: as the kernel says.
    """
    buffer = ctypes.create_string_buffer(INFO_BYTES)
    size = ctypes.c_uint32(INFO_BYTES)
    check(library().bpf_obj_get_info_by_fd(fd, buffer, ctypes.byref(size)), "ask for an id")
    # struct bpf_link_info: type, id, prog_id; struct bpf_map_info: type, id, size of a key.
    _, number, program = (ctypes.c_uint32 * 3).from_buffer(buffer)
    return number, program


def pin_map(fd: int, path: Path) -> None:
    """Pin a map.

    Raises:
        OSError: `path` is not on a bpf file system, or is there already.
    """
    check(library().bpf_obj_pin(fd, os.fsencode(path)), f"pin {path}")


def open_map(path: Path) -> int:
    """Give a descriptor for a pinned map.

    Raises:
        OSError: there is none.
    """
    fd: int = library().bpf_obj_get(os.fsencode(path))
    if fd < 0:
        raise failed(f"open {path}", fd)
    return fd


def remove_tree(folder: Path) -> None:
    """Remove a folder of pins with all that is in it; who holds none of it has lost it."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir():
            remove_tree(entry)
        else:
            entry.unlink()
    folder.rmdir()
