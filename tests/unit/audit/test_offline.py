"""Calls out of a state folder, while no daemon runs and while one does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from supervisor.audit.offline import read_calls, read_profile
from supervisor.audit.segment import segment_name
from supervisor.errors import AuditCorrupt, InvariantError, NotFound
from tests.support.records import WATCHED, begin, make_finished, make_profile, opened


async def fill(directory: Path) -> None:
    async with opened(directory) as store:
        for name in ("call-1", "call-2", "call-3"):
            recorder = await begin(store, name)
            recorder.watched(WATCHED)
            await recorder.finish(make_finished())


def test_the_entries_of_some_calls(tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path))
    found = read_calls(tmp_path, ["call-3", "call-1"])
    assert list(found) == ["call-3", "call-1"]
    for call_id, entries in found.items():
        assert {entry.call_id for entry in entries} == {call_id}
        assert [entry.kind for entry in entries] == ["intent", "watched", "outcome"]
        assert [entry.sequence for entry in entries] == [1, 2, 3]


def test_while_a_daemon_writes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store, "call-1")
            entries = read_calls(tmp_path, ["call-1"])["call-1"]
            assert [entry.kind for entry in entries] == ["intent"]
            await recorder.finish(make_finished())

    asyncio.run(scenario())


def test_a_call_that_is_not_there(tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path))
    with pytest.raises(NotFound) as caught:
        read_calls(tmp_path, ["call-1", "call-9"])
    assert caught.value.reason == "RECORD_NOT_FOUND"
    assert "call-9" in caught.value.message


def test_what_belongs_to_no_call_is_not_found_by_no_name(tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path))
    with pytest.raises(NotFound) as caught:
        read_calls(tmp_path, [""])
    assert caught.value.reason == "RECORD_NOT_FOUND"


def test_a_damaged_log_is_not_read_from(tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path))
    path = tmp_path / "log" / segment_name(0)
    good = bytearray(path.read_bytes())
    at = good.index(b'"count":3')
    good[at + 8] = ord("4")
    path.write_bytes(good)
    with pytest.raises(AuditCorrupt) as caught:
        read_calls(tmp_path, ["call-3"])
    assert caught.value.reason == "RECORD_DAMAGED"


def test_the_profile_is_the_one_that_ran(tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path))
    intent, watched, _ = read_calls(tmp_path, ["call-1"])["call-1"]
    assert read_profile(tmp_path, intent) == make_profile().canonical
    with pytest.raises(InvariantError):
        read_profile(tmp_path, watched)
