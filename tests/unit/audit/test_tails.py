"""The end of a stream in memory: as much as fits, whole marks, and no more than there is room."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.redaction.found import Found, Piece
from supervisor.audit.tails import TAIL_FOUND_MAX, Tail, TailRoom


def mark(offset: int, length: int) -> Piece:
    found = Found(offset=offset, length=length, rule="api", hmac8="01234567")
    return Piece(offset=offset, end=offset + length, data=found.mark, found=found)


def clear(offset: int, data: bytes) -> Piece:
    return Piece(offset=offset, end=offset + len(data), data=data)


@given(bytes_max=st.integers(1, 9000), sizes=st.lists(st.integers(1, 6000), max_size=12))
def test_it_is_the_end_of_what_was_taken(bytes_max: int, sizes: list[int]) -> None:
    whole, tail = b"", Tail(bytes_max)
    for size in sizes:
        data = bytes(number % 251 for number in range(len(whole), len(whole) + size))
        tail.take(clear(len(whole), data))
        whole += data
    assert b"".join(piece.data for piece in tail.pieces) == whole[-bytes_max:]


@given(
    bytes_max=st.integers(1, 200),
    parts=st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=30),
)
def test_marks_are_whole_or_left_out_and_nothing_is_too_large(
    bytes_max: int, parts: list[tuple[bool, int]]
) -> None:
    tail, at = Tail(bytes_max), 0
    for is_mark, length in parts:
        tail.take(mark(at, length) if is_mark else clear(at, b"x" * length))
        at += length
        kept = tail.pieces
        assert sum(len(piece.data) for piece in kept) <= bytes_max
        for piece, following in itertools.pairwise(kept):
            assert piece.end == following.offset
        if kept:
            assert kept[-1].end == at
            assert at - kept[0].offset <= bytes_max
        for piece in kept:
            assert piece.data == (piece.found.mark if piece.found else b"x" * len(piece.data))
            assert piece.found is not None or len(piece.data) == piece.end - piece.offset


def test_many_secrets_make_it_shorter() -> None:
    tail = Tail(1 << 20)
    for number in range(TAIL_FOUND_MAX + 9):
        tail.take(mark(10 * number, 10))
    assert len(tail.pieces) == TAIL_FOUND_MAX
    assert tail.pieces[0].offset == 90


def test_many_small_pieces_are_few_in_memory() -> None:
    tail = Tail(1 << 16)
    for number in range(1 << 17):
        tail.take(clear(number, b"x"))
    assert len(tail.pieces) < 40


def test_there_is_room_for_so_many() -> None:
    room = TailRoom(tails_max=2)
    one, two = room.tail(8), room.tail(8)
    assert one is not None and two is not None
    assert room.tail(8) is None
    del one
    assert room.tail(8) is not None
    assert room.tail(0) is None
