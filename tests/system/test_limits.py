"""Each limit ends the whole call, the outcome says which it was, and the record what was used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.call.events import Denied, Wall
from supervisor.call.outcome import (
    Exited,
    LimitExceeded,
    LimitKind,
    OutOfMemory,
    TimedOut,
)
from supervisor.client import FinishedCall
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import with_profiles

MIB = 1 << 20
SURVIVORS = "(setsid sh -c 'while :; do sleep 1; done' &) ; (setsid sleep 300 &) ; "
"""Processes that a limit has to take along: in a session of their own, their parent gone."""

FORKS = """
import os, time
refused = 0
for _ in range(60):
    try:
        os.fork() or time.sleep(100)
    except BlockingIOError:
        refused += 1
        time.sleep(0.005)
print(refused)
"""
TIGHT = """
files:
  write: [{path: /work, size: 8MiB}, {path: /tmp, size: 4MiB}]
limits: {wall: 20s, cpu: 1s, memory: 64MiB, pids: 24, files: 32, output: 1MiB}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    config = with_profiles(tmp_path_factory.mktemp("profiles"), tight=TIGHT)
    with running_daemon(config=config) as running:
        yield running


def run(daemon: Daemon, *argv: str, **more: Any) -> FinishedCall:
    call = daemon.client.run(argv, profile="tight", **more)
    assert daemon.sandbox_processes() == []
    return call


def recorded_limits(daemon: Daemon, call: FinishedCall) -> dict[str, Denied]:
    """Give what is on record as denied by a limit, and see that it was told, too."""
    record = daemon.client.record(call.call_id)
    bodies = [entry.body()["body"] for entry in record.entries if entry.kind == "denied"]
    limits = [denied for denied in call.denials if denied.wall is Wall.LIMIT]
    told = {denied.name: denied for denied in limits}
    once = [(denied.name, denied.detail) for denied in limits if denied.name != "pids"]
    assert len(set(once)) == len(once), "a limit is told twice"
    on_record = {body["name"]: body for body in bodies if body["wall"] == "limit"}  # type: ignore[index,call-overload]
    assert on_record.keys() == told.keys()
    for name, denied in told.items():
        assert (on_record[name]["used"], on_record[name]["allowed"]) == (  # type: ignore[index,call-overload]
            denied.used,
            denied.allowed,
        )
    return told


def test_wall_clock(daemon: Daemon) -> None:
    call = run(daemon, "sh", "-c", SURVIVORS + "sleep 100", timeout=0.5)
    assert call.outcome == TimedOut(limit_s=0.5)
    assert call.exit_code == 124
    limit = recorded_limits(daemon, call)["wall"]
    assert (limit.used >= 500, limit.allowed, limit.rule) == (True, 500, "limits.wall")


def test_cpu(daemon: Daemon) -> None:
    """The time of all processes together, also of those that are not the program's own."""
    call = run(daemon, "sh", "-c", SURVIVORS + "(while :; do :; done) & while :; do :; done")
    assert isinstance(call.outcome, LimitExceeded)
    assert (call.outcome.limit, call.outcome.allowed) == (LimitKind.CPU, 1000)
    assert call.outcome.used > 1000
    assert call.exit_code == 137
    limit = recorded_limits(daemon, call)["cpu"]
    assert (limit.used, limit.allowed) == (call.outcome.used, 1000)


def test_memory(daemon: Daemon) -> None:
    hog = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    call = run(daemon, "sh", "-c", SURVIVORS + 'python3 -c "$0"; sleep 100', hog)
    assert isinstance(call.outcome, OutOfMemory)
    assert call.outcome.limit_bytes == 64 * MIB
    assert call.outcome.kills >= 1
    assert 56 * MIB <= call.outcome.peak_bytes <= 64 * MIB
    limit = recorded_limits(daemon, call)["memory"]
    assert (limit.used, limit.allowed) == (call.outcome.peak_bytes, 64 * MIB)


def test_pids(daemon: Daemon) -> None:
    """A fork that is refused is for the program to cope with: on record, and no outcome."""
    call = run(daemon, "python3", "-c", FORKS)
    assert call.outcome == Exited(code=0)
    refused = int(call.stdout)
    limit = recorded_limits(daemon, call)["pids"]
    assert (limit.allowed, limit.rule) == (24, "limits.pids")
    assert limit.used >= 24
    told = [denied.count for denied in call.denials if denied.name == "pids"]
    assert sum(told) == refused


def test_output(daemon: Daemon) -> None:
    call = run(daemon, "sh", "-c", SURVIVORS + "yes")
    assert isinstance(call.outcome, LimitExceeded)
    assert (call.outcome.limit, call.outcome.allowed) == (LimitKind.OUTPUT, MIB)
    assert call.outcome.used > MIB
    assert call.exit_code == 137
    limit = recorded_limits(daemon, call)["output"]
    assert (limit.used, limit.allowed) == (call.outcome.used, MIB)


def test_output_of_both_streams_counts(daemon: Daemon) -> None:
    program = "import sys\nfor f in (1, 2): open(f, 'wb').write(b'x' * 600_000)"
    call = run(daemon, "python3", "-c", program)
    assert isinstance(call.outcome, LimitExceeded)
    assert call.outcome.limit is LimitKind.OUTPUT


def test_output_up_to_the_limit(daemon: Daemon) -> None:
    call = run(daemon, "head", "-c", str(MIB), "/dev/zero")
    assert call.outcome == Exited(code=0)
    assert call.stdout == bytes(MIB)
    assert call.denials == ()


@pytest.mark.parametrize(("path", "size"), [("/work", 8 * MIB), ("/tmp", 4 * MIB)])
def test_disk(daemon: Daemon, path: str, size: int) -> None:
    call = run(daemon, "sh", "-c", f"{SURVIVORS} cat /dev/zero > {path}/fill; sleep 100")
    assert isinstance(call.outcome, LimitExceeded)
    assert (call.outcome.limit, call.outcome.subject) == (LimitKind.DISK, path)
    assert call.outcome.allowed == size
    assert 0.98 * size <= call.outcome.used <= size
    limit = recorded_limits(daemon, call)["disk"]
    assert (limit.used, limit.allowed) == (call.outcome.used, size)
    assert limit.rule == f"files.write: {path}"


def test_disk_in_small_files(daemon: Daemon) -> None:
    """Names cost memory too: empty files without end are bounded as well."""
    script = "i=0; while :; do mkdir /tmp/$i || break; i=$((i+1)); done; sleep 100"
    call = run(daemon, "sh", "-c", script, timeout=15)
    assert isinstance(call.outcome, LimitExceeded | OutOfMemory | TimedOut)
    assert call.usage.memory_peak_bytes <= 64 * MIB


def test_disk_that_is_filled_at_the_end(daemon: Daemon) -> None:
    """A program that ends before anybody looked is told of, and keeps its outcome."""
    call = run(daemon, "sh", "-c", "head -c 20000000 /dev/zero > /work/fill; exit 3")
    limit = recorded_limits(daemon, call)["disk"]
    assert limit.allowed == 8 * MIB
    if isinstance(call.outcome, Exited):
        assert call.outcome == Exited(code=3)
    else:
        assert isinstance(call.outcome, LimitExceeded)


def test_open_files(daemon: Daemon) -> None:
    program = "import os\nwhile True: os.open('/dev/null', 0)"
    call = run(daemon, "python3", "-c", program)
    assert call.outcome == Exited(code=1)
    assert b"Too many open files" in call.stderr


def test_a_call_within_its_limits_has_no_denials(daemon: Daemon) -> None:
    call = run(daemon, "sh", "-c", "head -c 4000000 /dev/zero > /work/x; sleep 0.2; echo fine")
    assert call.outcome == Exited(code=0)
    assert call.denials == ()
    assert call.finished.denials == 0
