"""How sinks do; there are none yet."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from supervisor.console import sinks


def test_no_sinks_is_said() -> None:
    section = asyncio.run(sinks.section(cast("Any", None)))
    assert (section.rows, section.notes) == (
        [],
        ["no sinks: the record stays on this host"],
    )
