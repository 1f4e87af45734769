"""Records are for those who may read them, and no answer outgrows what a client takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from supervisor.audit.search import CallFilter
from supervisor.audit.vault import Removal
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
        ("ListEvents", {}),
        ("GetRecord", {"call_id": "x"}),
        ("GetCheckpoint", {}),
        ("GetReceipt", {"call_id": "x"}),
        ("GetRetention", {}),
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
            receipt = client.audit.GetReceipt(audit_pb2.GetReceiptRequest(call_id=theirs))
            named = client.audit.ListRecords(audit_pb2.ListRecordsRequest(caller="other"))
            if audit == "all":
                assert listed == [theirs, mine]
                assert (await record).call.caller.name == "other"
                assert [part async for part in output] == []
                assert (await receipt).receipt == f"a receipt of {theirs}".encode()
                assert [call.call_id for call in (await named).records] == [theirs]
            else:
                assert listed == [mine]
                for answer in (record, output, receipt):
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


@pytest.mark.parametrize(
    "sent",
    [
        {"outcome": "fine"}, {"to": "x:y"}, {"text": "--"}, {"denied": "netwrok"},
        {"since": {"seconds": 2}, "until": {"seconds": 2}},
    ],
)  # fmt: skip
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


def test_the_signed_head_and_its_key(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted("own")) as (_, client):
            found = await client.audit.GetCheckpoint(audit_pb2.GetCheckpointRequest())
            assert found.checkpoint == b"a signed head"
            assert found.key == "log.example.com+12345678+key"

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


def test_the_daemon_s_own_entries_are_not_for_who_reads_its_own_records(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted("own", calls="all")) as (_, client):
            found = await refused(client.audit.ListEvents(audit_pb2.ListEventsRequest()))
            assert (found.code, found.reason) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "AUDIT_NOT_GRANTED",
            )

    run(main())


def test_own_entries_in_pages(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            own = running.engine.store.own
            for number in range(5):
                own.append("policy" if number % 2 else "refused", {"number": number})
            seen: list[int] = []
            request = audit_pb2.ListEventsRequest(page_size=2)
            for left in (3, 1, 0):
                page = await client.audit.ListEvents(request)
                seen += [entry.index for entry in page.entries]
                request.page_token = page.next_page_token
                assert bool(page.next_page_token) is bool(left)
            assert seen == [4, 3, 2, 1, 0]
            assert own.written[5:] == [("read", own.written[5][1])], "one for three pages"
            assert own.written[5][1]["of"] == {"filter": {}}
            page = await client.audit.ListEvents(audit_pb2.ListEventsRequest(kind="policy"))
            assert [entry.index for entry in page.entries] == [3, 1]
            assert own.written[6][1]["of"] == {"filter": {"kind": "policy"}}
            wrong = client.audit.ListEvents(audit_pb2.ListEventsRequest(kind="outcome"))
            assert (await refused(wrong)).reason == "FILTER_INVALID"

    run(main())


def test_large_entries_are_cut_into_pages_that_fit(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            for _ in range(100):
                running.engine.store.own.append("policy", {"pad": "x" * 60_000})
            seen: list[int] = []
            request = audit_pb2.ListEventsRequest(page_size=1000, kind="policy")
            while not seen or request.page_token:
                page = await client.audit.ListEvents(request)
                assert page.ByteSize() < GRPC_DEFAULT_BYTES
                seen += [entry.index for entry in page.entries]
                request.page_token = page.next_page_token
            assert seen == list(range(100))[::-1]

    run(main())


def test_what_would_be_removed_is_for_who_reads_all(tmp_path: Path) -> None:
    async def main() -> None:
        request = audit_pb2.GetRetentionRequest()
        async with connected(tmp_path, granted("own")) as (_, client):
            found = await refused(client.audit.GetRetention(request))
            assert found.reason == "AUDIT_NOT_GRANTED"
        async with connected(tmp_path / "all", granted("all")) as (_, client):
            answer = await client.audit.GetRetention(request)
            assert (answer.count, answer.bytes, answer.contents_bytes) == (2, 30, 99)
            assert (answer.held, answer.in_use, answer.rest, answer.problem) == (3, 4, "x", "")
            going = answer.going[0]
            assert (going.call_id, going.index, going.why) == ("call-1", 4, "age")
            assert (going.files, going.bytes, answer.now.nanos) == (2, 15, 7)

    run(main())


def erasing(erase: str, calls: str = "own") -> dict[str, Any]:
    (entry,) = granted("own", calls)["callers"]
    return {"callers": [{**entry, "erase": erase}]}


@pytest.mark.parametrize(
    ("erase", "own", "theirs"),
    [
        ("none", "ERASE_NOT_GRANTED", "ERASE_NOT_GRANTED"),
        ("own", "", "RECORD_NOT_FOUND"),
        ("all", "", ""),
    ],
)
def test_erasing_is_a_right_of_its_own(erase: str, own: str, theirs: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, erasing(erase, calls="all")) as (running, client):
            mine = (await client.execute(b"echo"))[0].call_id
            other = await foreign_call(running.engine)
            for call_id, reason in ((mine, own), (other, theirs)):
                request = audit_pb2.EraseRequest(call_id=call_id, why="asked for")
                if reason:
                    assert (await refused(client.audit.Erase(request))).reason == reason
                    assert call_id not in running.engine.store.eraser.erased
                else:
                    answer = await client.audit.Erase(request)
                    assert (answer.erased.by, answer.erased.why) == ("me", "asked for")

    run(main())


@pytest.mark.parametrize("verb", ["HoldContents", "ReleaseContents"])
def test_to_hold_needs_the_right_a_record_and_a_reason(verb: str, tmp_path: Path) -> None:
    async def main() -> None:
        request_of = getattr(audit_pb2, f"{verb}Request")
        config = granted("own")
        async with connected(tmp_path, config) as (running, client):
            mine = (await client.execute(b"echo"))[0].call_id
            found = await refused(getattr(client.audit, verb)(request_of(call_id=mine, why="x")))
            assert found.reason == "HOLDS_NOT_GRANTED"
            assert running.engine.store.contents.held == []
        config["callers"][0]["holds"] = True
        async with connected(tmp_path / "may", config) as (running, client):
            mine = (await client.execute(b"echo"))[0].call_id
            theirs = await foreign_call(running.engine)
            call = getattr(client.audit, verb)
            assert (await refused(call(request_of(call_id=mine, why=" ")))).reason == "WHY_MISSING"
            long = request_of(call_id=mine, why="x" * 1025)
            assert (await refused(call(long))).reason == "WHY_TOO_LONG"
            others = request_of(call_id=theirs, why="x")
            assert (await refused(call(others))).reason == "RECORD_NOT_FOUND"
            assert (await call(request_of(call_id=mine, why="a case"))).holds == 1
            ((held, body, release),) = running.engine.store.contents.held
            assert (held, body["why"], body["caller"]["name"]) == (mine, "a case", "me")
            assert release is (verb == "ReleaseContents")

    run(main())


def test_a_record_says_that_its_contents_are_gone(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted("own")) as (running, client):
            mine = (await client.execute(b"echo"))[0].call_id
            request = audit_pb2.GetRecordRequest(call_id=mine)
            assert not (await client.audit.GetRecord(request)).call.HasField("removed")
            removal = Removal(name=mine, time_ns=START_NS, why="size")
            running.engine.store.contents.gone[mine] = removal
            removed = (await client.audit.GetRecord(request)).call.removed
            assert (removed.why, removed.time.ToNanoseconds()) == ("size", START_NS)
            listed = await client.audit.ListRecords(audit_pb2.ListRecordsRequest())
            assert listed.records[0].removed == removed

    run(main())


@pytest.mark.parametrize(("why", "reason"), [("", "WHY_MISSING"), (" \n", "WHY_MISSING"),
                                             ("x" * 1025, "WHY_TOO_LONG")])  # fmt: skip
def test_erasing_needs_a_reason(why: str, reason: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, erasing("all")) as (running, client):
            mine = (await client.execute(b"echo"))[0].call_id
            request = audit_pb2.EraseRequest(call_id=mine, why=why)
            assert (await refused(client.audit.Erase(request))).reason == reason
            assert running.engine.store.eraser.erased == {}

    run(main())
