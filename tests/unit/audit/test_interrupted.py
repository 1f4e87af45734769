"""Calls that a former daemon left open."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import NoReturn

import pytest

from supervisor.audit import interrupted
from supervisor.audit.store import Store
from supervisor.audit.verify import verify
from supervisor.call.events import Denied, Lost, MoreArgv, Processes, Wall
from supervisor.call.outcome import Interrupted
from supervisor.call.types import Digest, Stream
from supervisor.errors import AuditUnavailable
from supervisor.profile.model import Capture, EgressRule
from tests.support.records import FLOW, RULE, WATCHED, begin, make_finished, make_profile, opened


async def leave_open(directory: Path, chunks: list[bytes]) -> None:
    """Record some output and stop, as if killed."""
    async with opened(directory) as store:
        recorder = await begin(store)
        recorder.started(0.1)
        recorder.tell([Denied(wall=Wall.LIMIT, name="pids", count=2)])
        for chunk in chunks:
            recorder.output(Stream.STDOUT, chunk)


async def close_all(store: Store) -> None:
    for call in store.interrupted:
        await store.close_interrupted(call, "the daemon died")
        await store.close_interrupted(call, "a second time")


def test_they_get_one_outcome_with_what_is_on_record(tmp_path: Path) -> None:
    async def scenario() -> None:
        await leave_open(tmp_path, [b"one", b"two"])
        assert verify(tmp_path).open_calls == ("call-1",)
        async with opened(tmp_path) as store:
            (call,) = store.interrupted
            assert (call.call_id, call.last_sequence) == ("call-1", 5)
            assert call.intent.kind == "intent"
            assert store.get_call("call-1").denials == 2
            await close_all(store)
            summary = store.get_call("call-1")
            finished = summary.finished
            assert finished is not None
            assert finished.outcome == Interrupted(message="the daemon died")
            assert finished.streams[0].digest == Digest.of(b"onetwo")
            assert finished.timeline.started_ns > finished.timeline.accepted_ns > 0
            assert (summary.denials, summary.last_sequence) == (2, 6)
            kinds = [entry.kind for entry in store.entries("call-1")]
            assert kinds[-2:] == ["output", "outcome"]
            assert list(store.events("call-1"))[-1].event == finished
        async with opened(tmp_path) as store:
            assert store.interrupted == ()
            assert b"".join(d.data for d in store.read_stream("call-1", Stream.STDOUT)) == b"onetwo"
        report = verify(tmp_path)
        assert (report.ok, report.open_calls) == (True, ())

    asyncio.run(scenario())


def test_every_entry_of_an_observed_call_says_so_to_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store, profile=make_profile(mode="observe"))
            recorder.started(0.1)
            recorder.tell([WATCHED])
        async with opened(tmp_path) as store:
            (call,) = store.interrupted
            assert call.mode == "observe"
            await store.close_interrupted(call, "the daemon died", events=[WATCHED])
            entries = list(store.entries("call-1"))
            assert [one.kind for one in entries[-3:]] == ["watched", "watched", "outcome"]
            assert {one.body()["mode"] for one in entries} == {"observe"}
        assert verify(tmp_path).ok

    asyncio.run(scenario())


FLOWS_LOST = {"what": "flow", "count": 0, "reason": "DAEMON_DIED"}


@pytest.mark.parametrize(("egress", "lost"), [((), 0), ((RULE,), 1)], ids=["no way", "a way"])
def test_connections_that_were_open_are_lost_where_there_was_a_way_out(
    tmp_path: Path, egress: tuple[EgressRule, ...], lost: int
) -> None:
    """Also where all that is on record have ended: nobody knows which had not."""

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store, profile=make_profile(egress=egress))
            recorder.started(0.1)
            recorder.tell([FLOW])
        async with opened(tmp_path) as store:
            (call,) = store.interrupted
            await store.close_interrupted(call, "the daemon died", events=[FLOW])
            entries = list(store.entries("call-1"))
            kinds = ["intent", "started", "flow", "flow", *["lost"] * lost, "outcome"]
            assert [entry.kind for entry in entries] == kinds
            assert [one.body() for one in entries if one.kind == "lost"] == [FLOWS_LOST] * lost
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_a_second_daemon_that_dies_does_not_say_it_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had told what was lost, and its outcome did not get into the log."""

    def die(*_: object, **__: object) -> NoReturn:
        raise AuditUnavailable("JOURNAL_UNAVAILABLE", "died")

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await begin(store, profile=make_profile(egress=(RULE,)))
        async with opened(tmp_path) as store:
            with monkeypatch.context() as patch:
                patch.setattr(interrupted, "outcome_body", die)
                with pytest.raises(AuditUnavailable):
                    await close_all(store)
        async with opened(tmp_path) as store:
            assert [entry.kind for entry in store.entries("call-1")] == ["intent", "lost"]
            await close_all(store)
            kinds = [entry.kind for entry in store.entries("call-1")]
            assert kinds == ["intent", "lost", "outcome"]
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_another_loss_of_connections_is_another_matter(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store, profile=make_profile(egress=(RULE,)))
            recorder.lost(Lost(what="flow", count=3, reason="RECORD_BUDGET"))
        async with opened(tmp_path) as store:
            await close_all(store)
            bodies = [entry.body() for entry in store.entries("call-1") if entry.kind == "lost"]
            assert [body["reason"] for body in bodies] == ["RECORD_BUDGET", "DAEMON_DIED"]

    asyncio.run(scenario())


def test_what_no_entry_holds_is_lost_and_the_call_is_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        await leave_open(tmp_path, [])
        async with opened(tmp_path) as store:
            (call,) = store.interrupted
            large = MoreArgv(time_ns=1, pid=7, offset=0, data=b"\xff" * 60_000)
            events = [Processes(events=(large, large)), WATCHED]
            await store.close_interrupted(call, "the daemon died", events=events)
            entries = list(store.entries("call-1"))
            assert [entry.kind for entry in entries[-3:]] == ["lost", "watched", "outcome"]
            lost = {"what": "probe events", "count": 2, "reason": "ENTRY_TOO_LARGE"}
            assert {name: entries[-3].body()[name] for name in lost} == lost
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_output_that_did_not_get_into_the_log_is_cut(tmp_path: Path) -> None:
    async def scenario() -> None:
        await leave_open(tmp_path, [b"one"])
        with (tmp_path / "blobs" / "part" / "call-1").open("ab") as file:
            file.write(b"half a frame")
        async with opened(tmp_path) as store:
            await close_all(store)
            assert b"".join(d.data for d in store.read_stream("call-1", Stream.STDOUT)) == b"one"
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_output_that_a_power_cut_took_is_on_record_as_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        await leave_open(tmp_path, [os.urandom(500), os.urandom(300), os.urandom(200)])
        part = tmp_path / "blobs" / "part" / "call-1"
        part.write_bytes(part.read_bytes()[:700])
        assert not verify(tmp_path).ok
        async with opened(tmp_path) as store:
            await close_all(store)
            entries = list(store.entries("call-1"))
            assert [entry.kind for entry in entries[-2:]] == ["lost", "outcome"]
            assert entries[-2].body()["count"] == 500
            finished = store.get_call("call-1").finished
            assert finished is not None
            assert finished.streams[0].stored_bytes == 500
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_a_recording_that_is_gone_is_on_record_as_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        await leave_open(tmp_path, [b"abc"])
        (tmp_path / "blobs" / "part" / "call-1").unlink()
        async with opened(tmp_path) as store:
            await close_all(store)
            lost = list(store.entries("call-1"))[-2]
            assert (lost.kind, lost.body()["count"]) == ("lost", 3)
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_calls_without_output_and_with_a_cap(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await begin(store, "silent")
            capped = make_profile(stdout=Capture(mode="head", bytes_max=2))
            recorder = await begin(store, "capped", profile=capped)
            recorder.output(Stream.STDOUT, b"abcdef")
            recorder.stdin(b"in")
        async with opened(tmp_path) as store:
            assert [call.call_id for call in store.interrupted] == ["silent", "capped"]
            await close_all(store)
            finished = store.get_call("capped").finished
            assert finished is not None
            stored = {item.stream: item.stored_bytes for item in finished.streams}
            assert stored == {Stream.STDIN: 2, Stream.STDOUT: 2, Stream.STDERR: 0}
        report = verify(tmp_path)
        assert (report.ok, report.calls) == (True, 2)

    asyncio.run(scenario())


@pytest.mark.parametrize(("size", "known"), [(100, False), (70, True)])
@pytest.mark.parametrize("ended", [False, True])
def test_of_an_end_that_is_on_record_it_is_told(
    tmp_path: Path, size: int, known: bool, ended: bool
) -> None:
    """Killed before the stream ended, the end of it is gone with the daemon's memory; after that,
    it is there, but not the digest of what was in the gap."""
    data = bytes(range(size))

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            capped = make_profile(stdout=Capture(mode="head", bytes_max=64))
            recorder = await begin(store, profile=capped)
            recorder.output(Stream.STDOUT, data)
            if ended:
                recorder.end(Stream.STDOUT)
        async with opened(tmp_path) as store:
            await close_all(store)
            finished = store.get_call("call-1").finished
            assert finished is not None
            summary = finished.streams[0]
            tail = min(8, size - 64) if ended else 0
            assert (summary.stored_bytes, summary.tail_bytes) == (64 + tail, tail)
            if ended and not known:
                assert summary.digest == Digest(sha256="", size_bytes=size)
            else:
                assert summary.digest == Digest.of(data[: 64 + tail])
            read = b"".join(one.data for one in store.read_stream("call-1", Stream.STDOUT))
            assert read == data[:64] + data[size - tail :]
            kinds = [entry.kind for entry in store.entries("call-1")]
            assert "lost" not in kinds
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_an_unfinished_file_of_a_call_without_a_recording_is_removed(tmp_path: Path) -> None:
    """It was removed before, and the power went before that was durable."""

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await (await begin(store)).finish(make_finished())
        left = tmp_path / "blobs" / "part" / "call-1"
        left.write_bytes(b"of no frame that the log names")
        async with opened(tmp_path) as store:
            assert store.healthy
            assert not left.exists()

    asyncio.run(scenario())
    assert verify(tmp_path).ok
