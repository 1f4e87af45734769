"""A time on the command line."""

from __future__ import annotations

import datetime
import time
from typing import Any

import click

INT64_MAX = 2**63 - 1


class Moment(click.ParamType[int]):
    """A time: `2h` ago, or a date or time as 2026-01-31 or 2026-01-31T12:00:00Z."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Give nanoseconds since the epoch, 0 for what is before that."""
        time_ns = self._read(value, param, ctx)
        if time_ns > INT64_MAX:
            self.fail(f"{value!r} is too far from now", param, ctx)
        return max(0, time_ns)

    def _read(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}
        if text[:-1].isdecimal() and text[-1] in seconds:
            return time.time_ns() - int(text[:-1]) * seconds[text[-1]] * 1_000_000_000
        try:
            when = datetime.datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{value!r} is not a time as 2h, 2026-01-31 or RFC 3339", param, ctx)
        if when.tzinfo is None:
            when = when.replace(tzinfo=datetime.UTC)
        return int(when.timestamp()) * 1_000_000_000
