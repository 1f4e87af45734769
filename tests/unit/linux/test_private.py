"""What others could have read or written is not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.linux.private import (
    GROUP_AND_OTHERS,
    Exposed,
    Foreign,
    NotPrivate,
    read_private,
)

CONTENT = b"0123456789"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    path.chmod(0o600)
    return path


def test_all_of_it_or_one_byte_too_many(file: Path) -> None:
    assert read_private(file, 100) == read_private(file, 10) == CONTENT
    assert read_private(file, 5) == CONTENT[:6]


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o644, 0o666])
def test_open_to_others(mode: int, file: Path) -> None:
    file.chmod(mode)
    with pytest.raises(Exposed, match=f"mode {mode:04o}"):
        read_private(file, 100)


def test_the_group_reads_where_it_may(file: Path) -> None:
    file.chmod(0o440)
    assert read_private(file, 100) == CONTENT
    with pytest.raises(Exposed):
        read_private(file, 100, denied=GROUP_AND_OTHERS)


@pytest.mark.root
def test_of_another_user(file: Path) -> None:
    os.chown(file, 12345, 12345)
    with pytest.raises(Foreign, match="user 12345"):
        read_private(file, 100)


def test_links(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_private(link, 100) == CONTENT
    with pytest.raises(NotPrivate, match="cannot be opened"):
        read_private(link, 100, follow=False)
    file.chmod(0o644)
    with pytest.raises(Exposed):
        read_private(link, 100)


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for path in (fifo, tmp_path, Path(os.devnull)):
        with pytest.raises(NotPrivate, match="no plain file"):
            read_private(path, 100)
    with pytest.raises(NotPrivate, match="cannot be opened: No such file"):
        read_private(tmp_path / "none", 100)
