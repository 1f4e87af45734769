"""A process ends once, however many of its threads end at the same time."""

from __future__ import annotations

import collections
import os
import subprocess
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited
from tests.support.daemon import running_daemon
from tests.support.profiles import with_profiles
from tests.support.rounds import rounds

PROGRAM = Path(__file__).parent / "programs" / "two_ends.c"
PINNED = (
    "profile: pinned\nextends: build\nwhy: Threads that say where they run.\n"
    "syscalls: {allow: [{name: sched_setaffinity, why: Two threads on two processors.}]}\n"
)
PROCESSES = 1000


def test_two_threads_that_end_together_are_one_end(tmp_path: Path) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("two threads end together on two processors only")
    binary = tmp_path / "ends"
    subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", binary, PROGRAM], check=True)
    count = rounds(PROCESSES)
    with running_daemon(config=with_profiles(tmp_path / "profiles", pinned=PINNED)) as daemon:
        argv = ["/work/ends", str(count)]
        call = daemon.client.run(argv, profile="pinned", files={"ends": binary})
        assert call.outcome == Exited(code=0), call.stderr
        ends: collections.Counter[int] = collections.Counter()
        lost = 0
        for entry in daemon.client.record(call.call_id).entries:
            body = entry.body()["body"]
            assert isinstance(body, dict)
            if entry.kind == "processes":
                ends.update(one["pid"] for one in body["events"] if one["what"] == "ended")
            elif entry.kind == "lost" and body["what"] == "exit":
                lost += int(body["count"])
        # Besides: the program itself. A process id may come again, but not so soon.
        assert max(ends.values()) == 1
        assert ends.total() + lost in (
            count + 1,
            count + 2,
        )  # and the init, where it is seen to end
