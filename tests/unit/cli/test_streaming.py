"""Signals go to the call, and a reader that is gone ends it; as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from supervisor.call.events import Denied, Wall
from supervisor.cli.streaming import describe_denial
from supervisor.v1 import tool_pb2, types_pb2
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon

COMMAND = [sys.executable, "-m", "supervisor.cli.main", "run", "-p", "python"]


@pytest.fixture
def stopping(daemon: FakeDaemon) -> FakeDaemon:
    """A call that says it runs and ends by SIGKILL only; it keeps writing meanwhile."""
    killed = threading.Event()

    def script(_: Any) -> Iterator[tool_pb2.CallEvent]:
        yield fake.accepted()
        number = 0
        while not killed.wait(0.01):
            yield fake.output(number + 2, b"running\n", 8 * number)
            number += 1
        yield fake.finished(9999, stopped=types_pb2.Stopped(by="me", reason="SIGNAL", signal=9))

    def note(request: tool_pb2.SignalRequest) -> tool_pb2.SignalResponse:
        if request.signal == signal.SIGKILL:
            killed.set()
        return tool_pb2.SignalResponse()

    daemon.play("Execute", script)
    daemon.play("Signal", note)
    return daemon


def start(
    *arguments: str,
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    # A test runner in the background may ignore SIGINT, and a child would inherit that. By env and
    # not by preexec_fn: that forks, and gRPC's handlers of a fork abort a child now and then.
    return subprocess.Popen(
        ["env", "--default-signal=INT,HUP,TERM", *COMMAND, *arguments, "x"], stdin=stdin,
        stdout=stdout, stderr=stderr,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_as_it_is_then_kill(stopping: FakeDaemon, number: signal.Signals) -> None:
    process = start()
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"running\n"
    process.send_signal(number)
    said = process.stderr.readline()
    assert number.name.encode() in said
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL
    assert [request.signal for request in stopping.asked("Signal")] == [number, signal.SIGKILL]


def test_what_is_ignored_stays_ignored(stopping: FakeDaemon) -> None:
    process = subprocess.Popen(
        ["env", "--ignore-signal=HUP", "--default-signal=TERM", *COMMAND, "x"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert b"SIGTERM" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert signal.SIGHUP not in [request.signal for request in stopping.asked("Signal")]


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, subprocess.PIPE], ids=["none", "idle pipe"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_nobody_reads(stopping: FakeDaemon, options: list[str], stdin: int) -> None:
    process = start(*options, stdin=stdin)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 128 + signal.SIGPIPE
    assert [request.signal for request in stopping.asked("Signal")] == [signal.SIGKILL]


@pytest.mark.parametrize("options", [[], ["--json"], ["--detach"], ["--json", "--detach"]])
def test_nowhere_to_write(stopping: FakeDaemon, options: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start(*options, stdout=full)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 125
    assert b"No space left on device" in said
    assert b"OUTPUT_UNWRITABLE" in said
    assert b"call-1 was stopped" in said
    (request,) = stopping.asked("Signal")
    assert (request.signal, "No space left" in request.why) == (signal.SIGKILL, True)
    if "--json" in options:
        assert json.loads(said.splitlines()[-1])["error"]["metadata"] == {"call_id": "call-1"}


def test_nowhere_to_write_nor_to_say_so(stopping: FakeDaemon) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start(stdout=full, stderr=full)
        assert process.wait(30) == 125
    assert [request.signal for request in stopping.asked("Signal")] == [signal.SIGKILL]


def test_a_call_that_goes_on_is_named(stopping: FakeDaemon) -> None:
    def refuse(_: Any) -> Any:
        raise Abort("PERMISSION_DENIED", "SIGNAL_NOT_GRANTED", "never")

    stopping.play("Signal", refuse)
    with Path("/dev/full").open("wb") as full:
        process = start(stdout=full)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 125
    assert b"call-1 goes on" in said


def test_notes_that_cannot_be_written_change_nothing(daemon: FakeDaemon) -> None:
    daemon.play("Execute", lambda _: iter([fake.accepted(), fake.denied(2), fake.finished(3)]))
    with Path("/dev/full").open("wb") as full:
        process = start(stderr=full)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_output_comes_while_the_call_runs(stopping: FakeDaemon) -> None:
    process = start("--json")
    assert process.stdout is not None
    events = [json.loads(process.stdout.readline())["event"] for _ in range(3)]
    assert events == ["accepted", "output", "output"]
    assert not stopping.asked("Signal")
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("denied", "shown"),
    [
        (Denied(wall=Wall.SYSCALL, name="unshare", arguments=(0x10000000, 0, 0)),
         "unshare(0x10000000)"),
        (Denied(wall=Wall.SYSCALL, name="ptrace", arguments=(16, 7, 0, 5, 0)),
         "ptrace(0x10, 7, 0, 5)"),
        (Denied(wall=Wall.SYSCALL, name="setns", arguments=(0, 0)), "setns(0)"),
        (Denied(wall=Wall.SYSCALL, name="sync"), "sync()"),
        (Denied(wall=Wall.LIMIT, name="pids", used=3, allowed=2), "pids: 3 used, 2 allowed"),
        (Denied(wall=Wall.LIMIT, name="cpu", used=1011, allowed=1000),
         "cpu: 1.011 s used, 1 s allowed"),
        (
            Denied(wall=Wall.SYSCALL, name="bpf", detail="bpf(BPF_MAP_CREATE)", arguments=(1,)),
            "bpf(BPF_MAP_CREATE)",
        ),
        (
            Denied(wall=Wall.LIMIT, name="memory", used=9, allowed=8, detail="1 killed"),
            "memory: 9 bytes used, 8 bytes allowed, 1 killed",
        ),
        (Denied(wall=Wall.NETWORK, name="connect", detail="a:1"), "connect(a:1)"),
        (Denied(wall=Wall.NETWORK, name="dns", detail="x.example.com A"), "dns: x.example.com A"),
        (Denied(wall=Wall.NETWORK, name="dns"), "dns()"),
        (
            Denied(wall=Wall.LIMIT, name="egress", used=11 << 20, allowed=10 << 20),
            "egress: 11 MiB used, 10 MiB allowed",
        ),
        (
            Denied(
                wall=Wall.LIMIT, name="egress", used=244, allowed=4096, rule="limits.egress"
            ),
            "egress: 244 bytes used, 4 KiB allowed, and more came at once than was left",
        ),
    ],
)  # fmt: skip
def test_describe_denial(denied: Denied, shown: str) -> None:
    assert describe_denial(denied) == shown
