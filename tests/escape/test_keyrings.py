"""The kernel's keyrings, which no namespace divides."""

from __future__ import annotations

from tests.escape.arena import NOWHERE, Row, expect_refused
from tests.support.daemon import Daemon

ROWS = (
    Row("add_key", (NOWHERE, NOWHERE, 0, 0, 0)),
    Row("keyctl", (0, 0, 0)),
    Row("request_key", (NOWHERE, NOWHERE, 0, 0)),
)


def test_it_is_refused_and_on_record(daemon: Daemon) -> None:
    expect_refused(daemon, ROWS)
