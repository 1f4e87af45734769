"""Opening a log: what is a torn tail, and what is damage."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit.entry import Kind, Position, encode_frame
from supervisor.audit.journal import Journal, JournalOptions
from supervisor.audit.mark import MARK_NAME, DurableMark, read_mark
from supervisor.audit.reading import read_log
from supervisor.audit.recovery import recover
from supervisor.audit.segment import MAGIC, list_segments, read_frames, segment_name
from supervisor.errors import AuditCorrupt

START = Position(segment=0, offset=len(MAGIC))
OPTIONS = JournalOptions(linger_s=60.0)


def write(directory: Path, durable: int, more: int, *, segment_bytes: int = 1 << 20) -> None:
    """Write a log, and leave it as after a crash: so many durable entries, and more."""
    options = JournalOptions(linger_s=60.0, segment_bytes=segment_bytes)
    journal, _ = Journal.open(directory, options=options)
    for number in range(durable):
        journal.append(Kind.LOST, {"number": number}, time_ns=1, call="c", sequence=number + 1)
        if segment_bytes < 1 << 20:
            journal.sync()
    journal.sync()
    mark = (directory / MARK_NAME).read_bytes()
    for number in range(more):
        journal.append(Kind.LOST, {"number": durable + number}, time_ns=1, call="c", sequence=1)
    journal.close()
    (directory / MARK_NAME).write_bytes(mark)


def offsets(directory: Path, first: int = 0) -> list[tuple[int, int]]:
    path = directory / segment_name(first)
    with path.open("rb") as file:
        frames = read_frames(file.fileno(), len(MAGIC), path.stat().st_size)
        return [(frame.offset, frame.end) for frame in frames]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def refused(directory: Path) -> AuditCorrupt:
    with pytest.raises(AuditCorrupt) as caught:
        recover(directory)
    assert caught.value.reason == "CHAIN_BROKEN"
    return caught.value


def test_nothing_is_there(tmp_path: Path) -> None:
    assert recover(tmp_path) is None


def test_what_was_written_before_the_crash_stays(tmp_path: Path) -> None:
    write(tmp_path, 3, 2)
    end = recover(tmp_path)
    assert end is not None
    assert (end.size, end.torn) == (5, None)


@settings(max_examples=60)
@given(data=st.data())
def test_any_cut_keeps_the_durable_prefix(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("log")
    durable, more = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    write(directory, durable, more)
    path = directory / segment_name(0)
    ends = [len(MAGIC), *(end for _, end in offsets(directory))]
    length = data.draw(st.integers(0, path.stat().st_size))
    path.write_bytes(path.read_bytes()[:length])
    if length < ends[durable]:
        refused(directory)
        return
    whole = sum(end <= length for end in ends) - 1
    journal, end = Journal.open(directory, options=OPTIONS)
    assert end.size == whole >= durable
    assert (end.torn is not None) == (length not in ends)
    journal.append(Kind.LOST, {"number": whole}, time_ns=1, call="c", sequence=1)
    assert [entry.body()["number"] for entry in read_log(journal, START)] == list(range(whole + 1))
    journal.close()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_flip_in_a_durable_entry_is_damage(number: int, tmp_path: Path) -> None:
    write(tmp_path, 3, 0)
    begin, end = offsets(tmp_path)[number]
    for at in range(begin, end):
        flip(tmp_path / segment_name(0), at)
        error = refused(tmp_path)
        assert error.metadata["index"] == str(number)
        assert error.metadata["offset"] == str(begin)
        assert error.metadata["segment"] == segment_name(0)
        flip(tmp_path / segment_name(0), at)
    assert recover(tmp_path) is not None


def test_damage_names_kind_and_call(tmp_path: Path) -> None:
    write(tmp_path, 3, 0)
    flip(tmp_path / segment_name(0), offsets(tmp_path)[1][0] + 6)
    error = refused(tmp_path)
    assert (error.metadata["kind"], error.metadata["call"]) == ("lost", "c")


def test_a_torn_tail_is_told(tmp_path: Path) -> None:
    write(tmp_path, 2, 2)
    path = tmp_path / segment_name(0)
    begin = offsets(tmp_path)[2][0]
    flip(path, begin + 30)
    tail = path.read_bytes()[begin:]
    end = recover(tmp_path)
    assert end is not None
    assert end.torn is not None
    assert end.torn.size_bytes == len(tail)
    assert end.torn.sha256 == hashlib.sha256(tail).hexdigest()
    assert path.stat().st_size == begin
    assert end.size == 2


def test_a_bad_frame_that_a_later_one_knows_as_durable_is_damage(tmp_path: Path) -> None:
    """After a power cut the mark may be older than the log: then the frames tell."""
    write(tmp_path, 2, 0)
    old_mark = (tmp_path / MARK_NAME).read_bytes()
    journal, _ = Journal.open(tmp_path, options=OPTIONS)
    for number in range(2, 5):
        journal.append(Kind.LOST, {"number": number}, time_ns=1, call="c", sequence=1)
        journal.sync()
    journal.close()
    (tmp_path / MARK_NAME).write_bytes(old_mark)
    good = recover(tmp_path)
    assert good is not None
    assert good.size == 5
    flip(tmp_path / segment_name(0), offsets(tmp_path)[2][0] + 30)
    assert refused(tmp_path).metadata["index"] == "2"


def test_a_missing_mark_is_damage(tmp_path: Path) -> None:
    write(tmp_path, 1, 0)
    (tmp_path / MARK_NAME).unlink()
    refused(tmp_path)


def test_a_damaged_mark_is_damage(tmp_path: Path) -> None:
    write(tmp_path, 1, 0)
    flip(tmp_path / MARK_NAME, 20)
    refused(tmp_path)


def test_a_mark_of_another_log_is_damage(tmp_path: Path) -> None:
    write(tmp_path, 2, 0)
    mark = read_mark(tmp_path)
    assert mark is not None
    other = DurableMark(size=2, leaf=bytes(32), end=mark.end)
    (tmp_path / MARK_NAME).write_bytes(other.encode())
    refused(tmp_path)


def test_a_log_that_is_gone_is_damage(tmp_path: Path) -> None:
    write(tmp_path, 1, 0)
    (tmp_path / segment_name(0)).unlink()
    refused(tmp_path)


@pytest.mark.parametrize("victim", [0, 1, -2, -1])
def test_a_missing_segment_is_damage(victim: int, tmp_path: Path) -> None:
    write(tmp_path, 22, 0, segment_bytes=1000)
    segments = list_segments(tmp_path)
    assert len(segments) > 3
    (tmp_path / segment_name(segments[victim])).unlink()
    refused(tmp_path)


def test_swapped_segments_are_damage(tmp_path: Path) -> None:
    write(tmp_path, 22, 0, segment_bytes=1000)
    one, two = (tmp_path / segment_name(first) for first in list_segments(tmp_path)[1:3])
    one_data, two_data = one.read_bytes(), two.read_bytes()
    one.write_bytes(two_data)
    two.write_bytes(one_data)
    refused(tmp_path)


def test_the_links_between_old_segments_are_checked(tmp_path: Path) -> None:
    write(tmp_path, 22, 0, segment_bytes=1000)
    path = tmp_path / segment_name(list_segments(tmp_path)[1])
    flip(path, path.stat().st_size - 1)  # the leaf hash that the next segment links to
    refused(tmp_path)


def test_a_frame_of_elsewhere_is_damage(tmp_path: Path) -> None:
    """Its checksum and leaf hash are right, and it does not belong here."""
    write(tmp_path, 3, 0)
    path = tmp_path / segment_name(0)
    data = path.read_bytes()
    first, second = offsets(tmp_path)[0], offsets(tmp_path)[1]
    swapped = data[: first[0]] + data[second[0] : second[1]] + data[first[0] : first[1]]
    path.write_bytes(swapped + data[second[1] :])
    assert refused(tmp_path).metadata["index"] == "0"


def test_an_edited_entry_with_new_hashes_breaks_the_chain(tmp_path: Path) -> None:
    write(tmp_path, 3, 0)
    path = tmp_path / segment_name(0)
    with path.open("rb") as file:
        frames = list(read_frames(file.fileno(), len(MAGIC), path.stat().st_size))
    edited = frames[1].payload.replace(b'"number":1', b'"number":7')
    leaf = hashlib.sha256(b"\x00" + edited).digest()
    frame = encode_frame(edited, leaf, frames[1].durable)
    data = path.read_bytes()
    path.write_bytes(data[: frames[1].offset] + frame + data[frames[1].end :])
    assert refused(tmp_path).metadata["index"] == "2"
