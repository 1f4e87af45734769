"""What keeps a call in bounds where the kernel's own limits do not reach."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.call.events import Started
from supervisor.call.outcome import Exited, LimitExceeded, LimitKind, Stopped
from supervisor.errors import InvalidRequest
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import with_profiles

KILLS = "syscalls: {kill: [ptrace]}\n"
SMALL = "limits: {output: 1MiB}\n"
NOBODY = 65534

LOCKS = """
import fcntl, os, struct
for number in range(60):
    fd = os.open(f"/work/{number}", os.O_RDWR | os.O_CREAT)
    for place in range(1000, 0, -1):
        fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, place * 2, 1, 0))
print("held", flush=True)
import time; time.sleep(30)
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    config = with_profiles(tmp_path_factory.mktemp("profiles"), kills=KILLS, small=SMALL)
    with running_daemon(config=config) as running:
        yield running


def python(daemon: Daemon, code: str, profile: str = "python"):  # type: ignore[no-untyped-def]
    return daemon.client.run(["python3", "-c", code], profile=profile)


def lives(pid: int) -> bool:
    """Say whether a process runs; whoever becomes its parent may leave it a zombie for long."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_file_locks_are_bounded(daemon: Daemon) -> None:
    """They are kernel memory that no memory cgroup is charged for."""
    call = python(daemon, LOCKS)
    assert isinstance(call.outcome, LimitExceeded)
    assert call.outcome.limit is LimitKind.MEMORY
    assert "file locks" in call.outcome.subject
    assert call.outcome.used > call.outcome.allowed
    assert [denied.rule for denied in call.denials] == ["limits.memory"]


def test_what_sqlite_needs_of_locks_is_left(daemon: Daemon) -> None:
    call = python(daemon, "import sqlite3; sqlite3.connect('/work/x').execute('create table t(a)')")
    assert call.outcome == Exited(code=0)
    assert list(call.denials) == []


def test_a_system_call_under_kill_ends_the_call(daemon: Daemon) -> None:
    code = "import ctypes, time; ctypes.CDLL(None).ptrace(0, 0, 0, 0); time.sleep(30)"
    call = python(daemon, code, "kills")
    assert call.outcome == Stopped(by="daemon", reason="SYSCALL_KILL")
    assert [(denied.name, denied.rule) for denied in call.denials] == [
        ("ptrace", "syscalls.kill: ptrace")
    ]
    assert python(daemon, code.replace("sleep(30)", "sleep(0)")).outcome == Exited(code=0)


def test_standard_input_is_bounded(daemon: Daemon) -> None:
    with pytest.raises(InvalidRequest) as raised:
        daemon.client.run(["cat"], profile="small", stdin=bytes(2 << 20))
    assert raised.value.reason == "STDIN_TOO_LARGE"


def test_nobody_else_on_the_host_reads_a_call_s_environment(daemon: Daemon) -> None:
    code = """
import os, pathlib
os.setgid(65534); os.setgroups([]); os.setuid(65534)
found = b""
for entry in pathlib.Path("/proc").iterdir():
    for name in ("cmdline", "environ"):
        try:
            found += (entry / name).read_bytes() if entry.name.isdigit() else b""
        except OSError:
            pass
print(b"marker-of-" + b"the-argv" in found, b"hidden-" + b"value" in found)
"""
    argv = ["sh", "-c", "sleep 30", "marker-of-the-argv"]
    with daemon.client.execute(argv, profile="python", env={"TOKEN": "hidden-value"}) as call:
        while not isinstance(next(call).event, Started):
            pass
        time.sleep(0.3)
        seen = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        call.signal(9)
    # The control: what is an argument of a process is seen.
    assert seen.stdout == b"True False\n"


def test_a_call_ends_with_its_daemon() -> None:
    with running_daemon() as daemon:

        def run() -> None:
            try:
                daemon.client.run(["sleep", "300"], profile="python")
            except Exception:  # noqa: BLE001 (the daemon is killed under it)
                return

        thread = threading.Thread(target=run)
        thread.start()
        while not daemon.sandbox_processes():
            time.sleep(0.01)
        time.sleep(0.3)
        before = daemon.sandbox_processes()
        assert before
        daemon.kill()
        deadline = time.monotonic() + 10
        while any(lives(pid) for pid in before):
            assert time.monotonic() < deadline, "the sandbox lives on without its daemon"
            time.sleep(0.01)
        daemon.start()
        thread.join(60)
