"""The index: pages, requests seen before, rows that wait for room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from supervisor.audit.entry import Position
from supervisor.audit.index import (
    UNSETTLED_MAX,
    BlobRef,
    CallRow,
    CallSummary,
    Index,
    LowWater,
    with_last,
    with_outcome,
)
from supervisor.audit.search import EVERYTHING, CallFilter, Trail
from supervisor.call.types import Correlation
from supervisor.errors import CapacityError, InvalidRequest
from tests.support.records import CALLER, make_finished

WATER = LowWater(position=Position(segment=0, offset=16), leaf="ab")


def row(
    number: int,
    *,
    caller: str = "tester",
    profile: str = "python",
    words: bytes = b"",
    **more: int,
) -> CallRow:
    summary = CallSummary(
        call_id=f"call-{number}",
        request_id=f"request-{number}",
        fingerprint=f"{number:064x}",
        caller=replace(CALLER, name=caller),
        profile=profile,
        profile_digest="d" * 64,
        mode="enforce",
        argv=(b"echo", b"\xff"),
        accepted_ns=1000 * number,
        correlation=Correlation(agent="a", session="s"),
        last_sequence=more.get("last_sequence", 1),
        denials=more.get("denials", 0),
        finished=None,
    )
    place = Position(segment=0, offset=16 + number)
    trail = Trail()
    trail.take("intent", {"request": {"argv": ["echo", words.decode()]}})
    return CallRow(summary=summary, first_index=10 * number, first=place, last=place, trail=trail)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index.db")
    yield index
    index.close()


def ids(index: Index, **wanted: Any) -> list[str]:
    found: list[str] = []
    token, more = "", True
    wanted_calls = CallFilter(**wanted)
    while more:
        keys, more = index.find(wanted_calls, limit=2, token=token)
        found += [summary.call_id for summary in index.summaries(keys)]
        assert len(keys) <= 2
        token = wanted_calls.token(keys[-1]) if keys else ""
    return found


def test_a_row_comes_back(index: Index) -> None:
    live = row(1)
    assert index.put([live], [], WATER)
    assert index.get("call-1") == live
    assert index.get("call-2") is None
    later = with_last(live, last=Position(segment=5, offset=6), sequence=7, denials=2)
    done = with_outcome(
        later,
        make_finished(denials=3, record="e" * 64, record_bytes=9),
        last=Position(segment=8, offset=9),
        sequence=8,
    )
    assert index.put([done], [], WATER)
    assert index.get("call-1") == done
    assert done.summary.denials == 3


def test_pages_are_newest_first_and_filtered(index: Index) -> None:
    rows = [
        row(1),
        row(2, caller="other"),
        row(3, profile="shell", denials=1),
        row(4),
        row(5, caller="other", denials=2),
    ]
    index.put(rows, [], WATER)
    assert ids(index) == ["call-5", "call-4", "call-3", "call-2", "call-1"]
    assert ids(index, caller="other") == ["call-5", "call-2"]
    assert ids(index, profile="shell") == ["call-3"]
    assert ids(index, denied_only=True) == ["call-5", "call-3"]
    assert ids(index, since_ns=4000) == ["call-5", "call-4"]
    assert ids(index, until_ns=2000) == ["call-1"]
    assert ids(index, caller="nobody") == []


@pytest.mark.parametrize("wanted", [EVERYTHING, CallFilter(agent="a")])
def test_a_page_token_stays_right_while_calls_come_in(wanted: CallFilter, index: Index) -> None:
    index.put([row(number) for number in range(4)], [], WATER)
    keys, more = index.find(wanted, limit=2, token="")
    assert more
    index.put([row(9)], [], WATER)
    rest, more = index.find(wanted, limit=2, token=wanted.token(keys[-1]))
    assert not more
    found = [call.call_id for call in index.summaries([*keys, *rest])]
    assert found == ["call-3", "call-2", "call-1", "call-0"]


@pytest.mark.parametrize("token", ["x", "-1", "1; DROP TABLE calls", "9" * 30, "²", "12", "1.ab"])
def test_a_token_that_is_not_ours(token: str, index: Index) -> None:
    with pytest.raises(InvalidRequest) as caught:
        index.find(EVERYTHING, limit=1, token=token)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_a_token_of_another_filter(index: Index) -> None:
    with pytest.raises(InvalidRequest) as caught:
        index.find(CallFilter(caller="tester"), limit=1, token=CallFilter(caller="x").token(10))
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_what_is_searched_is_newest_first_and_all_of_it_has_to_hold(index: Index) -> None:
    rows = [
        row(1, words=b"alpha"),
        row(2, words=b"alpha beta", caller="other"),
        row(3, words=b"beta", profile="shell", denials=1),
        row(4, words=b"alpha", denials=1),
        row(5),
    ]
    index.put(rows, [], WATER)
    assert ids(index, agent="a") == ["call-5", "call-4", "call-3", "call-2", "call-1"]
    assert ids(index, text="alpha") == ["call-4", "call-2", "call-1"]
    assert ids(index, text="alpha beta") == ["call-2"]
    assert ids(index, text="alpha", caller="tester") == ["call-4", "call-1"]
    assert ids(index, text="beta", profile="shell") == ["call-3"]
    assert ids(index, text="alpha", denied_only=True) == ["call-4"]
    assert ids(index, text="alpha", since_ns=2000) == ["call-4", "call-2"]
    assert ids(index, text="alpha", until_ns=4000) == ["call-2", "call-1"]
    assert ids(index, text="alpha", since_ns=2000, until_ns=4000) == ["call-2"]
    assert ids(index, text="alpha", since_ns=5000) == []
    assert ids(index, agent="b") == []


def test_times_when_the_clock_was_set_back(index: Index) -> None:
    times = [1000, 5000, 2000, 6000, 3000]
    rows = [row(number) for number in range(5)]
    index.put(
        [
            replace(one, summary=replace(one.summary, accepted_ns=time))
            for one, time in zip(rows, times, strict=True)
        ],
        [],
        WATER,
    )
    for more in ({}, {"agent": "a"}):
        assert ids(index, since_ns=3000, **more) == ["call-4", "call-3", "call-1"]
        assert ids(index, until_ns=3000, **more) == ["call-2", "call-0"]
        assert ids(index, since_ns=2000, until_ns=5001, **more) == ["call-4", "call-2", "call-1"]
        assert ids(index, since_ns=7000, **more) == []


def test_a_call_is_found_by_its_latest_row(index: Index) -> None:
    index.put([row(1)], [], WATER)
    assert ids(index, outcome="ok") == []
    done = with_outcome(row(1), make_finished(), last=row(1).last, sequence=2)
    index.put([done], [], WATER)
    assert ids(index, outcome="ok") == ["call-1"]
    assert ids(index, outcome="not_ok") == []
    assert ids(index, agent="a") == ["call-1"]


def test_what_waits_to_be_searched_is_settled_in_batches(index: Index) -> None:
    assert index.is_unsettled  # it does not know what a former daemon left
    index.settle()
    assert not index.is_unsettled
    index.put([row(number) for number in range(UNSETTLED_MAX)], [], WATER)
    assert index.is_unsettled
    index.settle()
    assert not index.is_unsettled
    assert index._db.execute("SELECT count(*) FROM unsettled").fetchall() == [(0,)]
    assert len(ids(index, agent="a")) == UNSETTLED_MAX


def test_what_waited_is_searched_after_a_restart(tmp_path: Path) -> None:
    first = Index(tmp_path / "index.db")
    first.put([row(1)], [], WATER)
    first.close()
    second = Index(tmp_path / "index.db")
    assert ids(second, agent="a") == ["call-1"]
    second.close()


def test_a_search_that_would_miss_calls_says_so(index: Index) -> None:
    index.put([row(1)], [], WATER)
    index.settle()
    (pages,) = index._db.execute("PRAGMA page_count").fetchone()
    index._db.execute(f"PRAGMA max_page_count = {pages}")
    number = 2
    while index.put([row(number)], [], WATER):
        number += 1
        assert number < 1000
    assert len(ids(index)) == number - 1
    with pytest.raises(CapacityError) as caught:
        ids(index, agent="a")
    assert caught.value.reason == "INDEX_FULL"
    index._db.execute("PRAGMA max_page_count = 100000")
    assert index.put([], [], WATER)
    assert len(ids(index, agent="a")) == number


def test_requests_are_found_per_caller(index: Index) -> None:
    index.put([row(1), row(2, caller="other")], [], WATER)
    assert index.find_request("tester", "request-1") == ("call-1", f"{1:064x}")
    assert index.find_request("tester", "request-2") is None


def test_blobs_are_granted_per_caller(index: Index) -> None:
    ref = BlobRef(sha256="a" * 64, size_bytes=1, caller="tester")
    assert not index.may_read(ref)
    index.put([], [ref, ref], WATER)
    assert index.may_read(ref)
    assert not index.may_read(replace(ref, caller="other"))
    assert not index.may_read(replace(ref, size_bytes=2))


def test_unfinished_calls_are_known(index: Index) -> None:
    done = with_outcome(row(1), make_finished(), last=row(1).last, sequence=2)
    index.put([done, row(3), row(2)], [], WATER)
    assert [item.summary.call_id for item in index.unfinished()] == ["call-2", "call-3"]


def test_rows_wait_while_the_disk_is_full(index: Index) -> None:
    index.put([row(1)], [], WATER)
    (pages,) = index._db.execute("PRAGMA page_count").fetchone()
    index._db.execute(f"PRAGMA max_page_count = {pages}")
    ref = BlobRef(sha256="a" * 64, size_bytes=1, caller="tester")
    later = LowWater(position=Position(segment=0, offset=99), leaf="cd")
    number = 2
    while index.put([row(number)], [ref], later):
        number += 1
        assert number < 1000
    assert not index.complete
    assert index.waiting == 2
    assert index.get(f"call-{number}") == row(number)
    assert index.find_request("tester", f"request-{number}") is not None
    assert index.may_read(ref)
    index._db.execute("PRAGMA max_page_count = 100000")
    assert index.put([], [], later)
    assert (index.complete, index.waiting) == (True, 0)
    assert index.get(f"call-{number}") == row(number)
    assert index.low_water() == later


def test_what_is_noted_is_found_and_written_with_the_next(index: Index) -> None:
    ref = BlobRef(sha256="a" * 64, size_bytes=1, caller="tester")
    index.put([row(1)], [], WATER)
    index.note([row(2)], [ref])
    assert index.get("call-2") == row(2)
    assert index.find_request("tester", "request-2") == ("call-2", f"{2:064x}")
    assert index.may_read(ref)
    assert index.waiting == 2
    assert ids(index) == ["call-2", "call-1"]
    assert (index.waiting, index.low_water()) == (0, WATER)
    index.note([row(3)], [])
    assert ids(index, agent="a") == ["call-3", "call-2", "call-1"]
    index.note([row(4)], [])
    later = LowWater(position=Position(segment=0, offset=99), leaf="cd")
    assert index.put([], [], later)
    assert (index.waiting, index.low_water()) == (0, later)


def test_what_is_noted_while_the_disk_is_full_is_kept(index: Index) -> None:
    index.put([row(1)], [], WATER)
    (pages,) = index._db.execute("PRAGMA page_count").fetchone()
    index._db.execute(f"PRAGMA max_page_count = {pages}")
    index.note([row(number) for number in range(2, 200)], [])
    assert ids(index) == ["call-1"]
    assert not index.complete
    assert index.get("call-9") == row(9)
    index._db.execute("PRAGMA max_page_count = 100000")
    assert index.put([], [], WATER)
    assert len(ids(index)) == 199


def test_low_water_stays_while_rows_wait(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.put([row(1)], [], WATER)

    def broken(low_water: LowWater) -> None:
        raise apsw.FullError("full")

    later = LowWater(position=Position(segment=0, offset=99), leaf="cd")
    with monkeypatch.context() as patch:
        patch.setattr(index, "_write", broken)
        assert not index.put([row(2)], [], later)
    assert index.low_water() == WATER


def test_it_survives_closing_and_is_thrown_away_when_it_is_garbage(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    first = Index(path)
    first.put([row(1)], [], WATER)
    first.close()
    second = Index(path)
    assert second.get("call-1") == row(1)
    assert second.low_water() == WATER
    second.close()
    path.write_bytes(b"garbage" * 1000)
    third = Index(path)
    assert third.get("call-1") is None
    assert third.low_water() is None
    third.close()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("version", [2, 99])
def test_an_index_of_another_version_is_thrown_away(version: int, tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    first = Index(path)
    first.put([row(1)], [], WATER)
    first._db.execute(f"PRAGMA user_version = {version}")
    first.close()
    second = Index(path)
    assert second.get("call-1") is None
    second.close()


def test_reset_empties_it(index: Index) -> None:
    index.put([row(1)], [], WATER)
    index.reset()
    assert index.get("call-1") is None
    assert index.put([row(2)], [], WATER)


def test_holds_are_counted_by_their_entries(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    index = Index(path)
    assert index.holds("call-1") == 0
    entries = iter(range(7, 99))
    counts = []
    for change in (1, 1, -1, 1):
        index.change_holds("call-1", change, lambda: next(entries))
        counts.append(index.holds("call-1"))
    assert (counts, index.holds("call-2")) == ([1, 2, 1, 2], 0)
    assert index.put([], [], WATER)
    assert index.holds("call-1") == 2
    # After a crash the same entries are read again.
    again = {("call-1", 9): -1, ("call-1", 10): 1, ("call-1", 11): -1, ("call-1", 12): -1}
    assert index.put([], [], WATER, holds=again)
    index.close()
    index = Index(path)
    assert index.holds("call-1") == 0
    index.change_holds("call-1", -1, lambda: 13)  # once, that could be
    index.change_holds("call-1", 1, lambda: 14)
    assert index.holds("call-1") == 1
    index.close()
