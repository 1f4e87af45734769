"""SIGKILL for the daemon between the entry that says what goes and the files that go: the next one
finishes it, and the record is whole at every moment."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from supervisor.audit.verify import verify
from tests.support.daemon import Daemon

pytestmark = pytest.mark.root

WAIT_S = 60.0
CALLS = 3
DYING = """
import os, signal, sys
from supervisor.audit.blobs import BlobStore
left, real = int(sys.argv.pop(1)), BlobStore.discard
def discard(self, name, is_unused):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return real(self, name, is_unused)
BlobStore.discard = discard
from supervisor.cli.main import main
main()
"""
"""`stockade` that is gone before it unlinks so many files."""


def contents(daemon: Daemon) -> set[str]:
    return {path.name for path in (daemon.state / "blobs" / "sha256").rglob("*") if path.is_file()}


@pytest.mark.parametrize("unlinked", [0, 1, 2])
def test_kill_between_the_entry_and_the_unlink(tmp_path: Path, unlinked: int) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        for _ in range(CALLS):
            daemon.client.run(["sh", "-c", "head -c 5000 /dev/urandom"], profile="base")
        assert daemon.stop() == 0, daemon.tail()
        when = time.time() - 7200
        for path in (daemon.state / "blobs").rglob("*"):
            os.utime(path, (when, when))
        before = contents(daemon)
        program = daemon._program
        daemon._program = (sys.executable, "-c", DYING, str(unlinked))
        daemon.configure({"record": {"retain": {"size": "1B", "exported_by": []}}})
        daemon.start(wait=False)
        assert daemon.wait_ended(WAIT_S) == -9, daemon.tail()
        assert len(before) - len(contents(daemon)) <= unlinked  # part/CALL counts, too
        report = verify(daemon.state)
        assert (report.problems, report.removed_calls) == ((), CALLS)
        daemon._program = program
        daemon.configure({})  # what was begun is finished, also where nobody asks any more
        daemon.start()
        (entry,) = daemon.client.events(kind="removed")
        gone = set(entry.body()["body"]["files"])
        assert len(gone) == CALLS
        deadline = time.monotonic() + WAIT_S
        while contents(daemon) & gone:
            assert time.monotonic() < deadline, daemon.tail()
            time.sleep(0.1)
        assert contents(daemon) == before - gone
        assert daemon.stop() == 0, daemon.tail()
        assert daemon.leftovers() == []
        report = verify(daemon.state)
        assert (report.problems, report.removed_calls) == ((), CALLS)
