"""What a process may change of itself: personality, its filter, the argv that others read."""

from __future__ import annotations

from tests.escape.arena import NOWHERE, Row, expect_refused
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
