"""Segments: the files of the log, and how frames are read from them.

A segment is named after the index of its first entry in 20 digits, and opens with a line that
names the format. Reading never trusts a byte: every frame is checked before it is given out, and
a bad one raises `BadFrame` with the offset.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from supervisor.audit.entry import (
    ENTRY_BYTES_MAX,
    FRAME_BYTES_MAX,
    HEADER,
    LEAF_BYTES,
    PAYLOAD_PREFIX,
    Head,
    Position,
    StoredEntry,
    decode_head,
    frame_checksum,
    leaf_hash,
)

MAGIC = b"stockade log 1\n\0"
SUFFIX = ".seg"
_SEGMENT = re.compile(r"[0-9]{20}\.seg")
READ_BYTES = 256 * 1024
SCAN_BYTES = 4 << 20
_LENGTH = struct.Struct(">I")
_FRAME_BYTES_MIN = HEADER.size + LEAF_BYTES + len(PAYLOAD_PREFIX)


class BadFrame(Exception):
    """The bytes at `offset` are no frame; `head` is what could still be decoded."""

    def __init__(self, offset: int, why: str, head: Head | None = None) -> None:
        super().__init__(f"{why} at offset {offset}")
        self.offset = offset
        self.why = why
        self.head = head


class Frame(NamedTuple):
    """A frame whose checksum and leaf hash are right."""

    offset: int
    end: int
    durable: int
    payload: bytes
    leaf: bytes
    head: Head

    def entry(self, segment: int) -> StoredEntry:
        """Give the entry in it."""
        return StoredEntry(
            head=self.head,
            json=self.payload,
            leaf=self.leaf.hex(),
            position=Position(segment=segment, offset=self.offset),
        )


def segment_name(first: int) -> str:
    """Give the file name of the segment whose first entry has index `first`."""
    return f"{first:020d}{SUFFIX}"


def list_segments(directory: Path) -> list[int]:
    """Give the first indices of all segments in `directory`, in order."""
    return select_segments(path.name for path in directory.iterdir())


def select_segments(names: Iterable[str]) -> list[int]:
    """Give the first indices of those names that are segments', in order."""
    return sorted(int(name.removesuffix(SUFFIX)) for name in names if _SEGMENT.fullmatch(name))


def read_exactly(fd: int, length: int, offset: int) -> bytes:
    """Read `length` bytes at `offset`, or what there is."""
    parts = []
    while length > 0:
        part = os.pread(fd, length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_exactly(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`, however many pieces the kernel makes of it.

    Raises:
        OSError: as the kernel says; some of it may be written.
    """
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], offset + done)


def write_again(fd: int, start: int, end: int) -> None:
    """Write what can be read from `start` to `end` once more, where it is.

    What a process before this one wrote, and could not sync, may be in memory alone by now, marked
    as if it were on the disk: an fsync of ours would say so, too (Rebello et al., USENIX ATC 2020).

    Raises:
        OSError: as the kernel says.
    """
    for offset in range(start, end, SCAN_BYTES):
        write_exactly(fd, read_exactly(fd, min(SCAN_BYTES, end - offset), offset), offset)


def read_frames(fd: int, start: int, end: int) -> Iterator[Frame]:
    """Give the frames from `start` up to `end`.

    Raises:
        BadFrame: at the first bytes that are no frame.
    """
    buffer, base, offset = b"", start, start
    while offset < end:
        available = base + len(buffer) - offset
        if available < FRAME_BYTES_MAX and base + len(buffer) < end:
            buffer = read_exactly(fd, min(max(READ_BYTES, FRAME_BYTES_MAX), end - offset), offset)
            base = offset
            if not buffer:
                raise BadFrame(offset, "the file ends early")
        frame = decode_frame(buffer, offset - base, offset)
        yield frame
        offset = frame.end


def find_frames(fd: int, start: int, end: int, wanted: bytes) -> Iterator[Frame]:
    """Give those frames from `start` up to `end` whose bytes have `wanted` in them.

    The others are passed over: that they begin where the one before ends is all that is checked.

    Raises:
        BadFrame: at the first bytes that are no frame.
    """
    buffer, base, offset, hit = b"", start, start, -1
    while offset < end:
        available = base + len(buffer) - offset
        if available < FRAME_BYTES_MAX and base + len(buffer) < end:
            buffer = read_exactly(fd, min(READ_BYTES, end - offset), offset)
            base, hit = offset, buffer.find(wanted)
        at = offset - base
        following = _frame_end(buffer, at, offset)
        if 0 <= hit < following:
            yield decode_frame(buffer, at, offset)
            hit = buffer.find(wanted, following)
        offset = base + following


def find_marked(fd: int, start: int, end: int, mark: bytes) -> Iterator[Frame]:
    """Give those frames from `start` up to `end` whose bytes have `mark` in them, without a look at
    what lies between: for few frames among very many.

    Raises:
        BadFrame: where `mark` stands in no good frame.
    """
    offset = done = start
    while offset < end:
        low = max(start, offset - FRAME_BYTES_MAX)
        window = read_exactly(fd, min(offset + SCAN_BYTES + FRAME_BYTES_MAX, end) - low, low)
        last = min(offset + SCAN_BYTES, end) - low + len(mark) - 1
        hit = window.find(mark, offset - low, last)
        while hit >= 0:
            if low + hit >= done:
                frame = _frame_around(window, hit, low)
                done = frame.end
                yield frame
            hit = window.find(mark, hit + 1, last)
        offset += SCAN_BYTES


def _frame_around(window: bytes, hit: int, low: int) -> Frame:
    """Give the frame that has the byte at `hit`; the window begins at `low` in the file."""
    at = window.rfind(PAYLOAD_PREFIX, 0, hit)
    while at >= HEADER.size and hit - at <= FRAME_BYTES_MAX:
        try:
            frame = decode_frame(window, at - HEADER.size, low + at - HEADER.size)
        except BadFrame:
            at = window.rfind(PAYLOAD_PREFIX, 0, at)  # an object in a body looks like a beginning
            continue
        if frame.end > low + hit:
            return frame
        break
    raise BadFrame(low + hit, "no good frame is around this place")


def _frame_end(buffer: bytes, at: int, offset: int) -> int:
    """Give where the frame at `buffer[at:]` ends, looking only at its length and its form."""
    begin = at + HEADER.size
    if not buffer.startswith(PAYLOAD_PREFIX, begin):
        raise BadFrame(offset, "the entry has not the form of an entry")
    length = _LENGTH.unpack_from(buffer, at)[0]
    following: int = begin + length + LEAF_BYTES
    if not len(PAYLOAD_PREFIX) <= length <= ENTRY_BYTES_MAX:
        raise BadFrame(offset, "the length of the frame is wrong")
    if following > len(buffer):
        raise BadFrame(offset, "the frame is cut off")
    return following


def decode_frame(buffer: bytes, at: int, offset: int) -> Frame:
    """Decode the frame at `buffer[at:]`; `offset` is where that lies in the file.

    Raises:
        BadFrame: where length, checksum, leaf hash or form are wrong.
    """
    if len(buffer) - at < HEADER.size:
        raise BadFrame(offset, "the frame is cut off")
    length, checksum, durable = HEADER.unpack_from(buffer, at)
    if not len(PAYLOAD_PREFIX) <= length <= ENTRY_BYTES_MAX:
        raise BadFrame(offset, "the length of the frame is wrong")
    begin = at + HEADER.size
    rest = buffer[begin : begin + length + LEAF_BYTES]
    payload, leaf = rest[:length], rest[length:]
    head = decode_head(payload)
    if len(leaf) < LEAF_BYTES:
        raise BadFrame(offset, "the frame is cut off", head)
    if frame_checksum(length, durable, rest) != checksum:
        raise BadFrame(offset, "the checksum of the frame is wrong", head)
    if leaf_hash(payload) != leaf:
        raise BadFrame(offset, "the leaf hash is not that of the entry", head)
    if head is None:
        raise BadFrame(offset, "the entry has not the form of an entry")
    return Frame(
        offset=offset,
        end=offset + HEADER.size + length + LEAF_BYTES,
        durable=durable,
        payload=payload,
        leaf=leaf,
        head=head,
    )


def _next_data(fd: int, offset: int, end: int) -> int:
    """Give where from `offset` on there is something else than a hole, `end` where nothing is."""
    try:
        # As far back as a frame may reach into what was read.
        return max(offset, os.lseek(fd, offset, os.SEEK_DATA) - HEADER.size)
    except OSError as error:
        return end if error.errno == errno.ENXIO else offset


def find_frame(fd: int, start: int, end: int) -> Frame | None:
    """Give the first good frame that begins at `start` or later, whatever lies before it."""
    while start + _FRAME_BYTES_MIN <= end:
        window = read_exactly(fd, min(READ_BYTES + FRAME_BYTES_MAX, end - start), start)
        at = window.find(PAYLOAD_PREFIX, HEADER.size)
        while at >= 0:
            begin = at - HEADER.size
            if begin >= READ_BYTES:
                break
            try:
                return decode_frame(window, begin, start + begin)
            except BadFrame:
                at = window.find(PAYLOAD_PREFIX, at + 1)
        start = _next_data(fd, start + READ_BYTES, end)
    return None
