"""Entries of the log on their way out, and the events that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from supervisor.call.types import Json

# One of each is made for every entry: a frozen dataclass takes three times as long to make.


@dataclass(slots=True)
class Entry:
    """An entry of the log: `leaf` is its leaf hash in hexadecimal, `time_ns` since 1970. `call` is
    empty and `sequence` 0 where it belongs to no call. `segment` is the one that it lies in, and
    `end` where it ends there."""

    index: int
    leaf: str
    time_ns: int
    kind: str
    call: str
    sequence: int
    body: Mapping[str, Json]
    segment: int = 0
    end: int = 0


@dataclass(slots=True)
class Opening:
    """The `intent` of the call that an entry belongs to: who asked for what, under which profile.
    Entries of the call do not say it again."""

    index: int
    time_ns: int
    body: Mapping[str, Json]


class Head(NamedTuple):
    """A signed head of the log that covers an entry: its proof can be had for it. `size` is 0 while
    there is none."""

    size: int
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the record is from: the log's name (the origin of its heads), the host, and the version
    of the daemon that exports."""

    origin: str
    host: str
    version: str


@dataclass(slots=True)
class Event:
    """One event in the bytes of a format: one line, without its end.

    `uid` is the same each time the event is made, and no other event's; `index` is the entry that
    it is from, and `last` says that no further event is from there. `severity` is the id of OCSF
    (1 informational … 6 fatal), `class_uid` its class. `call` is the id of the call that the entry
    belongs to, `traceparent` what its caller gave (W3C Trace Context); each is "" where there is
    none.
    """

    uid: str
    index: int
    last: bool
    time_ns: int
    kind: str
    severity: int
    class_uid: int
    data: bytes
    call: str = ""
    traceparent: str = ""


class Format(Protocol):
    """Makes events of entries. Pure: the same entry gives the same `uid`s, at least one, but for
    `spans`, which makes events of outcomes alone."""

    def encode(self, entry: Entry, opening: Opening | None, head: Head) -> Sequence[Event]:
        """Give the events of an entry; `opening` is there for each that belongs to a call."""


def uid_of(entry: Entry, number: int) -> str:
    """Give the id of the event `number` of an entry: where it lies in the log, and that it is of
    this log, since a leaf hash covers all entries before it."""
    return f"{uid_of_entry(entry)}-{number}"


def uid_of_entry(entry: Entry) -> str:
    """Give the id of an entry, with which those of all its events begin."""
    return f"{entry.index}-{entry.leaf[:16]}"
