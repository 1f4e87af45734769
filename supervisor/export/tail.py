"""The log as an exporter reads it: from a cursor on, as far as it is durable, its chain checked.

The segments are opened by somebody else (`Segments`), so that who reads them needs no right to the
folder. What is read is what `audit verify` would accept: a frame that is damaged, or does not
follow the one before it, ends the reading with an error, and nothing after it is exported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Protocol

import orjson

from supervisor.audit.entry import NO_LEAF, StoredEntry
from supervisor.audit.recovery import check_link
from supervisor.audit.runs import RUN_BYTES, Run, read_run
from supervisor.audit.segment import MAGIC, BadFrame, read_exactly, read_frames
from supervisor.errors import AuditCorrupt
from supervisor.export.event import Entry

_LONG = re.compile(rb"[:,\[-][0-9]{20}")
"""What may be an integer beyond 64 bits, of which `orjson` would make a float."""


class Segments(Protocol):
    """The files of a log."""

    async def firsts(self) -> Sequence[int]:
        """Give the first indices of all segments, in order."""

    async def open(self, first: int) -> int:
        """Open a segment for reading; who asked closes it.

        Raises:
            OSError: as the kernel says.
        """


class TailError(Exception):
    """The log cannot be read on from here, and why; it is not tried again by itself."""


class Tail:
    """Reads on from where it is. `close` it."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._fd = -1
        self._segment = 0
        self._offset = 0
        self._leaf = NO_LEAF
        self.index = 0
        """Of the next entry."""

    @property
    def leaf(self) -> str:
        """Give the leaf hash of the entry before the next, in hexadecimal."""
        return self._leaf.hex()

    @property
    def place(self) -> tuple[int, int]:
        """Give the segment that is read, and where in it the next entry begins."""
        return self._segment, self._offset

    async def seek(self, index: int, leaf: str | None = None) -> None:
        """Go to an entry, from where it is if that lies before it; `leaf` is what the one before
        it has to hash to, where that is known.

        Raises:
            TailError: it is not in this log, or the log is damaged before it.
            OSError: as the kernel says.
        """
        firsts = await self._segments.firsts()
        segment = max((first for first in firsts if first <= index), default=None)
        if segment is None:
            raise TailError(f"entry {index} is in no segment of the log")
        if self._fd < 0 or segment != self._segment or index < self.index:
            await self._begin(segment)
            self.index = segment
            if index == segment:
                self._leaf = NO_LEAF if index == 0 else await self._leaf_before(index, firsts)
        if index > self.index:
            self._skip_to(index)
        if leaf is not None and self.leaf != leaf:
            raise TailError(f"entry {index - 1} of this log is not the one that was acknowledged")

    async def read(self, durable: int) -> list[Entry]:
        """Give what comes next, some hundred KiB of it, of the first `durable` entries of the log;
        nothing where all of that was given.

        Raises:
            TailError: the log is damaged.
            OSError: as the kernel says.
        """
        if self.index >= durable:
            return []
        run = self._read_run()
        if run is None:
            firsts = await self._segments.firsts()
            if self.index not in firsts or self.index == self._segment:
                raise TailError(f"entry {self.index} is gone from the log")
            await self._begin(self.index)
            run = self._read_run()
            if run is None:
                raise TailError(f"entry {self.index} is gone from the log")
        more = len(run) - (durable - self.index)
        if more > 0:  # Not durable yet: a power cut may take them, and others come instead.
            run = _first_of(run, len(run) - more)
        self._take(run)
        ends = [*run.offsets[1:], run.end]
        return [_entry(run, place, end) for place, end in enumerate(ends)]

    def close(self) -> None:
        """Close the segment that is read."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _begin(self, segment: int) -> None:
        fd = await self._segments.open(segment)
        self.close()
        self._fd, self._segment, self._offset = fd, segment, len(MAGIC)
        if read_exactly(fd, len(MAGIC), 0) != MAGIC:
            raise TailError(f"segment {segment} has an unknown format")

    async def _leaf_before(self, index: int, firsts: Sequence[int]) -> bytes:
        """Give the leaf hash of the last entry of the segment before `index`."""
        before = Tail(self._segments)
        try:
            await before._begin(max(first for first in firsts if first < index))
            before.index = before._segment
            before._skip_to(index)
            return before._leaf
        finally:
            before.close()

    def _skip_to(self, index: int) -> None:
        """Pass over what lies before an entry of this segment; its chain is checked."""
        known = False
        while self.index < index:
            run = self._read_run() if known else self._read_one()
            if run is None:
                raise TailError(f"entry {index} is not in the log, which ends with {self.index}")
            known = True
            self._take(
                run if self.index + len(run) <= index else _first_of(run, index - self.index)
            )

    def _take(self, run: Run) -> None:
        self.index += len(run)
        self._leaf, self._offset = run.leaves[-1], run.end

    def _read_one(self) -> Run | None:
        """Read the first entry of a segment, whatever it follows."""
        try:
            frame = next(read_frames(self._fd, self._offset, os.fstat(self._fd).st_size), None)
        except BadFrame as bad:
            raise TailError(f"segment {self._segment}: {bad}") from bad
        return None if frame is None else Run.of(frame.entry(self._segment))

    def _read_run(self) -> Run | None:
        """Read entries that follow the last one; None where the segment ends here."""
        size = os.fstat(self._fd).st_size
        buffer = read_exactly(self._fd, min(RUN_BYTES, size - self._offset), self._offset)
        run = read_run(
            buffer,
            segment=self._segment,
            offset=self._offset,
            index=self.index,
            leaf=self._leaf,
        )
        if run:
            return run
        if not buffer.strip(b"\0"):
            return None  # The end, or what is allocated past it.
        try:
            frame = next(read_frames(self._fd, self._offset, size))
            check_link(frame, self._segment, index=self.index, leaf=self._leaf)
        except (BadFrame, AuditCorrupt) as error:
            raise TailError(f"segment {self._segment}: {error}") from error
        return Run.of(frame.entry(self._segment))


def _first_of(run: Run, count: int) -> Run:
    """Give the first entries of a run."""
    return Run(
        segment=run.segment,
        index=run.index,
        end=run.offsets[count],
        payloads=run.payloads[:count],
        leaves=run.leaves[:count],
        tails=run.tails[:count],
        calls=run.calls[:count],
        offsets=run.offsets[:count],
    )


def _entry(run: Run, place: int, end: int) -> Entry:
    payload = run.payloads[place]
    if _LONG.search(payload, 0, run.tails[place]) is not None:
        return _slowly(run.entry(place), end)
    try:
        fields = orjson.loads(payload)
    except orjson.JSONDecodeError:  # A lone surrogate.
        return _slowly(run.entry(place), end)
    body, time_ns, sequence = fields["body"], fields["time_ns"], fields["sequence"]
    if type(body) is not dict:
        raise TailError(f"entry {run.index + place}: its body is no object")
    if type(time_ns) is not int or type(sequence) is not int:  # Beyond 64 bits.
        return _slowly(run.entry(place), end)
    return Entry(
        run.index + place, run.leaves[place].hex(), time_ns, fields["kind"], fields["call"],
        sequence, body, run.segment, end,
    )  # fmt: skip


def _slowly(entry: StoredEntry, end: int) -> Entry:
    try:
        body = entry.body()
    except (TypeError, ValueError) as error:
        raise TailError(f"entry {entry.index}: {error}") from error
    return Entry(
        index=entry.index,
        leaf=entry.leaf,
        time_ns=entry.time_ns,
        kind=entry.kind,
        call=entry.call_id,
        sequence=entry.sequence,
        body=body,
        segment=entry.position.segment,
        end=end,
    )
