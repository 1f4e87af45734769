"""Formats by their names in the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from supervisor.export.event import Format, Source
from supervisor.export.formats.cef import Cef
from supervisor.export.formats.ecs import Ecs
from supervisor.export.formats.ocsf import Ocsf
from supervisor.export.formats.ocsf_shapes import Release
from supervisor.export.formats.plain import Plain
from supervisor.export.formats.spans import Spans

FORMATS: Mapping[str, Callable[[Source], Format]] = {
    "ocsf": Ocsf,
    "ocsf-1.1": lambda source: Ocsf(source, Release.V1_1),
    "ocsf-1.9": lambda source: Ocsf(source, Release.V1_9),
    "ecs": Ecs,
    "cef": Cef,
    "json": Plain,
    "spans": Spans,
}


def make_format(name: str, source: Source) -> Format:
    """Give a format of that name, for one sink: it keeps what it knows of calls.

    Raises:
        ValueError: there is none.
    """
    make = FORMATS.get(name)
    if make is None:
        raise ValueError(f"there is no format {name!r}: one of {', '.join(FORMATS)}")
    return make(source)
