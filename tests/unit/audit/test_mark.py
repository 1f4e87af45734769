"""The durable mark."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from supervisor.audit.entry import Position
from supervisor.audit.mark import MARK_BYTES, MARK_NAME, DurableMark, open_mark, read_mark

MARK = DurableMark(size=9, leaf=bytes(range(32)), end=Position(segment=3, offset=77))


def test_a_mark_comes_back() -> None:
    assert DurableMark.decode(MARK.encode()) == MARK


def test_any_flipped_bit_is_found() -> None:
    for at in range(MARK_BYTES):
        for bit in range(8):
            data = bytearray(MARK.encode())
            data[at] ^= 1 << bit
            with pytest.raises(ValueError):
                DurableMark.decode(bytes(data))


@pytest.mark.parametrize("size", [0, 1, MARK_BYTES - 1, MARK_BYTES + 1])
def test_a_mark_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError):
        DurableMark.decode((MARK.encode() + b"x")[:size])


def test_a_new_mark_says_that_nothing_is_durable(tmp_path: Path) -> None:
    assert read_mark(tmp_path) is None
    os.close(open_mark(tmp_path))
    assert read_mark(tmp_path) == DurableMark()


def test_opening_keeps_the_mark(tmp_path: Path) -> None:
    (tmp_path / MARK_NAME).write_bytes(MARK.encode())
    os.close(open_mark(tmp_path))
    assert read_mark(tmp_path) == MARK


def test_a_mark_that_is_written_in_pieces_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data)[:7], at))
    os.close(open_mark(tmp_path))
    assert read_mark(tmp_path) == DurableMark()


def test_a_mark_has_its_name_once_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        open_mark(tmp_path)
    assert read_mark(tmp_path) is None
    monkeypatch.undo()
    os.close(open_mark(tmp_path))
    assert read_mark(tmp_path) == DurableMark()
