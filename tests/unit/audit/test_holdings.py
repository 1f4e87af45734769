"""Who needs which file, entry by entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from supervisor.audit.blobs import BlobStore
from supervisor.audit.entry import Head, Kind, Position, StoredEntry, encode_entry
from supervisor.audit.holdings import HOLDINGS_NAME, Followed, Holdings, blob_name, path_of
from supervisor.audit.index import LowWater
from supervisor.call.types import Digest, canonical_json
from supervisor.errors import AuditCorrupt, InvariantError

PROFILE = Digest.of(b"a profile")
A, B, OUT = Digest.of(b"a"), Digest.of(b"b"), Digest.of(b"out")
START = LowWater(position=Position(segment=0, offset=8), leaf="")


class Log:
    """Makes entries, and hands them to holdings."""

    def __init__(self, tmp_path: Path) -> None:
        self.blobs = BlobStore.at(tmp_path, lambda what, error: InvariantError("X", what))
        self.holdings = Holdings(tmp_path / HOLDINGS_NAME, self.blobs)
        self.followed = Followed(mark=START, chain_ns=0, believed_ns=0)
        self.index = 0

    def add(self, kind: Kind, body: dict[str, Any], call: str = "", time_ns: int = 1) -> int:
        head = Head(
            index=self.index, prev=bytes(32), time_ns=time_ns, kind=kind, call=call, sequence=1
        )
        entry = StoredEntry(
            head=head, json=encode_entry(head, body), leaf="", position=START.position
        )
        with self.holdings.changing():
            self.holdings.take(entry, self.followed)
        self.index += 1
        return head.index

    def intent(self, call: str, *files: Digest) -> int:
        request = {"files": [named(file) for file in files]}
        profile = {"digest": PROFILE.sha256, "size_bytes": PROFILE.size_bytes}
        return self.add(Kind.INTENT, {"profile": profile, "request": request}, call)

    def outcome(self, call: str, *outputs: Digest, time_ns: int = 1) -> int:
        body = {"outputs": [named(file) for file in outputs], "recording": None}
        return self.add(Kind.OUTCOME, body, call, time_ns)

    def removed(self, *calls: str, uploads: tuple[int, ...] = ()) -> None:
        body = {"why": "age", "calls": [*calls], "uploads": [*uploads], "files": []}
        self.add(Kind.REMOVED, body)

    def condemned(self) -> set[str]:
        condemned = self.holdings.condemned(99)
        return {name for name in condemned if not name.startswith(("part/", "key/"))}


def named(digest: Digest) -> dict[str, Any]:
    return {"sha256": digest.sha256, "size_bytes": digest.size_bytes}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_a_call_holds_what_it_was_given_and_what_it_left(log: Log) -> None:
    first = log.intent("one", A)
    assert log.holdings.ended(-1, 9) == []  # it lives
    log.outcome("one", OUT)
    (holder,) = log.holdings.ended(-1, 9)
    assert (holder.call_id, holder.first_index, holder.last_index) == ("one", first, first + 1)
    assert set(log.holdings.sole_files(holder)) == {blob_name(A.sha256), blob_name(OUT.sha256)}


def test_what_two_hold_is_condemned_with_the_second(log: Log) -> None:
    for call in ("one", "two"):
        log.intent(call, A)
        log.outcome(call)
    log.removed("one")
    assert log.condemned() == set()
    log.removed("two")
    assert log.condemned() == {blob_name(A.sha256)}
    log.holdings.unlinked([blob_name(A.sha256)])
    assert log.condemned() == set()


def test_what_is_held_again_is_not_condemned_any_more(log: Log) -> None:
    log.intent("one", A)
    log.outcome("one")
    log.removed("one")
    log.intent("two", A)
    assert log.condemned() == set()


def test_a_call_that_has_nothing_holds_nothing(log: Log) -> None:
    log.intent("one")
    log.outcome("one")
    assert log.holdings.ended(-1, 9) == []


def test_what_entries_are_read_with_is_never_condemned(log: Log) -> None:
    log.intent("one", PROFILE)
    log.outcome("one")
    (holder,) = log.holdings.ended(-1, 9)
    assert log.holdings.sole_files(holder) == {}
    log.removed("one")
    assert log.condemned() == set()


def test_the_list_of_the_files_of_a_long_request_is_no_content(log: Log) -> None:
    listed = log.blobs.put(canonical_json({"files": []}))
    profile = {"digest": PROFILE.sha256, "size_bytes": PROFILE.size_bytes}
    body = {"profile": profile, "request_preview": {}, "request_files": named(listed)}
    log.add(Kind.INTENT, body, "one")
    index = log.add(Kind.BLOB, {**named(listed), "caller": "me"})
    log.removed(uploads=(index,))
    assert log.condemned() == set()


def test_a_long_request_that_is_damaged_lets_nothing_go(log: Log) -> None:
    request = log.blobs.put(b"{}" * 100)
    path = log.blobs.blob_path(request.sha256)
    path.write_bytes(b"x" * path.stat().st_size)
    profile = {"digest": PROFILE.sha256, "size_bytes": PROFILE.size_bytes}
    with pytest.raises(AuditCorrupt):
        log.add(Kind.INTENT, {"profile": profile, "request_blob": named(request)}, "one")


def test_keys_come_before_the_files_that_they_open(log: Log) -> None:
    log.intent("one", A)
    log.outcome("one")
    log.removed("one")
    first, second, third = log.holdings.condemned(9)
    assert (first, second, third) == ("part/one", "key/one", blob_name(A.sha256))
    assert log.holdings.condemned(9, second) == [third]


def test_an_upload_is_a_holder_of_its_own(log: Log) -> None:
    index = log.add(Kind.BLOB, {**named(A), "caller": "me"})
    log.intent("one", A)
    log.outcome("one")
    log.removed(uploads=(index,))
    assert log.condemned() == set()
    log.removed("one")
    assert log.condemned() == {blob_name(A.sha256)}


def test_taking_an_entry_twice_changes_nothing(log: Log) -> None:
    log.intent("one", A)
    log.outcome("one", OUT)
    log.index -= 1  # as after a crash: the last entry of the mark is read again
    log.outcome("one", OUT)
    assert len(log.holdings.ended(-1, 9)) == 1
    log.removed("one")
    log.index -= 1
    log.removed("one")
    assert log.condemned() == {blob_name(A.sha256), blob_name(OUT.sha256)}


def test_a_trial_is_undone(log: Log) -> None:
    log.intent("one", A)
    log.outcome("one")
    with log.holdings.trial():
        (holder,) = log.holdings.ended(-1, 9)
        log.holdings.let_go(holder.first_index)
        assert log.holdings.ended(-1, 9) == []
    assert log.holdings.ended(-1, 9) == [holder]
    assert log.condemned() == set()


def test_a_hold_lasts_until_it_is_released(log: Log) -> None:
    log.intent("one", A)
    log.outcome("one")
    log.add(Kind.HELD, {"call": "one"})
    log.add(Kind.HELD, {"call": "one"})
    log.add(Kind.RELEASED, {"call": "one"})
    assert log.holdings.ended(-1, 9)[0].held
    log.add(Kind.RELEASED, {"call": "one"})
    log.add(Kind.RELEASED, {"call": "one"})  # once, that could be
    assert not log.holdings.ended(-1, 9)[0].held


def test_ends_never_go_back_in_time_nor_past_what_is_believed(log: Log) -> None:
    for number, (time_ns, believed_ns) in enumerate([(100, 0), (5, 0), (10**9, 200)]):
        log.followed.believed_ns = believed_ns
        log.intent(f"{number}", A)
        log.outcome(f"{number}", time_ns=time_ns)
    assert [holder.ended_ns for holder in log.holdings.ended(-1, 9)] == [100, 100, 200]


def test_sizes_are_those_on_disk(log: Log) -> None:
    log.blobs.put(b"a")
    log.intent("one", A, B)  # the other is not there
    log.outcome("one")
    assert log.holdings.total_bytes() == log.blobs.size_of(f"sha256/{A.sha256[:2]}/{A.sha256}.zst")


def test_it_remembers_how_far_it_is_and_where_cursors_were(log: Log, tmp_path: Path) -> None:
    assert log.holdings.followed().mark.position.offset == 0
    mark = LowWater(position=Position(segment=3, offset=77), leaf="ab")
    followed = Followed(mark=mark, chain_ns=4, believed_ns=5)
    with log.holdings.changing():
        log.holdings.put_followed(followed)
        log.holdings.put_highest({"siem": 7})
    log.holdings.close()
    again = Holdings(tmp_path / HOLDINGS_NAME, log.blobs)
    assert (again.followed(), again.highest()) == (followed, {"siem": 7})
    again.reset()
    assert again.followed().mark.position.offset == 0
    assert again.highest() == {"siem": 7}
    again.close()


@pytest.mark.parametrize("damage", [b"no database at all" * 300, b""])
def test_a_damaged_one_is_made_again(log: Log, tmp_path: Path, damage: bytes) -> None:
    log.intent("one", A)
    log.outcome("one")
    log.holdings.close()
    (tmp_path / HOLDINGS_NAME).write_bytes(damage)
    again = Holdings(tmp_path / HOLDINGS_NAME, log.blobs)
    assert again.ended(-1, 9) == []
    again.close()


def test_paths() -> None:
    assert path_of("abcd.zst") == "sha256/ab/abcd.zst"
    assert path_of("part/call-1") == "part/call-1"
