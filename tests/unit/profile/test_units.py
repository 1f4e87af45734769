"""Sizes and durations: what reads, what is refused, and with which hint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.profile.units import (
    UnitError,
    parse_duration,
    parse_size,
    render_duration,
    render_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0B", 0), ("1B", 1), ("4KiB", 4096), ("256MiB", 256 << 20), ("3GiB", 3 << 30)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "duration_s"), [("250ms", 0.25), ("60s", 60.0), ("5m", 300.0), ("24h", 86400.0)]
)
def test_durations(text: str, duration_s: float) -> None:
    assert parse_duration(text) == duration_s


@pytest.mark.parametrize(
    ("text", "hint"),
    [("256MB", "256MiB"), ("256mb", "256MiB"), ("256M", "256MiB"), ("256mib", "256MiB"),
     ("1g", "1GiB"), ("5bytes", "5B"), ("5 MiB", "256MiB"), ("", "256MiB"), ("-1MiB", "256MiB"),
     ("1.5GiB", "256MiB"), ("12", "256MiB"), ("7XB", "KiB"), ("٣MiB", "256MiB"),
     ("1" * 16 + "B", "256MiB")],
)  # fmt: skip
def test_wrong_sizes_say_how_to_write_them(text: str, hint: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_size(text)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [("60", "60s"), ("60sec", "60s"), ("5min", "5m"), ("1H", "1h"), ("1d", "units are"),
     ("0.5s", "60s"), ("10 s", "60s")],
)  # fmt: skip
def test_wrong_durations_say_how_to_write_them(text: str, hint: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration(text)
    assert hint in caught.value.hint


@given(st.integers(min_value=0, max_value=10**15 - 1))
def test_a_rendered_size_reads_back(size_bytes: int) -> None:
    assert parse_size(render_size(size_bytes)) == size_bytes


@given(st.integers(min_value=0, max_value=10**12))
def test_a_rendered_duration_reads_back(milliseconds: int) -> None:
    assert parse_duration(render_duration(milliseconds / 1000)) == milliseconds / 1000


def test_durations_are_rendered_as_people_write_them() -> None:
    rendered = [render_duration(s) for s in (0.0, 0.25, 1.0, 60.0, 90.0, 300.0, 7200.0)]
    assert rendered == ["0s", "250ms", "1s", "60s", "90s", "5m", "2h"]
