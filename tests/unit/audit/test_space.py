"""Blocks that are allocated before they are needed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from supervisor.audit import space
from supervisor.audit.space import (
    Allocator,
    fallocate_keep_size,
    free_bytes,
    make_folder,
    write_whole,
)


def blocks(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def test_allocation_leaves_the_size(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        fallocate_keep_size(file.fileno(), 0, 1 << 20)
        assert os.fstat(file.fileno()).st_size == 0
        assert blocks(file.fileno()) >= 1 << 20


def test_the_step_is_given_up_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def small(fd: int, offset: int, length: int) -> None:
        asked.append((offset, length))
        if length > 100:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(space, "fallocate_keep_size", small)
    assert Allocator(tmp_path).extend(0, 50, 150, step=1000) == 150
    assert asked == [(50, 1100), (50, 100)]
    with pytest.raises(OSError) as caught:
        Allocator(tmp_path).extend(0, 50, 151, step=1000)
    assert caught.value.errno == errno.ENOSPC


def test_without_fallocate_free_space_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(space, "fallocate_keep_size", unsupported)
    monkeypatch.setattr(space, "free_bytes", lambda directory: 100)
    allocator = Allocator(tmp_path)
    assert allocator.extend(0, 0, 100, step=5) == 100
    assert not allocator.promised
    with pytest.raises(OSError) as caught:
        allocator.extend(0, 0, 101, step=5)
    assert caught.value.errno == errno.ENOSPC


def test_other_errors_come_through(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        Allocator(tmp_path).extend(-1, 0, 10, step=0)
    assert caught.value.errno == errno.EBADF


def test_free_space_is_told(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0


def test_a_folder_is_made_with_those_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(space, "sync_directory", synced.append)
    make_folder(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o700
    make_folder(tmp_path / "a" / "b" / "c")
    assert len(synced) == 3


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    write_whole(path, b"first", 0o640)
    assert path.stat().st_mode & 0o777 == 0o640

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no room"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert [one.name for one in tmp_path.iterdir()] == ["key"]
    monkeypatch.undo()
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
