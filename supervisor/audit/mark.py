"""The durable mark: how much of the log is known to be on disk.

It is written in place after each fdatasync of the log and lies within one sector. A log that is
shorter than its mark, or that has none, has been damaged.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from supervisor.audit.entry import NO_LEAF, Position
from supervisor.audit.segment import write_exactly
from supervisor.audit.space import sync_directory

MARK_NAME = "durable"
NEW_NAME = "new"
"""What a file of the log is called until it is whole."""

_MAGIC = b"stockade mark 1\n"
_MARK = struct.Struct(">16sQ32sQQ")
MARK_BYTES = _MARK.size + 4
_ORIGIN = Position(segment=0, offset=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableMark:
    """The first `size` entries are durable; the last of them hashes to `leaf` and ends at `end`."""

    size: int = 0
    leaf: bytes = NO_LEAF
    end: Position = _ORIGIN

    def encode(self) -> bytes:
        """Give the bytes of the mark."""
        body = _MARK.pack(_MAGIC, self.size, self.leaf, self.end.segment, self.end.offset)
        return body + struct.pack(">I", google_crc32c.value(body))

    @classmethod
    def decode(cls, data: bytes) -> DurableMark:
        """Read the bytes of a mark.

        Raises:
            ValueError: where they are not one.
        """
        if len(data) != MARK_BYTES:
            raise ValueError(f"the durable mark has not {MARK_BYTES} bytes")
        body, checksum = data[: _MARK.size], data[_MARK.size :]
        if struct.pack(">I", google_crc32c.value(body)) != checksum:
            raise ValueError("the checksum of the durable mark is wrong")
        magic, size, leaf, segment, offset = _MARK.unpack(body)
        if magic != _MAGIC:
            raise ValueError("the durable mark has an unknown format")
        return cls(size=size, leaf=leaf, end=Position(segment=segment, offset=offset))


def read_mark(directory: Path) -> DurableMark | None:
    """Read the mark of a log, None where there is none.

    Raises:
        ValueError: where it is damaged.
    """
    try:
        with (directory / MARK_NAME).open("rb") as file:
            data = file.read(MARK_BYTES + 1)
    except FileNotFoundError:
        return None
    return DurableMark.decode(data)


def open_mark(directory: Path) -> int:
    """Open the mark for writing; make it, with nothing durable, where there is none."""
    path = directory / MARK_NAME
    if path.exists():
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    new = directory / NEW_NAME
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    write_exactly(fd, DurableMark().encode(), 0)
    os.fsync(fd)
    new.rename(path)
    sync_directory(directory)
    return fd
