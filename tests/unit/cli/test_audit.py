"""`audit`: what it asks for, bytes as they were, and a damaged log that fails."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit.store import Store
from supervisor.v1 import audit_pb2, tool_pb2, types_pb2
from tests.unit.cli import record
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import FakeDaemon

RAW = b"\x1b[31m\x00\xff"


def test_ls(daemon: FakeDaemon, stockade: Stockade) -> None:
    made = fake.call(finished=fake.finish(), denials=2, argv=[RAW])
    daemon.play("ListRecords", lambda _: audit_pb2.ListRecordsResponse(records=[made]))
    result = stockade("audit", "ls", "-p", "p", "--caller", "c", "--denied", "-n", "3",
                      "--since", "2026-01-31T12:00:00Z")  # fmt: skip
    _, row = result.stdout.splitlines()
    assert row.split(maxsplit=7) == [
        "call-1", "2023-11-14", "22:13:20Z", "owner", "python", "exited", "0",
        "2       $'\\e[31m\\0\\xff'",
    ]  # fmt: skip
    (request,) = daemon.asked("ListRecords")
    assert (request.profile, request.caller, request.denied_only) == ("p", "c", True)
    assert (request.page_size, request.since.seconds) == (3, 1769860800)
    (found,) = json.loads(stockade("audit", "ls", "--json").stdout)
    assert found["finished"]["outcome"] == {"kind": "exited", "code": 0}


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (["--agent", "a"], {"agent": "a"}),
        (["--session", "s"], {"session": "s"}),
        (["--outcome", "not_ok"], {"outcome": "not_ok"}),
        (["--outcome", "timed_out"], {"outcome": "timed_out"}),
        (["--denied"], {"denied_only": True}),
        (["--denied", "network"], {"denied_only": True, "denied": "network"}),
        (["--denied=mount"], {"denied_only": True, "denied": "mount"}),
        (["--denied", "--to", "h:443"], {"denied_only": True, "to": "h:443"}),
        (["--until", "2026-01-31T12:00:00Z"], {"until": {"seconds": 1769860800}}),
        (["--program", "curl"], {"program": "curl"}),
        (["--text", "some words"], {"text": "some words"}),
    ],
)
def test_what_ls_asks_for(
    daemon: FakeDaemon, stockade: Stockade, options: list[str], sent: dict[str, Any]
) -> None:
    daemon.play("ListRecords", lambda _: audit_pb2.ListRecordsResponse())
    assert stockade("audit", "ls", *options).exit_code == 0
    (request,) = daemon.asked("ListRecords")
    assert request == audit_pb2.ListRecordsRequest(page_size=50, **sent)


def test_an_outcome_that_there_is_not(stockade: Stockade) -> None:
    assert stockade("audit", "ls", "--outcome", "fine").exit_code == 2


@pytest.mark.parametrize(("text", "ago_s"), [("90s", 90), ("2h", 7200), ("7d", 604800)])
def test_since_an_age(daemon: FakeDaemon, stockade: Stockade, text: str, ago_s: int) -> None:
    daemon.play("ListRecords", lambda _: audit_pb2.ListRecordsResponse())
    before = int(time.time())
    assert stockade("audit", "ls", "--since", text).exit_code == 0
    since = daemon.asked("ListRecords")[0].since.seconds
    assert before - ago_s <= since <= int(time.time()) - ago_s
    assert stockade("audit", "ls", "--since", "yore").exit_code == 2


def test_show(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("GetRecord", lambda _: record.response())
    shown = stockade("audit", "show", "call-1").stdout
    assert shown.startswith("call call-1: exited with 0\n")
    found = json.loads(stockade("audit", "show", "--json", "call-1").stdout)
    assert found["call"]["call_id"] == "call-1"
    entry = found["entries"][0]
    assert fake.blob(entry["json"].encode()).sha256 == entry["leaf"]["sha256"]
    assert (entry["kind"], entry["sequence"]) == ("intent", 1)


def test_cat(daemon: FakeDaemon, stockade: Stockade) -> None:
    pieces = [
        audit_pb2.ReadOutputResponse(data=RAW, offset=0),
        audit_pb2.ReadOutputResponse(data=b"end", offset=len(RAW)),
    ]
    daemon.play("GetRecord", lambda _: audit_pb2.GetRecordResponse(call=fake.call()))
    daemon.play("ReadOutput", lambda _: iter(pieces))
    assert stockade("audit", "cat", "call-1").stdout_bytes == RAW + b"end"
    stockade("audit", "cat", "--stream", "stderr", "call-1")
    lines = stockade("audit", "cat", "--json", "call-1").stdout.splitlines()
    assert [json.loads(line)["offset"] for line in lines] == [0, len(RAW)]
    assert b"".join(base64.b64decode(json.loads(line)["data"]) for line in lines) == RAW + b"end"
    assert [request.stream for request in daemon.asked("ReadOutput")] == [
        types_pb2.STD_STREAM_STDOUT, types_pb2.STD_STREAM_STDERR, types_pb2.STD_STREAM_STDOUT,
    ]  # fmt: skip


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_cat_says_what_is_not_on_record(
    daemon: FakeDaemon, stockade: Stockade, options: list[str]
) -> None:
    whole, cut = fake.summary(b"x" * 2048), fake.summary(b"x" * 2048, types_pb2.STD_STREAM_STDERR)
    cut.stored_bytes = 1024
    call = fake.call(finished=fake.finish(streams=[whole, cut]))
    daemon.play("GetRecord", lambda _: audit_pb2.GetRecordResponse(call=call))
    daemon.play("ReadOutput", lambda _: iter([audit_pb2.ReadOutputResponse(data=b"x" * 1024)]))
    assert stockade("audit", "cat", *options, "call-1").stderr == ""
    said = stockade("audit", "cat", *options, "--stream", "stderr", "call-1").stderr
    assert said == "stockade: stderr: 1.0 KiB of 2.0 KiB are on record\n"


def test_cat_of_a_file_that_the_call_left_behind(daemon: FakeDaemon, stockade: Stockade) -> None:
    file = types_pb2.OutputFile(path=b"d/chart\xff.png", digest=fake.blob(RAW), mode=0o644)
    call = fake.call(finished=fake.finish(outputs=[file]))
    daemon.play("GetCall", lambda _: tool_pb2.GetCallResponse(call=call))
    daemon.play("ReadBlob", lambda _: iter([tool_pb2.ReadBlobResponse(data=RAW)]))
    path = os.fsdecode(file.path)
    assert stockade("audit", "cat", "--output", path, "call-1").stdout_bytes == RAW
    assert daemon.asked("ReadBlob")[0].digest == file.digest
    (line,) = stockade("audit", "cat", "--json", "-o", path, "call-1").stdout.splitlines()
    assert base64.b64decode(json.loads(line)["data"]) == RAW
    missing = stockade("audit", "cat", "--output", "chart.png", "call-1")
    assert (missing.exit_code, missing.stdout) == (3, "")
    assert "[OUTPUT_NOT_FOUND]" in missing.stderr
    assert "d/chart\\xff.png" in missing.stderr


def test_cat_of_a_live_call_has_no_files(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("GetCall", lambda _: tool_pb2.GetCallResponse(call=fake.call()))
    assert stockade("audit", "cat", "--output", "x", "call-1").exit_code == 3


def test_cat_of_other_bytes_is_damage(daemon: FakeDaemon, stockade: Stockade) -> None:
    file = types_pb2.OutputFile(path=b"x", digest=fake.blob(b"abc"), mode=0o644)
    call = fake.call(finished=fake.finish(outputs=[file]))
    daemon.play("GetCall", lambda _: tool_pb2.GetCallResponse(call=call))
    daemon.play("ReadBlob", lambda _: iter([tool_pb2.ReadBlobResponse(data=b"abd")]))
    assert stockade("audit", "cat", "--output", "x", "call-1").exit_code == 8


def test_cat_gives_one_thing(stockade: Stockade) -> None:
    assert stockade("audit", "cat", "--output", "x", "--stream", "stdout", "c").exit_code == 2


@pytest.fixture
def state(tmp_path: Path) -> Path:
    async def write() -> None:
        store = Store.open(tmp_path, clock_ns=time.time_ns)
        await store.note("daemon_started", {"marker": "here"})
        await store.note("daemon_stopped", {})
        await store.close()

    asyncio.run(write())
    return tmp_path


def test_verify(stockade: Stockade, state: Path) -> None:
    result = stockade("audit", "verify", state)
    assert result.exit_code == 0
    assert result.stdout.startswith("verified: 2 entries, 0 calls, head 1 sha256:")
    found = json.loads(stockade("audit", "verify", "--json", state).stdout)
    assert (found["ok"], found["entries"], found["problems"]) == (True, 2, [])


def test_verify_names_the_damaged_entry(stockade: Stockade, state: Path) -> None:
    (segment,) = [
        p for p in (state / "log").rglob("*") if p.is_file() and b"here" in p.read_bytes()
    ]
    segment.write_bytes(segment.read_bytes().replace(b"here", b"here"[::-1]))
    result = stockade("audit", "verify", state)
    assert result.exit_code == 8
    assert "entry 0" in result.stdout.splitlines()[0]
    assert "DAMAGED" in result.stdout
    found = json.loads(stockade("audit", "verify", "--json", state).stdout)
    assert (found["ok"], found["problems"][0]["index"]) == (False, 0)


def test_verify_finds_what_a_client_was_told(stockade: Stockade, state: Path) -> None:
    result = stockade("audit", "verify", "--expect", f"call-1={'ab' * 32}", state)
    assert result.exit_code == 8
    assert "call-1" in result.stdout


@pytest.mark.parametrize("expect", ["call-1", f"={'ab' * 32}", "call-1=xyz"])
def test_verify_refuses_a_malformed_expectation(
    stockade: Stockade, state: Path, expect: str
) -> None:
    assert stockade("audit", "verify", "--expect", expect, state).exit_code == 2


def test_verify_of_nothing_is_no_success(stockade: Stockade, tmp_path: Path) -> None:
    result = stockade("audit", "verify", tmp_path / "none")
    assert result.exit_code == 2
    assert "[RECORD_MISSING]" in result.stderr
