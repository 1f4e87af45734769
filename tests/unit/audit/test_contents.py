"""What the store says of contents: what is gone, and what is held."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from supervisor.audit.own import OwnFilter
from supervisor.audit.vault import Removal
from supervisor.call.types import Digest
from supervisor.errors import CallStateError
from tests.support.records import begin, make_finished, opened

GONE = Removal(name="call-1", time_ns=1_700_000_000 * 10**9, why="age")


def test_a_hold_is_an_entry_and_so_is_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await (await begin(store)).finish(make_finished())
            await store.contents.hold("call-1", {"why": "a case"})
            await store.contents.hold("call-1", {"why": "closed"}, release=True)
            found, _ = store.own.find(OwnFilter(), limit=9, token="")
            assert [(entry.kind, entry.body()) for entry in reversed(found)] == [
                ("held", {"call": "call-1", "why": "a case"}),
                ("released", {"call": "call-1", "why": "closed"}),
            ]

    asyncio.run(main())


def test_each_hold_needs_a_release_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await (await begin(store)).finish(make_finished())
            counts = [
                await store.contents.hold("call-1", {"why": "x"}, release=release)
                for release in (False, False, True)
            ]
            assert counts == [1, 2, 1]
            assert store.get_call("call-1").holds == 1
        for path in tmp_path.glob("index.db*"):
            path.unlink()
        async with opened(tmp_path) as store:
            assert store.get_call("call-1").holds == 1
            assert await store.contents.hold("call-1", {"why": "x"}, release=True) == 0
            with pytest.raises(CallStateError) as caught:
                await store.contents.hold("call-1", {"why": "x"}, release=True)
            assert caught.value.reason == "NOT_HELD"
            assert len(store.own.find(OwnFilter(), limit=9, token="")[0]) == 4

    asyncio.run(main())


def test_a_reason_has_no_secret(tmp_path: Path) -> None:
    token = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"

    async def main() -> None:
        async with opened(tmp_path) as store:
            await (await begin(store)).finish(make_finished())
            await store.contents.hold("call-1", {"why": f"see {token}"})
            await store.contents.hold("call-1", {"why": token}, release=True)
            found, _ = store.own.find(OwnFilter(), limit=9, token="")
            assert len(found) == 2
            assert all("[REDACTED:github-token:" in str(one.body()["why"]) for one in found)
            assert all(b"ghp_" not in one.json for one in found)

    asyncio.run(main())


def test_what_is_gone_cannot_be_held_and_is_told(tmp_path: Path) -> None:
    digest = Digest.of(b"x")

    async def main() -> None:
        async with opened(tmp_path) as store:
            assert store.contents.removal("call-1") is None
            store._index.put_removals(
                [GONE, Removal(name=f"{digest.sha256}.zst", time_ns=1, why="size")]
            )
            assert store.contents.removal("call-1") == GONE
            removal = store.contents.blob_removal(digest)
            assert removal is not None
            assert removal.why == "size"
            sealed = Digest.of(b"sealed")
            assert store.contents.blob_removal(sealed) is None
            store._index.put_removals([Removal(name=f"{sealed.sha256}.seal", time_ns=1, why="age")])
            assert store.contents.blob_removal(sealed) is not None
            with pytest.raises(CallStateError) as caught:
                await store.contents.hold("call-1", {"why": "late"})
            assert caught.value.reason == "CONTENT_REMOVED"
            with pytest.raises(CallStateError) as caught:
                await store.contents.hold("call-1", {"why": "never mind"}, release=True)
            assert caught.value.reason == "NOT_HELD"
            assert store.own.find(OwnFilter(), limit=9, token="") == ([], "")

    asyncio.run(main())


def test_how_it_is_told() -> None:
    assert GONE.told() == "removed on 2023-11-14 22:13:20 UTC by retention (age)"
