"""The folder of unfinished files: held, and made again where somebody deleted it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.audit.parts import PartFolder
from tests.support.descriptors import no_descriptors


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[PartFolder]:
    parts = PartFolder(tmp_path)
    parts.hold()
    yield parts
    parts.close()


def create(parts: PartFolder, name: str) -> None:
    os.close(parts.create(name))


def test_files_and_folder_are_for_the_daemon_alone(parts: PartFolder) -> None:
    create(parts, "one")
    assert parts.path.stat().st_mode & 0o777 == 0o700
    assert (parts.path / "one").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        parts.create("one")


def test_a_deleted_folder_is_made_again(parts: PartFolder) -> None:
    create(parts, "one")
    shutil.rmtree(parts.path)
    create(parts, "two")
    parts.sync()
    assert [path.name for path in parts.path.iterdir()] == ["two"]
    assert parts.path.stat().st_mode & 0o777 == 0o700


def test_the_folder_that_is_synced_is_the_one_that_is_there(
    parts: PartFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    parts.path.rename(parts.path.with_name("away"))
    parts.path.mkdir()
    parts.sync()
    assert synced == [parts.path.stat().st_ino]


def test_syncing_needs_no_descriptor(parts: PartFolder) -> None:
    with no_descriptors():
        parts.sync()
        with pytest.raises(OSError, match="Too many") as caught:
            parts.create("one")
        assert caught.value.errno == errno.EMFILE


def test_nothing_is_made_where_it_cannot_be_made_durable(parts: PartFolder) -> None:
    parts.path.rmdir()
    with no_descriptors(), pytest.raises(OSError, match="Too many"):
        parts.create("one")
    assert not parts.path.exists()


def test_no_descriptor_is_lost_when_the_folder_comes_back(parts: PartFolder) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(5):
        shutil.rmtree(parts.path)
        create(parts, str(number))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
