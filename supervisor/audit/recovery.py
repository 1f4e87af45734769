"""Opening a log: find its end, cut a torn tail, refuse a damaged one.

The last segment is read from end to end: every frame, its checksum, its leaf hash, its index and
the chain. Of each older segment, the name, the format line and the link to its neighbours are
checked; `audit verify` reads those whole.

A bad frame is a torn tail, left by a crash, only where nothing durable follows: it lies after the
durable mark, and no later frame says that it had been durable. Everything else is damage, and a
damaged log is not opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.audit.entry import LEAF_BYTES, NO_LEAF, Head, Position
from supervisor.audit.mark import DurableMark, read_mark
from supervisor.audit.segment import (
    MAGIC,
    BadFrame,
    Frame,
    find_frame,
    list_segments,
    read_exactly,
    read_frames,
    segment_name,
)
from supervisor.call.types import Json
from supervisor.errors import AuditCorrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class TornTail:
    """What was cut off: so many bytes, from `position`, with this digest."""

    position: Position
    size_bytes: int
    sha256: str

    def to_json(self) -> dict[str, Json]:
        """Give the body of the `log_cut` entry."""
        return {
            "segment": self.position.segment,
            "offset": self.position.offset,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEnd:
    """Where a log ends: `size` entries in `segments`, the last with hash `leaf`. What lies before
    `durable_offset` of the last segment was made durable by the daemon that wrote it."""

    segments: tuple[int, ...]
    size: int
    leaf: bytes
    end: Position
    durable_offset: int
    total_bytes: int
    torn: TornTail | None = None


def corrupt(
    message: str, *, segment: int, offset: int, index: int, head: Head | None = None
) -> AuditCorrupt:
    """Make the error that names a damaged place of the log."""
    what = f"entry {index}" if index >= 0 else "an entry"
    if head is not None:
        what += f" ({head.kind}" + (f" of call {head.call})" if head.call else ")")
    return AuditCorrupt(
        "CHAIN_BROKEN",
        f"{what}: {message}, in {segment_name(segment)} at offset {offset}",
        hint="run `stockade audit verify` on the state directory, and keep a copy of it",
        metadata={
            "segment": segment_name(segment),
            "offset": str(offset),
            "index": str(index),
            "kind": head.kind if head else "",
            "call": head.call if head else "",
        },
    )


def recover(directory: Path) -> LogEnd | None:
    """Find the end of the log in `directory` and cut a torn tail; None where there is no log.

    Raises:
        AuditCorrupt: `CHAIN_BROKEN`, with the segment, the offset and the entry.
    """
    segments = list_segments(directory)
    mark = _mark(directory, segments)
    if not segments:
        if mark.size:
            raise corrupt("the log is gone", segment=0, offset=0, index=0)
        return None
    leaf = _check_old_segments(directory, segments)
    end = _read_last(directory, segments, leaf, mark)
    if end.size < mark.size:
        raise corrupt(
            f"the log ends here, and {mark.size} entries were durable",
            segment=end.end.segment,
            offset=end.end.offset,
            index=end.size,
        )
    return end


def _mark(directory: Path, segments: list[int]) -> DurableMark:
    try:
        mark = read_mark(directory)
    except ValueError as error:
        raise corrupt(str(error), segment=0, offset=0, index=0) from error
    if mark is None and segments:
        raise corrupt("the durable mark is missing", segment=0, offset=0, index=0)
    return mark or DurableMark()


def _check_old_segments(directory: Path, segments: list[int]) -> bytes:
    """Check the segments before the last one; give the leaf hash that the last one links to."""
    if segments[0] != 0:
        raise corrupt("the log does not begin here", segment=segments[0], offset=0, index=0)
    leaf = NO_LEAF
    for first in segments[:-1]:
        with _opened(directory, first) as fd:
            size = _check_magic(fd, first)
            _check_first(fd, first, size, leaf)
            leaf = read_exactly(fd, LEAF_BYTES, size - LEAF_BYTES)
    return leaf


def _check_magic(fd: int, first: int) -> int:
    if read_exactly(fd, len(MAGIC), 0) != MAGIC:
        raise corrupt("the segment has an unknown format", segment=first, offset=0, index=first)
    return os.fstat(fd).st_size


def _check_first(fd: int, first: int, size: int, leaf: bytes) -> None:
    try:
        frame = next(read_frames(fd, len(MAGIC), size), None)
    except BadFrame as bad:
        raise corrupt(
            bad.why, segment=first, offset=bad.offset, index=first, head=bad.head
        ) from bad
    if frame is None:
        raise corrupt("the segment is empty", segment=first, offset=len(MAGIC), index=first)
    check_link(frame, first, index=first, leaf=leaf)


def check_link(frame: Frame, segment: int, *, index: int, leaf: bytes) -> None:
    """Check that a frame holds entry `index` and follows the one with hash `leaf`.

    Raises:
        AuditCorrupt: `CHAIN_BROKEN`.
    """
    head = frame.head
    if head.index != index:
        message = f"it says that it is entry {head.index}"
    elif head.prev != leaf:
        message = "it does not follow the entry before it"
    else:
        return
    raise corrupt(message, segment=segment, offset=frame.offset, index=index, head=head)


def _read_last(directory: Path, segments: list[int], leaf: bytes, mark: DurableMark) -> LogEnd:
    first = segments[-1]
    index, torn = first, None
    total = sum((directory / segment_name(old)).stat().st_size for old in segments[:-1])
    with _opened(directory, first) as fd:
        size = _check_magic(fd, first)
        _check_marked(mark, index, leaf, first, len(MAGIC))
        end = len(MAGIC)
        try:
            for frame in read_frames(fd, end, size):
                check_link(frame, first, index=index, leaf=leaf)
                index, leaf, end = index + 1, frame.leaf, frame.end
                _check_marked(mark, index, leaf, first, end)
        except BadFrame as bad:
            torn = _cut(fd, first, bad, index=index, size=size, mark=mark)
    return LogEnd(
        segments=tuple(segments),
        size=index,
        leaf=leaf,
        end=Position(segment=first, offset=end),
        durable_offset=min(mark.end.offset, end) if mark.end.segment == first else 0,
        total_bytes=total + end,
        torn=torn,
    )


def _check_marked(mark: DurableMark, size: int, leaf: bytes, segment: int, offset: int) -> None:
    if mark.size == size and mark.size and mark.leaf != leaf:
        raise corrupt(
            "the durable mark names another entry", segment=segment, offset=offset, index=size - 1
        )


def _cut(
    fd: int, segment: int, bad: BadFrame, *, index: int, size: int, mark: DurableMark
) -> TornTail:
    if index < mark.size:
        raise corrupt(
            bad.why, segment=segment, offset=bad.offset, index=index, head=bad.head
        ) from bad
    later = find_frame(fd, bad.offset + 1, size)
    while later is not None:
        if later.durable > index:
            raise corrupt(
                f"{bad.why}, and entry {later.head.index} says that it was durable",
                segment=segment,
                offset=bad.offset,
                index=index,
                head=bad.head,
            ) from bad
        later = find_frame(fd, later.end, size)
    digest = hashlib.sha256()
    for offset in range(bad.offset, size, 1 << 20):
        digest.update(read_exactly(fd, min(1 << 20, size - offset), offset))
    os.ftruncate(fd, bad.offset)
    os.fsync(fd)
    return TornTail(
        position=Position(segment=segment, offset=bad.offset),
        size_bytes=size - bad.offset,
        sha256=digest.hexdigest(),
    )


@contextlib.contextmanager
def _opened(directory: Path, first: int) -> Iterator[int]:
    fd = os.open(directory / segment_name(first), os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
