"""Keys against what the log says of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from supervisor.audit.account import erased_body
from supervisor.audit.entry import Head, Kind, Position, StoredEntry, encode_entry
from supervisor.audit.offline import read_calls
from supervisor.audit.vault import Encryption
from supervisor.audit.verify_keys import KeyCheck
from supervisor.audit.verify_log import Problem
from tests.support.records import CALLER, RECIPIENT, begin, make_finished, opened


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")

    async def scenario() -> None:
        async with opened(directory, encryption=Encryption(recipients=(RECIPIENT,))) as store:
            await (await begin(store)).finish(make_finished())
        async with opened(directory) as store:
            await (await begin(store, "plain")).finish(make_finished())

    asyncio.run(scenario())
    return directory


def erased(call_id: str) -> StoredEntry:
    head = Head(index=9, prev=bytes(32), time_ns=1, kind=Kind.ERASED, call="", sequence=0)
    json = encode_entry(head, erased_body(call_id, CALLER, "why"))
    return StoredEntry(head=head, json=json, leaf="", position=Position(segment=0, offset=0))


def removed(call_id: str) -> StoredEntry:
    head = Head(index=9, prev=bytes(32), time_ns=1, kind=Kind.REMOVED, call="", sequence=0)
    body = {"calls": [call_id], "uploads": [], "files": [], "why": "age"}
    json = encode_entry(head, body)
    return StoredEntry(head=head, json=json, leaf="", position=Position(segment=0, offset=0))


def check(state: Path, *more: StoredEntry, entries: int = 9, gone: bool = False) -> list[str]:
    """Give the problems of the first entries of the encrypted call, then all of the other, then
    `more`."""
    found: list[Problem] = []
    keys = KeyCheck(state / "keys", found.append)
    calls = read_calls(state, ["call-1", "plain"])
    for entry in [*calls["call-1"][:entries], *calls["plain"], *more]:
        keys.take(entry)
    path = state / "keys" / "call-1"
    data = path.read_bytes()
    if gone:
        path.unlink()
    keys.finish()
    path.write_bytes(data)
    return [problem.message for problem in found]


def test_a_key_that_is_there(state: Path) -> None:
    assert check(state) == []


def test_one_that_goes_while_it_is_looked_at_is_not_missing(state: Path) -> None:
    assert check(state, gone=True) == []


def test_one_that_was_erased_is_gone(state: Path) -> None:
    assert check(state, erased("call-1"), gone=True) == []
    assert check(state, erased("call-1")) == ["the key of call-1 is still there"]


def test_one_of_what_retention_removed_may_be_gone(state: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    calls = read_calls(state, ["call-1"])["call-1"]
    for more, problems in (
        ([removed("call-1")], []),
        ([removed("other")], ["its key is missing, and no entry says that it was erased"]),
    ):
        found: list[Problem] = []
        keys = KeyCheck(tmp_path / "keys", found.append)
        for entry in [*calls, *more]:
            keys.take(entry)
        keys.finish()
        assert [problem.message for problem in found] == problems


def test_what_else_lies_there_is_told(state: Path) -> None:
    """A copy of a key would outlive the erasure; a call that did not begin may leave a key."""
    unborn = "0199a3f2-6c1d-7b4e-9a55-3f0c8d2e71b6"
    copy = "0199a3f2-6c1d-7b4e-9a55-3f0c8d2e71b7"
    data = (state / "keys" / "call-1").read_bytes()
    more = {unborn: b"another", copy: data, "call-1.bak": data, ".swp": b"x"}
    for name, content in more.items():
        (state / "keys" / name).write_bytes(content)
    try:
        assert check(state) == [
            "keys/.swp is the key of no call",
            f"keys/{copy} is a copy of the key of call-1",
            "keys/call-1.bak is a copy of the key of call-1",
        ]
    finally:
        for name in more:
            (state / "keys" / name).unlink()


def test_only_what_has_a_key_and_has_ended_can_be_erased(state: Path) -> None:
    assert check(state, erased("plain")) == ["call plain has no key that could be erased"]
    assert check(state, erased("other")) == ["call other has no key that could be erased"]
    assert "call call-1 had not ended" in check(state, erased("call-1"), entries=1, gone=True)
