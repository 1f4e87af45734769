"""How a daemon starts: a signal on the way ends it in order, and its umask is nobody else's."""

from __future__ import annotations

import os
import random
import signal
import stat
import sys
import time
from pathlib import Path

import pytest

from supervisor.audit.verify import verify
from supervisor.call.outcome import Exited
from supervisor.sandbox.host import instance_of
from tests.support.daemon import STOCKADE, Daemon, running_daemon
from tests.support.following import wait_for
from tests.support.rounds import SOAK, rounds

ROUNDS = 12 if SOAK else 6
START_S_MAX = 1.5


def what_is_left(daemon: Daemon) -> list[str]:
    """Name what an ended daemon has left, in its runtime folder too."""
    folder = daemon.runtime
    kept = {folder / "uids.lock"}  # of all daemons that ever use this folder
    return [*daemon.leftovers(), *(str(path) for path in set(folder.iterdir()) - kept)]


def listener(daemon: Daemon) -> Path:
    """Give the last thing that the engine makes before it is ready."""
    return daemon.runtime / instance_of(daemon.state) / "seccomp.sock"


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_once_the_record_is_there(self, tmp_path: Path, number: int) -> None:
        with Daemon(tmp_path) as daemon:
            daemon.start(wait=False)
            wait_for(daemon.state.exists)
            daemon.request_stop(number)
            assert daemon.wait() == 0, daemon.tail()
            assert what_is_left(daemon) == []

    def test_once_something_is_on_the_host(self, tmp_path: Path) -> None:
        with Daemon(tmp_path) as daemon:
            daemon.start(wait=False)
            wait_for(lambda: listener(daemon).exists())
            daemon.request_stop()
            assert daemon.wait() == 0, daemon.tail()
            assert what_is_left(daemon) == []

    @pytest.mark.timeout(600)
    def test_at_random_moments(self, tmp_path: Path) -> None:
        with Daemon(tmp_path) as daemon:
            for _ in range(rounds(ROUNDS)):
                daemon.start(wait=False)
                time.sleep(random.uniform(0, START_S_MAX))
                daemon.request_stop()
                # Killed by it only while nothing was made yet: the interpreter was starting.
                assert daemon.wait() in {0, -signal.SIGTERM}, daemon.tail()
                assert what_is_left(daemon) == []
            assert "Traceback" not in daemon.log.read_text()
            daemon.start()
            assert daemon.client.run(["true"], profile="base").outcome == Exited(code=0)
            assert daemon.stop() == 0
        assert verify(tmp_path / "state").ok


def test_a_umask_that_closes_everything(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with running_daemon(folder=tmp_path) as daemon:
            assert daemon.client.run(["true"], profile="base").outcome == Exited(code=0)
            assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o700
    finally:
        os.umask(before)


RELATIVE = f"""
import os, sys
words = sys.argv[1:]
place = words.index("--runtime-dir") + 1
words[place] = os.path.relpath(words[place])
os.execv({str(STOCKADE)!r}, [{str(STOCKADE)!r}, *words])
"""


def test_a_relative_runtime_folder(tmp_path: Path) -> None:
    """As in `serve --help`: the runtimes work in folders of their own, and so does umount(8)."""
    with running_daemon(folder=tmp_path, program=(sys.executable, "-c", RELATIVE)) as daemon:
        assert daemon.client.run(["true"], profile="base").outcome == Exited(code=0)
        assert daemon.stop() == 0, daemon.tail()
        assert what_is_left(daemon) == []
