"""What the process is short of is told apart from a disk that fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from supervisor.audit.shortage import Spare, open_to_read, shortage, unavailable
from supervisor.errors import AuditUnavailable, CapacityError, StockadeError
from tests.support.descriptors import no_descriptors


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (errno.EMFILE, CapacityError, "FDS_EXHAUSTED"),
        (errno.ENFILE, CapacityError, "FDS_EXHAUSTED"),
        (errno.ENOMEM, CapacityError, "MEMORY_EXHAUSTED"),
        (errno.ENOENT, AuditUnavailable, "RECORD_UNAVAILABLE"),
        (errno.ENOTDIR, AuditUnavailable, "RECORD_UNAVAILABLE"),
    ],
)
def test_each_shortage_has_its_error(code: int, kind: type[StockadeError], reason: str) -> None:
    error = shortage("a blob", OSError(code, os.strerror(code)))
    assert type(error) is kind
    assert error.reason == reason
    assert error.retry_after_s
    told = unavailable("the output", OSError(code, os.strerror(code)))
    assert (type(told), told.reason) == (AuditUnavailable, "RECORD_UNAVAILABLE")


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_fails_is_no_shortage(code: int) -> None:
    assert shortage("a blob", OSError(code, os.strerror(code))) is None


def test_opening_to_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        open_to_read(path)
    path.write_bytes(b"x")
    with no_descriptors(), pytest.raises(CapacityError) as caught:
        open_to_read(path)
    assert caught.value.reason == "FDS_EXHAUSTED"
    fd = open_to_read(path)
    assert os.read(fd, 2) == b"x"
    os.close(fd)


def test_a_spare_descriptor_makes_room_once() -> None:
    spare = Spare()
    with no_descriptors():
        spare.give()
        assert not spare.held
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        spare.take_back()
        assert not spare.held
        os.close(fd)
        spare.take_back()
        assert spare.held
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    spare.give()
