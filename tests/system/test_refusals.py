"""Bad input: a clear error with a reason, nothing started or left, and the daemon serves on."""

from __future__ import annotations

import contextlib
import math
import os
import random
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from supervisor.client import Retry, StockadeError, Supervisor
from supervisor.v1 import tool_pb2, tool_pb2_grpc
from tests.style.tree import ROOT
from tests.support.daemon import Daemon, running_daemon
from tests.support.following import wait_for
from tests.support.profiles import with_profiles
from tests.support.rounds import rounds
from tests.support.users import NOBODY, run_as

MIB = 1 << 20
STRANGER = 65533
UUID = "00000000-0000-4000-8000-000000000001"
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""An empty SETTINGS frame, with which a client of HTTP/2 begins (RFC 9113, 3.4)."""

BROKEN = {
    "bad-unit": ("limits: {wall: 60}", "the duration 60 has no unit"),
    "bad-word": ("limits: {memory: 12 bananas}", "bananas"),
    "unknown-key": ("limitz: {wall: 60s}", "limitz"),
    "own-parent": (
        "profile: own-parent\nextends: own-parent\nwhy: For one test.\n", "own-parent",
    ),
    "no-such-parent": ("profile: no-such-parent\nextends: nobody\nwhy: x\n", "nobody"),
    "a-tag": ("env: {A: !!python/object:os.system x}", "tag"),
}  # fmt: skip


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("profiles")
    bodies = {name: body for name, (body, _) in BROKEN.items()}
    config = with_profiles(folder, **bodies)
    callers = [
        {"name": "owner", "uid": 0, "profiles": ["*"], "calls": "all", "audit": "all"},
        {"name": "little", "uid": NOBODY, "profiles": ["base"]},
    ]
    with running_daemon(
        config={**config, "callers": callers, "socket": {"group": "nogroup", "mode": "0660"}}
    ) as running:
        assert running.client.run(["true"], profile="base").ok
        yield running


@pytest.fixture(autouse=True)
def nothing_starts(daemon: Daemon) -> Iterator[None]:
    """Whatever a test here sends: no call is on record for it, nothing is left, all is well."""
    before = calls_of(daemon)
    yield
    assert calls_of(daemon) == before
    assert daemon.leftovers_of_calls() == []
    assert daemon.serving()


def calls_of(daemon: Daemon) -> set[str]:
    return {call.call_id for call in daemon.client.list_calls()}


def refused(daemon: Daemon, *argv: str | bytes, **more: Any) -> StockadeError:
    more.setdefault("profile", "base")
    with pytest.raises(StockadeError) as raised:
        daemon.client.run(argv, **more)
    return raised.value


def refused_raw(daemon: Daemon, request: tool_pb2.ExecuteRequest) -> tuple[str, str]:
    """Send a request that the client would not send; give its status code and reason."""
    with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
        return status_of(lambda: list(tool_pb2_grpc.ToolServiceStub(channel).Execute(request)))


def status_of(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    status = rpc_status.from_call(raised.value)
    assert status is not None, raised.value
    (info,) = [error_details_pb2.ErrorInfo.FromString(d.value) for d in status.details
               if d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]  # fmt: skip
    assert info.domain == "stockade"
    return raised.value.code().name, info.reason


def command(*argv: bytes, **more: Any) -> tool_pb2.ExecuteRequest:
    return tool_pb2.ExecuteRequest(profile="base", command=tool_pb2.Command(argv=argv), **more)


class TestProfiles:
    def test_unknown(self, daemon: Daemon) -> None:
        assert refused(daemon, "true", profile="no-such").reason == "PROFILE_NOT_FOUND"
        done = daemon.command("run", "-p", "no-such", "--", "true")
        assert done.returncode == 125
        assert b"[PROFILE_NOT_FOUND]" in done.stderr

    @pytest.mark.parametrize("name", BROKEN)
    def test_broken(self, daemon: Daemon, name: str) -> None:
        """The daemon serves with the others; this one is refused with file, line and column."""
        error = refused(daemon, "true", profile=name)
        assert error.reason == "PROFILE_INVALID"
        assert BROKEN[name][1] in error.message
        assert f"{name}.yaml:" in error.message

    @pytest.mark.parametrize("name", BROKEN)
    def test_lint(self, tmp_path: Path, name: str, daemon: Daemon) -> None:
        with_profiles(tmp_path, **{name: BROKEN[name][0]})
        done = daemon.command("profile", "lint", str(tmp_path))
        assert done.returncode == 2
        text = done.stdout.decode() + done.stderr.decode()
        file, line, column = text[text.index(f"{name}.yaml:") :].split(":")[:3]
        assert file == f"{name}.yaml"
        assert 1 <= int(line) <= 5
        assert int(column) >= 1
        assert "^" in text


class TestRequests:
    @pytest.mark.parametrize(
        ("argv", "reason"),
        [
            ([], "ARGV_EMPTY"),
            ([""], "ARGV_EMPTY"),
            (["", "x"], "ARGV_EMPTY"),
            (["echo", "a\0b"], "ARGV_NUL"),
            (["a\0"], "ARGV_NUL"),
            (["echo", "x" * 131_072], "ARGV_TOO_LONG"),
            (["echo", *["x" * 1000] * 10_000], "ARGV_TOO_LONG"),
        ],
    )
    def test_argv(self, daemon: Daemon, argv: list[str], reason: str) -> None:
        error = refused(daemon, *argv)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", reason)

    def test_ten_megabytes_of_argv_past_the_client(self, daemon: Daemon) -> None:
        for argv in ([b"x" * 10 * MIB], [b"echo", *[b"x" * 100_000] * 105]):
            assert refused_raw(daemon, command(*argv)) == ("INVALID_ARGUMENT", "ARGV_TOO_LONG")

    def test_a_request_that_is_larger_than_any_may_be(self, daemon: Daemon) -> None:
        code, _ = refused_raw(daemon, command(b"echo", b"x" * 20 * MIB))
        assert code == "RESOURCE_EXHAUSTED"

    def test_the_command_line(self, daemon: Daemon) -> None:
        done = daemon.command("run", "-p", "base", "--")
        assert done.returncode == 2
        done = daemon.command("run", "-p", "base", "-T", "2h", "--", "true")
        assert done.returncode == 125
        assert b"[TIMEOUT_TOO_LONG]" in done.stderr

    @pytest.mark.parametrize(
        ("timeout", "reason"),
        [
            (60.001, "TIMEOUT_TOO_LONG"), (1e9, "TIMEOUT_TOO_LONG"), (0, "TIMEOUT_INVALID"),
            (-1, "TIMEOUT_INVALID"), (math.nan, "TIMEOUT_INVALID"), (math.inf, "TIMEOUT_INVALID"),
        ],
    )  # fmt: skip
    def test_timeout(self, daemon: Daemon, timeout: float, reason: str) -> None:
        assert refused(daemon, "true", timeout=timeout).reason == reason

    def test_durations_that_are_none(self, daemon: Daemon) -> None:
        for seconds, nanos in ((5, -1), (5, 10**9), (-5, 0), (1, -(2**31))):
            timeout = Duration(seconds=seconds, nanos=nanos)
            assert refused_raw(daemon, command(b"true", timeout=timeout)) == (
                "INVALID_ARGUMENT",
                "TIMEOUT_INVALID",
            )

    @pytest.mark.parametrize(
        "glob", ["../x", "/etc/passwd", "a/../../b", "..", "", "a//b", "./a", "**/..", "a\0"]
    )
    def test_globs(self, daemon: Daemon, glob: str) -> None:
        assert refused(daemon, "true", outputs=[glob]).reason == "GLOB_INVALID"

    @pytest.mark.parametrize(
        "path", ["../x", "/etc/passwd", "a/../../b", "..", ".", "", "a//b", "a/", "a\0b", "x" * 256]
    )
    def test_files(self, daemon: Daemon, path: str) -> None:
        assert refused(daemon, "true", files={path: b""}).reason == "FILE_PATH_INVALID"

    def test_files_that_do_not_fit(self, daemon: Daemon) -> None:
        missing = tool_pb2.InputFile(path=b"a")
        missing.digest.sha256, missing.digest.size_bytes = "0" * 64, 5
        request = command(b"true", files=[missing])
        assert refused_raw(daemon, request) == ("NOT_FOUND", "BLOB_NOT_FOUND")
        missing.digest.size_bytes = 1 << 40
        request = command(b"true", files=[missing])
        assert refused_raw(daemon, request) == ("INVALID_ARGUMENT", "FILES_TOO_LARGE")

    @pytest.mark.parametrize("name", ["A=B", "", "1A", "A B", "PATH", "a\0"])
    def test_environment(self, daemon: Daemon, name: str) -> None:
        assert refused(daemon, "true", env={name: "x"}).reason == "ENV_INVALID"

    @pytest.mark.parametrize("folder", ["work", "/work/..", "/a//b", "/work/", "/a\0"])
    def test_working_directory(self, daemon: Daemon, folder: str) -> None:
        assert refused(daemon, "true", cwd=folder).reason == "WORKING_DIRECTORY_INVALID"

    @pytest.mark.parametrize(
        "request_id", ["x", "1", UUID + "0", "{" + UUID + "}", UUID[:-1] + "é"]
    )
    def test_request_id(self, daemon: Daemon, request_id: str) -> None:
        assert refused(daemon, "true", request_id=request_id).reason == "REQUEST_ID_INVALID"

    def test_a_named_tool(self, daemon: Daemon) -> None:
        request = tool_pb2.ExecuteRequest(profile="base", tool=tool_pb2.ToolCall(name="x"))
        assert refused_raw(daemon, request) == ("INVALID_ARGUMENT", "TOOL_UNSUPPORTED")

    def test_bytes_that_are_no_message(self, daemon: Daemon) -> None:
        with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
            method = channel.unary_stream("/supervisor.v1.ToolService/Execute")
            for data in (
                b"\xff" * 20,
                b"\x0a\xff\xff\xff\xff\x0f",
                random.randbytes(500) + b"\xff",
            ):
                code, reason = status_of(lambda data=data: list(method(data)))
                assert (code, reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")

    def test_a_method_that_is_not_there(self, daemon: Daemon) -> None:
        with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
            for name in ("/supervisor.v1.ToolService/Loosen", "/no.such.Service/Do", "/"):
                method = channel.unary_unary(name)
                code, _ = status_of(lambda method=method: method(b"", timeout=5))
                assert code == "UNIMPLEMENTED"


class TestCallers:
    """Another user: what it may not do is refused, whatever its request says."""

    def test_a_profile_without_a_grant(self, daemon: Daemon) -> None:
        done = run_as(daemon, NOBODY, "run", "-p", "python", "--", "true")
        assert done.returncode == 125
        assert b"[PROFILE_NOT_GRANTED]" in done.stderr

    def test_records_without_a_grant(self, daemon: Daemon) -> None:
        done = run_as(daemon, NOBODY, "audit", "ls")
        assert done.returncode == 4
        assert b"[AUDIT_NOT_GRANTED]" in done.stderr

    def test_the_call_of_another(self, daemon: Daemon) -> None:
        (call_id, *_) = calls_of(daemon)
        for arguments in (("kill", call_id), ("attach", call_id)):
            done = run_as(daemon, NOBODY, *arguments)
            assert done.returncode == 3, (arguments, done.stderr)
            assert b"[CALL_NOT_FOUND]" in done.stderr
        done = run_as(daemon, NOBODY, "ps", "--all", "--json")
        assert call_id.encode() not in done.stdout

    def test_somebody_whom_nobody_knows(self, daemon: Daemon) -> None:
        done = run_as(daemon, STRANGER, "run", "-p", "base", "--", "true")
        assert done.returncode == 125
        assert b"[PEER_UNKNOWN]" in done.stderr

    def test_somebody_who_may_not_connect(self, daemon: Daemon) -> None:
        done = run_as(daemon, STRANGER, "run", "-p", "base", "--", "true", group=STRANGER)
        assert done.returncode == 125
        assert b"[SOCKET_DENIED]" in done.stderr


class TestGarbage:
    """Bytes on the socket that are not gRPC."""

    HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(193)
    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

    def connect(self, daemon: Daemon) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        connection.connect(os.fspath(daemon.socket))
        return connection

    def send(self, daemon: Daemon, data: bytes) -> None:
        """Send, and read until the daemon hangs up or says nothing more."""
        with self.connect(daemon) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    continue
            except (ConnectionError, TimeoutError) as error:
                assert not isinstance(error, TimeoutError), "it keeps a dead connection"

    def frames(self) -> Iterator[bytes]:
        """Give frames of HTTP/2 with random types, flags, streams and bodies (RFC 9113, 4.1)."""
        for _ in range(20):
            body = random.randbytes(random.randrange(100))
            length = struct.pack(">I", len(body))[1:]
            kind, flags = random.randrange(12), random.randrange(256)
            yield length + bytes([kind, flags]) + struct.pack(">I", random.randrange(9)) + body

    def test_random_bytes(self, daemon: Daemon) -> None:
        for _ in range(rounds(10)):
            self.send(daemon, random.randbytes(random.randrange(1, 5000)))

    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\r\nHost: sandbox.example.com\r\n\r\n",
            b"POST /supervisor.v1.ToolService/Execute HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            HELLO,
            PREFACE[:10],
            PREFACE,
            b"\0" * 100_000,
        ],
        ids=["http1-get", "http1-post", "tls-hello", "half-a-preface", "preface", "zeros"],
    )
    def test_another_protocol(self, daemon: Daemon, data: bytes) -> None:
        self.send(daemon, data)

    def test_frames_at_random(self, daemon: Daemon) -> None:
        for _ in range(rounds(10)):
            self.send(daemon, self.PREFACE + SETTINGS + b"".join(self.frames()))

    def test_connections_that_say_nothing(self, daemon: Daemon) -> None:
        """More than there are places for: others are refused until they go, and not after."""
        with contextlib.ExitStack() as held:
            for _ in range(100):
                held.enter_context(self.connect(daemon))
            assert held.enter_context(Supervisor(daemon.address)).profiles()
            for _ in range(100):
                held.enter_context(self.connect(daemon))

            def kept_out() -> bool:
                # Who has just gone may leave a place a moment later: whoever gets it, stays.
                late = Supervisor(daemon.address, retry=Retry(attempts_max=1), timeout=3)
                try:
                    return not held.enter_context(late).profiles()
                except StockadeError as error:
                    assert error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
                    return True

            wait_for(kept_out)
            assert list(daemon.client.list_calls(limit=1))
        wait_for(daemon.serving)

    def test_a_client_that_goes_in_the_middle_of_a_request(self, daemon: Daemon) -> None:
        """A connection that breaks inside of a message: no call may come of it."""
        program = (
            "import sys, socket; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            f"s.sendall({self.PREFACE!r} + {SETTINGS!r} + bytes([0, 0, 50, 1, 4, 0, 0, 0, 1]))"
        )
        for _ in range(rounds(3)):
            subprocess.run([sys.executable, "-c", program, daemon.socket], check=True, cwd=ROOT)


class TestRepeatsAcrossARestart:
    def test_the_same_and_another_request(self, tmp_path: Path) -> None:
        request_id = str(uuid.uuid4())
        with running_daemon(folder=tmp_path) as daemon:
            first = daemon.client.run(["echo", "one"], profile="base", request_id=request_id)
            for end in (daemon.stop, daemon.kill):
                end()
                daemon.start()
                again = daemon.client.run(["echo", "one"], profile="base", request_id=request_id)
                assert (again.call_id, again.record) == (first.call_id, first.record)
                assert again.stdout == b"one\n"
                error = refused(daemon, "echo", "two", request_id=request_id)
                assert (error.code, error.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
                upper = refused(daemon, "echo", "two", request_id=request_id.upper())
                assert upper.reason == "REQUEST_ID_REUSED"
            assert calls_of(daemon) == {first.call_id}
