"""Secrets in what entries tell: each place of each kind, and nothing of ours is touched."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from supervisor.audit.codec import processes_to_json
from supervisor.audit.entry import ENTRY_BYTES_MAX
from supervisor.audit.masked import (
    FAILED,
    FOUND_TOLD_MAX,
    PARTS_MAX,
    QUICK_BYTES_MAX,
    WHOLE_ARGV,
    Kept,
    Masked,
    as_it_was,
    is_quick,
    keep,
    told,
)
from supervisor.audit.masks import Mask, Masks
from supervisor.call.events import (
    Denied,
    MoreArgv,
    ProcessEnded,
    Processes,
    ProcessEvent,
    ProgramStarted,
    Wall,
)
from supervisor.call.outcome import Failed
from supervisor.call.types import (
    Correlation,
    Digest,
    InputFile,
    OutputFile,
    SkippedFile,
    Terminal,
    canonical_json,
)
from supervisor.profile.model import Redact
from tests.support.records import FLOW, PROCESSES, WATCHED, make_finished, make_request

API = "correct-horse9"
MASKS = Masks(b"k" * 32)
MARK = "[REDACTED:api:"


def mask(**secrets: bytes) -> Mask:
    made = MASKS.make(Redact(), secrets or {"api": API.encode()})
    assert made is not None
    return made


def masked() -> Masked:
    return Masked(mask())


@pytest.mark.parametrize(
    ("event", "names"),
    [
        (Denied(wall=Wall.NETWORK, name="n"), ("name", "detail", "rule", "program")),
        (WATCHED, ("name", "detail", "rule", "program")),
        (FLOW, ("name", "rule", "reason", "program")),
    ],
)
def test_an_event(event: Any, names: tuple[str, ...]) -> None:
    for name in names:
        value: Any = f"xx {API} yy"
        dirty = replace(event, **{name: value.encode() if name == "program" else value})
        ((clean, found),) = masked().events([dirty])
        assert API not in repr(clean)
        assert MARK in str(getattr(clean, name))
        replaced: Any = found
        ((pointer, offset, length, rule, _),) = replaced
        assert (pointer, offset, length, rule) == (f"/{name}", 3, len(API), "api")


def test_many_events_of_which_some_hold_a_secret() -> None:
    clean = Denied(wall=Wall.NETWORK, name="connect")
    dirty = replace(clean, detail=f"xx {API}"), replace(clean, program=API.encode())
    given = [clean, dirty[0], clean, dirty[1]]
    done = masked().events(given)
    assert [bool(found) for _, found in done] == [False, True, False, True]
    assert done[0][0] is clean and API not in repr(done)


def test_a_reason() -> None:
    why, found = masked().why(f"since {API}")
    assert why.startswith(f"since {MARK}") and len(found) == 1
    assert masked().why("since then") == ("since then", [])
    assert (told([]), told(found)) == ({}, {"redactions": found})


def test_what_is_clean_is_left_alone() -> None:
    for event in (FLOW, WATCHED, Denied(wall=Wall.LIMIT, name="pids")):
        ((clean, found),) = masked().events([event])
        assert clean is event and found == []
    whole = Processes(events=(replace(PROCESSES[0], argv_bytes=1), *PROCESSES[1:]))
    ((same, found),) = masked().processes(whole)
    assert same is whole and found == []


def test_processes() -> None:
    started, _, ended = PROCESSES
    token = b"ghp_" + b"a1B2c3D4e5" * 3 + b"f6G7h8"
    argv = (b"curl", b"-u", b"me:" + API.encode(), b"--password", b"x9Yz77abcQ", b"\xff" + token)
    dirty = (
        replace(
            started,
            argv=argv,
            argv_bytes=2049 + len(API),
            path=f"/tmp/{API}".encode(),
            directory=API.encode(),
        ),
        MoreArgv(time_ns=8, pid=70, offset=2048, data=b"\xfe" + API.encode()),
        ended,
    )
    ((clean, found),) = masked().processes(Processes(events=dirty))
    for secret in (API, "x9Yz77abcQ", "ghp_"):
        assert secret not in repr((clean, found))
    first, second, third = clean.events
    assert isinstance(first, ProgramStarted) and isinstance(second, MoreArgv)
    assert third == ended
    token_mark, _, own_mark = second.data.partition(b"\xfe")
    assert token_mark.startswith(b"[REDACTED:github-token:")
    assert own_mark.startswith(MARK.encode())
    assert first.argv[:2] == (b"curl", b"-u")
    assert len(first.argv) == len(argv)
    assert {one[0] for one in found if isinstance(one, list)} == {
        "/events/0/path", "/events/0/directory", "/events/0/argv/2", "/events/0/argv/4",
        "/events/1/data",
    }  # fmt: skip


def _entries(one: Masked, *events: ProcessEvent) -> list[Processes]:
    parts = one.processes(Processes(events=events))
    for shown, found in parts:
        body = {**processes_to_json(shown), **told(found)}
        assert len(canonical_json(body)) < ENTRY_BYTES_MAX - 400  # and what is around it
    return [shown for shown, _ in parts]


def test_what_grows_too_large_for_an_entry_goes_on_in_another() -> None:
    argv = (b"sh", *(b"say " + API.encode(),) * 2500)
    started = replace(PROCESSES[0], argv=argv, argv_bytes=len(b"\0".join(argv)) + 1)
    other = replace(started, pid=71, argv=(b"rm", API.encode()), argv_bytes=6 + len(API))
    one = masked()
    parts = one.processes(Processes(events=(started, other)))
    assert 1 < len(parts) <= PARTS_MAX
    counts = [found[-1] if len(found) > FOUND_TOLD_MAX else len(found) for _, found in parts]
    assert sum(int(str(count)) for count in counts) == 2500
    shown = _entries(masked(), started, other)
    first, *more, last = (event for part in shown for event in part.events)
    assert isinstance(first, ProgramStarted) and isinstance(last, ProgramStarted)
    assert (first.path, first.argv_bytes) == (PROCESSES[0].path, started.argv_bytes)
    assert last.argv[0] == b"rm"
    rest = b"".join(event.data for event in more if isinstance(event, MoreArgv))
    told_all = (b"\0".join(first.argv) + rest).split(b"\0")
    assert len(told_all) == 2502 and told_all[0] == b"sh"
    assert all(one.startswith(b"say " + MARK.encode()) for one in told_all[1:-1])


def test_each_piece_of_an_argv_says_what_was_replaced_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.audit.masked.FOUND_TOLD_MAX", 10_000)
    argv = (b"sh", *(b"say " + API.encode(),) * 2500)
    whole = b"\0".join(argv) + b"\0"
    started = replace(PROCESSES[0], argv=argv, argv_bytes=len(whole))
    assert len(_replaced(started, whole)) == 2500
    begun, more = started_with((b"sh", b"-c", b"EVIL"), b"; " + b"xoxb-1234567890 " * 3500)
    whole = b"sh\0-c\0EVIL" + more.data
    assert len(_replaced(begun, whole, more)) == 3500


def _replaced(begun: ProgramStarted, whole: bytes, *more: ProcessEvent) -> set[int]:
    """Give where in an argv something was replaced, and see that it was what is said, there."""
    seen = set()
    for shown, found in masked().processes(Processes(events=(begun, *more))):
        texts = [
            b"\0".join(event.argv) if isinstance(event, ProgramStarted) else event.data
            for event in shown.events
            if not isinstance(event, ProcessEnded)
        ]
        marks = [0] * len(texts)
        for pointer, offset, length, *_ in found:  # type: ignore[misc]
            number, _, place = str(pointer).removeprefix("/events/").partition("/")
            at = int(str(offset))
            if place.startswith("argv/"):
                before = begun.argv[: int(place.removeprefix("argv/"))]
                at += len(b"\0".join(before)) + 1
            else:
                assert place == "data"
            assert whole[at : at + int(str(length))] in (API.encode(), b"xoxb-1234567890")
            marks[int(number)] += 1
            seen.add(at)
        for text, count in zip(texts, marks, strict=True):
            assert abs(text.count(b"[REDACTED:") - count) <= 1  # one may be cut where it begins
    return seen


def test_an_argv_that_goes_on_and_grows_keeps_what_is_beside_it() -> None:
    more = b"".join(b"xoxb-1234567890 " for _ in range(3500))
    begun, rest = started_with((b"sh", b"-c", b"EVIL ; "), more)
    _, _, ended = PROCESSES
    after = replace(begun, pid=71, argv=(b"id",), argv_bytes=3)
    shown = _entries(masked(), begun, rest, ended, after)
    assert len(shown) > 1
    events = [event for part in shown for event in part.events]
    starts = [event for event in events if isinstance(event, ProgramStarted)]
    assert [(event.pid, event.path) for event in starts] == [
        (70, begun.path), (71, begun.path),
    ]  # fmt: skip
    data = b"".join(event.data for event in events if isinstance(event, MoreArgv))
    assert data.count(b"[REDACTED:slack-token:") == 3500
    assert ended in events


def test_what_grows_beyond_all_bounds_keeps_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.audit.masked.PARTS_MAX", 2)
    more = b"".join(b"xoxb-1234567890 " for _ in range(3500))
    events = [*started_with((b"a",), more), *started_with((b"b",), more, pid=71)]
    shown = [event for part in _entries(masked(), *events) for event in part.events]
    starts = [event for event in shown if isinstance(event, ProgramStarted)]
    assert [event.argv_bytes for event in starts] == [len(more) + 1] * 2
    assert {event.data for event in shown if isinstance(event, MoreArgv)} == {WHOLE_ARGV}
    long = mask(**{"n" * 64: b"a1b2"})
    path = b"/bin/" + b"a1b2/" * 800
    begun = replace(events[0], path=path, directory=path, argv=(b"a",), argv_bytes=2, cut=())
    (part,) = _entries(Masked(long), begun)
    (start,) = part.events
    assert isinstance(start, ProgramStarted) and start.path.startswith(b"/bin/[REDACTED:nn")
    assert start.cut == ("path", "directory") and start.argv == (b"a",)


def test_a_request() -> None:
    request = make_request(
        argv=(b"run", f"--key={API}".encode()),
        env={"DB_PASSWORD": b"x9Yz77abcQ", "PLAIN": b"word", "K": API.encode()},
        working_directory=f"/work/{API}".encode(),
        files=(InputFile(path=f"{API}.txt".encode(), digest=Digest.of(b"x")),),
        outputs=(f"{API}*",),
        correlation=Correlation(agent=API, session="s"),
        terminal=Terminal(rows=24, columns=80, term=API),
    )
    kept = keep(MASKS, Redact(), {"api": API.encode()}, request.canonical())
    assert API.encode() not in kept.request and b"x9Yz77abcQ" not in kept.request
    shown = json.loads(kept.request)
    assert (shown["env"]["PLAIN"], shown["request_id"]) == ("word", request.request_id)
    assert kept.told is not None and API not in json.dumps(kept.told)
    found = {str(one[0]) for one in kept.told["found"]}  # type: ignore[index, union-attr]
    assert found == {
        "/argv/1", "/env/DB_PASSWORD", "/env/K", "/working_directory", "/files/0/path",
        "/outputs/0", "/correlation/agent", "/terminal/term",
    }  # fmt: skip
    assert (shown["terminal"]["rows"], shown["terminal"]["columns"]) == (24, 80)
    clean = keep(MASKS, Redact(), {}, make_request().canonical())
    assert clean.request == make_request().canonical()
    assert keep(MASKS, Redact(off="x"), {}, b"{}") == Kept(request=b"{}", mask=None, told=None)


def test_what_is_quick() -> None:
    MASKS.make(Redact(), {})
    assert is_quick(MASKS, Redact(), {}, b"x" * QUICK_BYTES_MAX)
    assert not is_quick(MASKS, Redact(), {}, b"x" * (QUICK_BYTES_MAX + 1))
    assert not is_quick(MASKS, Redact(), {"api": b"x"}, b"")


def test_the_end_of_a_call() -> None:
    finished = make_finished(
        Failed(reason="EXEC_FAILED", message=f"{API}: gone"),
        outputs=(OutputFile(path=API.encode(), digest=Digest.of(b"x"), mode=0o644),),
        skipped=(SkippedFile(path=API.encode(), reason="symlink"),),
    )
    shown = masked().finished(finished)
    assert API not in repr(shown)
    assert shown.outputs[0].digest == finished.outputs[0].digest
    stored = replace(shown, record="leaf", record_bytes=7)
    told = as_it_was(finished, shown, stored)
    assert told == replace(finished, record="leaf", record_bytes=7)
    assert as_it_was(finished, finished, stored) is stored


def test_where_it_fails_nothing_is_kept() -> None:
    broken = Masked(replace(mask(), failed="on purpose"))
    ((event, found),) = broken.events([Denied(wall=Wall.SYSCALL, name="mount")])
    assert found and event.name == FAILED.decode()
    clean = broken.request(json.loads(make_request(env={"A": b"b"}).canonical()))
    assert clean["argv"] == [FAILED.decode()]
    assert clean["env"] == {"REDACTED": FAILED.decode()}


def started_with(argv: tuple[bytes, ...], more: bytes, *, pid: int = 70) -> list[Any]:
    first, _, _ = PROCESSES
    begun = len(b"\0".join(argv))
    whole = begun + len(more)
    return [
        replace(first, pid=pid, argv=argv, argv_bytes=whole),
        MoreArgv(time_ns=8, pid=pid, offset=begun, data=more),
    ]


@pytest.mark.parametrize("cut", range(1, len(API)))
@pytest.mark.parametrize("apart", [False, True])
def test_an_argv_that_is_cut_in_a_secret(cut: int, apart: bool) -> None:
    one = masked()
    begun, more = started_with((b"x", b"say " + API[:cut].encode()), API[cut:].encode() + b"\0z\0")
    groups = [(begun,), (more,)] if apart else [(begun, more)]
    clean = [event for each in groups for event in _entries(one, *each)[0].events]
    first, second = clean
    assert isinstance(first, ProgramStarted) and isinstance(second, MoreArgv)
    assert first.argv == (b"x", b"say ")
    assert second.data.startswith(MARK.encode()) and second.data.endswith(b"]\0z\0")


def test_a_name_that_has_its_value_is_no_name_of_what_is_cut_behind_it() -> None:
    argv = (b"x", b"--api-key=abcdefgh12345", b"say " + API[:12].encode())
    begun, more = started_with(argv, API[12:].encode() + b"\0z\0")
    (clean,) = _entries(masked(), begun, more)
    first, second = clean.events
    assert isinstance(first, ProgramStarted) and isinstance(second, MoreArgv)
    assert first.argv[2:] == (b"say ",)
    assert second.data.startswith(MARK.encode()) and second.data.endswith(b"]\0z\0")


def test_an_argv_that_is_cut_in_a_value_with_a_telling_name() -> None:
    for argv in ((b"x", b"--password", b"quack qu"), (b"x", b"--password=quack qu")):
        (clean,) = _entries(masked(), *started_with(argv, b"ack\0and more\0"))
        first, second = clean.events
        assert isinstance(first, ProgramStarted) and isinstance(second, MoreArgv)
        assert b"quack" not in repr(first.argv).encode()
        assert second.data == b"\0and more\0"
        begun, more = started_with(argv, b"ack\0" + API.encode() + b"\0")
        whole = b"\0".join(argv) + more.data
        ((_, found),) = masked().processes(Processes(events=(begun, more)))
        pointer, offset, length, *_ = found[-1]  # type: ignore[misc]
        assert pointer == "/events/1/data"
        assert whole[int(str(offset)) :][: int(str(length))] == API.encode()


def test_of_too_many_that_are_cut_the_rest_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.audit.masked.RESTS_MAX", 1)
    one = masked()
    events = started_with((b"a", b"~"), b"c\0") + started_with((b"a", b"~"), b"c\0", pid=71)
    (clean,) = _entries(one, events[0], *events[2:])
    started, other, more = clean.events
    assert isinstance(other, ProgramStarted) and isinstance(more, MoreArgv)
    assert (other.argv, more.data) == ((b"a", FAILED), FAILED)
    assert isinstance(started, ProgramStarted) and started.argv == (b"a", b"~")


def test_names_count_in_what_goes_on() -> None:
    more = b"en\0--password\0ab\0-e\0DB_PASS=changeme\0fine\0"
    begun, rest = started_with((b"x", b"--tok"), more)
    ((clean, found),) = masked().processes(Processes(events=(begun, rest)))
    first, second = clean.events
    assert isinstance(first, ProgramStarted) and isinstance(second, MoreArgv)
    shown = re.sub(rb"\[REDACTED:named-secret:\w{8}\]", b"#", second.data)
    assert first.argv[-1] + shown == b"--token\0#\0#\0-e\0DB_PASS=#\0fine\0"
    whole = b"x\0--tok" + more
    places = [(one[1], one[2]) for one in found if isinstance(one, list)]
    values = [b"--password", b"ab", b"changeme"]
    assert places == [(whole.index(value), len(value)) for value in values]
