"""Runs: good frames in a row, read many at a time. Pure.

Who reads all of a log frame by frame spends most of the time on making objects. A run keeps what
was read in lists, and makes an entry only of what is asked for. It takes no frame that is not
flawless or does not follow the one before it: what is wrong with the first that it leaves,
`segment` says.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import google_crc32c

from supervisor.audit.entry import (
    CALL,
    ENTRY_BYTES_MAX,
    HEADER,
    INDEX,
    KIND,
    LEAF_BYTES,
    PAYLOAD_PREFIX,
    PREV,
    SEQUENCE,
    Position,
    StoredEntry,
    head_of,
    tail_of,
)

RUN_BYTES = 512 * 1024
"""Of a log, that are read at a time."""

_START = struct.Struct(">II")


@dataclass(slots=True, kw_only=True)
class Run:
    """Entries of one segment that follow each other; `index` is that of the first, and `end` where
    the last one's frame ends. A tail is what stands in an entry after its body."""

    segment: int
    index: int
    end: int
    payloads: list[bytes] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    tails: list[re.Match[bytes]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.payloads)

    @classmethod
    def of(cls, entry: StoredEntry) -> Run:
        """Give a run of one entry, wherever it lies.

        Raises:
            ValueError: it is none of ours.
        """
        tail = tail_of(entry.json)
        if tail is None:
            raise ValueError("the entry has not the form of an entry")
        offset = entry.position.offset
        return cls(
            segment=entry.position.segment,
            index=entry.index,
            end=offset + HEADER.size + len(entry.json) + LEAF_BYTES,
            payloads=[entry.json],
            leaves=[bytes.fromhex(entry.leaf)],
            tails=[tail],
            offsets=[offset],
        )

    def entry(self, place: int) -> StoredEntry:
        """Give one entry, counted from the first of the run."""
        head = head_of(self.tails[place])
        head.index = self.index + place  # its place, whatever it says itself
        return StoredEntry(
            head=head,
            json=self.payloads[place],
            leaf=self.leaves[place].hex(),
            position=Position(self.segment, self.offsets[place]),
        )

    def entries(self) -> Iterator[StoredEntry]:
        """Give all of them."""
        return map(self.entry, range(len(self)))

    def calls(self) -> list[tuple[bytes, ...]]:
        """Give call, kind and sequence of each, as they are spelled in it."""
        return [tail.group(CALL, KIND, SEQUENCE) for tail in self.tails]

    def body(self, place: int) -> bytes:
        """Give the body of one entry, as it is spelled in it."""
        return self.payloads[place][len(PAYLOAD_PREFIX) : self.tails[place].start()]

    def places_of(self, kind: str) -> list[int]:
        """Give where in the run the entries of a kind are."""
        wanted = kind.encode()
        return [place for place, tail in enumerate(self.tails) if tail[KIND] == wanted]


def read_run(buffer: bytes, *, segment: int, offset: int, index: int, leaf: bytes) -> Run:
    """Give the entries at the beginning of `buffer`, which lies at `offset` of its segment, that
    follow the one before `index`, whose leaf hash is `leaf`. Where they end, the buffer ends, or
    what comes is not one of them."""
    run = Run(segment=segment, index=index, end=offset)
    payloads, leaves, tails, offsets = run.payloads, run.leaves, run.tails, run.offsets
    at, size, prev = 0, len(buffer), leaf.hex().encode()
    while at + HEADER.size <= size:
        length, checksum = _START.unpack_from(buffer, at)
        end = at + HEADER.size + length + LEAF_BYTES
        if length > ENTRY_BYTES_MAX or end > size:
            break
        checked = buffer[at + _START.size : end]
        payload, leaf = checked[HEADER.size - _START.size : -LEAF_BYTES], checked[-LEAF_BYTES:]
        tail = tail_of(payload)
        if (
            tail is None
            or tail[PREV] != prev
            or int(tail[INDEX]) != index
            or google_crc32c.value(buffer[at : at + 4] + checked) != checksum
            or hashlib.sha256(b"\x00" + payload).digest() != leaf
        ):
            break
        payloads.append(payload)
        leaves.append(leaf)
        tails.append(tail)
        offsets.append(offset + at)
        at, index, prev = end, index + 1, leaf.hex().encode()
    run.end = offset + at
    return run
