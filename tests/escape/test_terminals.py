"""A terminal of the sandbox's own: no input but what was typed, nobody else's, no discipline.

The daemon has one side of the pair, the program the other. What the program can do to its side
reaches its own programs alone; what would reach further is denied, and on record.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited
from supervisor.client import Terminal
from tests.escape.arena import Trial, tried
from tests.support.daemon import Daemon, running_daemon
from tests.support.profiles import with_profiles

TIOCSTI, TIOCSETD, TIOCLINUX = 0x5412, 0x5423, 0x541C
PUSHES = f"""
import fcntl, os, sys
sys.stdout.write("pushing\\n"); sys.stdout.flush()
try:
    for byte in b"pushed\\n":
        fcntl.ioctl(0, {TIOCSTI}, bytes([byte]))
except OSError as error:
    sys.exit(f"errno {{error.errno}}")
print("got", os.read(0, 100))
"""
DISCIPLINES = (0, 3, 13, 21)
"""N_TTY, which it has, N_PPP, N_HDLC and N_GSM0710: whose modules the kernel would load."""

SETS = f"""
import fcntl, struct
for number in %s:
    try:
        fcntl.ioctl(0, {TIOCSETD}, struct.pack("i", number))
        print("set", number)
    except OSError as error:
        print("errno", error.errno)
"""
OTHERS = """
import glob, os
found = [path for path in glob.glob("/dev/pts/*") if os.stat(path).st_rdev != os.makedev(5, 2)]
assert found == ["/dev/pts/0"], found
assert os.readlink("/proc/self/fd/0") == "/dev/pts/0"
assert os.stat("/dev/pts/0").st_uid == os.getuid()
for fd in os.listdir("/proc/1/fd") if os.access("/proc/1/fd", os.R_OK) else ():
    raise AssertionError(fd)
try:
    os.open("/dev/console", os.O_RDWR)
except OSError:
    print("none")
"""
LISTS = """
import glob
print("\\n".join(sorted(glob.glob("/dev/pts/[0-9]*"), key=len)[-20:]))
"""
EPERM = 1


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder: Path = tmp_path_factory.mktemp("terminals")
    config = with_profiles(folder / "profiles", tty="terminal: allow")
    with running_daemon(config=config, folder=folder) as running:
        yield running


def unconfined(program: str) -> str:
    """Run a program on this host, at a terminal that rules its session."""
    master, peer = os.openpty()
    starts = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); exec(sys.argv[1])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", starts, program],
        stdin=peer, stdout=peer, stderr=peer, start_new_session=True,
    )  # fmt: skip
    process.wait(30)
    said = os.read(master, 4096).decode()
    os.close(peer)
    os.close(master)
    return said


def confined(daemon: Daemon, program: str) -> tuple[str, Trial]:
    call = daemon.client.run(
        ["python3", "-c", program], profile="tty", terminal=Terminal(rows=24, columns=80)
    )
    return call.stdout.decode(), tried(daemon, call)


def test_nothing_is_pushed_into_it(daemon: Daemon) -> None:
    assert "got b'pushed\\n'" in unconfined(PUSHES)
    said, trial = confined(daemon, PUSHES)
    assert f"errno {EPERM}" in said
    assert "pushed" not in said.replace("pushing", "")
    assert trial.count("ioctl") == 1
    assert "TIOCSTI" in str(trial.denials("ioctl"))


def test_it_keeps_its_line_discipline(daemon: Daemon) -> None:
    assert "set 0" in unconfined(SETS % "(0,)")
    said, trial = confined(daemon, SETS % str(DISCIPLINES))
    assert said.split() == ["errno", str(EPERM)] * len(DISCIPLINES)
    assert trial.count("ioctl") == len(DISCIPLINES)


def test_nobody_elses_is_there(daemon: Daemon) -> None:
    master, peer = os.openpty()
    try:
        assert os.ttyname(peer) in unconfined(LISTS)
    finally:
        os.close(peer)
        os.close(master)
    said, _ = confined(daemon, LISTS)
    assert said.split() == ["/dev/pts/0"]
    call = daemon.client.run(
        ["python3", "-c", OTHERS], profile="tty", terminal=Terminal(rows=24, columns=80)
    )
    assert (call.outcome, call.stdout) == (Exited(code=0), b"none\r\n"), call.stdout
