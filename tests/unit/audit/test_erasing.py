"""Erasing: the entry first, the key second, and what is left says who did it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit import vault as vaults
from supervisor.audit.entry import Kind
from supervisor.audit.store import Store
from supervisor.audit.vault import Encryption, Vault
from supervisor.audit.verify import verify
from supervisor.call.types import Digest, InputFile, Stream
from supervisor.errors import CallStateError, CapacityError, NotFound
from tests.support.records import CALLER, IDENTITY, RECIPIENT, begin, make_finished, opened
from tests.unit.audit.test_locker import upload

READING = Encryption(recipients=(RECIPIENT,), identities=(IDENTITY,))


async def ended(store: Store, call_id: str = "call-1") -> None:
    recorder = await begin(store, call_id)
    recorder.output(Stream.STDOUT, b"something")
    await recorder.finish(make_finished())


def stored(store: Store, call_id: str) -> bytes:
    return b"".join(one.data for one in store.read_stream(call_id, Stream.STDOUT))


def test_after_it_nobody_reads_the_content_and_the_log_is_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, encryption=READING) as store:
            await ended(store)
            await ended(store, "call-2")
            assert [one.data for one in store.read_stream("call-1", Stream.STDOUT)] == [
                b"something"
            ]
            token = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"
            erased = await store.eraser.erase("call-1", CALLER, f"asked for by {token}")
            assert erased.by == CALLER.name and "ghp_" not in erased.why
            assert erased.why.startswith("asked for by [REDACTED:github-token:")
            assert store.get_call("call-1").erased == erased
            assert store.get_call("call-2").erased is None
            assert [one.erased for one in store.list_calls(limit=9)[0]] == [None, erased]
            assert not (tmp_path / "keys" / "call-1").exists()
            with pytest.raises(NotFound, match="erased by tester") as caught:
                list(store.read_stream("call-1", Stream.STDOUT))
            assert caught.value.reason == "CONTENT_ERASED"
            assert await store.eraser.erase("call-1", CALLER, "again") == erased
        for path in tmp_path.glob("index.db*"):
            path.unlink()
        async with opened(tmp_path, encryption=READING) as store:
            assert store.get_call("call-1").erased == erased
            with pytest.raises(NotFound, match="erased by tester"):
                list(store.events("call-1"))
            with pytest.raises(NotFound, match="erased by tester"):
                store.find_request(CALLER.name, "request-of-call-1")
            assert [one.data for one in store.read_stream("call-2", Stream.STDOUT)] == [
                b"something"
            ]

    asyncio.run(scenario())
    report = verify(tmp_path)
    assert (report.problems, report.erased) == ((), 1)


def test_the_entry_is_durable_before_the_key_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the daemon dies in between, the next one destroys the key, also when other calls ended
    meanwhile."""

    class Died(BaseException):
        pass

    def die(self: Vault, call_id: str) -> None:
        raise Died

    async def first() -> None:
        async with opened(tmp_path, encryption=READING) as store:
            await ended(store)
            with monkeypatch.context() as patch, pytest.raises(Died):
                patch.setattr(vaults.Vault, "destroy", die)
                await store.eraser.erase("call-1", CALLER, "asked for")
            await ended(store, "call-2")

    async def second() -> None:
        async with opened(tmp_path, encryption=READING) as store:
            assert not (tmp_path / "keys" / "call-1").exists()
            assert (tmp_path / "keys" / "call-2").exists()
            assert store.get_call("call-1").erased is not None

    asyncio.run(first())
    assert (tmp_path / "keys" / "call-1").exists()
    assert [one.message for one in verify(tmp_path).problems] == [
        "the key of call-1 is still there"
    ]
    asyncio.run(second())
    assert verify(tmp_path).problems == ()


def test_what_cannot_be_erased(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "plain") as store:
            await ended(store)
            with pytest.raises(CallStateError) as caught:
                await store.eraser.erase("call-1", CALLER, "why")
            assert caught.value.reason == "NOT_ENCRYPTED"
        async with opened(tmp_path / "locked", encryption=READING) as store:
            recorder = await begin(store)
            with pytest.raises(CallStateError) as caught:
                await store.eraser.erase("call-1", CALLER, "why")
            assert caught.value.reason == "CALL_NOT_CLOSED"
            await recorder.finish(make_finished())
            with pytest.raises(NotFound):
                await store.eraser.erase("call-7", CALLER, "why")
            assert (tmp_path / "locked" / "keys" / "call-1").exists()

    asyncio.run(scenario())


def test_what_is_held_is_not_erased_and_what_is_erased_not_held(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, encryption=READING) as store:
            await ended(store)
            await store.contents.hold("call-1", {"why": "a case"})
            with pytest.raises(CallStateError) as caught:
                await store.eraser.erase("call-1", CALLER, "why")
            assert (caught.value.reason, caught.value.metadata["holds"]) == ("CONTENT_HELD", "1")
            assert "is held: it is not erased" in caught.value.message
            assert "audit release" in caught.value.hint
            assert stored(store, "call-1") == b"something"
            assert store.get_call("call-1").erased is None
            await store.contents.hold("call-1", {"why": "closed"}, release=True)
            await store.eraser.erase("call-1", CALLER, "why")
            with pytest.raises(CallStateError) as caught:
                await store.contents.hold("call-1", {"why": "late"})
            assert caught.value.reason == "CONTENT_ERASED"
            assert store.get_call("call-1").holds == 0

    asyncio.run(scenario())


def test_a_reader_that_has_the_key_file_open_keeps_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is erased between the look at what became of it and the key that comes of it."""
    real = vaults.read_key

    async def scenario() -> None:
        async with opened(tmp_path, encryption=READING) as store:
            await ended(store)
            vault, loop = store.locker.vault, asyncio.get_running_loop()
            vault.forget("call-1")

            def late(*given: Any) -> Any:
                key = real(*given)
                erasing = store.eraser.erase("call-1", CALLER, "asked for")
                asyncio.run_coroutine_threadsafe(erasing, loop).result(60)
                return key

            monkeypatch.setattr(vaults, "read_key", late)
            with pytest.raises(NotFound, match="erased by tester"):
                await asyncio.to_thread(vault.key, "call-1")
            assert not vault.opens("call-1")
            with pytest.raises(NotFound, match="erased by tester"):
                vault.key("call-1")

    asyncio.run(scenario())


def test_before_the_key_is_forgotten_the_call_is_known_as_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[bool] = []
    real = Vault.forget

    def forget(self: Vault, key_id: str) -> None:
        known.append(self.erasure(key_id) is not None)
        real(self, key_id)

    async def scenario() -> None:
        async with opened(tmp_path, encryption=READING) as store:
            await ended(store)
            monkeypatch.setattr(Vault, "forget", forget)
            await store.eraser.erase("call-1", CALLER, "asked for")

    asyncio.run(scenario())
    assert known == [True, True]


def test_a_key_that_could_not_be_destroyed_is_when_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Vault, call_id: str) -> None:
        raise CapacityError("FDS_EXHAUSTED", "none left")

    async def scenario() -> None:
        async with opened(tmp_path, encryption=READING) as store:
            await ended(store)
            with monkeypatch.context() as patch, pytest.raises(CapacityError):
                patch.setattr(Vault, "destroy", fail)
                await store.eraser.erase("call-1", CALLER, "asked for")
            with pytest.raises(NotFound, match="erased by tester"):
                stored(store, "call-1")
            assert (tmp_path / "keys" / "call-1").exists()
            await store.eraser.erase("call-1", CALLER, "again")
            assert not (tmp_path / "keys" / "call-1").exists()

    asyncio.run(scenario())


def test_uploads_of_the_call_are_forgotten_with_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, encryption=READING) as store:
            digest, other = upload(store, b"given"), upload(store, b"not given")
            recorder = await begin(store, files=(InputFile(path=b"f", digest=digest),))
            await recorder.finish(make_finished())
            assert store.may_read_blob(digest, CALLER.name)
            await store.eraser.erase("call-1", CALLER, "asked for")
            assert not store.may_read_blob(digest, CALLER.name)
            assert store.may_read_blob(other, CALLER.name)
            with pytest.raises(NotFound):
                store.locker.open(CALLER.name, Digest.of(b"given"))

    asyncio.run(scenario())


def test_two_at_once_make_one_entry(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, encryption=READING) as store:
            await ended(store)
            both = [store.eraser.erase("call-1", CALLER, why) for why in ("one", "two")]
            first, second = await asyncio.gather(*both)
            assert first == second

    asyncio.run(scenario())
    from supervisor.audit.directory import LOG_NAME
    from supervisor.audit.verify_log import LogCheck

    found = LogCheck(tmp_path / LOG_NAME, lambda problem: None, live=False).entries()
    assert [entry.kind for entry in found].count(Kind.ERASED) == 1
