"""io_uring does I/O by a ring in memory, past every filter on system calls (the Curing rootkit)."""

from __future__ import annotations

from tests.escape.arena import NO_FD, NOWHERE, Row, expect_refused
from tests.support.daemon import Daemon

ROWS = (
    Row("io_uring_setup", (8, NOWHERE)),
    Row("io_uring_enter", (NO_FD, 0, 0, 0)),
    Row("io_uring_register", (NO_FD, 0, 0, 0)),
)


def test_it_is_refused_and_on_record(daemon: Daemon) -> None:
    expect_refused(daemon, ROWS)
