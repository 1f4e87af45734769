"""A call that starts programs as fast as the machine can, beside one that is quiet.

What is on record of a flood and what is counted as lost is, together, what ran: to the event. The
quiet call has a ring of events of its own, so it loses none to its neighbour.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.audit.verify import verify
from supervisor.call.events import Processes
from supervisor.call.outcome import Exited
from supervisor.client import Supervisor
from supervisor.client.request import Content
from tests.support.daemon import Daemon, running_daemon
from tests.support.following import end_of, is_started, until, wait_for
from tests.support.profiles import with_profiles
from tests.support.rounds import SOAK, rounds

PROGRAM = Path(__file__).parent / "programs" / "exec_flood.c"
FLOOD = (
    "profile: flood\nextends: base\nwhy: Starts programs of its own, as fast as it can.\n"
    "files:\n  write: [{path: /work, size: 8MiB, exec: true, why: The flood lies there.}]\n"
    "limits: {wall: 600s, cpu: 600s}\n"
)
EACH = 50_000 if SOAK else 20_000
"""Programs that each of two processes starts: 100 000 in some 10 s here."""

QUIET = 200 if SOAK else 100
FLOOD_S = 60.0
PACED = "for i in $(seq {}); do /usr/bin/true; sleep 0.03; done"
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("profiles")
    with running_daemon(config=with_profiles(folder, flood=FLOOD)) as running:
        yield running


@pytest.fixture(scope="module")
def flood(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("flood") / "flood"
    flags = ["-static", "-nostdlib", "-O1", "-ffreestanding", "-fno-stack-protector"]
    subprocess.run(["gcc", *flags, "-o", binary, PROGRAM], check=True)
    return binary


def started_and_lost(client: Supervisor, call_id: str, path: str) -> tuple[int, int]:
    """Count the starts of a program on record, and those that were counted as lost."""
    started = lost = 0
    for entry in client.record(call_id).entries:
        body = entry.body()["body"]
        assert isinstance(body, dict)
        if entry.kind == "processes":
            started += sum(
                one["what"] == "started" and one["path"] == path for one in body["events"]
            )
        elif entry.kind == "lost" and body["what"] == "exec":
            lost += int(body["count"])
    return started, lost


def test_a_flood_is_told_or_counted_and_hurts_no_other(daemon: Daemon, flood: Path) -> None:
    many = rounds(EACH)
    both = f"/work/flood {many:09} & /work/flood {many:09}; wait"
    client = daemon.client
    quiet_argv = ["sh", "-c", PACED.format(QUIET)]
    with client.execute(quiet_argv, profile="shell") as quiet:
        began = time.monotonic()
        loud = client.run(["sh", "-c", both], profile="flood", files={"flood": flood})
        took_s = time.monotonic() - began
        quiet_end = quiet.wait()
    assert loud.outcome == Exited(code=0), loud.stderr
    assert quiet_end.outcome == Exited(code=0)
    started, lost = started_and_lost(client, loud.call_id, "/work/flood")
    log.info("%d programs in %.1f s: %d told, %d lost", 2 * many, took_s, started, lost)
    assert started > 0
    # The shell and its two children have programs of their own: only those of /work count.
    assert started + lost == 2 * (many + 1)
    assert started_and_lost(client, quiet.call_id, "/usr/bin/true") == (QUIET, 0)


def test_what_finds_no_place_is_counted(daemon: Daemon, flood: Path) -> None:
    script = f"while [ -e wait ]; do sleep 0.1; done; exec /work/flood {EACH:09}"
    files: dict[str, Content] = {"flood": flood, "wait": b""}
    client = daemon.client
    with client.execute(["sh", "-c", script], profile="flood", files=files) as execution:
        until(execution, is_started)
        wait_for(lambda: len(daemon.sandbox_processes()) > 1, FLOOD_S)
        # A daemon that does not get to read until the flood is over: the ring holds a tenth of it.
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            Path(f"/proc/{daemon.sandbox_processes()[0]}/root/work/wait").unlink()
            # Its init stays: it asks the daemon for the end of the denials.
            wait_for(lambda: len(daemon.sandbox_processes()) <= 1, FLOOD_S)
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        end = end_of(execution)
    assert end.outcome == Exited(code=0)
    started, lost = started_and_lost(client, execution.call_id, "/work/flood")
    log.info("%d programs: %d told, %d lost", EACH, started, lost)
    assert started > 0
    assert lost > 0
    assert started + lost == EACH + 1


HOSTILE = """
import os, sys
argv = ["true"] + ["pwd=x9Yz77abcQ"] * int(sys.argv[2])
for _ in range(int(sys.argv[1])):
    os.waitpid(os.posix_spawn("/usr/bin/true", argv, {}), 0)
    os.write(1, b".")
"""
"""Starts a program with as many arguments, each of which looks as if it held a secret, and writes a
byte once that has ended."""


def test_arguments_that_take_long_to_look_through_hold_up_nobody(daemon: Daemon) -> None:
    """Beside it small calls come and go; what the programs did is on record or counted as lost."""
    starts = rounds(40)
    argv = ["python3", "-c", HOSTILE, str(starts), "3500"]
    waits = []
    with daemon.client.execute(argv, profile="python") as hostile:
        until(hostile, is_started)
        while daemon.client.get(hostile.call_id).finished is None:
            began = time.monotonic()
            assert daemon.client.run(["true"], profile="shell").outcome == Exited(code=0)
            waits.append(time.monotonic() - began)
        assert end_of(hostile).outcome == Exited(code=0)
    started, lost = started_and_lost(daemon.client, hostile.call_id, "/usr/bin/true")
    assert started + lost == starts
    entries = daemon.client.record(hostile.call_id).entries
    assert entries[-1].kind == "outcome"
    assert verify(daemon.state).problems == ()
    told = b"".join(entry.json for entry in entries if entry.kind == "processes")
    assert b"7abcQ" not in told and b'"true","pwd=[REDACTED:' in told
    log.info("beside it: %d small calls, the slowest %.3f s", len(waits), max(waits))


@pytest.mark.parametrize("end", ["kill", "deadline", "stop"])
def test_however_it_ends_its_outcome_is_behind_all_that_was_still_looked_through(
    tmp_path: Path, end: str
) -> None:
    with running_daemon(config={"limits": {"drain_grace": "1s"}}, folder=tmp_path) as daemon:
        argv = ["python3", "-c", HOSTILE, "1000000", "3500"]
        timeout = 3.0 if end == "deadline" else None
        with daemon.client.execute(argv, profile="python", timeout=timeout) as hostile:
            for _ in range(10):  # the next ones wait by then
                until(hostile, lambda event: isinstance(event.event, Processes))
            call_id = hostile.call_id
            if end == "stop":
                assert daemon.stop() == 0, daemon.tail()
            else:
                if end == "kill":
                    hostile.signal(signal.SIGKILL, why="enough")
                end_of(hostile)
        if end == "stop":
            daemon.start()
        kinds = [entry.kind for entry in daemon.client.record(call_id).entries]
        assert kinds.count("outcome") == 1 and kinds[-1] == "outcome"
        started, lost = started_and_lost(daemon.client, call_id, "/usr/bin/true")
        ended = len(b"".join(daemon.client.read_output(call_id, "stdout")))
        log.info("%s: %d started, %d lost, %d ended", end, started, lost, ended)
        assert started > 0
        assert started + lost >= ended > 0
        assert daemon.stop() == 0
        assert verify(daemon.state).problems == ()
