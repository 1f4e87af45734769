"""Windows of a recording: each byte once, in order, none larger than it may be."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.call.types import Stream
from supervisor.cli.playback import End, Gap, Moment, Piece, Size
from supervisor.console import replaying
from supervisor.console.replaying import ROWS_MAX, WINDOW_BYTES, Row, window

MS = 1_000_000


def pieces(*parts: bytes, every_ns: int = 1000 * MS) -> list[Moment]:
    made: list[Moment] = []
    offset = 0
    for number, data in enumerate(parts):
        made.append(Piece(at_ns=number * every_ns, stream=Stream.STDOUT, offset=offset, data=data))
        offset += len(data)
    return [*made, End(at_ns=len(parts) * every_ns)]


def all_rows(moments: Iterable[Moment]) -> list[tuple[Row, ...]]:
    kept, found = list(moments), []
    while True:
        part = window(kept, len(found) + 1)
        found.append(part.rows)
        if not part.more:
            return found


def test_a_short_recording_is_one_window() -> None:
    part = window(pieces(b"one\n", b"two\n"), 1)
    assert [(row.at, row.text) for row in part.rows] == [("+0 s", "one\n"), ("+1 s", "two\n")]
    assert not part.more
    assert window(pieces(b"one\n"), 2).rows == ()


def test_what_comes_together_is_one_row() -> None:
    (row,) = window(pieces(b"a", b"b", b"c", every_ns=MS), 1).rows
    assert row.text == "abc"


@pytest.mark.parametrize("size", [WINDOW_BYTES, WINDOW_BYTES + 1, 10 * WINDOW_BYTES + 7])
def test_no_window_is_larger(size: int) -> None:
    data = bytes(65 + n % 26 for n in range(size))
    found = all_rows(pieces(data))
    assert len(found) == -(-size // WINDOW_BYTES)
    assert max(sum(len(row.data) for row in rows) for rows in found) <= WINDOW_BYTES
    assert b"".join(bytes(row.data) for rows in found for row in rows) == data


def test_many_small_pieces_are_bounded_rows() -> None:
    found = all_rows(pieces(*[b"x"] * (ROWS_MAX + 1)))
    assert [len(rows) for rows in found] == [ROWS_MAX, 1]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.lists(st.integers(1, 9), max_size=60))
def test_no_character_is_cut(text: str, cuts: list[int]) -> None:
    """Wherever pieces end: a terminal would show the same."""
    data, parts, at = text.encode(errors="surrogatepass"), [], 0
    for length in cuts:
        parts.append(data[at : at + length])
        at += length
    parts.append(data[at:])
    moments = pieces(*(part for part in parts if part))
    assert b"".join(bytes(row.data) for row in window(moments, 1).rows) == data
    whole = replaying.Row(at_ns=0, stream="stdout", data=bytearray(data)).text
    if "\r" not in text:
        assert "".join(row.text for row in window(moments, 1).rows) == whole


def test_a_character_at_the_border_goes_to_the_next_window() -> None:
    data = b"x" * (WINDOW_BYTES - 1) + "ä".encode() + b"y"
    first, second = all_rows(pieces(data))
    assert first[-1].text == "x" * (WINDOW_BYTES - 1)
    assert second[0].text == "äy"


def test_half_a_character_at_the_end_is_shown() -> None:
    rows = window(pieces(b"a\xc3"), 1).rows
    assert "".join(row.text for row in rows) == "a\\xc3"


def test_controls_are_shown_and_gaps_are_said() -> None:
    moments: list[Moment] = [
        Piece(at_ns=0, stream=Stream.STDERR, offset=0, data=b"\x1b[31mred\x00\xff\xe2\x80\xae"),
        Gap(at_ns=5, what="bytes 7 to 9 are not on record"),
        Size(at_ns=6, rows=24, columns=80),
        End(at_ns=7),
    ]
    rows = window(moments, 1).rows
    assert [row.text for row in rows] == [
        "\\e[31mred\\0\\xff\\u202e",
        "bytes 7 to 9 are not on record",
        "the terminal has 80x24 from here on",
    ]
    assert [row.stream for row in rows] == ["stderr", "", ""]
