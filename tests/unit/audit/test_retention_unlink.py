"""What retention unlinks: what a durable entry says, and whatever happens in between."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit import retention as retention_module
from supervisor.audit.blobs import BlobStore
from supervisor.audit.journal import Journal
from supervisor.audit.retention import read_problem
from supervisor.audit.store import Store
from supervisor.audit.verify import verify
from supervisor.call.types import Digest
from supervisor.errors import AuditUnavailable
from tests.unit.audit.test_retention import (
    OLD,
    SECRET,
    Killed,
    call,
    files_of,
    removed,
    retention,
    run,
    stdout,
    within,
)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_crash_between_the_entry_and_the_unlink_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    left = after

    def dying(self: BlobStore, name: str, is_unused: Any) -> bool:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        return real(self, name, is_unused)

    real = BlobStore.discard

    async def before(store: Store) -> None:
        await call(store, "call-1", SECRET, given=b"in", left=b"out")
        monkeypatch.setattr(BlobStore, "discard", dying)
        with pytest.raises(Killed):
            run(store, OLD)
        monkeypatch.undo()
        assert len(removed(store)) == 1

    within(tmp_path, before)
    assert verify(tmp_path).problems == ()  # whatever is still there

    async def afterwards(store: Store) -> None:
        run(store, None)  # also where nothing is to be removed any more
        (body,) = removed(store)
        assert not set(body["files"]) & files_of(tmp_path)

    within(tmp_path, afterwards)
    assert verify(tmp_path).problems == ()


def test_nothing_goes_by_an_entry_that_is_not_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for it has failed, and what was appended may be gone with the power."""

    def failing(self: Journal) -> None:
        raise AuditUnavailable("JOURNAL_UNAVAILABLE", "on purpose")

    async def scenario(store: Store) -> None:
        await call(store, "call-1", SECRET, left=b"out")
        before = files_of(tmp_path)
        one = retention(store, OLD)
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "sync", failing)
            for _ in range(2):
                with pytest.raises(AuditUnavailable):
                    one.run_once()
        assert len(removed(store)) == 1
        assert files_of(tmp_path) == before
        one.run_once()
        one.close()
        assert files_of(tmp_path) < before

    within(tmp_path, scenario)


def test_what_is_in_use_keeps_nothing_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "FILES_A_STEP", 2)

    async def scenario(store: Store) -> None:
        contents = [b"content %d" % number for number in range(6)]
        for number, content in enumerate(contents):
            await call(store, f"call-{number}", left=content)
        one = retention(store, OLD)
        one._unlink = lambda: None  # type: ignore[method-assign]
        one.run_once()
        del one._unlink  # type: ignore[method-assign]
        paths = sorted(store.blobs.blob_path(Digest.of(content).sha256) for content in contents)
        for path in paths[:2] + paths[4:]:  # Whichever come first are asked for again.
            os.utime(path, ns=(0, one._clock_ns()))
        one.run_once()
        one.close()
        assert [path.exists() for path in paths] == [True, True, False, False, True, True]

    within(tmp_path, scenario)


def test_word_of_a_problem_is_left_again_where_it_could_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    async def scenario(store: Store) -> None:
        one = retention(store, OLD)
        one._tell("")
        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_text", full)
            one._tell("HOLDINGS_FULL: no room")
        assert read_problem(tmp_path) == ""
        one._tell("HOLDINGS_FULL: no room")
        assert read_problem(tmp_path) == "HOLDINGS_FULL: no room"
        one.close()

    within(tmp_path, scenario)


def test_a_crash_before_the_entry_removes_nothing(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        await call(store, "call-1", SECRET)
        one = retention(store, OLD)

        def dying(going: Any) -> None:
            raise Killed

        one._let_go = dying  # type: ignore[method-assign]
        with pytest.raises(Killed):
            one.run_once()
        one.close()

    within(tmp_path, before)

    async def afterwards(store: Store) -> None:
        assert stdout(store, "call-1") == SECRET

    within(tmp_path, afterwards)
