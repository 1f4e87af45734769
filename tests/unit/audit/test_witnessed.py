"""A witness takes heads that go on from the one that it has, and no others."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit.checkpoints import read_checkpoint
from supervisor.audit.own import OwnFilter
from supervisor.audit.store import Store
from supervisor.audit.witnessed import WITNESSED_NAME, Witnessed
from supervisor.errors import StockadeError
from tests.support.records import begin, make_finished, opened

WHO = {"name": "host-2"}


class Log:
    """Another log, whose heads are given away."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.key = store._tree.key

    async def grow(self, call_id: str) -> bytes:
        await (await begin(self.store, call_id)).finish(make_finished())
        return self.store._tree.signed()

    def proof(self, old: bytes, new: bytes) -> Sequence[bytes]:
        sizes = [read_checkpoint(head).size for head in (old, new)]
        return self.store._tree.consistency(*sizes)


def size(head: bytes) -> int:
    return read_checkpoint(head).size


def refusal(witnessed: Witnessed, *given: Any) -> StockadeError:
    with pytest.raises(StockadeError) as caught:
        witnessed.take(*given, WHO)
    return caught.value


def entries(store: Store) -> list[dict[str, Any]]:
    found, _ = store.own.find(OwnFilter(kind="witnessed"), limit=99, token="")
    return [entry.body() for entry in reversed(found)]


def test_a_witness(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        async with opened(ours) as store, opened(theirs) as other:
            log = Log(other)
            witnessed = Witnessed(ours, [log.key], store.own)
            first = await log.grow("call-1")
            witnessed.take(first, 0, (), WHO)
            second = await log.grow("call-2")
            proof = log.proof(first, second)
            conflict = refusal(witnessed, second, 0, ())
            assert (conflict.reason, conflict.metadata) == (
                "HEAD_CONFLICT", {"size": str(size(first))},
            )  # fmt: skip
            for bad in ((), proof[:-1], [bytes(32)] * len(proof)):
                assert refusal(witnessed, second, size(first), bad).reason == "HEAD_REWRITTEN"
            assert "was rewritten, or cut back" in caplog.text
            witnessed.take(second, size(first), proof, WHO)
            witnessed.take(second, size(second), (), WHO)  # the same again is nothing new
            assert refusal(witnessed, first, size(second), ()).reason == "HEAD_REWRITTEN"
            told = [(body["origin"], body["size"], body["caller"]) for body in entries(store)]
            assert told == [(log.key.name, size(head), WHO) for head in (first, second)]
            name = hashlib.sha256(log.key.name.encode()).hexdigest()
            assert (ours / WITNESSED_NAME / name).read_bytes() == second
            again = Witnessed(ours, [log.key], store.own)  # as after a restart
            assert refusal(again, first, 0, ()).metadata == {"size": str(size(second))}

    asyncio.run(main())


def test_a_log_that_was_written_anew_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        state = tmp_path / "other"
        async with opened(tmp_path / "ours") as store:
            async with opened(state) as other:
                log = Log(other)
                first = await log.grow("call-1")
                witnessed = Witnessed(tmp_path / "ours", [log.key], store.own)
                witnessed.take(first, 0, (), WHO)
            for name in ("log", "tlog", "blobs"):
                (state / name).rename(tmp_path / f"gone-{name}")
            for path in state.glob("index.db*"):
                path.unlink()
            async with opened(state) as other:  # under the same key
                log = Log(other)
                await log.grow("another")
                second = await log.grow("more")
                proof = log.store._tree.consistency(size(first), size(second))
                error = refusal(witnessed, second, size(first), proof)
                assert error.reason == "HEAD_REWRITTEN"

    asyncio.run(main())


def test_whose_heads_are_taken(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "ours") as store, opened(tmp_path / "theirs") as other:
            log = Log(other)
            head = await log.grow("call-1")
            nobody = Witnessed(tmp_path / "ours", [store._tree.key], store.own)
            assert refusal(nobody, head, 0, ()).reason == "LOG_NOT_WITNESSED"
            witnessed = Witnessed(tmp_path / "ours", [log.key], store.own)
            forged = head.replace(b"\n\n", b"\n\n", 1)[:-5] + b"AAA=\n"
            for bad in (b"", b"x" * 20_000, forged):
                assert refusal(witnessed, bad, 0, ()).reason == "HEAD_INVALID"
            assert refusal(witnessed, head, 0, [b"x"] * 200).reason == "HEAD_INVALID"
            assert entries(store) == []

    asyncio.run(main())
