"""What a daemon of a test has recorded, held to the definitions of OCSF, in each one's end.

So each event of the demo and of every attack is one of its class. Where a test records very much,
only the first entries of each kind are looked at.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from supervisor.audit.directory import LOG_NAME
from supervisor.audit.entry import Kind
from supervisor.audit.segment import list_segments, segment_name
from supervisor.export.event import Entry, Head, Opening, Source
from supervisor.export.formats.ocsf import Ocsf
from supervisor.export.formats.ocsf_shapes import Release
from supervisor.export.tail import Tail, TailError
from tests.support import ocsf

OF_A_KIND_MAX = 300
FINDING = 2004
SOURCE = Source(origin="log.example.com/test", host="host.example.com", version="0")
RELEASES = (("1.8.0", Release.V1_8), ("1.1.0", Release.V1_1))
HEAD = Head(size=1 << 40, root="ab" * 32)


class Folder:
    """The segments of a log that nobody writes to any more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def firsts(self) -> Sequence[int]:
        return list_segments(self._folder)

    async def open(self, first: int) -> int:
        return os.open(self._folder / segment_name(first), os.O_RDONLY | os.O_CLOEXEC)


def wrong_events(state: Path) -> list[str]:
    """Say what is wrong with the events of a state folder's log, up to where it is damaged."""
    folder = state / LOG_NAME
    if not folder.is_dir() or not list_segments(folder):
        return []
    found: dict[str, None] = {}
    entries = list(_chosen(asyncio.run(_read(folder))))
    for version, release in RELEASES:
        made_by = Ocsf(SOURCE, release)
        for entry, opening in entries:
            events = [orjson.loads(event.data) for event in made_by.encode(entry, opening, HEAD)]
            for event in events:
                for problem in ocsf.problems(event, version):
                    found[f"{version} {entry.kind}: {problem}"] = None
            if entry.kind == Kind.DENIED and FINDING not in {one["class_uid"] for one in events}:
                found[f"{version}: a denial without a finding"] = None
    return list(found)


async def _read(folder: Path) -> list[Entry]:
    tail, found = Tail(Folder(folder)), list[Entry]()
    try:
        await tail.seek(0)
        with contextlib.suppress(TailError):  # A test has damaged it, or it ends here.
            while some := await tail.read(1 << 60):
                found += some
    finally:
        tail.close()
    return found


def _chosen(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Opening | None]]:
    seen: collections.Counter[str] = collections.Counter()
    openings: dict[str, Opening] = {}
    for entry in entries:
        if entry.kind == Kind.INTENT:
            openings[entry.call] = Opening(entry.index, entry.time_ns, entry.body)
        seen[entry.kind] += 1
        if seen[entry.kind] <= OF_A_KIND_MAX:
            yield entry, openings.get(entry.call)
