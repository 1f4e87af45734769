"""Getting more than one has: setuid programs, device nodes, capabilities, other ids."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.escape.arena import NO_FD, NOWHERE, Row, confined, expect_refused, on_host
from tests.support.daemon import Daemon

DEVICES = (
    Row("mknod", (NOWHERE, 0o020666, 0x103)),
    Row("mknod", (NOWHERE, 0o060666, 0x800)),
    Row("mknodat", (NO_FD, NOWHERE, 0o020666, 0x103)),
    Row("mknodat", (NO_FD, NOWHERE, 0o060666, 0x800)),
)


def test_no_device_can_be_made(daemon: Daemon) -> None:
    expect_refused(daemon, DEVICES)


def _setuid_program() -> Path:
    for name in ("su", "mount", "passwd", "newgrp", "chsh"):
        path = Path("/usr/bin", name)
        if path.exists() and path.stat().st_mode & 0o4000 and path.stat().st_uid == 0:
            return path
    pytest.fail("this host has no setuid program to try")


def test_a_setuid_program_gains_nothing(daemon: Daemon) -> None:
    """The loader shows the kernel's word about a program, unless the program gained privileges."""
    command = ["env", "LD_SHOW_AUXV=1", str(_setuid_program()), "--help"]
    ordinary = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    outside = subprocess.run([*ordinary, *command], check=False, capture_output=True)
    assert b"AT_SECURE" not in outside.stdout
    words = daemon.client.run(command, profile="python").stdout.split()
    said = dict(zip(words[::2], words[1::2], strict=False))
    assert (said[b"AT_SECURE:"], said[b"AT_EUID:"], said[b"AT_UID:"]) == (b"0", b"1000", b"1000")


def test_no_other_id_can_be_taken(daemon: Daemon) -> None:
    host = on_host("take_ids.py")
    assert host.stdout.split() == [b"0"] * 5, (host.stdout, host.stderr)
    trial = confined(daemon, "take_ids.py")
    assert trial.call.ok, trial.call.stderr
    assert trial.lines[0].split() == ["1"] * 5  # EPERM: no capability, whatever the ids map to


def test_every_sandbox_has_host_ids_of_its_own(daemon: Daemon) -> None:
    maps = [
        daemon.client.run(["cat", "/proc/self/uid_map"], profile="python").stdout.split()
        for _ in range(2)
    ]
    assert [entry[0] for entry in maps] == [b"0", b"0"]
    assert maps[0][1] != maps[1][1]
    assert all(int(entry[1]) > 65536 and int(entry[1]) != os.getuid() for entry in maps)
