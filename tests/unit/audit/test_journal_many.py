"""Many entries that are appended together: as one by one, and all of them or none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from supervisor.audit import frames as frames_module
from supervisor.audit.entry import NO_LEAF, Kind, StoredEntry
from supervisor.audit.journal import Journal, JournalOptions, Leaf
from supervisor.audit.reading import read_log
from supervisor.audit.segment import MAGIC, segment_name
from supervisor.call.types import Json
from supervisor.errors import AuditUnavailable, InvariantError
from tests.unit.audit.test_journal import START, append, opened


def append_many(journal: Journal, count: int, *, sequence: int = 1) -> StoredEntry:
    bodies: list[dict[str, Json]] = [{"number": number} for number in range(count)]
    return journal.append_many(Kind.DENIED, bodies, time_ns=9, call="c", sequence=sequence)


@pytest.mark.parametrize("library", [True, False])
def test_many_are_appended_as_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, library: bool
) -> None:
    if not library:
        monkeypatch.setattr(frames_module, "native", lambda: None)
    told: list[Leaf] = []
    options = JournalOptions(linger_s=60.0)
    journal, _ = Journal.open(tmp_path / "log", options=options, on_durable=told.extend)
    append(journal, 1)
    last = append_many(journal, 7, sequence=3)
    append(journal, 2)
    entries = list(read_log(journal, START))
    assert entries[7] == last
    assert [entry.sequence for entry in entries] == [0, 3, 4, 5, 6, 7, 8, 9, 0]
    links = [NO_LEAF.hex(), *(entry.leaf for entry in entries)]
    assert [entry.head.prev.hex() for entry in entries] == links[:-1]
    journal.close()
    assert told == [(entry.json, bytes.fromhex(entry.leaf)) for entry in entries]


def test_many_with_one_that_is_too_large_are_none(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        append(journal)
        bodies: list[dict[str, Json]] = [{"text": "x"}, {"text": "x" * 70_000}]
        with pytest.raises(InvariantError) as caught:
            journal.append_many(Kind.DENIED, bodies, time_ns=9, call="c", sequence=1)
        assert caught.value.reason == "ENTRY_TOO_LARGE"
        append_many(journal, 2)
        assert [entry.index for entry in read_log(journal, START)] == [0, 1, 2]


def test_many_for_which_there_is_no_room_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where some of them were written before the disk was full."""
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset > len(MAGIC):
            real(fd, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, offset)

    with opened(tmp_path) as journal:
        append(journal)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(AuditUnavailable) as caught:
                append_many(journal, 5)
            assert caught.value.reason == "RECORD_FULL"
        assert journal.head[0] == 1
        whole = (tmp_path / "log" / segment_name(0)).read_bytes()
        assert len(whole) == journal.tail.offset  # no frame of those is left, whole or not
        append_many(journal, 2)
        journal.sync()
        assert [entry.kind for entry in read_log(journal, START)] == [
            Kind.DAEMON_STARTED, Kind.DENIED, Kind.DENIED,
        ]  # fmt: skip
    with opened(tmp_path) as journal:
        assert journal.head[0] == 3
