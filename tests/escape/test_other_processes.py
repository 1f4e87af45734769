"""Other processes' memory and descriptors: ptrace, process_vm_*, pidfd_getfd, kcmp."""

from __future__ import annotations

from tests.escape.arena import NO_FD, NOWHERE, Row, expect_refused
from tests.support.daemon import Daemon

ROWS = (
    Row("ptrace", (16, 99999)),
    Row("ptrace", (0,)),
    Row("process_vm_readv", (1, NOWHERE, 1, NOWHERE, 1, 0)),
    Row("process_vm_writev", (1, NOWHERE, 1, NOWHERE, 1, 0)),
    Row("pidfd_getfd", (NO_FD, 0, 0)),
    Row("kcmp", (1, 1, 0, 0, 0)),
    Row("process_madvise", (NO_FD, NOWHERE, 1, 0, 0)),
    Row("process_mrelease", (NO_FD, 0)),
    Row("move_pages", (1, 1, NOWHERE, NOWHERE, NOWHERE, 0)),
)


def test_it_is_refused_and_on_record(daemon: Daemon) -> None:
    expect_refused(daemon, ROWS)
