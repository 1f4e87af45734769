"""The maps that BCC's tools take: their shape, whose rows are in them, and what is left of them."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.bpf import guests
from supervisor.bpf.guests import ONE_CALL, LiveCalls, is_guests, one_call, remove_ended
from supervisor.bpf.maps import BPF_MAP_TYPE_HASH, BpfMap, make_hash, shape_of
from supervisor.bpf.pins import open_map, pin_map
from supervisor.linux.mounts import BpfFolder
from tests.style.tree import ROOT

pytestmark = pytest.mark.root

KILLED = """
import os, sys
from pathlib import Path
from supervisor.bpf.guests import one_call
with one_call(Path(sys.argv[1]), 7) as path:
    print(path, flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def pins() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stockade-unit-") as folder:
        bpf = BpfFolder(Path(folder) / "bpf")
        yield bpf.path
        bpf.close()


def ids_in(path: Path) -> set[int]:
    """Read a pinned map, as a tool would: by its path alone."""
    one = BpfMap(open_map(path), ctypes.c_uint64, ctypes.c_uint64, "guest")
    try:
        return {key.value for key in one.all_keys()}
    finally:
        one.close()


def test_it_has_the_shape_that_bcc_expects(pins: Path) -> None:
    live = LiveCalls(pins)
    fd = open_map(live.path)
    kind, key, value, rows, _ = shape_of(fd)
    os.close(fd)
    assert (kind, key, value) == (BPF_MAP_TYPE_HASH, 8, 8)
    assert rows >= 1024
    live.close()
    assert not live.path.exists()


def test_rows_come_and_go(pins: Path) -> None:
    live = LiveCalls(pins)
    live.add(7)
    live.add(8)
    assert ids_in(live.path) == {7, 8} == live.ids()
    live.remove(7)
    live.remove(7)
    assert ids_in(live.path) == {8}
    live.clear()
    assert ids_in(live.path) == set()
    live.close()


def test_the_next_daemon_has_the_same_map(pins: Path) -> None:
    """A tool that had it open before sees the new calls."""
    former = LiveCalls(pins)
    former.add(7)
    tool = BpfMap(open_map(former.path), ctypes.c_uint64, ctypes.c_uint64, "tool")
    live = LiveCalls(pins)
    live.clear()
    live.add(8)
    assert {key.value for key in tool.all_keys()} == {8}
    tool.close()
    live.close()


def test_a_map_of_another_shape_is_replaced(pins: Path) -> None:
    fd = make_hash("odd", 4, 4, 1, 0)
    pin_map(fd, pins / guests.LIVE)
    os.close(fd)
    live = LiveCalls(pins)
    live.add(1 << 40)
    assert ids_in(live.path) == {1 << 40}
    live.close()


def test_a_full_map_is_said(
    pins: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guests, "CALLS_MAX", 1)
    monkeypatch.setattr(guests, "SHAPE", (*guests.SHAPE[:3], 1, guests.SHAPE[4]))
    live = LiveCalls(pins)
    live.add(7)
    live.add(8)
    assert live.ids() == {7}
    assert "do not see the call in cgroup 8" in caplog.text
    live.close()


def test_one_call_has_a_map_of_its_own_for_a_while(pins: Path) -> None:
    with one_call(pins, 7) as path, one_call(pins, 8) as other:
        assert (ids_in(path), ids_in(other)) == ({7}, {8})
        remove_ended(pins)
        assert path.exists()
        assert is_guests(path.parent.name)
    assert list(pins.glob(f"{ONE_CALL}*")) == []


def test_it_goes_with_an_error(pins: Path) -> None:
    with pytest.raises(ZeroDivisionError), one_call(pins, 7):
        raise ZeroDivisionError
    assert list(pins.glob(f"{ONE_CALL}*")) == []


def test_what_a_killed_user_left_is_removed(pins: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, pins], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    left = Path(done.stdout.decode().strip())
    assert ids_in(left) == {7}
    remove_ended(pins)
    assert not left.parent.exists()


def test_a_place_that_is_no_bpf_file_system(tmp_path: Path) -> None:
    with pytest.raises(OSError), one_call(tmp_path, 7):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_goes_while_it_is_used(pins: Path) -> None:
    with one_call(pins, 7) as path:
        path.unlink()
        path.parent.rmdir()


def test_programs_cannot_write_it(pins: Path) -> None:
    live = LiveCalls(pins)
    fd = open_map(live.path)
    assert shape_of(fd)[4] == guests.BPF_F_RDONLY_PROG
    os.close(fd)
    live.close()


def test_locks_work_on_a_bpf_file_system(pins: Path) -> None:
    """What `remove_ended` rests on."""
    fd, other = os.open(pins, os.O_RDONLY), os.open(pins, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    os.close(other)
