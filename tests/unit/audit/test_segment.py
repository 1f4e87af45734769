"""Reading frames out of files that may be damaged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit import segment
from supervisor.audit.entry import (
    FRAME_BYTES_MAX,
    NO_LEAF,
    Head,
    Kind,
    encode_entry,
    encode_frame,
    leaf_hash,
    mark_of_call,
)
from supervisor.audit.segment import (
    BadFrame,
    decode_frame,
    find_frame,
    find_frames,
    find_marked,
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


@pytest.mark.parametrize("read_bytes", [FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 1 << 20])
def test_only_wanted_frames_are_decoded(
    read_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "READ_BYTES", read_bytes)
    payloads = [
        encode_entry(
            Head(
                index=number,
                prev=NO_LEAF,
                time_ns=1,
                kind="noise",
                call="wanted" if number % 9 == 4 else "",
                sequence=1,
            ),
            {"text": "x" * (number * 617 % 60_000)},
        )
        for number in range(200)
    ]
    data = b"".join(encode_frame(payload, leaf_hash(payload), 0) for payload in payloads)
    path = tmp_path / "frames"
    path.write_bytes(data)
    with path.open("rb") as file:
        found = list(find_frames(file.fileno(), 0, len(data), mark_of_call("wanted")))
        assert [frame.head.index for frame in found] == list(range(4, 200, 9))
        assert found == [
            frame
            for frame in read_frames(file.fileno(), 0, len(data))
            if frame.head.call == "wanted"
        ]
        with pytest.raises(BadFrame):
            list(find_frames(file.fileno(), 0, len(data) - 1, mark_of_call("wanted")))
        with pytest.raises(BadFrame):
            list(find_frames(file.fileno(), 0, len(data) + 1, mark_of_call("wanted")))


MARK = mark_of_call("")


def mixed(own: set[int], count: int, body_bytes: int) -> list[bytes]:
    """Give frames of which those with a number in `own` belong to no call."""
    frames, leaf = [], NO_LEAF
    for index in range(count):
        call = "" if index in own else "c"
        head = Head(
            index=index, prev=leaf, time_ns=index, kind=Kind.LOST, call=call, sequence=index
        )
        # What begins like an entry within a body, and what only looks like the mark.
        body = {"a": {"body": {"body": 1}}, "text": '{"body":"call":"","index":' + "x" * body_bytes}
        payload = encode_entry(head, body)
        leaf = leaf_hash(payload)
        frames.append(encode_frame(payload, leaf, 0))
    return frames


@given(
    own=st.sets(st.integers(0, 39)),
    body_bytes=st.sampled_from([0, 100, 3000]),
    scan=st.integers(1, 9000),
    first=st.integers(0, 39),
)
def test_marked_frames_are_found_wherever_a_window_ends(
    own: set[int], body_bytes: int, scan: int, first: int
) -> None:
    frames = mixed(own, 40, body_bytes)
    start = len(b"".join(frames[:first]))
    with as_file(b"".join(frames)) as fd, pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "SCAN_BYTES", scan)
        found = list(find_marked(fd, start, os.fstat(fd).st_size, MARK))
    assert [frame.head.index for frame in found] == sorted(n for n in own if n >= first)


@given(data=st.data())
def test_a_marked_frame_that_is_damaged_is_never_passed_over(data: st.DataObject) -> None:
    frames = mixed({1}, 3, 50)
    body = bytearray(frames[1])
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= 1 << data.draw(st.integers(0, 7))
    whole = frames[0] + bytes(body) + frames[2]
    with as_file(whole) as fd:
        if MARK not in whole:
            assert list(find_marked(fd, 0, len(whole), MARK)) == []  # `verify` names what is left
        else:
            with pytest.raises(BadFrame):
                list(find_marked(fd, 0, len(whole), MARK))
