"""What a sandbox learns of daemon and host: no environment, descriptors, names or keys."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from supervisor.linux.devices import make_devices, remove_mount
from tests.escape.arena import confined
from tests.support.daemon import Daemon

PROFILE_ENVIRONMENT = {
    "PATH", "HOME", "LANG", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONNOUSERSITE",
}  # fmt: skip


@pytest.fixture(scope="module")
def seen(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = confined(daemon, "what_is_seen.py").said()
    return found


def test_the_environment_is_the_profiles(daemon: Daemon, seen: dict[str, Any]) -> None:
    inherited = set(os.environ) - PROFILE_ENVIRONMENT
    assert inherited  # the daemon itself has more
    assert set(seen["environment"]) - {"LC_CTYPE"} == PROFILE_ENVIRONMENT
    asked = daemon.client.run(["env"], profile="python", env={"ONE": b"\xff%41"})
    assert b"ONE=\xff%41\n" in asked.stdout


def test_only_the_standard_descriptors_are_open(seen: dict[str, Any]) -> None:
    assert set(seen["descriptors"]) == {"0", "1", "2"}
    assert all(target.startswith("pipe:") for target in seen["descriptors"].values())


def test_signals_begin_with_their_defaults(daemon: Daemon) -> None:
    lines = daemon.client.run(["cat", "/proc/self/status"], profile="python").stdout.splitlines()
    status = dict(line.split(b":\t", 1) for line in lines)
    # glibc's posix_spawn ignores its own two signals, 32 and 33, which no program sees.
    assert int(status[b"SigIgn"], 16) & ~(3 << 31) == 0
    assert int(status[b"SigBlk"], 16) == 0


def test_no_right_is_left(seen: dict[str, Any]) -> None:
    status = seen["status"]
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        "0" * 16
    }
    assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "1")
    assert status["Uid"].split() == status["Gid"].split() == ["1000"] * 4
    assert status["Groups"].split() == []


def test_the_host_is_not_named(daemon: Daemon, seen: dict[str, Any]) -> None:
    assert seen["hostname"] == "sandbox"
    assert seen["etc"]["hostname"] == "sandbox\n"
    assert seen["interfaces"] == ["lo"]
    assert seen["routes"] == 0


def test_etc_is_made_up(seen: dict[str, Any]) -> None:
    """Nothing of the host's accounts, keys or configuration; only what programs need."""
    assert not {"shadow", "gshadow", "ssh", "sudoers", "machine-id", "fstab"} & set(seen["etc"])
    assert {"passwd", "group", "hosts", "resolv.conf", "nsswitch.conf"} <= set(seen["etc"])
    assert len(seen["etc"]["passwd"].splitlines()) == 2
    assert "nameserver" not in seen["etc"]["resolv.conf"]


def test_its_session_has_no_terminal(seen: dict[str, Any]) -> None:
    assert seen["terminal"] == "ENXIO"
    assert seen["session leader"]


def test_devices_show_nothing_of_a_call(daemon: Daemon) -> None:
    """Their times would be a note for whoever looks later, in a sandbox or on the host."""
    touch = 'for one in null zero full random urandom; do touch -d 2001-01-01 "$1/$one"; done'
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "dev"
        make_devices(place)
        try:
            subprocess.run(["sh", "-c", touch, "sh", place], check=True)
            assert (place / "null").stat().st_mtime < 1e9
        finally:
            remove_mount(place)
    before = Path("/dev/null").stat().st_mtime_ns
    call = daemon.client.run(["sh", "-c", touch, "sh", "/dev"], profile="shell")
    assert call.stderr.count(b"Read-only file system") == 5
    assert Path("/dev/null").stat().st_mtime_ns == before
    after = daemon.client.run(["stat", "-c", "%Y", "/dev/null"], profile="shell")
    assert int(after.stdout) > 1e9
