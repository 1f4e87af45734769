"""Formats by their names in the configuration."""

from __future__ import annotations

from supervisor.export.event import Format, Source
from supervisor.export.formats.plain import Plain

NAMES = ("json",)


def make_format(name: str, source: Source) -> Format:
    """Give the format of that name.

    Raises:
        ValueError: there is none.
    """
    if name == "json":
        return Plain(source)
    raise ValueError(f"there is no format {name!r}: one of {', '.join(NAMES)}")
