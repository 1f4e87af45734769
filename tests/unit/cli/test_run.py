"""`run`: bytes through, exit codes out, and options that become the right request."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.call.events import Event
from supervisor.call.types import STDIN_CHUNK_BYTES_MAX
from supervisor.cli.run import _names as names
from supervisor.sandbox.files import Glob
from supervisor.v1 import tool_pb2, types_pb2
from tests.unit.cli.conftest import Stockade
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon
from tests.unit.client.test_execution import stopped_by_signal, too_large

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def play(daemon: FakeDaemon, *events: tool_pb2.CallEvent) -> None:
    daemon.play("Execute", lambda _: iter([fake.accepted(), *events]))


RAW = b"\x1b[31m\x00\xff\r\n"


def test_bytes_pass_unchanged(daemon: FakeDaemon, stockade: Stockade) -> None:
    play(daemon, fake.output(2, RAW), fake.errors(3, b"e\xff"), fake.finished(4))
    result = stockade("run", "-p", "python", "--", "x")
    assert (result.exit_code, result.stdout_bytes, result.stderr_bytes) == (0, RAW, b"e\xff")


def test_the_help_names_every_event(stockade: Stockade) -> None:
    said = " ".join(stockade("run", "--help").stdout.split())
    kinds = [re.sub(r"(?<!^)(?=[A-Z])", "_", one.__name__).lower() for one in get_args(Event)]
    assert "keep_alive" in kinds
    listed = said.partition("`event` is ")[2].partition(".")[0]
    assert [name for name in kinds if name not in listed] == []


def test_of_an_observed_call_it_is_said_what_to_do_with_it(
    daemon: FakeDaemon, stockade: Stockade
) -> None:
    observed = fake.accepted(mode="observe")
    daemon.play("Execute", *[lambda _: iter([observed, fake.finished(2)])] * 3)
    said = stockade("run", "-p", "python", "x").stderr
    assert "observed: who may read the record can learn from it" in said
    assert f"stockade profile learn {fake.CALL_ID}" in said
    assert stockade("run", "-q", "-p", "python", "x").stderr == ""
    play(daemon, fake.finished(2))
    assert stockade("run", "-p", "python", "x").stderr == ""


@pytest.mark.parametrize(
    ("how", "exit_code", "said"),
    [
        ({"exited": types_pb2.Exited(code=3)}, 3, ""),
        ({"signaled": types_pb2.Signaled(signal=11)}, 139, "signal 11"),
        ({"timed_out": types_pb2.TimedOut(limit={"seconds": 2})}, 124, "timed out after 2 s"),
        ({"out_of_memory": types_pb2.OutOfMemory(limit_bytes=8, peak_bytes=9)}, 137, "memory"),
        (
            {"limit_exceeded": types_pb2.LimitExceeded(limit=types_pb2.LIMIT_KIND_OUTPUT)},
            137,
            "output limit",
        ),
        ({"stopped": types_pb2.Stopped(by="ann", reason="SIGNAL", signal=15)}, 143, "ann"),
        ({"failed": types_pb2.Failed(reason="OCI_X", message="m\x1b")}, 125, "m\\e [OCI_X]"),
        ({"interrupted": types_pb2.Interrupted(message="m")}, 125, "interrupted"),
    ],
)
def test_exit_codes(
    daemon: FakeDaemon, stockade: Stockade, how: dict[str, Any], exit_code: int, said: str
) -> None:
    play(daemon, fake.finished(2, **how))
    result = stockade("run", "-p", "python", "x")
    assert result.exit_code == exit_code
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == bool(said)
    assert not said or result.stderr.startswith("stockade: call call-1 ")


def test_refused(daemon: FakeDaemon, stockade: Stockade) -> None:
    def refuse(_: Any) -> Iterator[Any]:
        raise Abort("NOT_FOUND", "PROFILE_NOT_FOUND", hint="did you mean")
        yield

    daemon.play("Execute", refuse)
    result = stockade("run", "-p", "pyton", "x")
    assert (result.exit_code, result.stdout) == (125, "")
    assert "[PROFILE_NOT_FOUND]" in result.stderr
    assert "did you mean" in result.stderr


def breaks(_: Any) -> Iterator[Any]:
    raise Abort("UNAVAILABLE", message="Socket closed")
    yield


@pytest.mark.parametrize(
    ("verb", "exit_code"),
    [(["run", "--json", "-p", "python", "x"], 125), (["attach", "--json", "call-1"], 7)],
)
def test_a_lost_connection_names_the_call(
    daemon: FakeDaemon, stockade: Stockade, verb: list[str], exit_code: int
) -> None:
    def begins(_: Any) -> Iterator[Any]:
        yield fake.accepted()
        raise Abort("UNAVAILABLE", message="Socket closed")

    daemon.play("Execute", begins)
    daemon.play("Attach", begins, breaks)
    result = stockade(*verb)
    assert result.exit_code == exit_code
    assert "call call-1 had started; stockade attach call-1" in result.stderr
    error = json.loads(result.stderr.splitlines()[-1])["error"]
    assert (error["reason"], error["metadata"]["call_id"]) == ("CONNECTION_LOST", "call-1")


def test_no_call_is_named_where_none_had_started(daemon: FakeDaemon, stockade: Stockade) -> None:
    daemon.play("Execute", breaks)
    daemon.play("Attach", breaks)
    assert "had started" not in stockade("run", "-p", "python", "x").stderr
    assert "had started" not in stockade("attach", "call-1").stderr


def test_no_daemon(stockade: Stockade) -> None:
    result = stockade("run", "--address", "unix:///nonexistent", "-p", "python", "x")
    assert result.exit_code == 125
    assert "[SOCKET_MISSING]" in result.stderr


def test_denials_are_summed_up(daemon: FakeDaemon, stockade: Stockade) -> None:
    play(
        daemon,
        fake.denied(2),
        fake.denied(3, count=4),
        fake.denied(4, name="memory", wall="limit", arguments=[], used=9, allowed=8),
        fake.denied(5, name="connect", detail="203.0.113.9:443\x1b"),
        fake.finished(6, denials=7),
    )
    lines = stockade("run", "-p", "python", "x").stderr.splitlines()
    assert lines[0] == "stockade: denied unshare(0x10000000) x5"
    assert "stockade: limit memory: 9 bytes used, 8 bytes allowed x1" in lines
    assert lines[-1] == (
        "stockade: all of it: stockade audit show call-1; "
        "what would allow it: stockade profile why call-1"
    )
    assert "stockade: denied connect(203.0.113.9:443\\e) x1" in lines
    assert stockade("run", "-q", "-p", "python", "x").stderr == ""


def test_what_could_not_be_reached_is_summed_up(daemon: FakeDaemon, stockade: Stockade) -> None:
    """The program saw a connection reset, and nothing was denied."""
    failed: dict[str, Any] = {"verdict": types_pb2.VERDICT_FAILED, "address": ""}
    play(
        daemon,
        fake.flow(2, **failed, reason="no address for the name: NXDOMAIN"),
        fake.flow(3, **failed, reason="no address for the name: NXDOMAIN"),
        fake.flow(4, **failed, name="2001:db8::1", reason="Connection refused"),
        fake.flow(5),
        fake.finished(6),
    )
    assert stockade("run", "-p", "python", "x").stderr.splitlines() == [
        "stockade: failed connection to api.example.com:443: no address for the name: NXDOMAIN x2",
        "stockade: failed connection to [2001:db8::1]:443: Connection refused x1",
        "stockade: all of it: stockade audit show call-1",
    ]
    assert stockade("run", "-q", "-p", "python", "x").stderr == ""


def test_what_is_not_on_record_is_said(daemon: FakeDaemon, stockade: Stockade) -> None:
    summary = fake.summary(b"x" * 2048)
    summary.stored_bytes = 1024
    skipped = types_pb2.SkippedFile(path=b"a\x1b", reason="NOT_REGULAR")
    play(daemon, fake.lost(2, "full", "denial"), fake.finished(
        3, streams=[summary], skipped=[skipped]))  # fmt: skip
    said = stockade("run", "-p", "python", "x").stderr
    assert "stdout: 1.0 KiB of 2.0 KiB" in said
    assert "a\\e was not taken: NOT_REGULAR" in said
    assert "lost 3 of denial" in said


def test_connections_are_in_json_and_not_in_the_way(daemon: FakeDaemon, stockade: Stockade) -> None:
    """As what a profile watches: what is allowed is no news for whoever runs a program."""
    evil = "\x1b[2J" + "x" * 2000
    events = [
        fake.accepted(),
        fake.flow(2, started={"seconds": 1_700_000_000, "nanos": 5}),
        fake.denied(3, wall="network", name="dns", detail=evil, arguments=[]),
        fake.finished(4, exited=types_pb2.Exited(code=0)),
    ]
    daemon.play("Execute", lambda _: iter(events))
    told = stockade("run", "-p", "python", "x").stderr
    assert "203.0.113.7" not in told
    assert "stockade: denied dns: \\e[2Jxxx" in told
    assert max(map(len, told.splitlines())) < 350
    lines = stockade("run", "--json", "-p", "python", "x").stdout.splitlines()
    assert json.loads(lines[1]) == {
        "call_id": fake.CALL_ID, "sequence": 2, "time": json.loads(lines[1])["time"],
        "event": "flow", "name": "api.example.com", "address": "203.0.113.7", "port": 443,
        "rule": "*.example.com:443", "verdict": "closed", "reason": "", "sent": 1200,
        "received": 34_000, "started": "2023-11-14T22:13:20.000000005Z", "duration_s": 0.31,
        "pid": 123, "program": "curl",
    }  # fmt: skip


def test_json_lines(daemon: FakeDaemon, stockade: Stockade) -> None:
    play(daemon, fake.output(2, b"\xff"), fake.denied(3), fake.finished(4))
    result = stockade("run", "--json", "-p", "python", "x")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["accepted", "output", "denied", "finished"]
    assert events[1]["data"] == "/w=="
    assert events[3]["outcome"] == {"kind": "exited", "code": 0}
    assert (result.exit_code, result.stderr) == (0, "")


def test_request(daemon: FakeDaemon, stockade: Stockade, tmp_path: Path) -> None:
    (tmp_path / "in:put").write_bytes(b"data")
    play(daemon, fake.finished(2))
    result = stockade(
        "run", "-p", "python", "-e", "A=1=2", "-f", f"{tmp_path}/in:put:a/b", "-T", "1500ms",
        "-C", "/tmp", "--agent", "g", "--session", "s", "--workflow", "w", "--traceparent", TRACE,
        "--request-id", "r", "--kill-on-disconnect", "prog", "-x", "--json", stdin=b"in",
    )  # fmt: skip
    assert result.exit_code == 0
    (request,) = daemon.asked("Execute")
    assert list(request.command.argv) == [b"prog", b"-x", b"--json"]
    assert dict(request.command.env) == {"A": b"1=2"}
    assert request.command.working_directory == b"/tmp"
    assert [(file.path, file.data) for file in request.files] == [(b"a/b", b"data")]
    assert (request.timeout.seconds, request.timeout.nanos) == (1, 500_000_000)
    assert (request.profile, request.request_id, request.stdin) == ("python", "r", b"in")
    assert request.correlation == types_pb2.Correlation(
        agent="g", session="s", workflow="w", traceparent=TRACE
    )
    assert request.kill_on_disconnect


def test_our_environment_is_not_passed_on(
    daemon: FakeDaemon, stockade: Stockade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    play(daemon, fake.finished(2))
    stockade("run", "-p", "python", "x")
    assert not daemon.asked("Execute")[0].command.env


@pytest.mark.parametrize(
    ("choice", "expected"), [([], b"in"), (["-i", "-"], b"in"), (["-i", "none"], b"")]
)
def test_stdin(daemon: FakeDaemon, stockade: Stockade, choice: list[str], expected: bytes) -> None:
    play(daemon, fake.finished(2))
    stockade("run", "-p", "python", *choice, "x", stdin=b"in")
    assert daemon.asked("Execute")[0].stdin == expected


@pytest.mark.parametrize("as_json", [False, True])
def test_stdin_that_breaks_off(
    daemon: FakeDaemon, stockade: Stockade, tmp_path: Path, as_json: bool
) -> None:
    stopped_by_signal(daemon)
    daemon.play("WriteStdin", too_large)
    (tmp_path / "f").write_bytes(bytes(2 * STDIN_CHUNK_BYTES_MAX))
    options = ["--json"] if as_json else []
    result = stockade("run", *options, "-p", "python", "-i", tmp_path / "f", "x")
    assert result.exit_code == 125
    assert "STDIN_TOO_LARGE" in result.stderr
    if as_json:
        error = json.loads(result.stderr.splitlines()[-1])["error"]
        assert error["reason"] == "STDIN_TOO_LARGE"


def test_stdin_from_a_file(daemon: FakeDaemon, stockade: Stockade, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"file")
    play(daemon, fake.finished(2))
    stockade("run", "-p", "python", "-i", tmp_path / "f", "x", stdin=b"in")
    assert daemon.asked("Execute")[0].stdin == b"file"


def test_outputs_are_saved(daemon: FakeDaemon, stockade: Stockade, tmp_path: Path) -> None:
    file = types_pb2.OutputFile(path=b"d/chart.png", digest=fake.blob(b"png"), mode=0o644)
    play(daemon, fake.finished(2, outputs=[file]))
    daemon.play("ReadBlob", lambda _: iter([tool_pb2.ReadBlobResponse(data=b"png")]))
    folder = tmp_path / "new" / "out"
    result = stockade("run", "-p", "python", "-o", "**", "--output-dir", folder, "x")
    assert result.exit_code == 0
    assert (folder / "d" / "chart.png").read_bytes() == b"png"
    assert "chart.png (3 B)" in result.stderr
    assert list(daemon.asked("Execute")[0].outputs) == ["**"]


def test_a_glob_without_a_file_is_said(
    daemon: FakeDaemon, stockade: Stockade, tmp_path: Path
) -> None:
    file = types_pb2.OutputFile(path=b"d/chart.png", digest=fake.blob(b"png"), mode=0o644)
    skipped = types_pb2.SkippedFile(path=b"link", reason="NOT_REGULAR")
    play(daemon, fake.finished(2, outputs=[file], skipped=[skipped]))
    daemon.play("ReadBlob", lambda _: iter([tool_pb2.ReadBlobResponse(data=b"png")]))
    globs = ["-o", "*.png", "-o", "d/*", "-o", "li?k", "-o", "**", "-o", "x"]
    arguments = ["-p", "python", *globs, "--output-dir", str(tmp_path), "x"]
    lines = stockade("run", *arguments).stderr.splitlines()
    assert [line for line in lines if "no file" in line] == [
        f"stockade: --output {glob}: no file came of it" for glob in ("*.png", "li?k", "x")
    ]
    assert "no file" not in stockade("run", "-q", *arguments).stderr
    assert stockade("run", "--json", *arguments).stderr == ""


PART = st.sampled_from(["a", "b", "ab"])
WANTED = st.sampled_from(["a", "*", "?", "[ab]", "a*", "**"])


@given(st.lists(WANTED, min_size=1, max_size=5), st.lists(PART, min_size=1, max_size=5))
def test_globs_are_the_daemon_s(wanted: list[str], parts: list[str]) -> None:
    there = Glob("/".join(wanted)).matches([part.encode() for part in parts])
    assert names("/".join(wanted), "/".join(parts)) == there


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["a:x", "b:x"], "'x' stands twice: 'a' and 'b'"),
        (["a:/work/d/x"], "write 'a:d/x'"),
        (["a:/etc/x"], "without a leading slash"),
        (["a:/work/"], "without a leading slash"),
    ],
)
def test_files_that_cannot_be_meant(stockade: Stockade, files: list[str], said: str) -> None:
    options = [option for file in files for option in ("-f", file)]
    result = stockade("run", "-p", "python", *options, "x")
    assert result.exit_code == 2
    assert said in result.stderr


def test_help_names_the_errors_of_outputs(stockade: Stockade) -> None:
    codes = stockade("run", "--help").stdout.split("Exit codes:")[1]
    refused = codes.split("125")[1].split("128+N")[0]
    assert {"OUTPUT_UNWRITABLE", "OUTPUT_PATH"} <= set(re.findall(r"[A-Z_]{5,}", refused))


def test_names_forge_no_lines(daemon: FakeDaemon, stockade: Stockade, tmp_path: Path) -> None:
    evil = b"a\nstockade: forged"
    file = types_pb2.OutputFile(path=evil, digest=fake.blob(b"png"), mode=0o644)
    skipped = types_pb2.SkippedFile(path=evil, reason="NOT_REGULAR")
    play(
        daemon,
        fake.denied(2, name="connect", detail=evil.decode()),
        fake.finished(3, outputs=[file], skipped=[skipped], denials=1),
    )
    daemon.play("ReadBlob", lambda _: iter([tool_pb2.ReadBlobResponse(data=b"png")]))
    result = stockade("run", "-p", "python", "-o", "**", "--output-dir", tmp_path / "o", "x")
    assert result.exit_code == 0
    assert result.stderr.count("a\\nstockade: forged") == 3
    assert "\nstockade: forged" not in result.stderr
    (tmp_path / "o" / os.fsdecode(evil)).unlink()
    (tmp_path / "o" / os.fsdecode(evil)).mkdir()
    result = stockade("run", "-p", "python", "-o", "**", "--output-dir", tmp_path / "o", "x")
    assert "[OUTPUT_UNWRITABLE]" in result.stderr
    assert "\nstockade: forged" not in result.stderr


def test_an_output_that_would_leave_its_folder(
    daemon: FakeDaemon, stockade: Stockade, tmp_path: Path
) -> None:
    file = types_pb2.OutputFile(path=b"../evil", digest=fake.blob(b"png"), mode=0o644)
    play(daemon, fake.finished(2, outputs=[file]))
    daemon.play("ReadBlob", lambda _: iter([tool_pb2.ReadBlobResponse(data=b"png")]))
    result = stockade("run", "-p", "python", "-o", "**", "--output-dir", tmp_path / "o", "x")
    assert result.exit_code == 125
    assert "[OUTPUT_PATH]" in result.stderr
    assert "stockade audit cat --output PATH call-1" in result.stderr
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("as_json", [False, True])
def test_detach(daemon: FakeDaemon, stockade: Stockade, as_json: bool) -> None:
    play(daemon)
    result = stockade("run", *(["--json"] if as_json else []), "--detach", "-p", "python", "x",
                      stdin=b"in")  # fmt: skip
    expected = '{"call_id": "call-1"}\n' if as_json else "call-1\n"
    assert (result.exit_code, result.stdout) == (0, expected)
    assert daemon.asked("Execute")[0].stdin == b""


@pytest.mark.parametrize(
    "arguments",
    [
        ["x"],
        ["-p", "python"],
        ["-p", "python", "-e", "A", "x"],
        ["-p", "python", "-f", "nocolon", "x"],
        ["-p", "python", "-T", "soon", "x"],
        ["-p", "python", "-o", "*", "x"],
        ["-p", "python", "--output-dir", ".", "x"],
        ["-p", "python", "-d", "-i", "-", "x"],
        ["-p", "python", "-T", "10", "x"],
        ["-p", "python", "-T", "1.s", "x"],
        ["-p", "python", "--traceparent", "foo", "x"],
        ["-p", "python", "-t", "x"],
        ["-p", "python", "-t", "-d", "x"],
        ["-p", "python", "-t", "-i", "none", "x"],
    ],
)
def test_wrong_command_lines(stockade: Stockade, arguments: list[str]) -> None:
    assert stockade("run", *arguments).exit_code == 2


def test_who_means_the_time_limit_is_told(stockade: Stockade) -> None:
    result = stockade("run", "-p", "python", "-t", "10s", "--", "x")
    assert result.exit_code == 2
    assert "a time limit is -T 10s" in result.stderr
    result = stockade("run", "-p", "python", "-it", "--", "x")
    assert result.exit_code == 125
    assert "-t alone" in result.stderr
    assert "did you mean 10s?" in stockade("run", "-p", "python", "-T", "10", "x").stderr


@pytest.mark.parametrize("given", [["-i", "/nonexistent"], ["-f", "/nonexistent:x"]])
def test_a_file_that_cannot_be_read(
    daemon: FakeDaemon, stockade: Stockade, given: list[str]
) -> None:
    result = stockade("run", "-p", "python", *given, "x")
    assert (result.exit_code, daemon.asked("Execute")) == (125, [])
    assert "/nonexistent: No such file or directory [FILE_UNREADABLE]" in result.stderr


def test_a_trace_context_of_the_environment_is_checked_too(
    daemon: FakeDaemon, stockade: Stockade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACEPARENT", "foo")
    result = stockade("run", "-p", "python", "x")
    assert (result.exit_code, daemon.asked("Execute")) == (2, [])
    assert "TRACEPARENT" in result.stderr
    monkeypatch.setenv("TRACEPARENT", TRACE)
    play(daemon, fake.finished(2))
    assert stockade("run", "-p", "python", "x").exit_code == 0
    assert daemon.asked("Execute")[0].correlation.traceparent == TRACE


def test_a_terminal_needs_one(stockade: Stockade) -> None:
    result = stockade("run", "-p", "python", "-t", "x", stdin=b"typed")
    assert result.exit_code == 2
    assert "-t needs a terminal as our standard input" in result.stderr
