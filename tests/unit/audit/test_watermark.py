"""Marks of free space: told once, refused below the hard one, and where nothing can be told."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.audit.watermark import LOOK_S, Mark, Watermark
from supervisor.errors import CapacityError

MIB = 1 << 20


class Disk:
    """A file system of 1000 MiB."""

    def __init__(self) -> None:
        self.free = 500
        self.now = 0.0
        self.error: OSError | None = None
        self.looks = 0

    def look(self, folder: Path) -> Any:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return SimpleNamespace(f_blocks=1000, f_bavail=self.free, f_frsize=MIB)

    def mark(self, soft: Mark, hard: Mark) -> Watermark:
        return Watermark(
            Path("/state"), soft=soft, hard=hard, clock=lambda: self.now, look=self.look
        )


def test_calls_are_refused_below_the_hard_mark_and_taken_again_above(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    disk = Disk()
    mark = disk.mark(Mark(per_mille=200), Mark(size_bytes=50 * MIB))
    mark.require()
    for free, said in [(199, ["WARNING"]), (50, []), (300, ["INFO"])]:
        disk.free, disk.now = free, disk.now + LOOK_S
        caplog.clear()
        mark.require()
        assert [record.levelname for record in caplog.records] == said
    disk.free, disk.now = 49, disk.now + LOOK_S
    with pytest.raises(CapacityError, match="49 MiB are left") as found:
        mark.require()
    assert found.value.reason == "AUDIT_BACKLOG"
    assert found.value.retry_after_s
    assert "below 50 MiB no new call begins" in caplog.text


def test_the_larger_of_bytes_and_share_counts() -> None:
    assert Mark(size_bytes=10, per_mille=5).of(1000) == 10
    assert Mark(size_bytes=1, per_mille=5).of(1000) == 5


def test_the_disk_is_not_asked_at_each_call() -> None:
    disk = Disk()
    mark = disk.mark(Mark(), Mark())
    for _ in range(3):
        mark.require()
    assert disk.looks == 1
    disk.now = LOOK_S
    mark.require()
    assert disk.looks == 2


def test_what_cannot_be_told_is_no_yes() -> None:
    disk = Disk()
    disk.error = OSError(5, os.strerror(5))
    with pytest.raises(CapacityError, match="Input/output error") as found:
        disk.mark(Mark(), Mark()).require()
    assert found.value.reason == "AUDIT_BACKLOG"


def test_the_kernel_is_asked(tmp_path: Path) -> None:
    with pytest.raises(CapacityError):
        Watermark(tmp_path, soft=Mark(), hard=Mark(per_mille=1001)).require()
