"""Verification of the log: what is deleted, cut, moved or doubled."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.audit.entry import Kind
from supervisor.audit.journal import Journal, JournalOptions
from supervisor.audit.mark import MARK_NAME
from supervisor.audit.segment import MAGIC, list_segments, read_frames, segment_name
from supervisor.audit.verify_log import LogCheck, Problem


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Give a log of 25 entries in several segments."""
    options = JournalOptions(linger_s=60.0, segment_bytes=1500)
    journal, _ = Journal.open(tmp_path / "log", options=options)
    for number in range(25):
        journal.append(Kind.DAEMON_STARTED, {"number": number}, time_ns=number)
        journal.sync()
    journal.close()
    return tmp_path / "log"


def check(log: Path, *, live: bool = False) -> tuple[list[int], list[Problem]]:
    problems: list[Problem] = []
    entries = LogCheck(log, problems.append, live=live).entries()
    return [entry.index for entry in entries], problems


def frames_of(path: Path) -> list[bytes]:
    data = path.read_bytes()
    with path.open("rb") as file:
        found = read_frames(file.fileno(), len(MAGIC), len(data))
        return [data[frame.offset : frame.end] for frame in found]


def rewrite(path: Path, frames: list[bytes]) -> None:
    path.write_bytes(MAGIC + b"".join(frames))


def test_a_good_log(log: Path) -> None:
    assert check(log) == (list(range(25)), [])
    assert len(list_segments(log)) > 3


def test_any_frame_that_is_taken_out_is_found(log: Path) -> None:
    for first in list_segments(log):
        path = log / segment_name(first)
        good = path.read_bytes()
        frames = frames_of(path)
        for number in range(len(frames)):
            rewrite(path, frames[:number] + frames[number + 1 :])
            _, problems = check(log)
            assert problems[0].index == first + number
        path.write_bytes(good)
    assert check(log)[1] == []


def test_any_frame_that_is_doubled_is_found(log: Path) -> None:
    path = log / segment_name(0)
    frames = frames_of(path)
    for number in range(len(frames)):
        rewrite(path, frames[: number + 1] + frames[number:])
        assert check(log)[1][0].index == number + 1


def test_any_two_frames_that_are_swapped_are_found(log: Path) -> None:
    path = log / segment_name(0)
    frames = frames_of(path)
    for one, two in itertools.combinations(range(len(frames)), 2):
        changed = list(frames)
        changed[one], changed[two] = changed[two], changed[one]
        rewrite(path, changed)
        assert check(log)[1][0].index == one


def test_any_cut_of_the_last_segment_is_found(log: Path) -> None:
    path = log / segment_name(list_segments(log)[-1])
    good = path.read_bytes()
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        assert check(log)[1], length


def test_any_missing_segment_is_found(log: Path) -> None:
    for first in list_segments(log):
        path = log / segment_name(first)
        path.rename(log.parent / "away")
        indices, problems = check(log)
        assert problems
        assert len(indices) < 25
        (log.parent / "away").rename(path)


def test_a_last_segment_that_is_missing_is_named_as_a_file(log: Path) -> None:
    last = max(log.glob("*.seg"))
    last.unlink()
    entries, (problem,) = check(log)
    assert str(problem).startswith(f"{last.name} is missing: the log ends with {len(entries)} ent")
    for path in log.glob("*.seg"):
        path.unlink()
    _, (problem,) = check(log)
    assert "is missing: the log ends with no entries" in str(problem)


def _swap(log: Path) -> None:
    one, two = (log / segment_name(first) for first in list_segments(log)[:2])
    one_data, two_data = one.read_bytes(), two.read_bytes()
    one.write_bytes(two_data)
    two.write_bytes(one_data)


def _rename(log: Path) -> None:
    (log / segment_name(list_segments(log)[1])).rename(log / segment_name(1000))


def _double(log: Path) -> None:
    data = (log / segment_name(0)).read_bytes()
    (log / segment_name(25)).write_bytes(data)


def _append_to_old(log: Path) -> None:
    with (log / segment_name(0)).open("ab") as file:
        file.write(b"x")


def _empty_old(log: Path) -> None:
    (log / segment_name(list_segments(log)[1])).write_bytes(MAGIC)


def _no_mark(log: Path) -> None:
    (log / MARK_NAME).unlink()


def _strange_file(log: Path) -> None:
    (log / "notes.txt").write_text("x")


@pytest.mark.parametrize(
    "damage",
    [_swap, _rename, _double, _append_to_old, _empty_old, _no_mark, _strange_file],
)
def test_damage_to_files_is_found(damage: Callable[[Path], None], log: Path) -> None:
    damage(log)
    assert check(log)[1]


def test_one_flipped_byte_is_one_problem(log: Path) -> None:
    path = log / segment_name(0)
    data = bytearray(path.read_bytes())
    data[len(MAGIC) + len(frames_of(path)[0]) + 28] ^= 1
    path.write_bytes(data)
    indices, problems = check(log)
    assert [problem.index for problem in problems] == [1]
    assert indices == [0, *range(2, 25)]
    assert "entry 1 (daemon_started)" in str(problems[0])


def test_a_torn_tail_is_a_problem_unless_a_daemon_writes_it(log: Path) -> None:
    with (log / segment_name(list_segments(log)[-1])).open("ab") as file:
        file.write(b"\x00\x00\x01")
    assert check(log)[1]
    assert check(log, live=True)[1] == []


def test_damage_before_the_mark_is_a_problem_for_a_live_log_too(log: Path) -> None:
    path = log / segment_name(list_segments(log)[-1])
    path.write_bytes(path.read_bytes()[:-1])
    assert check(log, live=True)[1]


def test_a_log_that_was_opened_again_with_nothing_in_its_last_segment(tmp_path: Path) -> None:
    """The mark then names the beginning of that one as the log's end."""
    options = JournalOptions(linger_s=60.0, segment_bytes=1)
    for number in range(2):
        journal, _ = Journal.open(tmp_path / "log", options=options)
        if not number:
            journal.append(Kind.DAEMON_STARTED, {}, time_ns=1)
            journal.sync()
        journal.close()
    assert list_segments(tmp_path / "log") == [0, 1]
    assert check(tmp_path / "log") == ([0], [])


def test_what_the_disk_cannot_read_is_named_and_the_rest_is_read(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = list_segments(log)[1]
    inode = (log / segment_name(bad)).stat().st_ino
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    found, problems = check(log)
    assert "cannot be read further: Input/output error" in problems[0].message
    assert problems[0].segment == segment_name(bad)
    after = list_segments(log)[2]
    assert found == [*range(bad), *range(after, 25)]


def test_a_hole_is_not_looked_through(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = log / segment_name(list_segments(log)[-1])
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    reads: list[int] = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda *of: reads.append(1) or real(*of))
    found, problems = check(log)
    assert found == list(range(25))
    assert len(problems) == 1
    assert len(reads) < 100
