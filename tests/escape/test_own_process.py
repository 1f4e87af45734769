"""What a process may change of itself: personality, its filter, the argv that others read."""

from __future__ import annotations

import errno

from tests.escape.arena import NOWHERE, Row, confined, expect_refused, on_host
from tests.support.daemon import Daemon

ADDR_NO_RANDOMIZE, MMAP_PAGE_ZERO, READ_IMPLIES_EXEC = 0x40000, 0x100000, 0x400000
SECCOMP_SET_MODE_FILTER = 1
PR_SET_SECCOMP, PR_SET_MM, PR_SCHED_CORE = 22, 35, 62

ROWS = (
    Row("personality", (ADDR_NO_RANDOMIZE,)),
    Row("personality", (READ_IMPLIES_EXEC,)),
    Row("personality", (MMAP_PAGE_ZERO,)),
    Row("seccomp", (SECCOMP_SET_MODE_FILTER, 0, NOWHERE)),
    Row("prctl", (PR_SET_SECCOMP, 2, NOWHERE)),
    Row("prctl", (PR_SET_MM, 1, NOWHERE, 0, 0), "CAP_SYS_RESOURCE"),
    Row("prctl", (PR_SCHED_CORE, 9, 0, 0, 0)),
)


def test_it_is_refused_and_on_record(daemon: Daemon) -> None:
    expect_refused(daemon, ROWS)


def test_no_memory_is_written_through_a_file(daemon: Daemon) -> None:
    """Else a sibling changes the argv of a program that is just being started, and the record has
    what it never ran with."""
    outside = on_host("write_memory.py")
    assert outside.stdout.split() == [b"changed", b"changed"]
    trial = confined(daemon, "write_memory.py")
    assert trial.lines == [errno.errorcode[errno.EROFS]] * 2
