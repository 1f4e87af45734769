"""Sizes and durations as people write them: `256MiB`, `60s`. Integers with a unit, nothing else.

Decimal prefixes (MB) are refused rather than guessed at: half of all readers take them for MiB.
"""

from __future__ import annotations

import re

SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
DURATION_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}

_WRITTEN = re.compile(r"([0-9]{1,15})([A-Za-z]*)", re.ASCII)


class UnitError(ValueError):
    """A quantity that cannot be read; `hint` says how to write it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def parse_size(text: str) -> int:
    """Give the bytes of `text`, such as "256MiB".

    Raises:
        UnitError: no number, no unit, or a unit that is not one of `SIZE_UNITS`.
    """
    return _parse(text, SIZE_UNITS, "size", "256MiB")


def parse_duration(text: str) -> float:
    """Give the seconds of `text`, such as "60s".

    Raises:
        UnitError: no number, no unit, or a unit that is not one of `DURATION_UNITS_MS`.
    """
    return _parse(text, DURATION_UNITS_MS, "duration", "60s") / 1000


def render_size(size_bytes: int) -> str:
    """Write `size_bytes` in the largest unit that divides it."""
    for name, factor in reversed(SIZE_UNITS.items()):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{name}"
    return f"{size_bytes}B"


def render_duration(duration_s: float) -> str:
    """Write `duration_s`, whole milliseconds, as people do: 60s rather than 1m."""
    quantity = round(duration_s * 1000)
    for name in ("h", "m"):
        factor = DURATION_UNITS_MS[name]
        if quantity >= 2 * factor and quantity % factor == 0:
            return f"{quantity // factor}{name}"
    return f"{quantity // 1000}s" if quantity % 1000 == 0 else f"{quantity}ms"


def _parse(text: str, units: dict[str, int], what: str, example: str) -> int:
    found = _WRITTEN.fullmatch(text)
    allowed = ", ".join(units)
    if found is None:
        raise UnitError(f"{text!r} is not a {what}", f"write a whole number and a unit: {example}")
    number, unit = found.groups()
    if not unit:
        raise UnitError(f"the {what} {text!r} has no unit", f"units are {allowed}: {example}")
    if unit not in units:
        raise UnitError(f"{unit!r} is not a unit of a {what}", _suggest(number, unit, units))
    return int(number) * units[unit]


def _suggest(number: str, unit: str, units: dict[str, int]) -> str:
    first = unit[0].lower()
    for name in units:
        if len(name) == 3 and name[0].lower() == first and unit.lower() in (first, first + "b"):
            return f"did you mean {number}{name}?"
        if name.lower() == unit.lower() or unit.lower() in _LONG_NAMES.get(name, ()):
            return f"did you mean {number}{name}?"
    return f"units are {', '.join(units)}"


_LONG_NAMES = {
    "B": ("byte", "bytes"),
    "ms": ("msec", "millis", "milliseconds"),
    "s": ("sec", "secs", "second", "seconds"),
    "m": ("min", "mins", "minute", "minutes"),
    "h": ("hr", "hour", "hours"),
}
