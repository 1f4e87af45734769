"""Retention over a real store: what goes, what does not, and what a crash in between leaves."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from supervisor.audit.cursors import CURSORS_NAME, Cursor, Cursors
from supervisor.audit.entry import Kind
from supervisor.audit.holdings import HOLDINGS_NAME, blob_name
from supervisor.audit.passed import GRACE_NS, NANOS
from supervisor.audit.retention import (
    FILES_A_STEP,
    HOLDERS_A_STEP,
    PROBLEM_NAME,
    RetainPolicy,
    Retention,
    read_problem,
)
from supervisor.audit.store import Store
from supervisor.audit.verify import verify
from supervisor.call.types import Digest, InputFile, OutputFile, Stream
from supervisor.errors import CallStateError, CapacityError, NotFound
from tests.support.records import CALLER, begin, make_finished, opened

DAY_NS = 86_400 * NANOS
OLD = RetainPolicy(age_ns=DAY_NS)
"""Entries of these tests are from 2023."""

NEVER = RetainPolicy(age_ns=10_000 * DAY_NS)
SECRET = b"what nobody else says "


class Observed:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.gone: list[tuple[str, int]] = []
        self.problem = ""

    def removed(self, why: str, calls: int, bytes_: int) -> None:
        self.gone.append((why, calls))

    def retention_problem(self, problem: str) -> None:
        self.problem = problem

    def contents(self, bytes_: int) -> None:
        assert bytes_ >= 0


class Clocks:
    """A wall clock some days from now, so that files are not in use, and one that only runs."""

    def __init__(self) -> None:
        self.wall_ns = time.time_ns() + 10 * DAY_NS
        self.running_ns = 0

    def go(self, span_ns: int) -> None:
        self.wall_ns += span_ns
        self.running_ns += span_ns


def retention(
    store: Store,
    policy: RetainPolicy | None,
    clocks: Clocks | None = None,
    *,
    starts: bool = False,
    observer: Observed | None = None,
) -> Retention:
    """Give one over an open store, that runs when the test says so. Where it `starts`, the entries
    before tell it what time it may be; else it believes the clock."""
    clocks = clocks or Clocks()
    if policy is not None:
        policy = replace(policy, observer=observer)
    one = Retention(
        state=store._journal.directory.parent,
        journal=store._journal,
        index=store._index,
        blobs=store.blobs,
        vault=store.locker.vault,
        policy=policy,
        clock_ns=lambda: clocks.wall_ns,
        running=lambda: clocks.running_ns,
    )
    if not starts:
        one._born = 0
    return one


def run(store: Store, policy: RetainPolicy | None, clocks: Clocks | None = None) -> None:
    one = retention(store, policy, clocks)
    try:
        one.run_once()
    finally:
        one.close()


async def call(
    store: Store,
    call_id: str,
    output: bytes = b"",
    *,
    given: bytes = b"",
    left: bytes = b"",
    end: bool = True,
) -> None:
    files = ()
    if given:
        files = (InputFile(path=b"in", digest=Digest.of(given), mode=0o644, data=given),)
    recorder = await begin(store, call_id, files=files)
    if output:
        recorder.output(Stream.STDOUT, output)
    if end:
        outputs = ()
        if left:
            outputs = (OutputFile(path=b"out", digest=store.blobs.put(left), mode=0o644),)
        await recorder.finish(make_finished(outputs=outputs))


def within(tmp_path: Path, scenario: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            store.contents.close()  # one that it has to finish what was begun: here the test does
            await scenario(store)

    asyncio.run(main())


def removed(store: Store) -> list[dict[str, Any]]:
    from supervisor.audit.own import OwnFilter

    found, _ = store.own.find(OwnFilter(kind=Kind.REMOVED), limit=100, token="")
    return [entry.body() for entry in reversed(found)]


def stdout(store: Store, call_id: str) -> bytes:
    return b"".join(piece.data for piece in store.read_stream(call_id, Stream.STDOUT))


def is_there(store: Store, content: bytes) -> bool:
    return store.blobs.blob_path(Digest.of(content).sha256).exists()


def files_of(directory: Path) -> set[str]:
    return {path.name for path in (directory / "blobs").rglob("*") if path.is_file()}


def test_old_contents_go_and_the_log_says_so(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        await call(store, "call-1", SECRET * 5, given=b"the input", left=b"the output")
        kept = files_of(tmp_path) - {blob_name(Digest.of(b"the input").sha256)}
        run(store, NEVER)
        assert removed(store) == []
        assert kept < files_of(tmp_path)
        run(store, OLD)
        (body,) = removed(store)
        assert (body["why"], body["calls"], body["uploads"]) == ("age", ["call-1"], [])
        assert body["files_count"] == len(body["files"]) == 3
        assert body["bytes"] > 0
        assert not set(body["files"]) & files_of(tmp_path)
        removal = store.contents.removal("call-1")
        assert removal is not None
        assert removal.why == "age"
        with pytest.raises(NotFound) as caught:
            list(store.read_stream("call-1", Stream.STDOUT))
        assert caught.value.reason == "CONTENT_REMOVED"
        assert "by retention (age)" in caught.value.message
        assert store.contents.blob_removal(Digest.of(b"the input")) is not None
        assert [entry.kind for entry in store.entries("call-1")][-1] == "outcome"  # all is told
        run(store, OLD)
        assert len(removed(store)) == 1  # once

    within(tmp_path, scenario)
    report = verify(tmp_path)
    assert (report.problems, report.removed_calls) == ((), 1)


def test_what_another_call_needs_stays(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        await call(store, "call-1", b"same\n", given=b"shared", left=b"alone")
        await call(store, "live", given=b"shared", end=False)
        await call(store, "call-2", b"same\n")  # the very same recording
        held = retention(store, OLD)
        assert [going.holder.call_id for going in held.plan().going] == ["call-1", "call-2"]
        held.close()
        await store.contents.hold("call-2", {"why": "a case"})
        run(store, OLD)
        assert [body["calls"] for body in removed(store)] == [["call-1"]]
        assert is_there(store, b"shared")
        assert not is_there(store, b"alone")
        assert stdout(store, "call-2") == b"same\n"
        with pytest.raises(CallStateError) as caught:
            await store.contents.hold("call-1", {"why": "too late"})
        assert caught.value.reason == "CONTENT_REMOVED"

    within(tmp_path, scenario)
    assert verify(tmp_path).problems == ()


def test_profiles_and_policies_stay_whoever_else_holds_them(tmp_path: Path) -> None:
    from tests.support.records import make_profile

    profile = make_profile().canonical

    async def scenario(store: Store) -> None:
        await call(store, "call-1", SECRET, given=profile)
        policy = store.blobs.put(b"a long policy")
        body = {"policy_blob": {"sha256": policy.sha256, "size_bytes": policy.size_bytes}}
        await store.note(Kind.POLICY, body)
        store.grant_blob(store.blobs.put(b"a long policy"), CALLER.name)
        run(store, OLD)
        assert removed(store)
        assert is_there(store, profile)
        assert is_there(store, b"a long policy")

    within(tmp_path, scenario)
    assert verify(tmp_path).problems == ()


def test_the_oldest_go_until_the_rest_fits(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        for number in range(4):
            await call(store, f"call-{number}", os.urandom(10_000))
        run(store, RetainPolicy(size_bytes=25_000))
        (body,) = removed(store)
        assert (body["why"], body["calls"]) == ("size", ["call-0", "call-1"])
        one = retention(store, RetainPolicy(size_bytes=25_000))
        plan = one.plan()
        one.close()
        assert (plan.going, plan.contents_bytes < 25_000) == ([], True)
        assert "neither too old nor too much" in plan.rest

    within(tmp_path, scenario)


def test_uploads_go_as_calls_do(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        store.grant_blob(store.blobs.put(b"uploaded"), CALLER.name)
        await call(store, "call-1", given=b"uploaded")
        store.grant_blob(store.blobs.put(b"never used"), CALLER.name)
        run(store, OLD)
        (body,) = removed(store)
        assert (body["calls"], len(body["uploads"])) == (["call-1"], 2)
        assert not is_there(store, b"uploaded")
        assert not is_there(store, b"never used")
        store.grant_blob(store.blobs.put(b"uploaded"), CALLER.name)  # again
        assert is_there(store, b"uploaded")

    within(tmp_path, scenario)
    assert verify(tmp_path).problems == ()


def test_nothing_goes_that_was_asked_for_within_the_hour(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        store.grant_blob(store.blobs.put(b"uploaded"), CALLER.name)
        clocks = Clocks()
        clocks.wall_ns = time.time_ns() + GRACE_NS // 2
        one = retention(store, OLD, clocks)
        plan = one.plan()
        one.run_once()
        assert (plan.going, plan.in_use) == ([], 1)
        clocks.go(GRACE_NS)
        path = store.blobs.blob_path(Digest.of(b"uploaded").sha256)
        os.utime(path, ns=(0, clocks.wall_ns - 10 * GRACE_NS))
        assert len(one.plan().going) == 1
        assert store.blobs.has(Digest.of(b"uploaded"))  # somebody is about to name it
        os.utime(path, ns=(0, clocks.wall_ns))  # by this test's clock
        one.run_once()
        one.close()
        assert is_there(store, b"uploaded")
        assert removed(store) == []

    within(tmp_path, scenario)


def test_what_is_named_between_the_entry_and_the_unlink_stays(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        store.grant_blob(store.blobs.put(b"uploaded"), CALLER.name)
        one = retention(store, OLD)
        let_go = one._let_go

        def and_then(going: Any) -> None:
            path = store.blobs.blob_path(Digest.of(b"uploaded").sha256)
            os.utime(path, ns=(0, one._clock_ns()))
            store.grant_blob(Digest.of(b"uploaded"), "another")
            let_go(going)

        one._let_go = and_then  # type: ignore[method-assign]
        one.run_once()
        one.close()
        assert len(removed(store)) == 1
        assert is_there(store, b"uploaded")

    within(tmp_path, scenario)
    assert verify(tmp_path).problems == ()


def test_exporters_come_first(tmp_path: Path) -> None:
    policy = RetainPolicy(age_ns=DAY_NS, exported_by=("siem",))

    async def scenario(store: Store) -> None:
        await call(store, "call-1", SECRET)
        first = [entry.index for entry in store.entries("call-1")][-1]
        leaves = {entry.index: entry.leaf for entry in store.entries("call-1")}
        await call(store, "call-2", SECRET * 2)
        observed = Observed()
        one = retention(store, policy, observer=observed)
        one.run_once()
        assert (removed(store), observed.problem) == ([], "CURSOR_UNUSABLE")
        assert "cursor siem: it is missing" in read_problem(tmp_path)
        Cursors(tmp_path).advance("siem", Cursor(index=first, leaf=leaves[first - 1]))
        one.run_once()
        assert (removed(store), observed.problem) == ([], "")
        assert "is not exported" in one.plan().rest
        Cursors(tmp_path).advance("siem", Cursor(index=first + 1, leaf=leaves[first]))
        one.run_once()
        assert [body["calls"] for body in removed(store)] == [["call-1"]]
        assert (observed.gone, read_problem(tmp_path)) == ([("age", 1)], "")
        one.close()
        before = Cursor(index=first, leaf=leaves[first - 1])  # as from a backup
        (tmp_path / CURSORS_NAME / "siem").write_bytes(before.encode())
        again = retention(store, policy, observer=observed)
        again.run_once()
        again.close()
        assert (len(removed(store)), observed.problem) == (1, "CURSOR_UNUSABLE")

    within(tmp_path, scenario)


def test_a_clock_a_year_ahead_removes_nothing(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        clocks, observed = Clocks(), Observed()
        before_ns = clocks.wall_ns
        policy = RetainPolicy(age_ns=100 * DAY_NS)
        store._clock_ns = lambda: before_ns
        store.own._clock_ns = store._clock_ns
        await call(store, "call-1", SECRET)
        clocks.wall_ns += 365 * DAY_NS  # the machine was off, or its clock is wrong
        one = retention(store, policy, clocks, starts=True, observer=observed)
        store.own._clock_ns = lambda: clocks.wall_ns
        await store.note(Kind.DAEMON_STARTED, {})
        one.run_once()
        assert (removed(store), observed.problem) == ([], "CLOCK_AHEAD")
        one.close()
        again = retention(store, policy, clocks, starts=True, observer=observed)  # the next start
        again.run_once()
        assert (removed(store), observed.problem) == ([], "CLOCK_AHEAD")
        clocks.go(101 * DAY_NS)  # but time that passes counts
        again.run_once()
        again.close()
        assert len(removed(store)) == 1

    within(tmp_path, scenario)


def test_a_clock_that_was_set_removes_nothing_for_an_hour(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        await call(store, "call-1", SECRET)
        clocks, observed = Clocks(), Observed()
        one = retention(store, RetainPolicy(size_bytes=1), clocks, observer=observed)
        one.plan()
        clocks.wall_ns += DAY_NS
        one.run_once()
        assert (removed(store), observed.problem) == ([], "CLOCK_STEPPED")
        clocks.go(GRACE_NS + 1)
        one.run_once()
        one.close()
        assert len(removed(store)) == 1

    within(tmp_path, scenario)


def test_a_call_of_a_clock_that_was_far_behind_is_not_old(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        clocks = Clocks()
        store._clock_ns = lambda: clocks.wall_ns
        await call(store, "call-1", SECRET)
        store._clock_ns = lambda: 5 * NANOS  # 1970
        await call(store, "call-2", SECRET)
        run(store, OLD, clocks)
        assert removed(store) == []

    within(tmp_path, scenario)


class Killed(BaseException):
    """The process is gone."""


def test_what_is_derived_may_be_deleted(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        await call(store, "call-1", SECRET, given=b"in")
        run(store, OLD)
        await call(store, "call-2", SECRET, given=b"in")  # the very same again

    within(tmp_path, before)
    for name in (HOLDINGS_NAME, "index.db"):
        for path in tmp_path.glob(f"{name}*"):
            path.unlink()

    async def afterwards(store: Store) -> None:
        run(store, NEVER)
        assert is_there(store, b"in")
        assert stdout(store, "call-2") == SECRET
        removal = store.contents.removal("call-1")
        assert removal is not None

    within(tmp_path, afterwards)
    assert verify(tmp_path).problems == ()


def test_holdings_of_another_log_are_made_again(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"

    async def long(store: Store) -> None:
        for number in range(5):
            await call(store, f"call-{number}", os.urandom(100))
        run(store, NEVER)

    async def short(store: Store) -> None:
        await call(store, "short", SECRET)

    within(one, long)
    within(other, short)
    shutil.copy(one / HOLDINGS_NAME, other / HOLDINGS_NAME)

    async def then(store: Store) -> None:
        run(store, OLD)
        assert [body["calls"] for body in removed(store)] == [["short"]]

    within(other, then)


def test_many_calls_go_step_by_step_and_nothing_is_forgotten(tmp_path: Path) -> None:
    count = HOLDERS_A_STEP * 2 + 3

    async def scenario(store: Store) -> None:
        for number in range(count):
            await call(store, f"call-{number:04}", f"{number}\n".encode())
        run(store, OLD)
        bodies = removed(store)
        assert [len(body["calls"]) for body in bodies] == [HOLDERS_A_STEP, HOLDERS_A_STEP, 3]
        assert sum(body["files_count"] for body in bodies) == count

    within(tmp_path, scenario)
    report = verify(tmp_path)
    assert (report.problems, report.removed_calls) == ((), count)


def test_a_call_with_more_files_than_an_entry_names(tmp_path: Path) -> None:
    count = FILES_A_STEP + 20

    async def scenario(store: Store) -> None:
        recorder = await begin(store, "call-1")
        outputs = tuple(
            OutputFile(path=b"%d" % n, digest=store.blobs.put(b"%d" % n), mode=0o644)
            for n in range(count)
        )
        await recorder.finish(make_finished(outputs=outputs))
        run(store, OLD)
        (body,) = removed(store)
        assert (body["files_count"], len(body["files"])) == (count, FILES_A_STEP)
        assert not any(is_there(store, b"%d" % n) for n in range(count))

    within(tmp_path, scenario)
    assert verify(tmp_path).problems == ()


def test_a_recording_that_found_no_place_goes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(store: Store) -> None:
        monkeypatch.setattr(store.blobs, "place_recording", lambda call_id, sha256: False)
        await call(store, "call-1", SECRET)
        monkeypatch.undo()
        part = store.blobs.part_directory / "call-1"
        assert part.exists()
        run(store, OLD)
        assert not part.exists()

    within(tmp_path, scenario)


def test_it_runs_by_itself_and_says_why_it_cannot(tmp_path: Path) -> None:
    observed = Observed()

    async def main() -> None:
        policy = RetainPolicy(age_ns=DAY_NS, exported_by=("siem",), observer=observed)
        async with opened(tmp_path, retain=policy):
            deadline = time.monotonic() + 20
            while not observed.problem and time.monotonic() < deadline:
                await asyncio.sleep(0.01)

    asyncio.run(main())
    assert observed.problem == "CURSOR_UNUSABLE"
    (tmp_path / PROBLEM_NAME).write_text("?")
    assert "cannot be read" in read_problem(tmp_path)


def test_without_a_policy_there_is_nothing_to_plan(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        with pytest.raises(CallStateError) as caught:
            store.contents.plan()
        assert caught.value.reason == "RETENTION_OFF"
        assert not (tmp_path / HOLDINGS_NAME).exists()

    within(tmp_path, scenario)


def test_what_cannot_be_written_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(store: Store) -> None:
        await call(store, "call-1", SECRET)
        one = retention(store, OLD)

        def full(*_: object) -> None:
            raise apsw.FullError

        monkeypatch.setattr(one._holdings, "put_followed", full)
        for do in (one.run_once, one.plan):
            with pytest.raises(CapacityError) as caught:
                do()
            assert caught.value.reason == "HOLDINGS_FULL"
        assert removed(store) == []
        monkeypatch.undo()
        one.run_once()
        one.close()
        assert len(removed(store)) == 1

    within(tmp_path, scenario)
