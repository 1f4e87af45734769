"""Files as another user: in this thread, for the block, and never for more."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from supervisor.linux.identity import filesystem_identity

pytestmark = pytest.mark.root
NOBODY = 4242


def fsuid() -> int:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[4])
    raise AssertionError("no Uid in status")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o711)
    open_to_all = tmp_path / "shared"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    return open_to_all


def test_what_is_made_belongs_to_the_other(shared: Path) -> None:
    with filesystem_identity(NOBODY, NOBODY):
        (shared / "file").write_text("theirs")
    status = (shared / "file").stat()
    assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)
    assert fsuid() == os.geteuid()


def test_what_only_root_may_is_refused_meanwhile(shared: Path) -> None:
    secret = shared / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    with filesystem_identity(NOBODY, NOBODY), pytest.raises(PermissionError):
        secret.read_text()
    assert secret.read_text() == "root's"


def test_a_thread_that_was_there_before_does_not_change() -> None:
    taken, looked = threading.Event(), threading.Event()
    seen: list[int] = []

    def look() -> None:
        taken.wait(30)
        seen.append(fsuid())
        looked.set()

    thread = threading.Thread(target=look)
    thread.start()
    with filesystem_identity(NOBODY, NOBODY):
        taken.set()
        looked.wait(30)
    thread.join()
    assert seen == [os.geteuid()]


def test_it_ends_with_an_error_as_well() -> None:
    with pytest.raises(ZeroDivisionError), filesystem_identity(NOBODY, NOBODY):
        raise ZeroDivisionError
    assert fsuid() == os.geteuid()
