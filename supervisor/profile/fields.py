"""Single values that the models of the door share: names, reasons, sizes, durations."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import AfterValidator, ConfigDict

from supervisor.profile import units
from supervisor.profile.yaml_source import refuse

WHY_CHARACTERS_MAX = 200

Number = TypeVar("Number", int, float)

NAME = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)


CLOSED = ConfigDict(extra="forbid", frozen=True, strict=True)
"""Of a mapping with these keys and no others, without any conversion of types."""


def name(text: str) -> str:
    """Let `text` through if it may name a profile, a fragment or a secret."""
    if not NAME.fullmatch(text):
        raise refuse(f"{text!r} is not a name", "lower-case letters, digits and -, at most 63")
    return text


def why(text: str) -> str:
    """Give the reason `text` without the blanks around it."""
    if not text.strip():
        raise refuse("must give a reason", "one sentence for whoever reviews this")
    if len(text) > WHY_CHARACTERS_MAX:
        raise refuse(f"is longer than {WHY_CHARACTERS_MAX} characters")
    if "\n" in text.strip():
        raise refuse("must be one line")
    return text.strip()


def env_name(text: str) -> str:
    """Let `text` through if it may name a variable."""
    if not _ENV_NAME.fullmatch(text):
        raise refuse(f"{text!r} is not a variable's name", "letters, digits and _", at_key=True)
    return text


def size_of(value: object) -> int:
    """Give the bytes of a size with its unit."""
    return _quantity(value, units.parse_size, "size", "256MiB")


def duration_ms(value: object) -> int:
    """Give the milliseconds of a duration with its unit."""
    return round(_quantity(value, units.parse_duration, "duration", "60s") * 1000)


def _quantity(value: object, parse: Callable[[str], Number], what: str, example: str) -> Number:
    if isinstance(value, int) and not isinstance(value, bool):
        raise refuse(f"the {what} {value} has no unit", f"write a number and a unit: {example}")
    if not isinstance(value, str):
        raise refuse(f"must be a {what}", f"write a number and a unit: {example}")
    try:
        return parse(value)
    except units.UnitError as error:
        raise refuse(error.message, error.hint) from error


def between(low: int, high: int, render: Callable[[int], str] = str) -> AfterValidator:
    """Make a validator that lets numbers from `low` to `high` through."""

    def check(value: int) -> int:
        if value < low:
            raise refuse(f"{render(value)} is too little: at least {render(low)}")
        if value > high:
            raise refuse(f"{render(value)} is too much: at most {render(high)}")
        return value

    return AfterValidator(check)


def render_ms(value: int) -> str:
    """Write milliseconds as a duration."""
    return units.render_duration(value / 1000)


Name = Annotated[str, AfterValidator(name)]
Why = Annotated[str, AfterValidator(why)]
EnvName = Annotated[str, AfterValidator(env_name)]
