"""The host's clock jumps while calls run: by years, both ways. What ends after a time still ends
after that time, and the record verifies, lists and replays.

A library of ours (tests/support/clock.c) stands between the daemon and the time of day. The clocks
that only run forward are the kernel's own, as they are when somebody sets a clock.
"""

from __future__ import annotations

import datetime
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.audit.verify import verify
from supervisor.call.outcome import Exited, TimedOut
from supervisor.call.types import Stream
from tests.support.daemon import STOCKADE, Daemon, running_daemon
from tests.support.following import end_of, is_output, until

pytestmark = pytest.mark.root

SHIM = Path(__file__).resolve().parents[1] / "support" / "clock.c"
YEARS = (0, 10, -20, 3)
"""Away from the true time, one after the other."""


class Clock:
    """The time of day as a daemon sees it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "clock"
        self._path.write_bytes(bytes(8))
        self._library = folder / "clock.so"
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", self._library, SHIM], check=True)

    def set(self, years: int) -> None:
        """Jump to so many years from the true time."""
        with self._path.open("r+b") as file:
            file.write(struct.pack("=q", years * 365 * 86400))

    def program(self) -> list[str]:
        """Give what starts `stockade` under this clock."""
        return [
            "env",
            f"LD_PRELOAD={self._library}",
            f"STOCKADE_TEST_CLOCK={self._path}",
            str(STOCKADE),
        ]


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def daemon(tmp_path: Path, clock: Clock) -> Iterator[Daemon]:
    folder = tmp_path / "daemon"
    folder.mkdir()
    with running_daemon(folder=folder, program=clock.program()) as daemon:
        yield daemon


def year_of(time_ns: int) -> int:
    return datetime.datetime.fromtimestamp(time_ns / 1e9, datetime.UTC).year


def test_jumps(daemon: Daemon, clock: Clock, tmp_path: Path) -> None:
    client, now = daemon.client, datetime.datetime.now(datetime.UTC).year
    told: dict[str, str] = {}
    for years in YEARS:
        waits = client.execute(["sh", "-c", "echo begun; sleep 1; echo done"], profile="base",
                               timeout=40)  # fmt: skip
        stays = client.execute(["sh", "-c", "echo begun; sleep 50"], profile="base", timeout=3)
        for execution in (waits, stays):
            until(execution, is_output)
        clock.set(years)
        finished = end_of(waits)
        assert finished.outcome == Exited(code=0), years  # not cut short
        ended = end_of(stays)
        assert isinstance(ended.outcome, TimedOut), years  # not stretched: it would be Exited
        for execution, end in ((waits, finished), (stays, ended)):
            told[execution.call_id] = end.record
            assert abs(year_of(end.timeline.ended_ns) - (now + years)) <= 1  # the control
        assert b"".join(client.read_output(waits.call_id, Stream.STDOUT)) == b"begun\ndone\n"
    assert [call.call_id for call in client.list_calls()] == list(reversed(told))
    clock.set(0)
    # A time bounds by what the entries say, whatever their order.
    found = daemon.command("audit", "ls", "--since", f"{now + 5}-01-01T00:00:00Z", "--json")
    assert found.returncode == 0, found.stderr
    later = [call for call in told if year_of(client.get(call).accepted_ns) >= now + 5]
    assert later
    assert all((call.encode() in found.stdout) == (call in later) for call in told)
    assert daemon.stop() == 0, daemon.tail()
    report = verify(daemon.state, expect=told)
    assert report.ok, report.problems[:5]
    clock.set(-20)
    daemon.start()
    assert daemon.client.run(["echo", "on"], profile="base").stdout == b"on\n"
    assert daemon.stop() == 0, daemon.tail()
    report = verify(daemon.state, expect=told)
    assert report.ok, report.problems[:5]
