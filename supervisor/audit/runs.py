"""Runs: good frames in a row, read many at a time. Pure.

Who reads all of a log frame by frame spends most of the time on making objects. A run keeps what
was read in lists, and makes an entry only of what is asked for. It takes no frame that is not
flawless or does not follow the one before it: what is wrong with the first that it leaves,
`segment` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from supervisor.audit.entry import (
    CALL,
    HEADER,
    KIND,
    LEAF_BYTES,
    PAYLOAD_PREFIX,
    SEQUENCE,
    Position,
    StoredEntry,
    head_of,
    tail_of,
)
from supervisor.audit.frames import see_frames

RUN_BYTES = 512 * 1024
"""Of a log, that are read at a time."""


@dataclass(slots=True, kw_only=True)
class Run:
    """Entries of one segment that follow each other; `index` is that of the first, and `end` where
    the last one's frame ends. `tails` are where in each its body ends, `calls` are its call, kind
    and sequence."""

    segment: int
    index: int
    end: int
    payloads: list[bytes] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    tails: list[int] = field(default_factory=list)
    calls: list[tuple[bytes, bytes, int]] = field(default_factory=list)
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
            tails=[tail.start()],
            calls=[(tail[CALL], tail[KIND], int(tail[SEQUENCE]))],
            offsets=[offset],
        )

    def entry(self, place: int) -> StoredEntry:
        """Give one entry, counted from the first of the run."""
        tail = tail_of(self.payloads[place])
        if tail is None:
            raise ValueError("the entry has not the form of an entry")
        head = head_of(tail)
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

    def body(self, place: int) -> bytes:
        """Give the body of one entry, as it is spelled in it."""
        return self.payloads[place][len(PAYLOAD_PREFIX) : self.tails[place]]

    def places_of(self, kind: str) -> list[int]:
        """Give where in the run the entries of a kind are."""
        wanted = kind.encode()
        return [place for place, one in enumerate(self.calls) if one[1] == wanted]


def read_run(buffer: bytes, *, segment: int, offset: int, index: int, leaf: bytes) -> Run:
    """Give the entries at the beginning of `buffer`, which lies at `offset` of its segment, that
    follow the one before `index`, whose leaf hash is `leaf`. Where they end, the buffer ends, or
    what comes is not one of them."""
    seen = see_frames(buffer, index, leaf)
    return Run(
        segment=segment,
        index=index,
        end=offset + seen.end,
        payloads=seen.payloads,
        leaves=seen.leaves,
        tails=seen.tails,
        calls=seen.calls,
        offsets=[offset + begin for begin in seen.begins],
    )
