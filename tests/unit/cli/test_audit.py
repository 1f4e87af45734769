"""`audit`: what it asks for, bytes as they were, and a damaged log that fails."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

import pytest

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


def test_where_denials_of_a_profile_without_egress_are(
    daemon: FakeDaemon, stockade: Stockade
) -> None:
    daemon.play("ListRecords", lambda _: audit_pb2.ListRecordsResponse())
    assert "--denied socket" in stockade("audit", "ls", "--denied", "network").stderr
    assert "--denied socket" not in stockade("audit", "ls", "--denied", "dns").stderr
    daemon.play("ListRecords", lambda _: audit_pb2.ListRecordsResponse(records=[fake.call()]))
    assert stockade("audit", "ls", "--denied", "network").stderr == ""


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


def with_file(
    file: types_pb2.OutputFile, more: dict[str, Any] | None = None
) -> audit_pb2.GetRecordResponse:
    """Give the end of a call that left one file."""
    finished = fake.finish(outputs=[file])
    return record.written_response((1, "outcome", more or {}), finished=finished)


def test_what_stands_in_the_way_of_contents_is_told(daemon: FakeDaemon, stockade: Stockade) -> None:
    call = fake.call(
        finished=fake.finish(), encrypted=True, holds=2,
        removed=types_pb2.ContentsRemoved(why="age"), erased=types_pb2.Erased(by="ann", why="x"),
    )  # fmt: skip
    daemon.play("ListRecords", lambda _: audit_pb2.ListRecordsResponse(records=[call]))
    assert ", contents removed, erased, held" in " ".join(stockade("audit", "ls").stdout.split())
    (listed,) = json.loads(stockade("audit", "ls", "--json").stdout)
    made = record.response()
    made.call.encrypted, made.call.holds = True, 2
    daemon.play("GetRecord", lambda _: made)
    shown = json.loads(stockade("audit", "show", "--json", "call-1").stdout)["call"]
    assert [(one["encrypted"], one["holds"]) for one in (listed, shown)] == [(True, 2)] * 2
    told = " ".join(stockade("audit", "show", "call-1").stdout.split())
    assert "content encrypted under a key of its own" in told
    assert "held 2 holds" in told
    sealed = f"{'ee' * 32} (of the encrypted file)"
    left = made.call.finished.outputs[0].digest.sha256
    assert told.count("(of the encrypted file)") == 1  # the content of what it left is known
    assert sealed in told
    for stream in made.call.finished.streams:
        stream.digest.sha256 = ""
    told = " ".join(stockade("audit", "show", "call-1").stdout.split())
    assert f"{left} (of the encrypted file)" in told
    assert "(encrypted)" in told


def test_cat_of_a_file_that_the_call_left_behind(daemon: FakeDaemon, stockade: Stockade) -> None:
    file = types_pb2.OutputFile(path=b"d/chart\xff.png", digest=fake.blob(RAW), mode=0o644)
    daemon.play("GetRecord", lambda _: with_file(file))
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


def test_cat_of_a_file_with_secrets_gives_what_is_on_record(
    daemon: FakeDaemon, stockade: Stockade
) -> None:
    """Also where the daemon still knows what it was."""
    file = types_pb2.OutputFile(path=b"left", digest=fake.blob(b"hunter2"), mode=0o644)
    marked = fake.blob(b"[REDACTED]")
    told = [file.digest.sha256, 7, marked.sha256, 10, 1]
    daemon.play("GetRecord", lambda _: with_file(file, {"redacted_files": [told]}))

    def give(request: tool_pb2.ReadBlobRequest) -> Any:
        secret = request.digest == file.digest
        yield tool_pb2.ReadBlobResponse(data=b"hunter2" if secret else b"[REDACTED]")

    daemon.play("ReadBlob", give)
    found = stockade("audit", "cat", "--output", "left", "call-1")
    assert (found.exit_code, found.stdout) == (0, "[REDACTED]")
    assert "left: on record, its secrets are replaced by marks" in found.stderr
    told[2:4] = ["", 0]
    found = stockade("audit", "cat", "--output", "left", "call-1")
    assert (found.exit_code, found.stdout) == (3, "")
    assert "[OUTPUT_NOT_STORED]" in found.stderr


def test_cat_of_a_file_that_the_call_was_given(daemon: FakeDaemon, stockade: Stockade) -> None:
    digest, marked = fake.blob(b"hunter2"), fake.blob(b"[REDACTED]")
    file = {"path": "in.csv", "sha256": digest.sha256, "size_bytes": 7, "mode": 420}
    told = [digest.sha256, 7, marked.sha256, 10, 1]
    body = {"request": {"files": [file]}, "redacted_files": [told]}
    intent = audit_pb2.RecordEntry(kind="intent", json=json.dumps({"body": body}).encode())
    answer = audit_pb2.GetRecordResponse(call=fake.call(), entries=[intent])
    daemon.play("GetRecord", lambda _: answer)
    daemon.play("ReadBlob", lambda _: iter([tool_pb2.ReadBlobResponse(data=b"[REDACTED]")]))
    found = stockade("audit", "cat", "--input", "in.csv", "call-1")
    assert (found.exit_code, found.stdout) == (0, "[REDACTED]")
    assert "in.csv: on record, its secrets are replaced by marks" in found.stderr
    assert daemon.asked("ReadBlob")[0].digest == marked
    missing = stockade("audit", "cat", "--input", "other", "call-1")
    assert (missing.exit_code, missing.stdout) == (3, "")
    assert "[INPUT_NOT_FOUND]" in missing.stderr
    assert stockade("audit", "cat", "--input", "x", "--output", "x", "call-1").exit_code == 2


def test_cat_of_a_live_call_has_no_files(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("GetRecord", lambda _: audit_pb2.GetRecordResponse(call=fake.call()))
    assert stockade("audit", "cat", "--output", "x", "call-1").exit_code == 3


def test_cat_of_other_bytes_is_damage(daemon: FakeDaemon, stockade: Stockade) -> None:
    file = types_pb2.OutputFile(path=b"x", digest=fake.blob(b"abc"), mode=0o644)
    daemon.play("GetRecord", lambda _: with_file(file))
    daemon.play("ReadBlob", lambda _: iter([tool_pb2.ReadBlobResponse(data=b"abd")]))
    assert stockade("audit", "cat", "--output", "x", "call-1").exit_code == 8


def test_cat_gives_one_thing(stockade: Stockade) -> None:
    assert stockade("audit", "cat", "--output", "x", "--stream", "stdout", "c").exit_code == 2
