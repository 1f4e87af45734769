"""What no hook of the fence sees, another wall stops: each row of the matrix, in a real call.

`test_matrix.py` shows that these rows lead out of a fenced container that has no other wall.
"""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from supervisor.call.outcome import Signaled
from supervisor.linux.host import run_program
from tests.escape.arena import PROGRAMS, Trial, confined
from tests.escape.matrix import UNSEEN, Row
from tests.support.daemon import Daemon

SYSTEM_CALLS = "system calls"
FOREIGN_CALLS = "foreign system calls"
CAPABILITIES = "capabilities"
NOTHING_SHARED = "nothing shared"

WALLS = {
    "packet": SYSTEM_CALLS,
    "packet past the queues": SYSTEM_CALLS,
    "packet by its old name": SYSTEM_CALLS,
    "rds": SYSTEM_CALLS,
    "netlink": SYSTEM_CALLS,
    "xdp": SYSTEM_CALLS,
    "vsock": SYSTEM_CALLS,
    "key": SYSTEM_CALLS,
    "pppox": SYSTEM_CALLS,
    "igmp join by a call of i386": FOREIGN_CALLS,
    "igmp join by a call of x32": FOREIGN_CALLS,
    "loopback led elsewhere": CAPABILITIES,
    "an address of its own": CAPABILITIES,
    "passed udp": NOTHING_SHARED,
    "passed tcp": NOTHING_SHARED,
    "passed connected tcp": NOTHING_SHARED,
    "unix": NOTHING_SHARED,
}
"""Which wall stops it, by the row's name."""

SOCKETS = {
    "packet": (17, 3),
    "packet past the queues": (17, 3),
    "packet by its old name": (2, 10),
    "rds": (21, 5),
    "netlink": (16, 3, 16),
    "xdp": (44, 3),
    "vsock": (40, 1),
    "key": (15, 3),
    "pppox": (24, 1),
}
"""The first arguments of socket(2) as they are on record; CLOEXEC is Python's."""

CLOEXEC = 0o2000000

FIND = "find {} -type s"
"""Sockets that have a name."""

ABSTRACT = "cat /proc/net/unix"
"""All sockets of the family in one's own network, under a line of titles."""


def rows(wall: str) -> list[Row]:
    return [row for row in UNSEEN if WALLS[row.name] == wall]


def tried(daemon: Daemon, tries: list[Row], **more: Any) -> Trial:
    """Try rows in a call of the profile that has more of the network than any other."""
    table = json.dumps([(row.way, {**row.arguments, **more}) for row in tries])
    files = {"uring.py": PROGRAMS / "uring.py"}
    return confined(daemon, "leave.py", table, profile="net", files=files)


def test_each_row_has_its_wall() -> None:
    assert set(WALLS) == {row.name for row in UNSEEN}
    assert set(SOCKETS) == {row.name for row in rows(SYSTEM_CALLS)}


def test_system_calls(daemon: Daemon) -> None:
    names = [row.name for row in rows(SYSTEM_CALLS)]
    trial = tried(daemon, rows(SYSTEM_CALLS))
    assert trial.lines == ['"EPERM"'] * len(names)
    for name in names:
        family, kind, *protocol = SOCKETS[name]
        same = [one for one in SOCKETS.values() if one == SOCKETS[name]]
        assert trial.count("socket", family, kind | CLOEXEC, *protocol) == len(same), name


@pytest.mark.parametrize("row", rows(FOREIGN_CALLS), ids=str)
def test_foreign_system_calls(daemon: Daemon, row: Row) -> None:
    trial = tried(daemon, [row], device="lo")
    assert trial.call.outcome == Signaled(signal=signal.SIGSYS)
    assert trial.stdout == b""


def test_capabilities(daemon: Daemon) -> None:
    trial = tried(daemon, rows(CAPABILITIES), device="lo")
    assert trial.lines == ['"EPERM"'] * len(rows(CAPABILITIES))


def test_nothing_is_shared_that_a_socket_could_come_through(daemon: Daemon) -> None:
    """No descriptor is handed in, no socket has a name, and no process is there to take one of."""
    passed = [row for row in rows(NOTHING_SHARED) if row.way == "passed"]
    assert tried(daemon, passed).lines == ['"EBADF"'] * len(passed)
    seen = confined(daemon, "what_is_seen.py", profile="net").said()
    assert set(seen["descriptors"]) == {"0", "1", "2"}
    assert all(target.startswith("pipe:") for target in seen["descriptors"].values())
    assert seen["interfaces"] == ["lo"]
    look = f"{FIND.format('/ -path /proc -prune -o')} -print; {ABSTRACT}"
    [titles] = daemon.client.run(["sh", "-c", look], profile="net").stdout.splitlines()
    assert titles.startswith(b"Num")
    # The same looks find something where there is something.
    folder = str(daemon.socket.parent)
    assert str(daemon.socket) in run_program(FIND.format(folder).split())
    assert len(run_program(ABSTRACT.split()).splitlines()) > 1
