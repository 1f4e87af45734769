"""What differs between two calls, and what does not count as a difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from supervisor.audit.codec import denied_to_json, flow_to_json, processes_to_json
from supervisor.call.events import Denied, Processes, ProgramStarted, Verdict, Wall
from supervisor.call.outcome import (
    Exited,
    LimitExceeded,
    LimitKind,
    Outcome,
    OutOfMemory,
    Signaled,
    TimedOut,
)
from supervisor.call.types import Digest, OutputFile, SkippedFile, Stream, StreamSummary, Usage
from supervisor.cli import differences
from supervisor.cli.differences import Compared, Difference, compare, first_difference
from supervisor.client import Record
from supervisor.errors import CallStateError
from tests.support.records import FLOW, PROCESSES, make_finished
from tests.unit.cli.record import written

MANY = 5_001


def record(
    name: str,
    *entries: tuple[str, dict[str, Any]],
    streams: Mapping[Stream, bytes] | None = None,
    stored: int | None = None,
    **changes: Any,
) -> Record:
    made = written((0, "intent", {}), *((0, kind, body) for kind, body in entries))
    summaries = tuple(
        StreamSummary(stream=stream, digest=Digest.of(data),
                      stored_bytes=len(data) if stored is None else stored)
        for stream, data in (streams or {}).items()
    )  # fmt: skip
    finished = make_finished(streams=summaries, **changes)
    return replace(made, call=replace(made.call, call_id=name, finished=finished))


def compared(one: Record, other: Record, **data: bytes) -> Compared:
    return compare(one, other, lambda call, stream: [data[call]])


def with_entries(*sides: list[tuple[str, dict[str, Any]]]) -> Compared:
    return compared(*(record(f"c{place}", *side) for place, side in enumerate(sides)))


def outputs(one: bytes, other: bytes, *, stored: int | None = None) -> Compared:
    sides = [record(name, streams={Stream.STDOUT: data}, stored=stored)
             for name, data in (("a", one), ("b", other))]  # fmt: skip
    return compared(*sides, a=one[:stored], b=other[:stored])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Exited(code=1), Exited(code=1)),
        (OutOfMemory(limit_bytes=9, peak_bytes=8, kills=1),
         OutOfMemory(limit_bytes=9, peak_bytes=9, kills=2)),
        (LimitExceeded(limit=LimitKind.CPU, used=1001, allowed=1000),
         LimitExceeded(limit=LimitKind.CPU, used=1007, allowed=1000)),
    ],
)  # fmt: skip
def test_what_was_measured_is_no_difference(one: Outcome, other: Outcome) -> None:
    usage = Usage(cpu_user_s=1, memory_peak_bytes=7)
    found = compared(record("a", outcome=one), record("b", outcome=other, usage=usage))
    assert (found.same, found.differences, found.unknown) == (True, (), ())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Exited(code=1), Exited(code=2)),
        (Exited(code=137), Signaled(signal=9)),
        (TimedOut(limit_s=1), TimedOut(limit_s=2)),
        (LimitExceeded(limit=LimitKind.CPU, used=1, allowed=1),
         LimitExceeded(limit=LimitKind.PIDS, used=1, allowed=1)),
    ],
)  # fmt: skip
def test_another_end_is_a_difference(one: Outcome, other: Outcome) -> None:
    (found,) = compared(record("a", outcome=one), record("b", outcome=other)).differences
    assert found.what == "outcome"
    assert found.recorded != found.rerun


def test_text_differs_line_by_line() -> None:
    one = b"a\nb\nc\n"
    (found,) = outputs(one, b"a\nB\x1b\nc").differences
    assert (found.what, found.offset) == ("stdout", 2)
    assert found.diff == (
        "--- a", "+++ b", "@@ -1,3 +1,3 @@", " a", "-b", "-c", "+B\x1b", "+c", "\\ no line end",
    )  # fmt: skip
    assert found.recorded == f"6 B sha256:{Digest.of(one).sha256[:12]}"


@pytest.mark.parametrize(
    ("one", "other", "offset"),
    [
        (b"\0same\0x", b"\0same\0y", 6),
        (b"\xff", b"\xff\xff", 1),
        (b"x\n" * MANY, b"x\n" * MANY + b"y", 2 * MANY),
        (b"x" * differences.DIFF_BYTES_MAX + b"y", b"x" * differences.DIFF_BYTES_MAX + b"z",
         differences.DIFF_BYTES_MAX),
    ],
    ids=["nul", "not utf-8", "many lines", "long"],
)  # fmt: skip
def test_what_is_no_short_text_differs_from_a_byte_on(
    one: bytes, other: bytes, offset: int
) -> None:
    (found,) = outputs(one, other).differences
    assert (found.diff, found.offset) == ((), offset)


def test_what_differs_past_the_record_is_said_so() -> None:
    (found,) = outputs(b"headA", b"headB", stored=4).differences
    assert (found.diff, found.offset) == ((), None)
    assert found.recorded.endswith(", 4 B on record")
    (found,) = outputs(b"headA", b"hexdB", stored=4).differences
    assert found.offset == 2


@pytest.mark.parametrize(
    ("given", "redactions", "offset"),
    [((b"headAA", b"headBB"), 0, None), ((b"headAA", b"hexdAA"), 0, 2),
     ((b"headAA", b"hexdAA"), 1, None)],
)  # fmt: skip
def test_what_is_behind_a_gap_is_compared_with_nothing(
    given: tuple[bytes, bytes], redactions: int, offset: int | None
) -> None:
    sides = []
    for name, data in (("a", b"head and more"), ("b", b"head or moreAA")):
        side = record(name, streams={Stream.STDOUT: data}, stored=6)
        assert side.call.finished is not None
        (summary,) = side.call.finished.streams
        summary = replace(summary, tail_bytes=2, redactions=redactions)
        finished = replace(side.call.finished, streams=(summary,))
        sides.append(replace(side, call=replace(side.call, finished=finished)))
    (found,) = compared(*sides, a=given[0], b=given[1]).differences
    assert (found.diff, found.offset) == ((), offset)


def test_secrets_that_differ_are_not_on_record() -> None:
    one, other = (record(name, streams={Stream.STDOUT: data}) for name, data in (
        ("a", b"secret one"), ("b", b"secret two")))  # fmt: skip
    sides = []
    for side in (one, other):
        assert side.call.finished is not None
        (summary,) = side.call.finished.streams
        finished = replace(side.call.finished, streams=(replace(summary, redactions=2),))
        sides.append(replace(side, call=replace(side.call, finished=finished)))
    (found,) = compared(sides[0], sides[1], a=b"[REDACTED]", b=b"[REDACTED]").differences
    assert (found.diff, found.offset) == ((), None)
    assert found.recorded.endswith(", 2 secrets replaced")


def test_the_same_digest_is_not_read() -> None:
    same = {Stream.STDERR: b"x" * 9}
    assert compared(record("a", streams=same), record("b", streams=same, stored=1)).same


def test_a_stream_that_only_one_wrote() -> None:
    one, other = record("a"), record("b", streams={Stream.STDERR: b"oh\n"})
    (found,) = compared(one, other, a=b"", b=b"oh\n").differences
    assert (found.what, found.diff[-1]) == ("stderr", "+oh")


@pytest.mark.parametrize(
    ("one", "other", "offset"),
    [
        ([], [], None),
        ([b"ab", b"", b"c"], [b"a", b"bc"], None),
        ([b"ab"], [b"a", b"x"], 1),
        ([b"ab"], [b"ab", b"c"], 2),
        ([b""], [b"c"], 0),
    ],
)
def test_pieces_need_not_be_alike(one: list[bytes], other: list[bytes], offset: int | None) -> None:
    assert first_difference(one, other) == offset
    assert first_difference(other, one) == offset


def denied(**changes: Any) -> tuple[str, dict[str, Any]]:
    given = Denied(wall=Wall.SYSCALL, name="unshare", arguments=(0x7F12,), rule="syscalls.allow")
    return "denied", denied_to_json(replace(given, **changes))


def test_denials_differ_by_what_was_denied() -> None:
    found = with_entries(
        [denied(), denied(name="kcmp", count=2)],
        [denied(arguments=(0x7F99,), count=5, rule="another"), denied(name="bpf")],
    )
    assert found.differences == (
        Difference(what="denied", of="syscall kcmp()", recorded="x2", rerun="none"),
        Difference(what="denied", of="syscall bpf()", recorded="none", rerun="x1"),
    )


def test_a_limit_that_was_reached_is_the_same_whatever_was_used() -> None:
    one = denied(wall=Wall.LIMIT, name="pids", used=64, allowed=64, rule="limits.pids")
    other = denied(wall=Wall.LIMIT, name="pids", used=65, allowed=64, rule="limits.pids")
    assert with_entries([one], [other]).same


def test_connections_differ_by_place_and_verdict() -> None:
    one = ("flow", flow_to_json(FLOW))
    again = ("flow", flow_to_json(replace(FLOW, sent=1, address="203.0.113.9", duration_s=9.0)))
    other = ("flow", flow_to_json(replace(FLOW, verdict=Verdict.FAILED)))
    assert with_entries([one], [again, one]).same
    found = with_entries([one], [other]).differences
    assert [(one.what, one.of) for one in found] == [
        ("connection", "api.example.com:443 reset"),
        ("connection", "api.example.com:443 failed"),
    ]


def test_programs_differ_by_path() -> None:
    def started(*paths: bytes) -> tuple[str, dict[str, Any]]:
        first = PROCESSES[0]
        assert isinstance(first, ProgramStarted)
        events = tuple(replace(first, path=path) for path in paths)
        return "processes", processes_to_json(Processes(events=events))

    assert with_entries([started(b"/a")], [started(b"/a", b"/a")]).same
    (found,) = with_entries([started(b"/a")], [started(b"/a", b"/b", b"/b")]).differences
    assert found == Difference(what="program", of="/b", recorded="none", rerun="x2")


def test_files_differ_by_content_mode_and_reason() -> None:
    def left(data: bytes, mode: int) -> tuple[OutputFile, ...]:
        return (OutputFile(path=b"a\xff", digest=Digest.of(data), mode=mode),)

    skipped = (SkippedFile(path=b"b", reason="TOO_LARGE"),)
    one = record("a", outputs=left(b"x", 0o644))
    assert compared(one, record("b", outputs=left(b"x", 0o644))).same
    for other in (left(b"x", 0o755), left(b"y", 0o644), ()):
        (found,) = compared(one, record("b", outputs=other)).differences
        assert (found.what, found.of) == ("file", "a\udcff")
    (found,) = compared(one, record("b", outputs=left(b"x", 0o644), skipped=skipped)).differences
    assert found == Difference(what="not taken", of="b", recorded="none", rerun="TOO_LARGE")


@pytest.mark.parametrize("what", ["denial", "exec", "probe events", "flow", "output"])
def test_what_was_lost_may_have_differed(what: str) -> None:
    lost = ("lost", {"what": what, "count": 0, "reason": "QUEUE_FULL"})
    found = with_entries([], [lost])
    assert (found.same, found.differences) == (False, ())
    assert found.unknown[0].endswith("an unknown number lost (QUEUE_FULL) of the rerun")


def test_lost_ends_of_processes_are_not_compared() -> None:
    assert with_entries([("lost", {"what": "exit", "count": 3, "reason": "QUEUE_FULL"})], []).same


def test_a_list_of_files_that_was_cut() -> None:
    found = with_entries([("outcome", {"files_dropped": 7})], [])
    assert found.unknown == ("files: 7 are not on record of the recorded call",)


@pytest.mark.parametrize("known", [True, False])
def test_contents_that_cannot_be_read_are_compared_by_their_digests(known: bool) -> None:
    def refuse(*_: object) -> Any:
        raise CallStateError("CONTENT_LOCKED", "no key")

    sides = [
        record(name, streams={Stream.STDOUT: data}) for name, data in (("a", b"1"), ("b", b"2"))
    ]
    if not known:
        sides = [unnamed(side) for side in sides]
    found = compare(*sides, refuse)
    assert [(one.what, one.diff, one.offset) for one in found.differences] == (
        [(Stream.STDOUT, (), None)] if known else []
    )
    assert [why for why in found.unknown if why.startswith("what was written to stdout")] == [
        "what was written to stdout: no key"
    ]


def unnamed(made: Record) -> Record:
    """Take the digests away, as a daemon without the key gives a call."""
    finished = made.call.finished
    assert finished is not None
    streams = tuple(replace(one, digest=replace(one.digest, sha256="")) for one in finished.streams)
    return replace(made, call=replace(made.call, finished=replace(finished, streams=streams)))
