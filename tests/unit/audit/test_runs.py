"""Runs: many good frames at a time, and never more than `segment` would take one by one."""

from __future__ import annotations

import struct

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.entry import (
    HEADER,
    LEAF_BYTES,
    NO_LEAF,
    Head,
    Kind,
    Position,
    StoredEntry,
    encode_entry,
    encode_frame,
    leaf_hash,
)
from supervisor.audit.runs import Run, read_run
from supervisor.audit.segment import BadFrame, Frame, decode_frame

FIRST, OFFSET = 7, 16


def frame_of(payload: bytes) -> bytes:
    return encode_frame(payload, leaf_hash(payload), 3)


def chain(count: int, leaf: bytes = NO_LEAF) -> list[bytes]:
    frames = []
    for index in range(FIRST, FIRST + count):
        kind = Kind.DENIED if index % 3 else Kind.LOST
        head = Head(index=index, prev=leaf, time_ns=5, kind=kind, call="c-1", sequence=index)
        payload = encode_entry(head, {"text": f'"call":"{index}'})
        leaf = leaf_hash(payload)
        frames.append(frame_of(payload))
    return frames


def run_of(data: bytes, leaf: bytes = NO_LEAF) -> Run:
    return read_run(data, segment=FIRST, offset=OFFSET, index=FIRST, leaf=leaf)


def one_by_one(data: bytes, leaf: bytes = NO_LEAF) -> list[StoredEntry]:
    """Give what a run has to have, by the slow way."""
    entries, at, index = list[StoredEntry](), 0, FIRST
    while at < len(data):
        try:
            frame: Frame = decode_frame(data, at, OFFSET + at)
        except BadFrame:
            break
        if frame.head.index != index or frame.head.prev != leaf:
            break
        entries.append(frame.entry(FIRST))
        at, index, leaf = frame.end - OFFSET, index + 1, frame.leaf
    return entries


def test_a_run_has_what_the_frames_have() -> None:
    frames = chain(20)
    run = run_of(b"".join(frames))
    assert list(run.entries()) == one_by_one(b"".join(frames))
    assert len(run) == 20
    assert run.end == OFFSET + sum(map(len, frames))
    assert run.places_of(Kind.LOST) == [2, 5, 8, 11, 14, 17]
    assert run.calls[0] == (b"c-1", b"denied", 7)
    assert run.body(0) == b'{"text":"\\"call\\":\\"7"}'


def test_it_ends_where_the_buffer_cuts_a_frame() -> None:
    frames = chain(3)
    data = b"".join(frames)
    for cut in range(len(data)):
        run = run_of(data[:cut])
        assert list(run.entries()) == one_by_one(data[:cut])
        assert run.end <= OFFSET + cut


def test_every_flipped_bit_ends_it() -> None:
    frames = chain(3)
    data = bytearray(b"".join(frames))
    for place in range(len(frames[0]), len(frames[0]) + len(frames[1])):
        for bit in range(8):
            data[place] ^= 1 << bit
            assert len(run_of(bytes(data))) == 1
            data[place] ^= 1 << bit
    assert len(run_of(bytes(data))) == 3


def again(payload: bytes, durable: int = 3) -> bytes:
    """Give a frame whose checksum and leaf hash are right, whatever is in it."""
    rest = payload + leaf_hash(payload)
    checksum = google_crc32c.value(struct.pack(">IQ", len(payload), durable) + rest)
    return HEADER.pack(len(payload), checksum, durable) + rest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"index":8', b'"index":9'),
        (b'"index":8', b'"index":-8'),
        (b'"index":8', b'"index": 8'),
        (b'"kind":"denied"', b'"kind":"Denied"'),
        (b'"call":"c-1"', b'"call":"c 1"'),
        (b'"sequence":8', b'"sequence":""'),
        (b'{"body":', b'{"Body":'),
        (b'"prev":"', b'"prev":"0'),
        (b'"time_ns":5}', b'"time_ns":5} '),
        (b',"call":"c-1"', b' ,"call":"c-1"'),
        (b',"call":"c-1"', b'\t"call":"c-1"'),
    ],
)
def test_what_is_no_entry_or_does_not_follow_ends_it(old: bytes, new: bytes) -> None:
    one, two, _ = chain(3)
    payload = two[HEADER.size : -LEAF_BYTES]
    assert old in payload
    data = one + again(payload.replace(old, new))
    assert list(run_of(data).entries()) == one_by_one(data)[: len(run_of(data))]
    assert len(run_of(data)) == 1 + (new[:1] == b" ")  # White space in front is no part of a tail.


def test_it_follows_the_entry_before() -> None:
    frames = chain(2, leaf=bytes([1] * 32))
    assert len(run_of(b"".join(frames))) == 0
    assert len(run_of(b"".join(frames), leaf=bytes([1] * 32))) == 2


@given(data=st.data())
def test_it_never_takes_more_than_one_by_one(data: st.DataObject) -> None:
    frames = chain(4)
    order = data.draw(st.lists(st.sampled_from(frames), max_size=6))
    damaged = bytearray(b"".join(order))
    for _ in range(data.draw(st.integers(0, 2))):
        if damaged:
            place = data.draw(st.integers(0, len(damaged) - 1))
            damaged[place] = data.draw(st.integers(0, 255))
    assert list(run_of(bytes(damaged)).entries()) == one_by_one(bytes(damaged))


def test_a_run_of_one() -> None:
    [entry] = one_by_one(chain(1)[0])
    run = Run.of(entry)
    assert list(run.entries()) == [entry]
    assert (run.index, run.end) == (FIRST, OFFSET + len(chain(1)[0]))
    bad = StoredEntry(
        head=entry.head, json=b"{}", leaf=entry.leaf, position=Position(segment=0, offset=0)
    )
    with pytest.raises(ValueError, match="form"):
        Run.of(bad)
