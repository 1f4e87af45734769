"""Calls out of a state folder, while no daemon runs and while one does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from supervisor.audit.files import stored_instead
from supervisor.audit.offline import Folder, read_calls, read_profile
from supervisor.audit.segment import segment_name
from supervisor.call.types import Digest, InputFile, OutputFile
from supervisor.errors import AuditCorrupt, InvariantError, NotFound
from supervisor.profile.model import Redact
from tests.support.records import CALLER, WATCHED, begin, make_finished, make_profile, opened


async def fill(directory: Path) -> None:
    async with opened(directory) as store:
        for name in ("call-1", "call-2", "call-3"):
            recorder = await begin(store, name)
            recorder.tell([WATCHED])
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


def test_a_file_with_secrets_is_given_as_it_is_on_record(tmp_path: Path) -> None:
    """By the folder, and by the next daemon to the caller whose call it was."""
    secret = b"key=hunter2hunter2, and more"
    digest = Digest.of(secret)

    async def first() -> None:
        async with opened(tmp_path) as store:
            profile = make_profile(redact=Redact())
            given = {"api": b"hunter2hunter2"}
            other = b"given: " + secret
            file = InputFile(path=b"in", digest=Digest.of(other), data=other)
            recorder = await begin(store, profile=profile, secrets=given, files=(file,))
            assert recorder.files.keep([secret]) == digest
            outputs = (OutputFile(path=b"left", digest=digest, mode=0o644),)
            await recorder.finish(make_finished(outputs=outputs))

    async def second() -> None:
        async with opened(tmp_path) as store:
            assert not store.locker.has(CALLER.name, digest)
            assert store.may_read_blob(stored, CALLER.name)
            assert not store.may_read_blob(stored, "another")
            assert store.blobs.get(stored) == on_record
            told = stored_instead(next(store.entries("call-1")).body())
            (given,) = (one for one in told.values() if one is not None)
            assert given != stored
            assert store.may_read_blob(given, CALLER.name)

    asyncio.run(first())
    folder = Folder(tmp_path, "call-1", ())
    stored, is_redacted = folder.stored(b"left")
    on_record = b"".join(folder.output(stored))
    assert is_redacted
    assert on_record.startswith(b"key=[REDACTED:api:")
    assert on_record.endswith(b"], and more")
    asyncio.run(second())
    for path in tmp_path.glob("index.db*"):
        path.unlink()
    asyncio.run(second())
