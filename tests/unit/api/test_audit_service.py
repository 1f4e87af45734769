"""Records are for those who may read them, and no answer outgrows what a client takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from supervisor.audit.search import CallFilter
from supervisor.call.events import Output
from supervisor.call.types import Stream
from supervisor.v1 import audit_pb2, types_pb2
from tests.unit.api.fakes import START_NS
from tests.unit.api.harness import connected, foreign_call, refused, run

GRPC_DEFAULT_BYTES = 4 << 20


def granted(audit: str, calls: str = "own") -> dict[str, Any]:
    entry = {"name": "me", "uid": os.getuid(), "profiles": ["*"], "audit": audit, "calls": calls}
    return {"callers": [entry]}


@pytest.mark.parametrize(
    ("rpc", "fields"),
    [
        ("ListRecords", {}),
        ("GetRecord", {"call_id": "x"}),
        ("ReadOutput", {"call_id": "x", "stream": types_pb2.STD_STREAM_STDOUT}),
    ],
)
def test_without_the_right(rpc: str, fields: dict[str, Any], tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted("none", calls="all")) as (_, client):
            request = getattr(audit_pb2, f"{rpc}Request")(**fields)
            found = await refused(getattr(client.audit, rpc)(request))
            assert (found.code, found.reason) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "AUDIT_NOT_GRANTED",
            )

    run(main())


@pytest.mark.parametrize("audit", ["own", "all"])
def test_records_of_others(audit: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted(audit)) as (running, client):
            mine = (await client.execute(b"echo"))[0].call_id
            theirs = await foreign_call(running.engine)
            everything = await client.audit.ListRecords(audit_pb2.ListRecordsRequest())
            listed = [call.call_id for call in everything.records]
            record = client.audit.GetRecord(audit_pb2.GetRecordRequest(call_id=theirs))
            output = client.audit.ReadOutput(
                audit_pb2.ReadOutputRequest(call_id=theirs, stream=types_pb2.STD_STREAM_STDOUT)
            )
            named = client.audit.ListRecords(audit_pb2.ListRecordsRequest(caller="other"))
            if audit == "all":
                assert listed == [theirs, mine]
                assert (await record).call.caller.name == "other"
                assert [part async for part in output] == []
                assert [call.call_id for call in (await named).records] == [theirs]
            else:
                assert listed == [mine]
                for answer in (record, output):
                    assert (await refused(answer)).reason == "RECORD_NOT_FOUND"
                assert (await refused(named)).reason == "AUDIT_NOT_GRANTED"

    run(main())


def test_list_filters(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted("all")) as (running, client):
            python = (await client.execute(b"echo"))[0].call_id
            shell = (await client.execute(b"echo", profile="shell"))[0].call_id
            running.engine.calls[shell].denials = 3

            async def ids(**fields: Any) -> list[str]:
                request = audit_pb2.ListRecordsRequest(**fields)
                return [call.call_id for call in (await client.audit.ListRecords(request)).records]

            later = {"seconds": START_NS // 10**9 + 1}
            assert await ids() == [shell, python]
            assert await ids(profile="python") == [python]
            assert await ids(denied_only=True) == [shell]
            assert await ids(since=later) == []
            assert await ids(page_size=1) == [shell]

    run(main())


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        ({"agent": "a"}, CallFilter(agent="a")),
        ({"session": "s"}, CallFilter(session="s")),
        ({"outcome": "ok"}, CallFilter(outcome="ok")),
        ({"denied": "mount"}, CallFilter(denied="mount")),
        ({"denied_only": True}, CallFilter(denied_only=True)),
        ({"since": {"seconds": 1, "nanos": 2}}, CallFilter(since_ns=1_000_000_002)),
        ({"until": {"seconds": 1, "nanos": 2}}, CallFilter(until_ns=1_000_000_002)),
        ({"until": {"seconds": -1}}, CallFilter(until_ns=1)),
        ({"until": {"seconds": (1 << 63) - 1}}, CallFilter(until_ns=(1 << 63) - 1)),
        ({"to": "h:1"}, CallFilter(to="h:1")),
        ({"program": "p"}, CallFilter(program="p")),
        ({"text": "some words"}, CallFilter(text="some words")),
    ],
)
def test_each_filter_reaches_the_store(
    sent: dict[str, Any], wanted: CallFilter, tmp_path: Path
) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted("all")) as (running, client):
            await client.audit.ListRecords(audit_pb2.ListRecordsRequest(**sent))
            assert running.engine.store.wanted == [wanted]

    run(main())


@pytest.mark.parametrize("sent", [{"outcome": "fine"}, {"to": "x:y"}, {"text": "--"}])
def test_a_filter_that_cannot_be(sent: dict[str, Any], tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            found = await refused(client.audit.ListRecords(audit_pb2.ListRecordsRequest(**sent)))
            expected = (grpc.StatusCode.INVALID_ARGUMENT, "FILTER_INVALID")
            assert (found.code, found.reason) == expected

    run(main())


def test_pages_of_records(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            made = [(await client.execute(b"echo"))[0].call_id for _ in range(5)]
            seen: list[str] = []
            request = audit_pb2.ListRecordsRequest(page_size=2)
            for left in (3, 1, 0):
                page = await client.audit.ListRecords(request)
                seen += [call.call_id for call in page.records]
                request.page_token = page.next_page_token
                assert bool(page.next_page_token) is bool(left)
            assert seen == made[::-1]

    run(main())


def test_get_record(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            call_id = (await client.execute(b"echo"))[0].call_id
            record = await client.audit.GetRecord(audit_pb2.GetRecordRequest(call_id=call_id))
            assert [entry.sequence for entry in record.entries] == [1, 2, 3, 4]
            assert record.next_sequence == 0
            assert record.call.state == types_pb2.CALL_STATE_CLOSED
            entry = record.entries[0]
            assert entry.leaf.size_bytes == len(entry.json) + 1
            missing = client.audit.GetRecord(audit_pb2.GetRecordRequest(call_id="x"))
            found = await refused(missing)
            assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "RECORD_NOT_FOUND")

    run(main())


def test_the_profile_that_ran_is_for_who_may_read_the_record(tmp_path: Path) -> None:
    auditor = {"name": "me", "uid": os.getuid(), "profiles": [], "audit": "all", "calls": "own"}

    async def main() -> None:
        async with connected(tmp_path, {"callers": [auditor]}) as (running, client):
            theirs = await foreign_call(running.engine)
            unasked = await client.audit.GetRecord(audit_pb2.GetRecordRequest(call_id=theirs))
            assert unasked.profile_json == b""
            asked = audit_pb2.GetRecordRequest(call_id=theirs, profile=True)
            record = await client.audit.GetRecord(asked)
            assert record.call.caller.name == "other"
            assert record.profile_json == running.engine.profiles.effective("python").canonical

    run(main())


def test_a_long_record_comes_in_parts(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            call_id = (await client.execute(b"echo"))[0].call_id
            running.engine.store.entry_bytes = 60_000
            for offset in range(200):
                running.engine.calls[call_id].add(
                    Output(stream=Stream.STDOUT, data=b"x", offset=offset)
                )
            seen: list[int] = []
            following, answers = 1, 0
            while following:
                record = await client.audit.GetRecord(
                    audit_pb2.GetRecordRequest(call_id=call_id, from_sequence=following)
                )
                assert record.ByteSize() < GRPC_DEFAULT_BYTES
                seen += [entry.sequence for entry in record.entries]
                following = record.next_sequence
                answers += 1
            assert seen == list(range(1, 205))
            assert answers > 2

    run(main())


def test_read_output(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            call_id, _ = await client.begin(b"hang")
            call = running.engine.calls[call_id]
            big = bytes(range(256)) * 10_000
            call.add(Output(stream=Stream.STDOUT, data=big, offset=0))
            call.add(Output(stream=Stream.STDERR, data=b"no", offset=0))
            call.add(Output(stream=Stream.STDOUT, data=b"end", offset=len(big)))
            parts = [
                part
                async for part in client.audit.ReadOutput(
                    audit_pb2.ReadOutputRequest(call_id=call_id, stream=types_pb2.STD_STREAM_STDOUT)
                )
            ]
            assert b"".join(part.data for part in parts) == big + b"end"
            assert all(len(part.data) <= 1 << 20 for part in parts)
            position = 0
            for part in parts:
                assert part.offset == position
                position += len(part.data)
            found = await refused(
                client.audit.ReadOutput(audit_pb2.ReadOutputRequest(call_id=call_id))
            )
            assert (found.code, found.reason) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "STREAM_UNSPECIFIED",
            )

    run(main())
