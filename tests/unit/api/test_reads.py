"""Each read of the record is on record before it is answered, and is not answered without."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from supervisor.api import callers, reads
from supervisor.api.reads import SPAN_S, SPANS_MAX, TEXT_MAX, Reads
from supervisor.audit.entry import Head, encode_entry
from supervisor.call.outcome import Exited
from supervisor.call.types import Caller, Digest, Json
from supervisor.errors import AuditUnavailable
from supervisor.v1 import audit_pb2, tool_pb2, types_pb2
from tests.unit.api.fakes import FakeOwn
from tests.unit.api.harness import Client, connected, execute_request, foreign_call, refused, run

STDOUT = types_pb2.STD_STREAM_STDOUT
REQUEST_ID = "0199a3f2-6c1d-7b4e-9a55-3f0c8d2e71b6"
FULL = AuditUnavailable("RECORD_FULL", "no room")
GRANTS = callers.Grants(caller="me", profiles=frozenset(), calls="own", audit="all")


class Desk:
    """Reads at a time that stands still, by one process."""

    def __init__(self) -> None:
        self.own = FakeOwn()
        self.now_s = 100.0
        self.reads = Reads(self.own, lambda: self.now_s)

    def read(
        self, *, following: int | str = "", pid: int = 7, rpc: str = "R", **of: Json
    ) -> list[dict[str, Any]]:
        """Read; give the entries that this made."""
        before = len(self.own.written)
        caller = Caller(name="me", transport="unix", uid=1, pid=pid)
        callers.enter(callers.Identity(caller=caller, grants=GRANTS))
        asyncio.run(self.reads.note(rpc, of, following=following))
        return [body for _, body in self.own.written[before:]]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_entry_says_who_read_what(desk: Desk) -> None:
    (body,) = desk.read(call="c")
    assert body["caller"]["pid"] == 7
    assert (body["rpc"], body["of"]) == ("R", {"call": "c"})
    assert "from" not in body


def test_the_same_read_again_is_another_entry(desk: Desk) -> None:
    assert desk.read(call="c")
    assert desk.read(call="c")


def test_pages_that_follow_have_no_entry_of_their_own_for_a_while(desk: Desk) -> None:
    desk.read(call="c")
    assert not desk.read(call="c", following=9)
    desk.now_s += SPAN_S
    (body,) = desk.read(call="c", following=10)
    assert body["from"] == 10
    assert not desk.read(call="c", following=11)


@pytest.mark.parametrize(
    "other", [{"call": "d"}, {"call": "c", "pid": 8}, {"call": "c", "rpc": "S"}], ids=str
)
def test_a_later_page_that_nothing_speaks_for_has_an_entry(
    desk: Desk, other: dict[str, Any]
) -> None:
    desk.read(call="c")
    assert desk.read(following=9, **other)


def test_what_is_not_written_speaks_for_nothing(desk: Desk) -> None:
    desk.own.failure = FULL
    with pytest.raises(AuditUnavailable):
        desk.read(call="c")
    desk.own.failure = None
    assert desk.read(call="c", following=2)


def test_what_is_kept_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "SPANS_MAX", 3)
    for number in range(5):
        desk.read(call=str(number))
    assert len(desk.reads) == 3 < SPANS_MAX
    assert desk.read(call="0", following=2), "forgotten, so it is noted again"
    assert not desk.read(call="4", following=2)


def test_what_a_caller_looks_for_cannot_outgrow_an_entry(desk: Desk) -> None:
    given = {f"field{number}": "\U0001f600" * 1000 for number in range(12)}
    (body,) = desk.read(filter=given)
    assert len(body["of"]["filter"]["field0"]) == TEXT_MAX + 1
    head = Head(index=0, prev=bytes(32), time_ns=1, kind="read", call="", sequence=0)
    assert encode_entry(head, body)
    # What is cut off still tells one read from another.
    assert desk.read(filter={**given, "field0": given["field0"] + "x"}, following="t")


async def all_reads(client: Client, call_id: str) -> list[Any]:
    """Begin each RPC that reads a record; give what to wait for."""
    return [
        client.audit.ListRecords(audit_pb2.ListRecordsRequest(profile="python", denied_only=True)),
        client.audit.GetRecord(audit_pb2.GetRecordRequest(call_id=call_id, profile=True)),
        client.audit.ReadOutput(audit_pb2.ReadOutputRequest(call_id=call_id, stream=STDOUT)),
        client.audit.GetReceipt(audit_pb2.GetReceiptRequest(call_id=call_id)),
        client.audit.ListEvents(audit_pb2.ListEventsRequest(kind="policy")),
    ]


def test_each_rpc_that_reads(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            call_id = (await client.execute(b"echo"))[0].call_id
            for answer in await all_reads(client, call_id):
                if hasattr(answer, "__aiter__"):
                    assert [part async for part in answer]
                else:
                    await answer
            found = running.engine.store.own.of_kind("read")
            assert {body["rpc"]: body["of"] for body in found} == {
                "ListRecords": {"filter": {"profile": "python", "denied_only": True}},
                "GetRecord": {"call": call_id, "profile": True},
                "ReadOutput": {"call": call_id, "stream": "stdout"},
                "GetReceipt": {"call": call_id},
                "ListEvents": {"filter": {"kind": "policy"}},
            }
            assert {(body["caller"]["name"], body["caller"]["pid"]) for body in found} == {
                ("owner", os.getpid())
            }

    run(main())


def test_what_cannot_be_noted_is_not_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            call_id = (await client.execute(b"echo"))[0].call_id
            theirs = await foreign_call(running.engine)
            running.engine.store.own.failure = FULL
            attach = client.tool.Attach(tool_pb2.AttachRequest(call_id=theirs))
            for answer in [*await all_reads(client, call_id), attach]:
                found = await refused(answer)
                assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "RECORD_FULL")

    run(main())


def test_whose_call_is_followed_and_from_where(tmp_path: Path) -> None:
    """Attach reads back what has happened: that is a read like any other, of whosever call."""

    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            own = running.engine.store.own
            theirs = await foreign_call(running.engine)
            mine, stream = await client.begin(b"hang")
            following = running.engine.get(mine)[0].last_sequence + 1
            ahead = client.tool.Attach(
                tool_pb2.AttachRequest(call_id=mine, from_sequence=following)
            )
            async with asyncio.timeout(10):
                while len(running.engine.subscriptions) < 3:  # theirs, mine, and what is ahead
                    await asyncio.sleep(0.01)
            await client.tool.Signal(tool_pb2.SignalRequest(call_id=mine, signal=9))
            assert await ahead.read() is not grpc.aio.EOF
            stream.cancel()
            assert own.of_kind("read") == []  # nobody reads what happens while it does
            live, _ = await client.begin(b"hang")
            for call_id in (mine, theirs, live):
                attached = client.tool.Attach(tool_pb2.AttachRequest(call_id=call_id))
                assert await attached.read() is not grpc.aio.EOF
                attached.cancel()
            found = [(body["rpc"], body["of"]) for body in own.of_kind("read")]
            assert found == [("Attach", {"call": call_id}) for call_id in (mine, theirs, live)]

    run(main())


def test_a_repeat_of_a_request_reads_the_first_call_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            own = running.engine.store.own
            call_id = (await client.execute(b"echo", request_id=REQUEST_ID))[0].call_id
            assert own.of_kind("read") == []
            await client.execute(b"echo", request_id=REQUEST_ID)
            (body,) = own.of_kind("read")
            assert (body["rpc"], body["of"]) == ("Execute", {"call": call_id})
            own.failure = FULL
            repeat = client.tool.Execute(execute_request(b"echo", request_id=REQUEST_ID))
            assert (await refused(repeat)).reason == "RECORD_FULL"

    run(main())


def test_who_reads_a_blob_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            own = running.engine.store.own
            digest = types_pb2.Digest(sha256=hashlib.sha256(b"x").hexdigest(), size_bytes=1)
            request = tool_pb2.ReadBlobRequest(digest=digest)
            assert (await refused(client.tool.ReadBlob(request))).reason == "BLOB_NOT_FOUND"
            assert own.of_kind("read") == []  # there was nothing to read
            await client.tool.WriteBlob(iter([tool_pb2.WriteBlobRequest(digest=digest, data=b"x")]))
            assert [part.data async for part in client.tool.ReadBlob(request)] == [b"x"]
            (body,) = own.of_kind("read")
            of = {"sha256": digest.sha256, "size_bytes": 1}
            assert (body["rpc"], body["of"]) == ("ReadBlob", of)
            own.failure = FULL
            assert (await refused(client.tool.ReadBlob(request))).reason == "RECORD_FULL"

    run(main())


def test_a_blob_of_an_encrypted_call_is_noted_by_its_file(tmp_path: Path) -> None:
    """To the digest of the content, guesses could be held, also after it was erased."""

    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            store = running.engine.store
            content, file = Digest.of(b"PIN=4711"), Digest(sha256="5ea1" * 16, size_bytes=8)
            digest = types_pb2.Digest(sha256=content.sha256, size_bytes=8)
            upload = tool_pb2.WriteBlobRequest(digest=digest, data=b"PIN=4711")
            await client.tool.WriteBlob(iter([upload]))
            store.records.sealed[content] = file
            request = tool_pb2.ReadBlobRequest(digest=digest)
            assert [part.data async for part in client.tool.ReadBlob(request)] == [b"PIN=4711"]
            (body,) = store.own.of_kind("read")
            assert body["of"] == {"sha256": file.sha256, "size_bytes": 8}
            assert content.sha256 not in str(store.own.written)

    run(main())


def test_the_daemon_log_has_no_digest_of_what_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            sha256 = hashlib.sha256(b"PIN=4711").hexdigest()
            digest = types_pb2.Digest(sha256=sha256, size_bytes=8)
            read = client.tool.ReadBlob(tool_pb2.ReadBlobRequest(digest=digest))
            found = await refused(read)
            assert (found.reason, found.infos[0].metadata["sha256"]) == ("BLOB_NOT_FOUND", sha256)
            upload = tool_pb2.WriteBlobRequest(digest=digest, data=b"PIN=4712")
            assert (await refused(client.tool.WriteBlob(iter([upload])))).reason == (
                "DIGEST_MISMATCH"
            )
            assert "BLOB_NOT_FOUND" in caplog.text
            assert "DIGEST_MISMATCH" in caplog.text
            for data in (b"PIN=4711", b"PIN=4712"):
                assert hashlib.sha256(data).hexdigest() not in caplog.text

    run(main())


def test_digests_of_an_encrypted_call_are_for_who_may_read_it(tmp_path: Path) -> None:
    me: dict[str, Any] = {"name": "me", "uid": os.getuid(), "profiles": ["*"], "calls": "all"}

    async def main() -> None:
        for audit, name, is_told in (
            ("none", "other", False), ("own", "other", False), ("all", "other", True),
            ("none", "me", True),
        ):  # fmt: skip
            folder = tmp_path / f"{audit}-{name}"
            folder.mkdir()
            async with connected(folder, {"callers": [{**me, "audit": audit}]}) as (
                running,
                client,
            ):
                call_id = await foreign_call(running.engine)
                if name == "me":
                    call_id = (await client.execute(b"echo"))[0].call_id
                call = running.engine.calls[call_id]
                call.finish(Exited(code=0))
                summary, _ = running.engine.get(call_id)
                assert summary.finished is not None
                stream = replace(summary.finished.streams[0], digest=Digest.of(b"PIN=4711"))
                known = replace(summary.finished, streams=(stream,))
                store = running.engine.store
                store.records.secret[call_id] = replace(summary, finished=known)
                answer = await client.tool.GetCall(tool_pb2.GetCallRequest(call_id=call_id))
                (told,) = answer.call.finished.streams
                assert (told.digest.sha256 == Digest.of(b"PIN=4711").sha256) is is_told
                reads = [(body["rpc"], body["of"]) for body in store.own.of_kind("read")]
                assert reads == [("GetCall", {"call": call_id})] * is_told
                if is_told:
                    store.own.failure = FULL
                    again = client.tool.GetCall(tool_pb2.GetCallRequest(call_id=call_id))
                    assert (await refused(again)).reason == "RECORD_FULL"

    run(main())


def test_pages_of_one_list_are_one_entry(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            for _ in range(3):
                await client.execute(b"echo")
            request = audit_pb2.ListRecordsRequest(page_size=1)
            for _ in range(3):
                page = await client.audit.ListRecords(request)
                request.page_token = page.next_page_token
            assert len(running.engine.store.own.of_kind("read")) == 1

    run(main())


@pytest.mark.parametrize("before", ["", "x " * (TEXT_MAX // 2 - 10)], ids=["alone", "at the cut"])
def test_what_was_looked_for_has_no_secret(desk: Desk, before: str) -> None:
    token = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"
    (body,) = desk.read(filter={"text": before + token, "agent": token}, call="c")
    assert "ghp_" not in str(body)
    assert body["of"]["filter"]["agent"].startswith("[REDACTED:github-token:")
    assert body["of"]["call"] == "c"
