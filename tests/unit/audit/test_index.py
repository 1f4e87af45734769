"""The index: pages, requests seen before, rows that wait for room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from supervisor.audit import index as index_module
from supervisor.audit.entry import Position
from supervisor.audit.index import (
    BlobRef,
    CallRow,
    CallSummary,
    Index,
    LowWater,
    with_last,
    with_outcome,
)
from supervisor.call.types import Correlation
from supervisor.errors import HostError, InvalidRequest
from tests.support.records import CALLER, make_finished

WATER = LowWater(position=Position(segment=0, offset=16), leaf="ab")


def row(number: int, *, caller: str = "tester", profile: str = "python", **more: int) -> CallRow:
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
    return CallRow(summary=summary, first_index=10 * number, first=place, last=place)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index.db")
    yield index
    index.close()


def ids(index: Index, **wanted: object) -> list[str]:
    found: list[str] = []
    token = ""
    filters = {"caller": None, "profile": None, "denied_only": False, "since_ns": 0, **wanted}
    while True:
        page, token = index.page(limit=2, token=token, **filters)  # type: ignore[arg-type]
        found += [summary.call_id for summary in page]
        assert len(page) <= 2
        if not token:
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
    assert ids(index, caller="nobody") == []


def test_a_page_token_stays_right_while_calls_come_in(index: Index) -> None:
    index.put([row(number) for number in range(4)], [], WATER)
    everything = {"caller": None, "profile": None, "denied_only": False, "since_ns": 0}
    page, token = index.page(limit=2, token="", **everything)  # type: ignore[arg-type]
    index.put([row(9)], [], WATER)
    rest, _ = index.page(limit=2, token=token, **everything)  # type: ignore[arg-type]
    assert [item.call_id for item in page + rest] == ["call-3", "call-2", "call-1", "call-0"]


@pytest.mark.parametrize("token", ["x", "-1", "1; DROP TABLE calls", "9" * 30, "²"])
def test_a_token_that_is_not_ours(token: str, index: Index) -> None:
    with pytest.raises(InvalidRequest) as caught:
        index.page(caller=None, profile=None, denied_only=False, since_ns=0, limit=1, token=token)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


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


def test_an_index_of_another_version_is_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    first = Index(path)
    first.put([row(1)], [], WATER)
    first._db.execute("PRAGMA user_version = 99")
    first.close()
    second = Index(path)
    assert second.get("call-1") is None
    second.close()


def test_a_damaged_page_is_found_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    first = Index(path)
    first.put([row(number) for number in range(300)], [], WATER)
    first.close()
    data = bytearray(path.read_bytes())
    for page in range(2, len(data) // 4096, 3):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)
    second = Index(path)
    assert second.low_water() is None
    assert second.put([row(1)], [], WATER)
    second.close()


def test_reset_empties_it(index: Index) -> None:
    index.put([row(1)], [], WATER)
    index.reset()
    assert index.get("call-1") is None
    assert index.put([row(2)], [], WATER)


def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module.apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(HostError) as caught:
        Index(tmp_path / "index.db")
    assert caught.value.reason == "SQLITE_TOO_OLD"
