"""Sinks over the API: how they do, what is done about them, and who may."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest

from supervisor.api import callers, export_service
from supervisor.api.config import Configuration, own_entry
from supervisor.api.export_service import ExportService
from supervisor.api.peers import Peer
from supervisor.errors import AuditUnavailable, HostError, ProfileError
from supervisor.v1 import export_pb2
from tests.unit.api.fake_sinks import (
    ACKNOWLEDGED_AT,
    FAILING_SINCE,
    FakeExporter,
    FakeSinks,
    letter,
)
from tests.unit.api.fakes import START_NS, FakeEngine
from tests.unit.api.harness import Client, Running, connected, refused, run

MANAGING: list[tuple[str, Any]] = [
    ("TestSink", export_pb2.TestSinkRequest(sink="siem")),
    ("ReplaySink", export_pb2.ReplaySinkRequest(sink="siem", index=1)),
    ("RedeliverDeadLetters", export_pb2.RedeliverDeadLettersRequest(sink="siem", all=True)),
    ("DiscardDeadLetters", export_pb2.DiscardDeadLettersRequest(sink="siem", all=True)),
    ("Reload", export_pb2.ReloadRequest()),
]
SEEING: list[tuple[str, Any]] = [
    ("ListSinks", export_pb2.ListSinksRequest()),
    ("ListDeadLetters", export_pb2.ListDeadLettersRequest(sink="siem")),
]


@contextlib.asynccontextmanager
async def exporting(
    folder: Path, **grants: str
) -> AsyncIterator[tuple[Running, Client, FakeExporter]]:
    """Run a server whose one caller has these grants, everything where none are given."""
    caller = {"name": "me", "uid": os.getuid(), "profiles": [], "exports": "manage", **grants}
    async with connected(folder, {"callers": [caller]}) as (running, client):
        yield running, client, running.sinks.exporter


def entries(running: Running) -> list[dict[str, Any]]:
    """Give what is on record of what was done, without who did it: that is always the same."""
    found = running.engine.store.own.of_kind("export")
    assert all(body["caller"]["name"] == "me" for body in found)
    return [{key: value for key, value in body.items() if key != "caller"} for body in found]


async def every(answers: Any) -> list[Any]:
    return [answer async for answer in answers]


def test_how_sinks_do(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, exporter):
            exporter.state("siem").replaying_from = 17
            exporter.state("siem").letters = 2
            found = await client.export.ListSinks(export_pb2.ListSinksRequest())
            lake, siem = found.sinks
            assert found.durable == 1000
            assert (siem.name, siem.kind, siem.format) == ("siem", "syslog", "ocsf")
            assert (siem.status, siem.why) == (export_pb2.SINK_STATUS_RUNNING, "")
            assert (siem.acknowledged, siem.lag_entries, siem.lag_bytes) == (400, 600, 180_000)
            assert siem.lag.ToMilliseconds() == 1500
            assert siem.acknowledged_at.ToMilliseconds() == ACKNOWLEDGED_AT * 1000
            assert (siem.events, siem.retries, siem.dead_letters) == (450, 2, 2)
            assert (siem.replaying_from, siem.HasField("failing_since")) == (17, False)
            assert (lake.status, lake.why) == (
                export_pb2.SINK_STATUS_FAILING,
                "the door is shut\n",
            )
            assert lake.failing_since.ToSeconds() == FAILING_SINCE
            assert not lake.HasField("acknowledged_at") and not lake.HasField("replaying_from")
            state = exporter.state("lake")
            state.running, state.why = False, "its process ended"
            found = await client.export.ListSinks(export_pb2.ListSinksRequest())
            assert found.sinks[0].status == export_pb2.SINK_STATUS_STOPPED
            assert found.sinks[0].why == "its process ended"
            assert entries(running) == []

    run(main())


def test_a_sink_that_goes_while_it_is_looked_at(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (_, client, exporter):
            whole = exporter.lag

            async def lag(name: str) -> Any:
                exporter._states.pop("lake", None)
                return await whole(name)

            with mock.patch.object(exporter, "lag", lag):
                found = await client.export.ListSinks(export_pb2.ListSinksRequest())
            assert [sink.name for sink in found.sinks] == ["siem"]

    run(main())


@pytest.mark.parametrize(
    ("grants", "sees", "manages"),
    [
        ({"exports": "none"}, False, False),
        ({"exports": "none", "audit": "own"}, False, False),
        ({"exports": "none", "audit": "all"}, True, False),
        ({"exports": "see"}, True, False),
        ({"exports": "manage"}, True, True),
    ],
    ids=str,
)
def test_who_may(tmp_path: Path, grants: dict[str, str], sees: bool, manages: bool) -> None:
    async def main() -> None:
        async with exporting(tmp_path, **grants) as (running, client, exporter):
            for may, methods in ((sees, SEEING), (manages, MANAGING)):
                for name, request in methods:
                    answer = getattr(client.export, name)(request)
                    if may:
                        await (every(answer) if hasattr(answer, "__aiter__") else answer)
                        continue
                    error = await refused(answer)
                    assert error.code == grpc.StatusCode.PERMISSION_DENIED
                    assert error.reason == "EXPORTS_NOT_GRANTED"
            if manages:
                return
            assert (entries(running), exporter.done, running.sinks.reloaded) == ([], [], 0)
            told = running.engine.store.own.of_kind("refused")
            assert {one["reason"] for one in told} == {"EXPORTS_NOT_GRANTED"}
            assert told[-2]["asked"] == {"sink": "siem"}
            assert told[0]["caller"]["name"] == "me"

    run(main())


@pytest.mark.parametrize(
    ("name", "request_"), [one for one in (*SEEING, *MANAGING) if hasattr(one[1], "sink")]
)
def test_a_sink_that_is_none(tmp_path: Path, name: str, request_: Any) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, _):
            asked = type(request_)()
            asked.CopyFrom(request_)
            asked.sink = "seim"
            error = await refused(getattr(client.export, name)(asked))
            assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "SINK_UNKNOWN")
            assert error.infos[0].metadata["sinks"] == "lake, siem"
            assert entries(running) == []

    run(main())


def test_a_test_goes_the_whole_way(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, exporter):
            noted = exporter.waits
            noted.add("siem")
            stream = aiter(client.export.TestSink(export_pb2.TestSinkRequest(sink="siem")))
            first = await anext(stream)
            assert (first.index, first.acknowledged) == (0, False)
            assert entries(running) == [{"action": "test", "sink": "siem"}]
            noted.discard("siem")
            exporter.moved.set()
            last = (await every(stream))[-1]
            assert (last.index, last.acknowledged, last.refused) == (0, True, "")
            assert last.sink.name == "siem"

    run(main())


def test_a_test_of_a_sink_that_fails(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, _):
            request = export_pb2.TestSinkRequest(sink="lake")
            request.wait.FromMilliseconds(500)
            with mock.patch.object(export_service, "TELL_S", 0.005):
                found = await every(client.export.TestSink(request))
            assert len(found) > 2
            assert not any(one.acknowledged for one in found)
            assert found[-1].sink.why == "the door is shut\n"
            assert found[-1].sink.failing_since.ToSeconds() == FAILING_SINCE
            assert found[-1].waited.ToMilliseconds() >= 500
            assert len(entries(running)) == 1

    run(main())


def test_a_test_that_the_other_side_refuses_for_good(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (_, client, exporter):
            exporter.dead["siem"] = [letter(7), letter(0, "no tests here")]
            (*_, last) = await every(
                client.export.TestSink(export_pb2.TestSinkRequest(sink="siem"))
            )
            assert (last.acknowledged, last.refused) == (True, "no tests here")

    run(main())


def test_a_sink_that_goes_while_it_is_tested(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (_, client, exporter):
            stream = aiter(client.export.TestSink(export_pb2.TestSinkRequest(sink="lake")))
            await anext(stream)
            exporter.remove("lake")
            assert (await refused(stream)).reason == "SINK_UNKNOWN"

    run(main())


def test_a_wait_is_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, _):
            for seconds in (-1, 3601):
                request = export_pb2.TestSinkRequest(sink="siem")
                request.wait.seconds = seconds
                error = await refused(client.export.TestSink(request))
                assert error.reason == "WAIT_INVALID"
            assert entries(running) == []

    run(main())


def test_a_replay_from_an_entry(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, exporter):
            request = export_pb2.ReplaySinkRequest(sink="siem", index=100, dry_run=True)
            found = await client.export.ReplaySink(request)
            assert (found.index, found.entries) == (100, 300)
            assert (entries(running), exporter.done) == ([], [])
            request.dry_run = False
            assert await client.export.ReplaySink(request) == found
            assert entries(running) == [
                {"action": "replay", "sink": "siem", "index": 100, "entries": 300}
            ]
            assert exporter.done == [("replay", "siem", 100)]

    run(main())


def test_a_replay_from_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (_, client, exporter):
            request = export_pb2.ReplaySinkRequest(sink="siem")
            request.time.FromNanoseconds(START_NS + 17 * 10**9 - 1)
            found = await client.export.ReplaySink(request)
            assert (found.index, found.entries) == (17, 383)
            assert exporter.done == [("replay", "siem", 17)]

    run(main())


@pytest.mark.parametrize(
    ("fields", "reason", "code"),
    [
        ({}, "REPLAY_FROM_MISSING", "INVALID_ARGUMENT"),
        ({"index": 1000}, "REPLAY_BEYOND_LOG", "OUT_OF_RANGE"),
        ({"time": {"seconds": 2_000_000_000}}, "REPLAY_BEYOND_LOG", "OUT_OF_RANGE"),
        ({"index": 400}, "REPLAY_AHEAD", "OUT_OF_RANGE"),
        ({"index": 999}, "REPLAY_AHEAD", "OUT_OF_RANGE"),
    ],
    ids=str,
)
def test_a_replay_of_what_is_not_there(
    tmp_path: Path, fields: dict[str, Any], reason: str, code: str
) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, exporter):
            for dry_run in (True, False):
                request = export_pb2.ReplaySinkRequest(sink="siem", dry_run=dry_run, **fields)
                error = await refused(client.export.ReplaySink(request))
                assert (error.reason, error.code.name) == (reason, code)
            assert (entries(running), exporter.done) == ([], [])

    run(main())


def test_dead_letters_by_pages(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, exporter):
            exporter.dead["siem"] = [letter(index) for index in range(5)]
            request = export_pb2.ListDeadLettersRequest(sink="siem", page_size=2)
            seen = []
            for _ in range(3):
                found = await client.export.ListDeadLetters(request)
                seen += [one.uid for one in found.letters]
                request.page_token = found.next_page_token
                exporter.dead["siem"] = [one for one in exporter.dead["siem"] if one.index != 1]
            assert (seen, found.next_page_token) == ([f"{n}-ab-0" for n in range(5)], "")
            one = found.letters[0]
            assert (one.index, one.why, one.kind) == (4, "it is too large", "")
            assert one.time.ToNanoseconds() == START_NS
            for token in ("7", "x ab", "-1 a", "1" * 30 + " a"):
                bad = export_pb2.ListDeadLettersRequest(sink="siem", page_token=token)
                error = await refused(client.export.ListDeadLetters(bad))
                assert error.reason == "PAGE_TOKEN_INVALID"
            assert entries(running) == []

    run(main())


def test_dead_letters_with_their_entries(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (_, client, exporter):
            exporter.dead["siem"] = [letter(index) for index in range(4)]
            request = export_pb2.ListDeadLettersRequest(
                sink="siem", entries=True, uids=["3-ab-0", "2-ab-0", "3-ab-0"]
            )
            found = await client.export.ListDeadLetters(request)
            told = [(one.index, one.kind, one.call_id) for one in found.letters]
            assert told == [(2, "read", ""), (3, "output", "call-3")]
            request.uids[0] = "9-ab-0"
            error = await refused(client.export.ListDeadLetters(request))
            assert (error.reason, error.code) == ("LETTER_UNKNOWN", grpc.StatusCode.NOT_FOUND)

    run(main())


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (ValueError("siem.dead:3: it is torn"), "LETTERS_DAMAGED"),
        (OSError(5, "Input/output error"), "SINK_UNREADABLE"),
    ],
)
def test_dead_letters_that_cannot_be_read(tmp_path: Path, broken: Exception, reason: str) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (_, client, exporter):
            exporter.broken = broken
            for name, request in (*SEEING[1:], *MANAGING[2:4]):
                assert (await refused(getattr(client.export, name)(request))).reason == reason

    run(main())


def test_dead_letters_are_sent_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, exporter):
            exporter.dead["siem"] = [letter(index) for index in range(5)]
            exporter.refuses = {3: "it is too large still"}
            request = export_pb2.RedeliverDeadLettersRequest(sink="siem", all=True)
            with mock.patch.object(export_service, "LETTERS_AT_ONCE", 2):
                first, *others = await every(client.export.RedeliverDeadLetters(request))
            assert (first.letters, len(others)) == (5, 3)
            delivered = [uid for one in others for uid in one.delivered]
            assert delivered == [f"{n}-ab-0" for n in (0, 1, 2, 4)]
            (again,) = [dead for one in others for dead in one.refused]
            assert (again.index, again.why) == (3, "it is too large still")
            uids = [f"{n}-ab-0" for n in range(5)]
            assert entries(running) == [
                {"action": "redeliver", "sink": "siem", "letters": 5, "uids": uids},
                {"action": "redelivered", "sink": "siem", "delivered": 4, "refused": 1},
            ]
            request = export_pb2.RedeliverDeadLettersRequest(sink="siem", uids=["3-ab-0"])
            exporter.refuses = {}
            await every(client.export.RedeliverDeadLetters(request))
            assert exporter.done[-1] == ("redeliver", "siem", ("3-ab-0",))
            assert exporter.dead["siem"] == []

    run(main())


def test_a_letter_that_somebody_else_saw_to_meanwhile(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (_, client, exporter):
            exporter.dead["siem"] = [letter(index) for index in range(4)]
            request = export_pb2.RedeliverDeadLettersRequest(sink="siem", all=True)
            whole = exporter.redeliver

            async def redeliver(name: str, uids: Any = None) -> Any:
                done = await whole(name, uids)
                exporter.dead[name] = [one for one in exporter.dead[name] if one.index != 2]
                return done

            with (
                mock.patch.object(export_service, "LETTERS_AT_ONCE", 2),
                mock.patch.object(exporter, "redeliver", redeliver),
            ):
                found = await every(client.export.RedeliverDeadLetters(request))
            assert [list(one.delivered) for one in found[1:]] == [["0-ab-0", "1-ab-0"], ["3-ab-0"]]

    run(main())


def test_a_sink_whose_process_does_not_run_is_sent_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, exporter):
            exporter.dead["siem"] = [letter(1)]
            state = exporter.state("siem")
            state.running, state.why = False, "its process ended"
            request = export_pb2.RedeliverDeadLettersRequest(sink="siem", all=True)
            error = await refused(client.export.RedeliverDeadLetters(request))
            assert error.reason == "SINK_NOT_RUNNING"
            assert error.code == grpc.StatusCode.FAILED_PRECONDITION
            assert (entries(running), exporter.done) == ([], [])

    run(main())


def test_dead_letters_are_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, exporter):
            exporter.dead["siem"] = [letter(index) for index in range(40)]
            request = export_pb2.DiscardDeadLettersRequest(sink="siem", uids=["7-ab-0"])
            assert (await client.export.DiscardDeadLetters(request)).discarded == 1
            request = export_pb2.DiscardDeadLettersRequest(sink="siem", all=True)
            assert (await client.export.DiscardDeadLetters(request)).discarded == 39
            one, all_ = entries(running)
            assert one == {"action": "discard", "sink": "siem", "letters": 1, "uids": ["7-ab-0"]}
            assert (all_["letters"], len(all_["uids"])) == (39, 16)
            assert (await client.export.DiscardDeadLetters(request)).discarded == 0
            assert len(entries(running)) == 2
            assert await every(
                client.export.RedeliverDeadLetters(
                    export_pb2.RedeliverDeadLettersRequest(sink="siem", all=True)
                )
            ) == [export_pb2.RedeliverDeadLettersResponse()]

    run(main())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "LETTERS_MISSING"),
        ({"all": True, "uids": ["1-ab-0"]}, "LETTERS_MISSING"),
        ({"uids": ["9-ab-0"]}, "LETTER_UNKNOWN"),
        ({"uids": ["1-ab-0"] * 1001}, "LETTERS_TOO_MANY"),
    ],
    ids=["none", "both", "unknown", "many"],
)
def test_which_letters(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, exporter):
            exporter.dead["siem"] = [letter(1)]
            for name in ("RedeliverDeadLetters", "DiscardDeadLetters"):
                request = getattr(export_pb2, f"{name}Request")(sink="siem", **fields)
                assert (await refused(getattr(client.export, name)(request))).reason == reason
            assert (entries(running), exporter.done) == ([], [])

    run(main())


def test_sinks_are_read_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, _):
            done = await client.export.Reload(export_pb2.ReloadRequest())
            assert (list(done.added), list(done.changed), list(done.removed)) == (
                ["new"],
                ["lake"],
                [],
            )
            assert (list(done.unchanged), list(done.ignored)) == (["siem"], ["limits"])
            asked, told = entries(running)
            assert asked == {"action": "reload"}
            assert (told["action"], told["added"], told["ignored"]) == (
                "reloaded",
                ["new"],
                ["limits"],
            )
            (in_force,) = running.engine.store.own.of_kind("policy")
            assert in_force["policy"]["callers"][0]["exports"] == "manage"

    run(main())


@pytest.mark.parametrize(
    "failure",
    [ProfileError("CONFIG_INVALID", "c.yaml:3:5: no"), HostError("SECRET_UNAVAILABLE", "no")],
    ids=lambda one: one.reason,
)
def test_a_configuration_that_is_wrong_changes_nothing(tmp_path: Path, failure: Any) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, _):
            running.sinks.failure = failure
            error = await refused(client.export.Reload(export_pb2.ReloadRequest()))
            assert error.reason == failure.reason
            assert entries(running) == [{"action": "reload"}]
            assert running.engine.store.own.of_kind("policy") == []

    run(main())


def test_a_reload_is_never_half_done(tmp_path: Path) -> None:
    async def main() -> None:
        engine, sinks = FakeEngine(), FakeSinks(Configuration(state=str(tmp_path)))
        service = ExportService(engine, sinks, None)  # type: ignore[arg-type]
        peer = Peer(transport="unix", address="uid", uid=os.getuid(), gid=0, pid=1)
        callers.enter(callers.Directory([own_entry()]).identify(peer, None))
        begun, go_on = asyncio.Event(), asyncio.Event()
        whole = sinks.reload

        async def reload() -> Any:
            begun.set()
            await go_on.wait()
            return await whole()

        with mock.patch.object(sinks, "reload", reload):
            task = asyncio.create_task(service.Reload(export_pb2.ReloadRequest(), mock.Mock()))
            await begun.wait()
            for _ in range(3):  # Nobody waits for it any more, and says so more than once.
                task.cancel()
                await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
        actions = [body["action"] for body in engine.store.own.of_kind("export")]
        assert (actions, sinks.reloaded) == (["reload", "reloaded"], 1)
        assert engine.store.own.of_kind("policy")

    run(main())


def test_what_cannot_be_on_record_is_not_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with exporting(tmp_path) as (running, client, exporter):
            exporter.dead["siem"] = [letter(1)]
            running.engine.store.own.failure = AuditUnavailable("RECORD_FULL", "no room")
            for name, request in MANAGING:
                error = await refused(getattr(client.export, name)(request))
                assert error.reason == "RECORD_FULL"
            assert (exporter.done, running.sinks.reloaded) == ([], 0)

    run(main())
