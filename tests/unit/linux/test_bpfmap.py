"""Rows by descriptor, for who has no privileges; no libbpf but to make the map."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.bpf.maps import BpfMap, make_hash
from supervisor.bpf.pins import pin_map
from supervisor.linux.bpfmap import BPF_F_RDONLY, lookup, open_to_read
from supervisor.linux.mounts import BpfFolder

pytestmark = pytest.mark.root
NOBODY = 65534
OFF = Path("/proc/sys/kernel/unprivileged_bpf_disabled")
Rows = BpfMap[ctypes.c_uint64, ctypes.c_uint64]


@pytest.fixture
def pinned() -> Iterator[tuple[Rows, Path]]:
    """A hash of one row, 7 → 8, and its pin."""
    with tempfile.TemporaryDirectory(prefix="stockade-unit-") as folder:
        bpf = BpfFolder(Path(folder) / "bpf")
        rows: Rows = BpfMap(
            make_hash("rows", 8, 8, 4, 0), ctypes.c_uint64, ctypes.c_uint64, "rows"
        )  # fmt: skip
        try:
            pin_map(rows.fd, bpf.path / "rows")
            rows.put(ctypes.c_uint64(7), ctypes.c_uint64(8))
            yield rows, bpf.path / "rows"
        finally:
            rows.close()
            bpf.close()


def unprivileged(work: Callable[[], None]) -> int:
    """Do something as nobody, without any capability; give the errno of what was refused."""
    child = os.fork()
    if not child:
        code = 255
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            work()
            code = 0
        except OSError as error:
            code = error.errno or 254
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_rows_are_read(pinned: tuple[Rows, Path]) -> None:
    fd = open_to_read(pinned[1])
    assert lookup(fd, struct.pack("=Q", 7), 8) == struct.pack("=Q", 8)
    assert lookup(fd, struct.pack("=Q", 9), 8) is None
    os.close(fd)


def test_who_has_no_privileges_can_read_and_not_write(pinned: tuple[Rows, Path]) -> None:
    fd = open_to_read(pinned[1])
    through: Rows = BpfMap(fd, ctypes.c_uint64, ctypes.c_uint64, "through")

    def read() -> None:
        assert lookup(fd, struct.pack("=Q", 7), 8) == struct.pack("=Q", 8)

    assert OFF.read_text().strip() in ("0", "1", "2")
    assert unprivileged(read) == 0
    for write in (
        lambda: through.put(ctypes.c_uint64(7), ctypes.c_uint64(1)),
        lambda: through.put(ctypes.c_uint64(1), ctypes.c_uint64(1)),
        lambda: through.delete(ctypes.c_uint64(7)),
    ):
        assert unprivileged(write) == errno.EPERM
        with pytest.raises(PermissionError):
            write()
    assert unprivileged(read) == 0
    os.close(fd)


def test_a_descriptor_that_writes_would_be_found(pinned: tuple[Rows, Path]) -> None:
    """The control: it is the flag that forbids it, and not who one is."""
    rows, _ = pinned
    assert unprivileged(lambda: rows.put(ctypes.c_uint64(7), ctypes.c_uint64(9))) == 0
    row = rows.get(ctypes.c_uint64(7))
    assert row is not None
    assert row.value == 9
    assert BPF_F_RDONLY == 1 << 3


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_to_read(tmp_path / "none")
    with pytest.raises(OSError) as caught:
        lookup(1 << 20, b"\0" * 8, 8)
    assert caught.value.errno == errno.EBADF
