"""A log that is not the one whose heads somebody keeps says so when it is opened."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.audit.contradicted import check, tell
from supervisor.audit.own import OwnFilter
from supervisor.audit.store import Store
from supervisor.audit.verify import verify
from supervisor.audit.witness import Contradicted, FileWitness
from supervisor.call.types import Json
from supervisor.errors import AuditCorrupt, AuditUnavailable
from tests.support.records import begin, make_finished
from tests.unit.audit.keys import TestSigner
from tests.unit.audit.test_tree import Log


def grown(folder: Path, *counts: int) -> tuple[Log, list[bytes]]:
    folder.mkdir()
    log, heads = Log(folder), list[bytes]()
    for count in counts:
        log.write(count)
        heads.append(log.tree.signed())
    return log, heads


def test_a_log_begins_with_all_that_it_ever_was(tmp_path: Path) -> None:
    log, heads = grown(tmp_path / "a", 1, 300, 5)
    check(log.tree, [*heads, b"", b"no head", heads[0][:-9]])


@pytest.mark.parametrize("more", [0, 2, 20])
def test_one_that_was_cut_back_is_found_and_then_is_another(tmp_path: Path, more: int) -> None:
    _, heads = grown(tmp_path / "a", 5, 300)
    cut, _ = grown(tmp_path / "b", 5)
    cut.entries += [b"another"] * more
    cut.opened()
    with pytest.raises(Contradicted, match=f"305 entries, and here are {5 + more}: it was cut"):
        check(cut.tree, heads)
    cut.entries += [b"another"] * 400
    cut.opened()
    with pytest.raises(Contradicted, match="305 entries has another root: it was rew") as caught:
        check(cut.tree, heads)
    assert (caught.value.size, len(caught.value.root)) == (305, 44)


def test_a_tree_that_is_behind_its_log_says_nothing(tmp_path: Path) -> None:
    """On a full disk the tree has fewer entries than the log, and catches up later."""
    _, heads = grown(tmp_path / "a", 5, 300)
    behind, _ = grown(tmp_path / "b", 5)
    behind.tree._behind = True
    with pytest.raises(AuditUnavailable) as caught:
        check(behind.tree, heads)
    assert caught.value.reason == "TREE_BEHIND"


def test_a_damaged_tile_is_no_other_log(tmp_path: Path) -> None:
    log, heads = grown(tmp_path / "a", 5, 300, 300)
    log.tree.close()  # whose head is signed, and taken up
    tile = log.folder / "tile/0/000"
    data = bytearray(tile.read_bytes())
    data[100] ^= 1
    tile.write_bytes(data)
    log.opened()
    with pytest.raises(AuditCorrupt, match="damaged") as caught:
        check(log.tree, heads[:1])
    assert caught.value.reason == "CHECKPOINT_BROKEN"


def test_the_largest_is_named(tmp_path: Path) -> None:
    _, heads = grown(tmp_path / "a", 5, 3, 3)
    other, _ = grown(tmp_path / "b", 2)
    with pytest.raises(Contradicted) as caught:
        check(other.tree, [heads[2], heads[0], heads[1]])
    assert caught.value.size == 11


def test_what_others_have_signed_says_nothing(tmp_path: Path) -> None:
    log, _ = grown(tmp_path / "a", 2)
    other, _ = grown(tmp_path / "b")
    shutil.rmtree(other.folder)
    other.opened(TestSigner(seed=b"another key than the log's own.."))
    other.write(9)
    check(log.tree, [other.tree.signed()])


def test_a_head_of_a_former_key_counts(tmp_path: Path) -> None:
    _, heads = grown(tmp_path / "a", 5, 300)
    cut, _ = grown(tmp_path / "b", 5)
    former, cut.tree._signer = (
        cut.tree._signer,
        TestSigner(seed=b"the key that came after that one"),
    )
    cut.tree._keys = (cut.tree._signer.key, former.key)
    with pytest.raises(Contradicted):
        check(cut.tree, heads)
    cut.tree._keys = (cut.tree._signer.key,)
    check(cut.tree, heads)


def test_it_is_told_in_an_entry_and_where_that_cannot_be_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bodies: list[dict[str, Json]] = []
    why = Contradicted("it was cut back", size=7, root="r", shorter=True)
    tell("/heads", why, lambda body: bodies.append(dict(body)))
    assert bodies == [{"witness": "/heads", "size": 7, "root": "r", "why": "it was cut back"}]
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]

    def full(_: object) -> None:
        raise AuditUnavailable("RECORD_FULL", "no room")

    tell("/heads", why, full)
    assert "could not be recorded: no room" in caplog.text


def test_a_state_folder_that_was_put_back(tmp_path: Path) -> None:
    """It fits itself, so nothing else can tell; also where the daemon ends at once."""
    state, heads = tmp_path / "state", FileWitness(tmp_path / "heads")

    async def live(calls: int, *, then: Callable[[Store], None] = lambda store: None) -> None:
        store = Store.open(state, witnesses=[heads])
        for number in range(calls):
            recorder = await begin(store, f"call-{store.head()[0].split()[1].decode()}-{number}")
            await recorder.finish(make_finished())
        then(store)
        await store.close()

    def found() -> list[dict[str, Json]]:
        bodies: list[dict[str, Json]] = []

        def look(store: Store) -> None:
            entries, _ = store.own.find(OwnFilter(kind="head_contradicted"), limit=9, token="")
            bodies.extend(entry.body() for entry in entries)

        asyncio.run(live(0, then=look))
        return bodies

    asyncio.run(live(1))
    shutil.copytree(state, tmp_path / "earlier")
    asyncio.run(live(3))
    assert found() == []
    shutil.rmtree(state)
    (tmp_path / "earlier").rename(state)
    assert verify(state).ok
    asyncio.run(live(0))
    (body, *_) = found()
    assert body["witness"] == str(heads.path)
    assert "it was cut back" in str(body["why"])
    assert verify(state).ok
    asyncio.run(live(9))  # longer than it was, and told all the same
    asyncio.run(live(0))
    assert any("another root" in str(body["why"]) for body in found())
