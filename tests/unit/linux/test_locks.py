"""Record locks are counted by the process that holds them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from supervisor.linux import locks


def test_locks_of_this_process(tmp_path: Path) -> None:
    before = locks.holders()[0].get(os.getpid(), 0)
    with (tmp_path / "file").open("w") as file:
        for place in range(0, 20, 2):
            fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
        assert locks.holders()[0][os.getpid()] == before + 10
    assert locks.holders()[0].get(os.getpid(), 0) == before


TEXT = b"""1: POSIX  ADVISORY  WRITE 77 fe:00:123 0 0
2: FLOCK  ADVISORY  WRITE 77 fe:00:124 0 EOF
3: OFDLCK ADVISORY  READ  -1 fe:00:125 0 1
4: POSIX  ADVISORY  READ  78 fe:00:126 0 0
4: -> POSIX  ADVISORY  WRITE 79 fe:00:126 0 0
"""


def test_only_record_locks_that_are_held(tmp_path: Path) -> None:
    (tmp_path / "locks").write_bytes(TEXT)
    assert locks.holders(tmp_path / "locks") == ({77: 1, 78: 1}, True)


def test_a_huge_list_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "READ_BYTES_MAX", 1)
    (tmp_path / "locks").write_bytes(TEXT * 10_000)
    counts, whole = locks.holders(tmp_path / "locks")
    assert 0 < counts[77] < 10_000
    assert not whole


def test_who_holds_the_lock_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert locks.flock_holder(path) == 0
    with path.open("w") as file:
        assert locks.flock_holder(path) == 0
        fcntl.flock(file, fcntl.LOCK_EX)
        assert locks.flock_holder(path) == os.getpid()
        # It was only looked at.
        with path.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert locks.flock_holder(path) == 0


def test_a_lock_of_another_file_with_the_same_number(tmp_path: Path) -> None:
    path, listed = tmp_path / "lock", tmp_path / "locks"
    path.touch()
    inode = path.stat().st_ino
    listed.write_text(f"1: FLOCK  ADVISORY  WRITE {os.getpid()} 00:01:{inode} 0 EOF\n")
    assert locks.flock_holder(path, listed) == 0
    with path.open():
        assert locks.flock_holder(path, listed) == os.getpid()
