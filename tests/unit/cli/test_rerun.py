"""`audit rerun`: the recorded request goes out again, and what differs is shown, safe for a
terminal."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.call.types import CallRequest, Digest, InputFile, Terminal
from supervisor.cli.verbs import DAEMON_PACKAGES
from supervisor.v1 import audit_pb2, tool_pb2, types_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.cli.record import written_response
from tests.unit.cli.test_verbs import without_extra
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon

OLD, NEW = "old-1", fake.CALL_ID
STDIN = types_pb2.STD_STREAM_STDIN
EVIL = "\x1b[2J\u202e"
REQUEST = CallRequest(
    request_id="r-1", profile="python", argv=(b"sh", b"\xff"), env={"A": b"1"},
    files=(InputFile(path=b"in", digest=Digest.of(b"x"), mode=0o600),), outputs=("*.png",),
    working_directory=b"/work/d", stdin=b"typed", timeout_s=5.0,
)  # fmt: skip


class World:
    """Two recorded calls: the old one, and the one that Execute makes."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon
        self.request = REQUEST
        self.written = {OLD: b"same\n", NEW: b"same\n"}
        self.typed = b"typed"
        self.denied: list[tuple[int, str, dict[str, Any]]] = []
        daemon.play("GetRecord", self._record)
        daemon.play("ReadOutput", self._output)
        daemon.play("Execute", lambda _: iter([fake.accepted(), fake.finished(2)]))

    def _record(self, request: audit_pb2.GetRecordRequest) -> audit_pb2.GetRecordResponse:
        name = request.call_id
        stdin = fake.summary(self.request.stdin, STDIN)
        finished = fake.finish(streams=[fake.summary(self.written[name]), stdin])
        intent = {"request": json.loads(self.request.canonical())}
        more = self.denied if name == OLD else []
        made = written_response((0, "intent", intent), *more, finished=finished)
        made.call.call_id = name
        return made

    def _output(self, request: audit_pb2.ReadOutputRequest) -> Any:
        typed = request.stream == STDIN
        data = self.typed if typed else self.written[request.call_id]
        return iter([audit_pb2.ReadOutputResponse(data=data)])

    def asked(self) -> tool_pb2.ExecuteRequest:
        """Give the one request that went out."""
        (request,) = self.daemon.asked("Execute")
        assert isinstance(request, tool_pb2.ExecuteRequest)
        return request


@pytest.fixture
def world(daemon: FakeDaemon) -> World:
    return World(daemon)


def test_the_request_goes_out_as_it_was_recorded(world: World, stockade: Stockade) -> None:
    result = stockade("audit", "rerun", OLD)
    assert (result.exit_code, result.stderr) == (
        0, f"stockade: call {OLD} runs again as {NEW}\n",
    )  # fmt: skip
    assert result.stdout.endswith("\nnothing differs\n")
    asked = world.asked()
    assert (list(asked.command.argv), dict(asked.command.env)) == ([b"sh", b"\xff"], {"A": b"1"})
    assert (asked.command.working_directory, asked.profile) == (b"/work/d", "python")
    assert (asked.stdin, asked.stdin_open, asked.timeout.seconds) == (b"typed", False, 5)
    (file,) = asked.files
    assert (file.path, file.digest.sha256, file.mode) == (b"in", Digest.of(b"x").sha256, 0o600)
    assert list(asked.outputs) == ["*.png"]
    assert (asked.correlation.session, asked.kill_on_disconnect) == (f"rerun:{OLD}", True)
    assert asked.request_id != REQUEST.request_id


def test_what_is_given_goes_instead(world: World, stockade: Stockade, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    given = ("-p", "next", "-e", "A=2", "-f", f"{tmp_path}/other:in", "-i", "none")
    result = stockade("audit", "rerun", *given, OLD)
    assert result.exit_code == 0
    for name in ("variable A", "file in", "standard input"):
        assert f"{name} is not the recorded one: it was given" in result.stderr
    asked = world.asked()
    assert (asked.profile, dict(asked.command.env), asked.stdin) == ("next", {"A": b"2"}, b"")
    assert asked.files[0].data == b"other"


def test_a_difference_is_shown_and_obeyed_by_no_terminal(world: World, stockade: Stockade) -> None:
    world.written[NEW] = f"{EVIL}\tother\n".encode()
    world.denied = [(1, "denied", {
        "wall": "network", "name": "dns", "detail": f"evil{EVIL}.example.com A", "rule": "egress",
        "arguments": [], "count": 2, "program": "", "pid": 1, "used": 0, "allowed": 0,
    })]  # fmt: skip
    result = stockade("audit", "rerun", OLD)
    assert result.exit_code == 1
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    assert f"\nstdout\n--- {OLD}\n+++ {NEW}\n@@ -1 +1 @@\n-same\n+\\e[2J\\u202e\tother\n" in (
        result.stdout
    )
    (row,) = (line for line in result.stdout.splitlines() if line.startswith("denied"))
    assert row.split() == [
        "denied", "network", "dns:", "evil\\e[2J\\u202e.example.com", "A", "x2", "none",
    ]  # fmt: skip


def test_as_json(world: World, stockade: Stockade) -> None:
    world.written[NEW] = b"\0other"
    result = stockade("audit", "rerun", "--json", OLD)
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert list(told) == ["call", "rerun", "given", "same", "differences", "unknown"]
    assert (told["call"]["call_id"], told["rerun"]["call_id"]) == (OLD, NEW)
    assert list(told["rerun"]) == [
        "call_id", "profile", "profile_digest", "outcome", "exit_code", "wall_s", "usage",
    ]  # fmt: skip
    (found,) = told["differences"]
    assert (found["what"], found["offset"], found["diff"]) == ("stdout", 0, [])


def test_standard_input_that_is_not_what_it_was_is_refused(
    world: World, stockade: Stockade
) -> None:
    world.typed = b"[REDACTED:x:00000000]"
    result = stockade("audit", "rerun", OLD)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "standard input is on record as something else" in result.stderr
    assert world.daemon.asked("Execute") == []
    assert stockade("audit", "rerun", "-i", "recorded", OLD).exit_code == 0
    assert world.asked().stdin == world.typed


def test_redacted_arguments_are_refused(world: World, stockade: Stockade) -> None:
    world.request = replace(REQUEST, argv=(b"sh", b"[REDACTED:x:00000000]"))
    result = stockade("audit", "rerun", OLD)
    assert result.exit_code == 3
    assert "argv[1] is redacted on record [INPUT_NOT_RECORDED]" in result.stderr
    assert world.daemon.asked("Execute") == []


def test_an_argument_is_given_anew(world: World, stockade: Stockade, tmp_path: Path) -> None:
    """From a file, so that no shell remembers it."""
    world.request = replace(REQUEST, argv=(b"sh", b"[REDACTED:x:00000000]", b"c"))
    assert "--arg N=VALUE or N@FILE" in stockade("audit", "rerun", OLD).stderr
    (tmp_path / "token").write_bytes(b"s=3cr@t\n")
    given = ("--arg", f"1@{tmp_path}/token", "--arg", "2=d=e")
    result = stockade("audit", "rerun", *given, OLD)
    assert result.exit_code == 0, result.stderr
    assert list(world.asked().command.argv) == [b"sh", b"s=3cr@t", b"d=e"]
    assert "argv[1] is not the recorded one: it was given" in result.stderr


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--arg", "x"], "'x' is not N=VALUE or N@FILE"),
        (["--arg", "1@/nonexistent"], "/nonexistent: No such file"),
        (["--arg", "1=a", "--arg", "1=b"], "argv[1] is given twice"),
        (["--arg", "2=a"], "--arg 2: the recorded call has argv[0] to argv[1]"),
    ],
)
def test_arguments_that_cannot_be_given(
    world: World, stockade: Stockade, given: list[str], why: str
) -> None:
    result = stockade("audit", "rerun", *given, OLD)
    assert (result.exit_code, world.daemon.asked("Execute")) == (2, [])
    assert why in result.stderr


@pytest.mark.parametrize(
    ("code", "reason", "exit_code", "asked"),
    [("FAILED_PRECONDITION", "CONTENT_LOCKED", 3, 0), ("NOT_FOUND", "CONTENT_REMOVED", 0, 1)],
)
def test_what_cannot_be_compared_is_known_before_anything_runs(
    world: World, stockade: Stockade, code: str, reason: str, exit_code: int, asked: int
) -> None:
    def give(request: audit_pb2.ReadOutputRequest) -> Any:
        if request.stream != STDIN and request.call_id == OLD:
            raise Abort(code, reason)
        yield audit_pb2.ReadOutputResponse(data=world.typed)

    world.daemon.play("ReadOutput", give)
    result = stockade("audit", "rerun", OLD)
    assert (result.exit_code, len(world.daemon.asked("Execute"))) == (exit_code, asked)
    said = [f"[{reason}]"] if not asked else ["stdout is compared by its digest only: no"]
    assert all(text in result.stderr for text in said)


def test_files_that_are_not_to_be_had_are_named(world: World, stockade: Stockade) -> None:
    two = (*REQUEST.files, InputFile(path=b"here", digest=Digest.of(b"y")))
    world.request = replace(REQUEST, files=two)

    def refuse(_: object) -> Any:
        raise Abort("NOT_FOUND", "BLOB_NOT_FOUND")
        yield

    def give(request: tool_pb2.ReadBlobRequest) -> Any:
        if request.digest.sha256 != Digest.of(b"y").sha256:
            raise Abort("NOT_FOUND", "BLOB_NOT_FOUND", **why)
        yield tool_pb2.ReadBlobResponse(data=b"y")

    why: dict[str, str] = {}

    world.daemon.play("Execute", refuse)
    world.daemon.play("ReadBlob", give)
    result = stockade("audit", "rerun", OLD)
    assert result.exit_code == 3
    assert "as it was: file in is kept for its caller only, or is gone [" in result.stderr
    why["redacted"] = "true"
    assert "file in is redacted on record [" in stockade("audit", "rerun", OLD).stderr


def test_a_refusal_is_the_daemons_own(world: World, stockade: Stockade) -> None:
    def refuse(_: object) -> Any:
        raise Abort("PERMISSION_DENIED", "PROFILE_NOT_GRANTED")
        yield

    world.daemon.play("Execute", refuse)
    result = stockade("audit", "rerun", "-p", "other", OLD)
    assert (result.exit_code, result.stdout) == (4, "")


def test_the_base_install_is_enough(world: World) -> None:
    world.denied = [(1, "denied", {
        "wall": "syscall", "name": "bpf", "detail": "", "rule": "x", "arguments": [], "count": 1,
        "program": "", "pid": 1, "used": 0, "allowed": 0,
    })]  # fmt: skip
    said = without_extra("audit", "rerun", OLD, missing=DAEMON_PACKAGES)
    assert said.returncode == 1, said.stderr
    assert "denied" in said.stdout


def test_a_wrong_command_line(stockade: Stockade) -> None:
    assert stockade("audit", "rerun", "-e", "A", OLD).exit_code == 2
    assert stockade("audit", "rerun", "-f", "/etc/passwd", OLD).exit_code == 2
    assert stockade("audit", "rerun").exit_code == 2


def test_what_was_typed_at_a_terminal_is_typed_again(world: World, stockade: Stockade) -> None:
    """Piece by piece, from the start of the program on, and into a terminal that is the same."""
    world.request = replace(REQUEST, stdin=b"typed", terminal=Terminal(rows=9, columns=99))
    world.denied = [
        (5, "started", {"preparation_s": 0.0}),
        (6, "output", {"stream": "stdin", "offset": 0, "length": 3}),
        (7, "output", {"stream": "stdin", "offset": 3, "length": 2}),
    ]
    written, typed = threading.Event(), []

    def write(request: tool_pb2.WriteStdinRequest) -> tool_pb2.WriteStdinResponse:
        typed.append(request.data)
        if request.end:
            written.set()
        return tool_pb2.WriteStdinResponse(next_offset=request.offset + len(request.data))

    def execute(_: Any) -> Any:
        yield fake.accepted()
        assert not written.wait(0.05)  # nobody types before the program was let go
        yield fake.event(2, started=tool_pb2.Started())
        written.wait(30)
        yield fake.finished(3)

    world.daemon.play("WriteStdin", write)
    world.daemon.play("Execute", execute)
    result = stockade("audit", "rerun", OLD)
    assert result.exit_code == 0, result.output
    asked = world.asked()
    assert asked.terminal == tool_pb2.Terminal(rows=9, columns=99, term="xterm")
    assert (asked.stdin, asked.stdin_open) == (b"", True)
    assert typed == [b"typ", b"ed", b""]
