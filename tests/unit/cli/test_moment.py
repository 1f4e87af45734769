"""A time on the command line: an age, a date, or RFC 3339."""

from __future__ import annotations

import time

import click
import pytest

from supervisor.cli.moment import Moment

NS = 10**9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-31", 1769817600),
        ("2026-01-31T12:00:00Z", 1769860800),
        ("2026-01-31T12:00:00", 1769860800),
        ("2026-01-31T13:00:00+01:00", 1769860800),
    ],
)
def test_a_time(text: str, seconds: int) -> None:
    assert Moment().convert(text, None, None) == seconds * NS


@pytest.mark.parametrize(("text", "ago_s"), [("90s", 90), ("2h", 7200), ("7d", 604800)])
def test_an_age(text: str, ago_s: int) -> None:
    before = time.time_ns()
    assert before - ago_s * NS <= Moment().convert(text, None, None) <= time.time_ns() - ago_s * NS


@pytest.mark.parametrize("text", ["", "yore", "2x", "h", "²d", "9999-12-31"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Moment().convert(text, None, None)


@pytest.mark.parametrize("text", [f"{'9' * 14}d", "0001-01-01T00:00:00Z"])
def test_what_is_before_all_is_the_beginning(text: str) -> None:
    assert Moment().convert(text, None, None) == 0
