"""Where the bytes of a redacted stream are from, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.redaction.found import (
    Found,
    Piece,
    Placed,
    found_from_json,
    found_to_json,
    pieces,
)

ONE = Found(offset=12, length=4, rule="a-rule", hmac8="0123abcd")
TWO = Found(offset=16, length=90, rule="b", hmac8="ffffffff")
DATA = b"xy[REDACTED:a-rule:0123abcd][REDACTED:b:ffffffff]z"


def test_the_mark() -> None:
    assert (ONE.mark, ONE.end) == (b"[REDACTED:a-rule:0123abcd]", 16)


def test_pieces_stand_for_what_was_there() -> None:
    assert list(pieces(DATA, 10, 107, (ONE, TWO))) == [
        Piece(offset=10, end=12, data=b"xy"),
        Piece(offset=12, end=16, data=ONE.mark, found=ONE),
        Piece(offset=16, end=106, data=TWO.mark, found=TWO),
        Piece(offset=106, end=107, data=b"z"),
    ]
    assert list(pieces(b"", 5, 5, ())) == []


@pytest.mark.parametrize(
    ("data", "begin", "end", "found"),
    [
        (b"abc", 0, 4, ()),
        (b"abc", 0, 2, ()),
        (DATA, 10, 107, (ONE,)),
        (DATA, 10, 106, (ONE, TWO)),
        (DATA, 11, 107, (ONE, TWO)),
        (DATA, 13, 107, (ONE, TWO)),
        (DATA, 10, 107, (TWO, ONE)),
        (b"xy" + b"." * 26, 10, 16, (ONE,)),
    ],
)
def test_what_does_not_fit_is_told(
    data: bytes, begin: int, end: int, found: tuple[Found, ...]
) -> None:
    with pytest.raises(ValueError, match="redacted"):
        list(pieces(data, begin, end, found))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40)), max_size=6),
    st.integers(0, 9),
    st.lists(st.integers(1, 12)),
)
def test_places_follow_the_stream(
    secrets: list[tuple[int, int]], rest: int, chunks: list[int]
) -> None:
    out, at, found = b"", 0, []
    for clear, length in secrets:
        one = Found(offset=at + clear, length=length, rule="r", hmac8="00000000")
        found.append(one)
        out += b"." * clear + one.mark
        at = one.end
    out, at = out + b"." * rest, at + rest
    placed, offset, taken = Placed(found), 0, 0
    for chunk in chunks:
        offset = min(at, offset + chunk)
        place = placed.place(offset)
        assert taken <= place <= len(out)
        clear = [one for one in found if one.offset < offset]
        gone = sum(min(one.length, offset - one.offset) for one in clear)
        assert place == offset - gone + sum(len(one.mark) for one in clear)
        taken = place
    assert Placed(found).place(at) == len(out)


def test_json_there_and_back() -> None:
    assert found_from_json(found_to_json((ONE, TWO))) == (ONE, TWO)
    for wrong in (1, [1], [[1, 2, "a"]], [["1", 2, "a", "b"]], [[1, 2, "a", None]]):
        with pytest.raises(TypeError):
            found_from_json(wrong)  # type: ignore[arg-type]
