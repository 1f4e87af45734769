"""Events that are no larger than a sink takes: where one is, it is made again of an entry whose
texts and lists are cut, so that nobody can keep what is told of him out of a sink by its length.

What was cut ends in "…". Whose event it is stays as it was: its uid, and its place in the log,
where the entry is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from supervisor.call.types import Json
from supervisor.export.event import Entry, Event, Format, Head, Opening
from supervisor.export.formats import json_line

CUTS = ((1024, 64), (256, 16), (64, 8), (16, 4))
"""Bytes of a text as JSON has it, and items of a list or mapping, until it fits."""

DEPTH_MAX = 8
ELLIPSIS = "…"


class Fitting:
    """A `Format`, made of another: `make` gives one more of that, since each keeps what it knows of
    calls."""

    def __init__(self, make: Callable[[], Format], bytes_max: int) -> None:
        self._make = make
        self._bytes_max = bytes_max
        self._whole = make()
        self._cut: dict[tuple[int, int], Format] = {}

    def encode(self, entry: Entry, opening: Opening | None, head: Head) -> Sequence[Event]:
        """Give the events of an entry, cut where that is needed; where nothing helps, too large."""
        events = self._whole.encode(entry, opening, head)
        for cut in CUTS:
            if all(len(event.data) <= self._bytes_max for event in events):
                break
            if cut not in self._cut:
                self._cut[cut] = self._make()
            shorter = replace(entry, body=shortened(entry.body, *cut))
            asked = opening and replace(opening, body=shortened(opening.body, *cut))
            events = self._cut[cut].encode(shorter, asked, head)
        return events


def shortened(body: Mapping[str, Json], size_max: int, items_max: int) -> dict[str, Any]:
    """Give a body with its texts and lists cut."""
    found = _short(dict(body), size_max, items_max, 0)
    return dict(found)


def _short(value: Any, size_max: int, items_max: int, depth: int) -> Any:
    if isinstance(value, str):
        return _text(value, size_max)
    if depth == DEPTH_MAX:
        return None if isinstance(value, dict | list) else value
    if isinstance(value, list):
        return [_short(one, size_max, items_max, depth + 1) for one in value[:items_max]]
    if isinstance(value, dict):
        # What the entry itself is made of is never cut; only what somebody chose is so much.
        some = list(value.items())[: items_max if depth else None]
        return {
            _text(name, size_max): _short(one, size_max, items_max, depth + 1) for name, one in some
        }
    return value


def _text(text: str, size_max: int) -> str:
    cut = text[:size_max]
    while cut and (size := len(json_line.encode(cut)) - 2) > size_max:
        cut = cut[: len(cut) * size_max // size]
    return text if cut == text else cut + ELLIPSIS
