"""Files by handle instead of by path, past every mount (the Shocker exploit)."""

from __future__ import annotations

from tests.escape.arena import NO_FD, NOWHERE, Row, expect_refused
from tests.support.daemon import Daemon

ROWS = (
    Row("open_by_handle_at", (NO_FD, NOWHERE, 0)),
    Row("name_to_handle_at", (NO_FD, NOWHERE, NOWHERE, NOWHERE, 0)),
)


def test_it_is_refused_and_on_record(daemon: Daemon) -> None:
    expect_refused(daemon, ROWS)
