"""Reading frames out of files that may be damaged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.entry import Head, Kind, encode_entry, encode_frame, leaf_hash
from supervisor.audit.segment import (
    BadFrame,
    decode_frame,
    find_frame,
    list_segments,
    read_frames,
    segment_name,
)


def make_frames(count: int, *, body_bytes: int = 10) -> list[bytes]:
    """Give the frames of a small chain."""
    frames, leaf = [], bytes(32)
    for index in range(count):
        head = Head(
            index=index, prev=leaf, time_ns=index, kind=Kind.LOST, call="c", sequence=index + 1
        )
        payload = encode_entry(head, {"text": "x" * body_bytes})
        leaf = leaf_hash(payload)
        frames.append(encode_frame(payload, leaf, 0))
    return frames


@contextlib.contextmanager
def as_file(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("frames")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


def test_frames_come_back_across_buffers() -> None:
    frames = make_frames(40, body_bytes=20_000)
    data = b"".join(frames)
    with as_file(b"junk" + data) as fd:
        found = list(read_frames(fd, 4, 4 + len(data)))
    assert [frame.head.index for frame in found] == list(range(40))
    assert found[-1].end == 4 + len(data)


@given(st.data())
def test_any_flipped_bit_makes_a_bad_frame(data: st.DataObject) -> None:
    frame = bytearray(make_frames(1)[0])
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadFrame) as caught:
        decode_frame(bytes(frame), 0, 100)
    assert caught.value.offset == 100


@given(st.integers(0, 300))
def test_a_cut_frame_is_bad(length: int) -> None:
    frame = make_frames(1)[0]
    with as_file(frame[: min(length, len(frame) - 1)]) as fd, pytest.raises(BadFrame):
        list(read_frames(fd, 0, len(frame)))


def test_a_bad_frame_tells_what_can_still_be_read() -> None:
    frame = bytearray(make_frames(1)[0])
    frame[5] ^= 1  # the checksum
    with pytest.raises(BadFrame) as caught:
        decode_frame(bytes(frame), 0, 0)
    assert caught.value.head is not None
    assert caught.value.head.kind == Kind.LOST


@pytest.mark.parametrize("junk", [0, 1, 7, 300_000, 262_144])
def test_the_next_good_frame_is_found(junk: int) -> None:
    frame = make_frames(2)[1]
    data = b"\xff" * junk + b'{"body":' + frame + b"tail"
    with as_file(data) as fd:
        found = find_frame(fd, 0, len(data))
    assert found is not None
    assert found.offset == junk + 8


def test_no_frame_is_found_in_junk() -> None:
    data = b'{"body":' * 1000
    with as_file(data) as fd:
        assert find_frame(fd, 0, len(data)) is None


def test_segments_are_listed_in_order(tmp_path: Path) -> None:
    for name in (segment_name(100), segment_name(0), segment_name(9), "durable", "12.seg", "x.seg"):
        (tmp_path / name).touch()
    assert list_segments(tmp_path) == [0, 9, 100]
