"""Two callers of a real daemon: what one of them has is not the other's, by no way that there is.

Each test shows first that the one who may gets it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from supervisor.call.types import Digest
from supervisor.client import Stored
from supervisor.errors import NotFound
from tests.support.daemon import Daemon, running_daemon
from tests.support.following import end_of, is_output, until
from tests.support.records import RECIPIENT
from tests.support.users import NOBODY, callers, python_as, run_as

TOKEN = b"ghp_" + b"a1B2c3D4e5" * 3 + b"f6G7h8"
OPS: dict[str, Any] = {"calls": "all", "erase": "all", "holds": True}
"""What an operator may have without the right to read."""

TYPE = """
import sys
from supervisor.client import StockadeError, Supervisor
client, call_id = Supervisor(sys.argv[1]), sys.argv[2]
print(client.get(call_id).call_id)
for ask in (
    lambda: client.write_stdin(call_id, b"theirs", offset=4),
    lambda: client.write_stdin(call_id, b"", offset=4, end=True),
    lambda: client.resize_terminal(call_id, rows=1, columns=1),
):
    try:
        print("done", ask())
    except StockadeError as error:
        print(error.reason)
"""

ASK = """
import sys
import grpc
from google.protobuf import json_format
from supervisor.v1 import audit_pb2, audit_pb2_grpc, tool_pb2, tool_pb2_grpc, types_pb2
address, call_id, *names = sys.argv[1:]
channel = grpc.insecure_channel(address.replace("unix://", "unix:"))
tool, audit = tool_pb2_grpc.ToolServiceStub(channel), audit_pb2_grpc.AuditServiceStub(channel)
asked = [
    ("GetCall", lambda: [tool.GetCall(tool_pb2.GetCallRequest(call_id=call_id))]),
    ("ListCalls", lambda: [tool.ListCalls(tool_pb2.ListCallsRequest())]),
    ("Attach", lambda: tool.Attach(tool_pb2.AttachRequest(call_id=call_id))),
    ("GetRecord", lambda: [audit.GetRecord(audit_pb2.GetRecordRequest(call_id=call_id))]),
    ("ListRecords", lambda: [audit.ListRecords(audit_pb2.ListRecordsRequest())]),
    ("ListEvents", lambda: [audit.ListEvents(audit_pb2.ListEventsRequest())]),
    ("ReadOutput", lambda: audit.ReadOutput(
        audit_pb2.ReadOutputRequest(call_id=call_id, stream=types_pb2.STD_STREAM_STDOUT))),
    ("GetReceipt", lambda: [audit.GetReceipt(audit_pb2.GetReceiptRequest(call_id=call_id))]),
    ("GetRetention", lambda: [audit.GetRetention(audit_pb2.GetRetentionRequest())]),
    ("HoldContents", lambda: [
        audit.HoldContents(audit_pb2.HoldContentsRequest(call_id=call_id, why="a case"))]),
]
for name, ask in asked:
    try:
        for answer in ask():
            for entry in getattr(answer, "entries", ()):
                print(name, entry.json.decode())
            print(name, json_format.MessageToJson(answer, indent=None))
    except grpc.RpcError as error:
        print(name, "refused:", error.code().name, error.details())
"""
"""Asks all that can be asked of a call, and prints each answer whole."""


def rows(text: bytes, name: str) -> list[str]:
    return [row for row in text.decode().splitlines() if row.startswith(f"{name} ")]


def test_nobody_types_into_a_call_of_another(tmp_path: Path) -> None:
    with running_daemon(config=callers(**OPS), folder=tmp_path) as daemon:
        client = daemon.client
        with client.execute(["cat"], profile="base", stdin_open=True) as execution:
            execution.write_stdin(b"mine")
            until(execution, is_output)
            call_id = execution.call_id
            said = python_as(daemon, NOBODY, TYPE, call_id).decode().split()
            assert said == [call_id, *["INPUT_NOT_GRANTED"] * 3]
            execution.write_stdin(b"+mine")
            execution.close_stdin()
            end_of(execution)
        for stream in ("stdin", "stdout"):
            assert b"".join(client.read_output(call_id, stream)) == b"mine+mine"
        refusals = [entry.body()["body"] for entry in client.events(kind="refused")]
        told = [(one["reason"], one["caller"]["name"], one["rpc"]) for one in refusals]  # type: ignore[index,call-overload]
        service = "/supervisor.v1.ToolService"
        rpcs = ("ResizeTerminal", "WriteStdin", "WriteStdin")
        assert told == [("INPUT_NOT_GRANTED", "little", f"{service}/{rpc}") for rpc in rpcs]
        assert all(one["asked"]["call_id"] == call_id for one in refusals)  # type: ignore[index,call-overload]


def encrypted_call(daemon: Daemon) -> tuple[str, dict[str, str]]:
    """Run a call with content everywhere; give its id and the digests of each content."""
    contents = {
        "stdin": b"typed: guess me",
        "stdout": b"typed: guess megiven: guess me",
        "stderr": b"an error: guess me\n",
        "given": b"given: guess me",
        "left": b"left: guess me\n",
    }
    call = daemon.client.run(
        ["sh", "-c", "cat; cat given; echo an error: guess me >&2; echo left: guess me >left"],
        profile="base",
        stdin=contents["stdin"],
        files={"given": contents["given"]},
        outputs=["left"],
    )
    assert (call.stdout, call.stderr) == (contents["stdout"], contents["stderr"])
    assert call.outputs["left"] == contents["left"]
    return call.call_id, {name: hashlib.sha256(one).hexdigest() for name, one in contents.items()}


def test_who_may_not_read_gets_no_digest_of_encrypted_content(tmp_path: Path) -> None:
    config = {**callers(**OPS), "record": {"recipients": [RECIPIENT]}}
    with running_daemon(config=config, folder=tmp_path) as daemon:
        call_id, digests = encrypted_call(daemon)

        def found(text: bytes) -> set[str]:
            return {name for name, digest in digests.items() if digest.encode() in text}

        granted = python_as(daemon, 0, ASK, call_id)
        for rpc in ("GetCall", "Attach", "GetRecord"):  # the control
            assert {"stdout", "stderr", "left"} <= found("\n".join(rows(granted, rpc)).encode())
        told = python_as(daemon, NOBODY, ASK, call_id)
        assert found(told) == set()
        for rpc in ("GetCall", "ListCalls", "Attach"):
            assert call_id in "".join(rows(told, rpc)) and "refused" not in rows(told, rpc)[0]
        assert "finished" in rows(told, "Attach")[-1]
        refused = rows(told, "GetRecord") + rows(told, "ListEvents") + rows(told, "GetReceipt")
        assert all("refused: PERMISSION_DENIED" in row for row in refused)
        for arguments in (
            ("ps", "--all", "--json"), ("attach", "--json", call_id), ("attach", call_id),
            ("audit", "ls", "--json"), ("audit", "show", "--json", call_id),
            ("audit", "show", call_id), ("audit", "log", "--json"), ("audit", "cat", call_id),
            ("audit", "cat", "--output", "left", call_id), ("audit", "rerun", call_id),
            ("audit", "replay", "--json", call_id), ("audit", "proof", call_id), ("why", call_id),
        ):  # fmt: skip
            done = run_as(daemon, NOBODY, *arguments)
            assert found(done.stdout + done.stderr) == set(), arguments
        erased = run_as(daemon, NOBODY, "audit", "erase", "--why", "asked for", call_id)
        assert erased.returncode == 0, erased.stderr
        assert found(erased.stdout + erased.stderr) == set()
        assert daemon.stop() == 0
        assert found(daemon.log.read_bytes()) == set()


def left_with_secret(daemon: Daemon) -> tuple[str, Digest]:
    """Run a call that leaves a file with a secret; give its id and the file's digest."""
    call = daemon.client.run(
        ["sh", "-c", "cat >left"], profile="base", stdin=b"key: " + TOKEN + b"\n",
        outputs=["left"],
    )  # fmt: skip
    (left,) = call.finished.outputs
    return call.call_id, left.digest


def test_after_a_restart_a_file_with_a_secret_is_as_it_is_on_record(tmp_path: Path) -> None:
    with running_daemon(folder=tmp_path) as daemon:
        call_id, digest = left_with_secret(daemon)
        assert daemon.client.read_blob(digest) == b"key: " + TOKEN + b"\n"
        before = daemon.command("audit", "cat", "--output", "left", call_id)
        assert re.fullmatch(rb"key: \[REDACTED:[^\]]+\]\n", before.stdout)
        assert b"redacted" in before.stderr or b"replaced" in before.stderr
        daemon.stop()
        daemon.start()
        after = daemon.command("audit", "cat", "--output", "left", call_id)
        assert (after.returncode, after.stdout, after.stderr) == (0, before.stdout, before.stderr)
        with pytest.raises(NotFound) as caught:
            daemon.client.read_blob(digest)
        assert caught.value.reason == "BLOB_NOT_FOUND"
        assert caught.value.metadata["redacted"] == "true"
        stored = Digest.of(before.stdout)
        assert daemon.client.read_blob(stored) == before.stdout
        with pytest.raises(NotFound):
            daemon.client.run(["cat", "f"], profile="base", files={"f": Stored(digest=digest)})
        again = daemon.client.run(["cat", "f"], profile="base", files={"f": Stored(digest=stored)})
        assert again.stdout == before.stdout


NAME = """
import sys
from supervisor.call.types import Digest
from supervisor.client import StockadeError, Stored, Supervisor
client = Supervisor(sys.argv[1])
for name in sys.argv[2:]:
    sha256, size = name.split("/")
    digest = Digest(sha256=sha256, size_bytes=int(size))
    for ask in (
        lambda: client.read_blob(digest),
        lambda: client.run(["cat", "f"], profile="base", files={"f": Stored(digest=digest)}).stdout,
    ):
        try:
            print("got", ask())
        except StockadeError as error:
            print(error.reason, error.metadata.get("redacted", ""))
"""
"""Asks for contents by their digests: as they are, and as the file of a call."""

UPLOAD = NAME.replace(
    "for name in", "client.write_blob(bytes.fromhex(sys.argv.pop(2)))\nfor name in", 1
)
"""Has one of them first."""


def test_who_names_a_file_of_another_gets_neither_it_nor_what_is_stored(tmp_path: Path) -> None:
    with running_daemon(config=callers(**OPS, audit="own"), folder=tmp_path) as daemon:
        call_id, digest = left_with_secret(daemon)
        redacted = daemon.command("audit", "cat", "--output", "left", call_id).stdout
        stored = Digest.of(redacted)
        uploaded = daemon.client.write_blob(b"up: " + TOKEN)
        names = [f"{one.sha256}/{one.size_bytes}" for one in (digest, stored, uploaded)]
        mine = python_as(daemon, 0, NAME, *names)
        assert mine.count(b"got") == 6  # the control
        assert mine.count(TOKEN) == 4
        said = python_as(daemon, NOBODY, NAME, *names).decode()
        assert [row.strip() for row in said.splitlines()] == ["BLOB_NOT_FOUND"] * 6
        for verb in (("cat", "--output", "left"), ("show",), ("rerun",)):
            done = run_as(daemon, NOBODY, "audit", *verb, call_id)
            assert (done.returncode, done.stdout) == (3, b""), done.stderr
            assert b"RECORD_NOT_FOUND" in done.stderr
        # Who has what is stored has what was replaced no more than before.
        had = python_as(daemon, NOBODY, UPLOAD, redacted.hex(), *names)
        assert b"got" in had
        assert TOKEN not in had
