"""What was written, put together from entries and bytes: order, times, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from supervisor.call.types import Stream, Terminal
from supervisor.cli.playback import (
    End,
    Gap,
    Moment,
    Pace,
    Piece,
    Size,
    beginning_ns,
    moments,
    sizes,
    terminal_of,
)
from supervisor.errors import AuditCorrupt
from tests.unit.cli.record import MS, written

BOTH = (Stream.STDOUT, Stream.STDERR)


def played(
    *entries: tuple[int, str, dict[str, object]], streams: tuple[Stream, ...] = BOTH, **data: object
) -> list[Moment]:
    def read(stream: Stream) -> Iterator[bytes]:
        pieces = data.get(stream.value, [])
        assert isinstance(pieces, list)
        yield from pieces

    return list(moments(written(*entries), streams, read))


def output(at_ms: int, stream: str, offset: int, length: int) -> tuple[int, str, dict[str, object]]:
    return (at_ms, "output", {"stream": stream, "offset": offset, "length": length})


def piece(at_ms: int, stream: Stream, offset: int, data: bytes) -> Piece:
    return Piece(at_ns=at_ms * MS, stream=stream, offset=offset, data=data)


def test_streams_are_put_together_in_the_order_of_the_record() -> None:
    """However the bytes are cut on their way."""
    found = played(
        output(10, "stdout", 0, 4), output(20, "stderr", 0, 1), output(30, "stdout", 4, 2),
        stdout=[b"ab", b"cdef"], stderr=[b"x"],
    )  # fmt: skip
    assert found == [
        piece(10, Stream.STDOUT, 0, b"ab"), piece(10, Stream.STDOUT, 2, b"cd"),
        piece(20, Stream.STDERR, 0, b"x"), piece(30, Stream.STDOUT, 4, b"ef"),
        End(at_ns=30 * MS),
    ]  # fmt: skip


def test_only_what_is_wanted_is_read() -> None:
    def read(stream: Stream) -> Iterator[bytes]:
        assert stream is Stream.STDIN
        yield b"in"

    made = written(output(1, "stdout", 0, 4), output(2, "stdin", 0, 2), output(3, "later", 0, 9))
    found = list(moments(made, [Stream.STDIN], read))
    assert found == [piece(2, Stream.STDIN, 0, b"in"), End(at_ns=3 * MS)]


def test_what_is_missing_is_named_where_it_is_missing() -> None:
    found = played(
        output(1, "stdout", 0, 2),
        (2, "truncated", {"stream": "stdout", "offset": 2, "why": "cap"}),
        (3, "truncated", {"stream": "stdin", "offset": 2, "why": "cap"}),
        output(4, "stdout", 8, 1),
        (5, "lost", {"what": "output", "count": 0, "reason": "RECORDING_TORN"}),
        (6, "lost", {"what": "exec", "count": 1, "reason": "FULL"}),
        stdout=[b"ab", b"i"],
    )
    assert found == [
        piece(1, Stream.STDOUT, 0, b"ab"),
        Gap(at_ns=2 * MS, what="stdout: what follows byte 2 is not stored (cap)"),
        Gap(at_ns=4 * MS, what="stdout: bytes 2 to 8 are not on record"),
        piece(4, Stream.STDOUT, 8, b"i"),
        Gap(at_ns=5 * MS, what="lost an unknown number of output: RECORDING_TORN"),
        End(at_ns=6 * MS),
    ]


@pytest.mark.parametrize(("length", "gaps"), [(6, 1), (0, 0)])
def test_a_gap_is_told_once_and_the_end_follows(length: int, gaps: int) -> None:
    found = played(
        output(1, "stdout", 0, 2),
        (2, "truncated", {"stream": "stdout", "offset": 2, "why": "cap"}),
        (3, "truncated", {"stream": "stdout", "offset": 2, "why": "cap", "length": length}),
        output(4, "stdout", 2 + length, 1),
        (5, "truncated", {"stream": "stdout", "offset": 3 + length, "why": "record_full"}),
        stdout=[b"ab", b"i"],
    )
    assert found == [
        piece(1, Stream.STDOUT, 0, b"ab"),
        *[Gap(at_ns=3 * MS, what="stdout: bytes 2 to 8 are not on record (cap)")][:gaps],
        piece(4, Stream.STDOUT, 2 + length, b"i"),
        Gap(
            at_ns=5 * MS,
            what=f"stdout: what follows byte {3 + length} is not stored (record_full)",
        ),
        End(at_ns=5 * MS),
    ]


def test_fewer_bytes_than_an_entry_names_are_damage() -> None:
    with pytest.raises(AuditCorrupt) as caught:
        played(output(1, "stdout", 0, 4), stdout=[b"abc"])
    assert caught.value.reason == "RECORDING_SHORT"


def test_time_begins_with_the_program_and_never_goes_back() -> None:
    found = played(
        output(-5, "stdin", 0, 1), (0, "started", {}),
        output(9, "stdout", 0, 1), output(4, "stdout", 1, 1),
        streams=tuple(Stream), stdin=[b"i"], stdout=[b"ab"],
    )  # fmt: skip
    assert [moment.at_ns // MS for moment in found] == [0, 9, 9, 9]


def test_a_call_that_never_began_has_a_beginning() -> None:
    made = written()
    assert beginning_ns(made) == made.call.accepted_ns
    assert played() == [End(at_ns=0)]


@pytest.mark.parametrize(
    ("speed", "idle_max_s", "due"),
    [
        (1.0, None, [0, 1, 11, 11]),
        (2.0, None, [0, 0.5, 5.5, 5.5]),
        (1.0, 3.0, [0, 1, 4, 4]),
        (2.0, 3.0, [0, 0.5, 2, 2]),
        (1.0, 0.0, [0, 0, 0, 0]),
    ],
)
def test_pace(speed: float, idle_max_s: float | None, due: list[float]) -> None:
    pace = Pace(speed=speed, idle_max_s=idle_max_s)
    assert [pace.due_s(at_s * 1000 * MS) for at_s in (0, 1, 11, 11)] == due


def test_a_secret_comes_as_its_mark_when_its_first_byte_came() -> None:
    mark = "[REDACTED:api:0123abcd]"

    def came(
        at: int, offset: int, length: int, end: int, *found: list[object]
    ) -> tuple[int, str, dict[str, object]]:
        body = {"begin": 0, "end": end, "size": 0, "found": list(found)}
        made = output(at, "stdout", offset, length)
        return (made[0], made[1], {**made[2], "redacted": body})

    found = played(
        came(1, 0, 3, 0),
        came(2, 3, 4, 0),
        came(3, 7, 2, 2),
        came(4, 9, 3, 2),
        came(5, 12, 0, 12, [2, 6, "api", "0123abcd"]),
        stdout=[b"ab", mark.encode(), b"cdef"],
    )
    told = {(moment.at_ns // MS): b"" for moment in found if isinstance(moment, Piece)}
    for moment in found:
        if isinstance(moment, Piece):
            told[moment.at_ns // MS] += moment.data
    assert told == {1: b"ab" + mark.encode(), 3: b"c", 4: b"def"}


def test_a_terminal_and_its_sizes_stand_in_their_places() -> None:
    made = (
        output(1, "stdout", 0, 2), (2, "resized", {"rows": 50, "columns": 132}),
        output(3, "stdout", 2, 1),
    )  # fmt: skip
    assert played(*made, stdout=[b"abc"]) == [
        piece(1, Stream.STDOUT, 0, b"ab"), Size(at_ns=2 * MS, rows=50, columns=132),
        piece(3, Stream.STDOUT, 2, b"c"), End(at_ns=3 * MS),
    ]  # fmt: skip
    assert list(sizes(written(*made))) == [(132, 50)]


@pytest.mark.parametrize("key", ["request", "request_preview"])
def test_the_first_size_is_in_the_request(key: str) -> None:
    asked = {"rows": 24, "columns": 80, "term": "vt100"}
    found = terminal_of(written((0, "intent", {key: {"terminal": asked}})))
    assert found == Terminal(rows=24, columns=80, term="vt100")
    assert terminal_of(written((0, "intent", {key: {}}))) is None
    assert terminal_of(written()) is None


@pytest.mark.parametrize("rows", [0, -1, 1001, "24", None, 1.5])
def test_a_size_that_is_none_is_damage(rows: object) -> None:
    asked = {"rows": rows, "columns": 80, "term": "vt100"}
    with pytest.raises(AuditCorrupt) as caught:
        terminal_of(written((0, "intent", {"request": {"terminal": asked}})))
    assert caught.value.reason == "RECORD_UNREADABLE"
    with pytest.raises(AuditCorrupt):
        played((1, "resized", {"rows": rows, "columns": 80}))
