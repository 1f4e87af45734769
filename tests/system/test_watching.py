"""Watched and observed calls of a real daemon: each system call counts, and no wall is lower."""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from supervisor.bpf import layout
from supervisor.bpf.maps import BpfMap
from supervisor.bpf.pins import open_map
from supervisor.call.events import Started, Watched
from supervisor.call.outcome import Exited, Failed, Interrupted
from supervisor.profile import syscalls
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import with_profiles
from tests.system.test_fence import kinds, pins, until

GETPPID, GETPGRP = 110, 111
WATCHING = 'syscalls: {watch: [getppid, execve, "@network-io"]}'
OBSERVING = "syscalls: {kill: [kcmp]}\nmode: observe"
LINKS = ("watch_syscall", "watch_first_exec")


def loop(count: int, number: int = GETPPID, then: str = "") -> list[str]:
    code = f"import ctypes, time\nlibc = ctypes.CDLL(None)\nfor _ in range({count}): "
    return ["/usr/bin/python3", "-c", f"{code}libc.syscall({number}, 7)\n{then}"]


def watched(daemon: Daemon, call_id: str) -> Counter[str]:
    """Count by name what the record tells of a call."""
    counts: Counter[str] = Counter()
    for body in kinds(daemon, call_id, "watched"):
        counts[body["name"]] += body["count"]
    return counts


def attached(daemon: Daemon) -> bool:
    """Say whether the probe's links are pinned: both of them, or neither."""
    there = {(pins(daemon) / name).exists() for name in LINKS}
    assert len(there) == 1
    return there.pop()


def wait_for(execution: Any, kind: type) -> Any:
    return next(event.event for event in execution if isinstance(event.event, kind))


@pytest.mark.key("syscalls.watch")
def test_each_is_counted_to_the_last_in_stream_and_record(tmp_path: Path) -> None:
    with running_daemon(config=with_profiles(tmp_path, watching=WATCHING)) as daemon:
        events: list[Watched] = []
        with daemon.client.execute(loop(5000), profile="watching") as execution:
            events += [one.event for one in execution if isinstance(one.event, Watched)]
        counts: Counter[str] = Counter()
        for one in events:
            counts[one.name] += one.count
        assert counts == watched(daemon, execution.call_id) == {"getppid": 5000, "execve": 1}
        first = next(one for one in events if one.name == "getppid")
        assert (first.count, first.program, first.arguments) == (1, b"python3", ())
        assert first.pid > 0
        assert {one.rule for one in events} == {
            "syscalls.watch: getppid", "syscalls.watch: execve",
        }  # fmt: skip
        shown = daemon.command("audit", "show", execution.call_id).stdout.decode()
        assert "getppid" in shown.partition("watched system calls")[2]
        unwatched = daemon.client.run(loop(10), profile="base")
        assert watched(daemon, unwatched.call_id) == {}
        assert daemon.command("audit", "verify", str(daemon.state)).returncode == 0


@pytest.mark.key("drop.syscalls.watch")
def test_what_is_dropped_is_not_watched(tmp_path: Path) -> None:
    child = "profile: less\nextends: watching\ndrop: {syscalls: {watch: [getppid]}}\nwhy: A test.\n"
    with running_daemon(config=with_profiles(tmp_path, watching=WATCHING, less=child)) as daemon:
        call = daemon.client.run(loop(10), profile="less")
        assert watched(daemon, call.call_id) == {"execve": 1}


def test_the_probe_is_there_only_while_a_call_asks(tmp_path: Path) -> None:
    with running_daemon(config=with_profiles(tmp_path, watching=WATCHING)) as daemon:
        assert not attached(daemon)
        with daemon.client.execute(["cat"], profile="watching", stdin_open=True) as first:
            wait_for(first, Started)
            assert attached(daemon)
            with daemon.client.execute(["cat"], profile="watching", stdin_open=True) as second:
                wait_for(second, Started)
                assert daemon.client.run(["true"], profile="base").ok
                first.close_stdin()
                assert daemon.client.attach(first.call_id).wait().outcome == Exited(code=0)
                assert attached(daemon)
                second.close_stdin()
                assert daemon.client.attach(second.call_id).wait().outcome == Exited(code=0)
        assert not attached(daemon)
        assert daemon.client.run(["true"], profile="watching").ok
        assert not attached(daemon)


def test_a_flood_does_not_crowd_out_a_quiet_call(tmp_path: Path) -> None:
    with running_daemon(config=with_profiles(tmp_path, watching=WATCHING)) as daemon:
        found: dict[str, Counter[str]] = {}

        def run(name: str, count: int) -> None:
            call = daemon.client.run(loop(count), profile="watching")
            assert call.outcome == Exited(code=0)
            found[name] = watched(daemon, call.call_id)

        threads = [
            threading.Thread(target=run, args=("loud", 300_000)),
            threading.Thread(target=run, args=("quiet", 3)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found["loud"] == {"getppid": 300_000, "execve": 1}
        assert found["quiet"] == {"getppid": 3, "execve": 1}


def made(daemon: Daemon, number: int) -> int:
    """Read from the pinned map how often the one call that is watched made a system call."""
    fd = open_map(pins(daemon).parent / "maps" / "watched")
    rows = BpfMap(fd, ctypes.c_uint64, layout.WatchedRow, "watched")
    try:
        [key] = rows.all_keys()
        row = rows.get(key)
        assert row is not None
        return int(row.count[number])
    finally:
        rows.close()


def test_what_was_made_around_a_daemon_s_death_is_counted_to_the_last(tmp_path: Path) -> None:
    with running_daemon(config=with_profiles(tmp_path, watching=WATCHING)) as daemon:
        forever = loop(1 << 60)
        with daemon.client.execute(forever, profile="watching") as execution:
            call_id = execution.call_id
            until(lambda: watched(daemon, call_id)["getppid"] > 1)
            daemon.kill()
        until(lambda: not daemon.sandbox_processes())  # its init noticed
        assert attached(daemon)
        total = made(daemon, GETPPID)
        daemon.start()
        assert not attached(daemon)
        found = daemon.client.get(call_id)
        assert found.finished is not None
        assert isinstance(found.finished.outcome, Interrupted)
        assert watched(daemon, call_id) == {"getppid": total, "execve": 1}
        assert daemon.client.run(["true"], profile="watching").ok


@pytest.mark.parametrize("name", LINKS)
def test_a_pin_that_is_taken_away_ends_calls(tmp_path: Path, name: str) -> None:
    with running_daemon(config=with_profiles(tmp_path, watching=WATCHING)) as daemon:
        with daemon.client.execute(["sleep", "600"], profile="watching") as execution:
            wait_for(execution, Started)
            (pins(daemon) / name).unlink()
            finished = daemon.client.attach(execution.call_id).wait()
        assert isinstance(finished.outcome, Failed)
        assert finished.outcome.reason == "WALL_NOT_STANDING"
        assert name in finished.outcome.message


IN_NO_OTHER = "inotify_init1"
WIDE = """
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
def tried(number, *arguments):
    return ctypes.get_errno() if libc.syscall(number, *arguments) < 0 else 0
print(tried(294, 0), tried(101, 0, 0, 0, 0), tried(165, 0, 0, 0, 0, 0), tried(16, 0, 0x5412, 0))
try:
    socket.create_connection(("203.0.113.9", 443))
except OSError as error:
    print(error.errno)
try:
    open("/usr/x", "w")
except OSError as error:
    print(error.errno)
"""


@pytest.mark.key("mode")
def test_observing_widens_the_list_of_system_calls_and_nothing_else(tmp_path: Path) -> None:
    """What is tried: inotify, which base lacks, ptrace and mount, which no set holds, TIOCSTI."""
    config = with_profiles(tmp_path, watching=WATCHING, observing=OBSERVING)
    with running_daemon(config=config) as daemon:
        narrow = daemon.client.run(["python3", "-c", WIDE], profile="watching")
        assert narrow.stdout == b"1 1 1 1\n1\n30\n"
        wide = daemon.client.run(["python3", "-c", WIDE], profile="observing")
        assert wide.stdout == b"0 1 1 1\n1\n30\n"
        denied = {(one.wall.value, one.name) for one in wide.denials}
        assert denied >= {
            ("syscall", "ptrace"), ("syscall", "mount"), ("syscall", "ioctl"),
            ("network", "connect"),
        }  # fmt: skip
        assert ("syscall", IN_NO_OTHER) not in denied
        counts = watched(daemon, wide.call_id)
        assert counts[IN_NO_OTHER] == 1
        assert counts["connect"] == 1
        assert not set(counts) & (set(syscalls.BY_NAME_ONLY) | set(syscalls.REFUSED))
        entries = [entry.body() for entry in daemon.client.record(wide.call_id).entries]
        assert {entry["body"]["mode"] for entry in entries} == {"observe"}  # type: ignore[call-overload, index]
        entries = [entry.body() for entry in daemon.client.record(narrow.call_id).entries]
        assert not any("mode" in entry["body"] for entry in entries)  # type: ignore[operator]
        killing = daemon.client.run(
            ["python3", "-c", WIDE.replace("101", "312")], profile="observing"
        )
        assert killing.finished.outcome.reason == "SYSCALL_KILL"
        assert daemon.command("audit", "verify", str(daemon.state)).returncode == 0
