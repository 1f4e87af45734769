"""Events of entries that differ in nothing but where and when they are: those are made once, with
marks for what differs, and text is put in the place of the marks.

A tool that does again and again what it may not leaves many such entries, and they are what a sink
is behind with.
"""

from __future__ import annotations

import operator
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from supervisor.audit.entry import Kind
from supervisor.export.event import Entry, Event, uid_of_entry
from supervisor.export.formats.ocsf_facts import INT64_MAX
from supervisor.export.formats.ocsf_parts import MILLISECOND_NS, Parts

KINDS = frozenset({Kind.DENIED.value, Kind.WATCHED.value})
"""Of which nothing but `ARGUMENTS` is told otherwise than the same in the next entry would be, and
whose events have the time of their entry."""

ARGUMENTS = "arguments"
"""Of a system call, in a body: numbers, which differ most, and which events tell in hexadecimal."""

KEPT_MAX = 512
"""Bodies of which it is known whether they came before; beyond it, all of that is forgotten."""

BODY_BYTES_MAX = 2048
"""Of one that is kept."""


@dataclass(slots=True)
class _Alike:
    """An event: `pieces` takes its text of the values of an entry and what follows them, `same`."""

    same: tuple[bytes, ...]
    pieces: Callable[[Sequence[bytes]], tuple[bytes, ...]]
    event: Event


@dataclass(slots=True)
class Alike:
    """The events of entries that are alike, none as long as only one was seen. They are of the call
    whose parts these are."""

    parts: Parts
    events: Sequence[_Alike] = ()


@dataclass(slots=True, kw_only=True)
class Marks:
    """An entry with marks in the place of what differs, and the text in the place of what is said
    of where it is. Nobody can guess a mark, so nothing that a tool chose has one in it."""

    place: str = field(init=False)
    index: int = field(default_factory=lambda: secrets.randbits(62) | 1 << 62)
    leaf: str = field(default_factory=lambda: secrets.token_hex(32))
    time_ms: int = field(default_factory=lambda: secrets.randbits(62) | 1 << 62)
    arguments: str = field(default_factory=lambda: secrets.token_hex(16))
    where: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        self.place = uid_of_entry(self.entry("", "", {}))

    def entry(self, kind: str, call: str, body: Mapping[str, Any]) -> Entry:
        """Give such an entry."""
        time_ns = self.time_ms * MILLISECOND_NS
        return Entry(self.index, self.leaf, time_ns, kind, call, 0, body)

    def texts(self) -> tuple[str, ...]:
        """Give the marks as they are in an event, in the order of an entry's values."""
        return (
            self.place, self.leaf, str(self.time_ms), f'["{self.arguments}"]', self.where,
        )  # fmt: skip


class Alikes:
    """Knows what came before, and makes events of it. `make` gives those of an entry, with the text
    that is said of where it is."""

    def __init__(self, make: Callable[[Entry, Parts, Callable[[], str]], Sequence[Event]]) -> None:
        self._make = make
        self._marks = Marks()
        texts = self._marks.texts()
        self._number = {text: number for number, text in enumerate(texts)}
        self._any = re.compile("({})".format("|".join(map(re.escape, texts))))
        self._kept: dict[tuple[int, str, bytes], Alike] = {}

    def find(self, entry: Entry, parts: Parts) -> tuple[Alike, str] | None:
        """Give what the entry is like, and its arguments as text; None where its events have to be
        made from the beginning."""
        body = entry.body
        if not 0 <= entry.time_ns <= INT64_MAX:
            return None
        if ARGUMENTS in body:
            arguments = hexadecimal(body[ARGUMENTS])
            body = {**body, ARGUMENTS: [self._marks.arguments]}
        else:
            arguments = ""
        if arguments is None:
            return None
        try:
            spelled = orjson.dumps(body)
        except orjson.JSONEncodeError:
            return None
        if len(spelled) > BODY_BYTES_MAX:
            return None
        key = id(parts), entry.kind, spelled
        alike = self._kept.get(key)
        if alike is None:
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            self._kept[key] = Alike(parts)  # and with it `parts`, whose id is nobody else's then
            return None
        if not alike.events:
            marked = self._marks.entry(entry.kind, entry.call, body)
            made = self._make(marked, parts, lambda: self._marks.where)
            alike.events = [self._split(event) for event in made]
        return alike, arguments

    def _split(self, event: Event) -> _Alike:
        pieces = self._any.split(event.data.decode())
        same = tuple(piece.encode() for piece in pieces[::2])
        places = [
            self._number[piece] if place % 2 else len(self._number) + place // 2
            for place, piece in enumerate(pieces)
        ]
        return _Alike(same, operator.itemgetter(*places), event)


def events_like(alike: Alike, entry: Entry, arguments: str, where: str) -> list[Event]:
    """Give the events of an entry; `where` is said of where it is."""
    place = uid_of_entry(entry)
    time_ms = entry.time_ns // MILLISECOND_NS
    values = tuple(map(str.encode, (place, entry.leaf, str(time_ms), arguments, where)))
    return [
        Event(
            f"{place}-{number}", entry.index, like.last, entry.time_ns, like.kind, like.severity,
            like.class_uid, b"".join(one.pieces(values + one.same)), entry.call, like.traceparent,
        )
        for number, one in enumerate(alike.events)
        if (like := one.event)
    ]  # fmt: skip


def hexadecimal(arguments: object) -> str | None:
    """Give numbers as a list of texts in JSON; None where they are none."""
    if type(arguments) is not list or any(type(one) is not int for one in arguments):
        return None
    return "[{}]".format(",".join([f'"{one:#x}"' for one in arguments]))
