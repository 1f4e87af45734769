"""Namespaces of one's own begin most kernel exploits: every capability within."""

from __future__ import annotations

import errno
import json

from supervisor.profile.syscall_numbers import NUMBERS
from tests.escape.arena import NO_FD, NOWHERE, Row, confined, expect_refused, on_host
from tests.support.daemon import Daemon

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
SIGCHLD = 17

ROWS = (
    Row("unshare", (CLONE_NEWUSER,)),
    Row("unshare", (CLONE_NEWNS,)),
    Row("unshare", (CLONE_NEWNET,)),
    Row("unshare", (CLONE_NEWCGROUP,)),
    Row("clone", (CLONE_NEWUSER | SIGCHLD,)),
    Row("clone", (CLONE_NEWNS | SIGCHLD,)),
    Row("clone", (CLONE_NEWNET | SIGCHLD,)),
    Row("clone", (CLONE_NEWPID | SIGCHLD,)),
    Row("clone", (CLONE_NEWIPC | SIGCHLD,)),
    Row("clone", (CLONE_NEWUTS | SIGCHLD,)),
    Row("clone", (CLONE_NEWCGROUP | SIGCHLD,)),
    Row("setns", (NO_FD, 0)),
    Row("setns", (NO_FD, CLONE_NEWNET)),
)


def test_it_is_refused_and_on_record(daemon: Daemon) -> None:
    expect_refused(daemon, ROWS)


def test_clone3_does_not_exist(daemon: Daemon) -> None:
    """Its flags lie in memory, where no filter sees them; libc falls back to clone on ENOSYS."""
    row = [NUMBERS["clone3"], NOWHERE, 88]
    assert json.loads(on_host("try_syscalls.py", json.dumps([row])).stdout) == [errno.EFAULT]
    trial = confined(daemon, "try_syscalls.py", json.dumps([row]))
    assert trial.said() == [errno.ENOSYS]
