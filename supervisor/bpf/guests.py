"""Maps for guests: which cgroups are live calls, in the shape that BCC's tools take.

Their `--cgroupmap PATH` opens a pinned hash with the cgroup's id as key (`BPF_TABLE_PINNED("hash",
u64, u64, …)` in bcc/containers.py), and looks for the id of the very cgroup that a process is in.
So a process in a cgroup below the call's would not be seen; a sandbox can make none.

`live` holds all live calls and stays under its name as long as a daemon of this state folder is or
was there. `one_call` gives a map for a single call, in a folder that is locked while it is used.
Guests' programs can only read these maps, and no wall looks at them: the fence has its own.
Full: BCC's tools do not see that call, and the daemon's log says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from supervisor.bpf.layout import CALLS_MAX
from supervisor.bpf.maps import (
    BPF_F_RDONLY_PROG,
    BPF_MAP_TYPE_HASH,
    BpfMap,
    make_hash,
    shape_of,
)
from supervisor.bpf.pins import open_map, pin_map, remove_tree

log = logging.getLogger("stockade.fence")

LIVE = "live"
ONE_CALL = "call-"
MAP = "map"
ID_BYTES = VALUE_BYTES = 8
SHAPE = (BPF_MAP_TYPE_HASH, ID_BYTES, VALUE_BYTES, CALLS_MAX, BPF_F_RDONLY_PROG)

_Ids = BpfMap[ctypes.c_uint64, ctypes.c_uint64]


class LiveCalls:
    """The map `live`, for the daemon."""

    def __init__(self, pins: Path) -> None:
        """Find the map of a former daemon, which tools may have open, or make it.

        Raises:
            OSError: it can be neither opened nor made.
        """
        self.path = pins / LIVE
        self._map = _ids(_found(self.path) or _made(self.path, CALLS_MAX))

    def add(self, cgroup_id: int) -> None:
        """Let guests see a call."""
        try:
            self._map.put(ctypes.c_uint64(cgroup_id), ctypes.c_uint64(1))
        except OSError as error:
            log.warning("BCC's tools do not see the call in cgroup %d: %s", cgroup_id, error)

    def remove(self, cgroup_id: int) -> None:
        """Let guests see it no more.

        Raises:
            OSError: as the kernel says.
        """
        self._map.delete(ctypes.c_uint64(cgroup_id))

    def clear(self) -> None:
        """Forget the calls of a former daemon.

        Raises:
            OSError: as the kernel says.
        """
        for key in list(self._map.all_keys()):
            self._map.delete(key)

    def ids(self) -> frozenset[int]:
        """Give the ids of the cgroups that are in it."""
        return frozenset(key.value for key in self._map.all_keys())

    def close(self) -> None:
        """Take it away: no daemon will look for it."""
        self._map.close()
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def one_call(pins: Path, cgroup_id: int) -> Iterator[Path]:
    """Pin a map that holds one cgroup's id, and give its path; it is removed at the end.

    Raises:
        OSError: `pins` is no bpf file system, or the map cannot be made.
    """
    folder, lock = _locked_folder(pins)
    try:
        ids = _ids(_made(folder / MAP, 1))
        try:
            ids.put(ctypes.c_uint64(cgroup_id), ctypes.c_uint64(1))
        finally:
            ids.close()
        yield folder / MAP
    finally:
        with contextlib.suppress(FileNotFoundError):  # The daemon has taken all of it away.
            remove_tree(folder)
        os.close(lock)


def _locked_folder(pins: Path) -> tuple[Path, int]:
    while True:
        folder = pins / f"{ONE_CALL}{os.getpid()}-{os.urandom(4).hex()}"
        folder.mkdir(mode=0o700)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)  # somebody took it for a leftover before it was locked


def remove_ended(pins: Path) -> None:
    """Remove the maps of single calls whose users were killed.

    Raises:
        OSError: one cannot be removed.
    """
    for folder in list(pins.iterdir()):
        if not folder.name.startswith(ONE_CALL):
            continue
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its user has removed it meanwhile
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(folder)
        except BlockingIOError:
            continue  # it is in use
        finally:
            os.close(lock)


def is_guests(name: str) -> bool:
    """Say whether an entry beside the fence's pins is one of these."""
    return name == LIVE or name.startswith(ONE_CALL)


def _ids(fd: int) -> _Ids:
    return BpfMap(fd, ctypes.c_uint64, ctypes.c_uint64, LIVE)


def _made(path: Path, rows_max: int) -> int:
    fd = make_hash(LIVE, ID_BYTES, VALUE_BYTES, rows_max, BPF_F_RDONLY_PROG)
    try:
        pin_map(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _found(path: Path) -> int | None:
    """Open the map that is there; one that is not of our making goes."""
    try:
        fd = open_map(path)
    except FileNotFoundError:
        return None
    if shape_of(fd) == SHAPE:
        return fd
    os.close(fd)
    path.unlink()
    return None
