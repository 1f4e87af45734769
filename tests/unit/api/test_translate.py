"""Each thing that a request can get wrong has a reason of its own."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from supervisor.api import translate
from supervisor.call.types import (
    ARG_BYTES_MAX,
    ARGV_BYTES_MAX,
    CallRequest,
    Correlation,
    Digest,
    Stream,
    Terminal,
)
from supervisor.errors import InvalidRequest
from supervisor.v1 import tool_pb2, types_pb2
from tests.unit.api.fakes import WALL_S, WORK_BYTES, make_profile

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

PROFILE = make_profile("python")
SHA = "ab" * 32


def request(command: dict[str, Any] | None = None, **fields: Any) -> CallRequest:
    message = tool_pb2.ExecuteRequest(
        command=tool_pb2.Command(**({"argv": [b"true"]} | (command or {}))), **fields
    )
    return translate.call_request(message, PROFILE)


def reason_of(command: dict[str, Any] | None = None, **fields: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        request(command, **fields)
    return caught.value.reason


def file(path: bytes, **fields: Any) -> tool_pb2.InputFile:
    return tool_pb2.InputFile(path=path, **({"data": b""} | fields))


def test_everything_arrives() -> None:
    found = request(
        {"argv": [b"a", b"\xff"], "env": {"A": b"\xff"}, "working_directory": b"/tmp/x"},
        request_id="123E4567-E89B-42D3-A456-426614174000",
        kill_on_disconnect=True,
        stdin=b"in",
        stdin_open=True,
        timeout=Duration(seconds=1, nanos=500_000_000),
        outputs=["*.png", "**/x"],
        files=[file(b"d/f", data=b"x", mode=0o755)],
        correlation=types_pb2.Correlation(agent="a", session="s", workflow="w", traceparent=TRACE),
    )
    assert found.request_id == "123e4567-e89b-42d3-a456-426614174000"
    assert found.profile == "python"
    assert found.argv == (b"a", b"\xff")
    assert found.env == {"A": b"\xff"}
    assert found.working_directory == b"/tmp/x"
    assert (found.stdin, found.stdin_open, found.kill_on_disconnect) == (b"in", True, True)
    assert found.timeout_s == 1.5
    assert found.outputs == ("*.png", "**/x")
    assert (found.files[0].path, found.files[0].data, found.files[0].mode) == (b"d/f", b"x", 0o755)
    assert found.files[0].digest == Digest.of(b"x")
    assert found.correlation == Correlation(agent="a", session="s", workflow="w", traceparent=TRACE)


def test_what_is_left_out() -> None:
    found = request()
    assert uuid.UUID(found.request_id).version == 4
    assert found.request_id != request().request_id
    assert found.working_directory == b"/work"
    assert found.timeout_s is None
    assert request(files=[file(b"a")]).files[0].mode == 0o644


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (tool_pb2.ExecuteRequest(), "ARGV_EMPTY"),
        (tool_pb2.ExecuteRequest(command=tool_pb2.Command()), "ARGV_EMPTY"),
        (tool_pb2.ExecuteRequest(command=tool_pb2.Command(argv=[b""])), "ARGV_EMPTY"),
        (tool_pb2.ExecuteRequest(command=tool_pb2.Command(argv=[b"", b"a"])), "ARGV_EMPTY"),
        (tool_pb2.ExecuteRequest(tool=tool_pb2.ToolCall(name="t")), "TOOL_UNSUPPORTED"),
    ],
)
def test_nothing_to_run(message: tool_pb2.ExecuteRequest, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translate.call_request(message, PROFILE)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ([b"a\0"], "ARGV_NUL"),
        ([b"a", b"\0"], "ARGV_NUL"),
        ([b"a", b"x" * (ARG_BYTES_MAX + 1)], "ARGV_TOO_LONG"),
        ([b"a", *[b"x" * 100_000] * 11], "ARGV_TOO_LONG"),
        ([b"a", *[b"x" * 100_000] * 100], "ARGV_TOO_LONG"),
        ([b"a", *[b""] * (ARGV_BYTES_MAX // 9)], "ARGV_TOO_LONG"),
    ],
)
def test_argv(argv: list[bytes], reason: str) -> None:
    assert reason_of({"argv": argv}) == reason


def test_the_longest_argument_is_taken() -> None:
    assert len(request({"argv": [b"a", b"x" * ARG_BYTES_MAX]}).argv[1]) == ARG_BYTES_MAX


@pytest.mark.parametrize(
    "env",
    [
        {"": b""},
        {"1A": b""},
        {"A=B": b""},
        {"A\n": b""},
        {"Ä": b""},
        {"A": b"\0"},
        {"LANG": b"C"},
        {"A": b"x" * ARG_BYTES_MAX},
        {f"A{n}": b"" for n in range(1025)},
    ],
)
def test_env(env: dict[str, bytes]) -> None:
    assert reason_of({"env": env}) == "ENV_INVALID"


def test_terminal() -> None:
    assert request().terminal is None
    found = request(terminal=tool_pb2.Terminal(rows=1, columns=1000))
    assert found.terminal == Terminal(rows=1, columns=1000, term="xterm")
    found = request(terminal=tool_pb2.Terminal(rows=24, columns=80, term="xterm+256color.1"))
    assert found.terminal == Terminal(rows=24, columns=80, term="xterm+256color.1")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rows": 24},
        {"columns": 80},
        {"rows": 1001, "columns": 80},
        {"rows": 24, "columns": 2**32 - 1},
        *({"rows": 1, "columns": 1, "term": term} for term in ("../x", "x/y", ".", "x\n", "ä")),
        {"rows": 1, "columns": 1, "term": "x" * 65},
    ],
)
def test_what_is_no_terminal(fields: dict[str, Any]) -> None:
    assert reason_of(terminal=tool_pb2.Terminal(**fields)) == "TERMINAL_INVALID"


def test_the_kind_of_terminal_is_said_once() -> None:
    terminal = tool_pb2.Terminal(rows=24, columns=80)
    assert reason_of({"env": {"TERM": b"vt100"}}, terminal=terminal) == "ENV_INVALID"
    assert request({"env": {"TERM": b"vt100"}}).env == {"TERM": b"vt100"}


def test_env_counts_with_argv() -> None:
    env = {f"A{n}": b"x" * 100_000 for n in range(11)}
    assert reason_of({"env": env}) == "ARGV_TOO_LONG"


@pytest.mark.parametrize("value", ["x", "123e4567e89b42d3a456426614174000", "g" * 36, "1" * 37])
def test_request_id(value: str) -> None:
    assert reason_of(request_id=value) == "REQUEST_ID_INVALID"


@pytest.mark.parametrize(
    ("timeout", "reason"),
    [
        (Duration(), "TIMEOUT_INVALID"),
        (Duration(seconds=-1), "TIMEOUT_INVALID"),
        (Duration(seconds=1, nanos=-1), "TIMEOUT_INVALID"),
        (Duration(seconds=int(WALL_S), nanos=1), "TIMEOUT_TOO_LONG"),
        (Duration(seconds=10**12), "TIMEOUT_TOO_LONG"),
    ],
)
def test_timeout(timeout: Duration, reason: str) -> None:
    assert reason_of(timeout=timeout) == reason


def test_the_longest_timeout_is_taken() -> None:
    assert request(timeout=Duration(seconds=int(WALL_S))).timeout_s == WALL_S


@pytest.mark.parametrize(
    "path", [b"work", b"./a", b"/work/../etc", b"/work/", b"//work", b"/a//b", b"/a\0", b"/a/./b"]
)
def test_working_directory(path: bytes) -> None:
    assert reason_of({"working_directory": path}) == "WORKING_DIRECTORY_INVALID"


def test_the_root_is_a_working_directory() -> None:
    assert request({"working_directory": b"/"}).working_directory == b"/"


@pytest.mark.parametrize(
    "path",
    [
        b"", b"/a", b"..", b"a/..", b"../a", b"a/../b", b".", b"./a", b"a/.", b"a//b", b"a/",
        b"a\0b", b"x" * 256, b"/".join([b"x" * 200] * 21),
    ],
)  # fmt: skip
def test_file_path(path: bytes) -> None:
    assert reason_of(files=[file(path)]) == "FILE_PATH_INVALID"


@pytest.mark.parametrize(
    "paths", [[b"a", b"a"], [b"a", b"a/b"], [b"a/b/c", b"a/b"], [b"a/b/c", b"x", b"a"]]
)
def test_files_that_cannot_be_together(paths: list[bytes]) -> None:
    assert reason_of(files=[file(path) for path in paths]) == "FILE_PATH_INVALID"


def test_files_that_can_be_together() -> None:
    paths = [b"a", b"ab", b"a.b", b"b/a", b"b/b", b"\xff\n", b"..a", b"a..b"]
    assert [found.path for found in request(files=[file(p) for p in paths]).files] == paths


def test_files_by_size() -> None:
    half = b"x" * (WORK_BYTES // 2)
    assert len(request(files=[file(b"a", data=half), file(b"b", data=half)]).files) == 2
    over = file(b"c", data=None, digest=types_pb2.Digest(sha256=SHA, size_bytes=1))
    files = [file(b"a", data=half), file(b"b", data=half), over]
    assert reason_of(files=files) == "FILES_TOO_LARGE"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([tool_pb2.InputFile(path=b"a")], "FILE_CONTENT_MISSING"),
        ([file(b"a", mode=0o1777)], "FILE_MODE_INVALID"),
        ([file(b"%d" % n) for n in range(1025)], "FILES_TOO_MANY"),
        ([file(b"a", data=None, digest=types_pb2.Digest(sha256="x"))], "DIGEST_INVALID"),
    ],
)
def test_files(files: list[tool_pb2.InputFile], reason: str) -> None:
    assert reason_of(files=files) == reason


@pytest.mark.parametrize(
    "glob", ["", "/a", "/work/a", "..", "../a", "a/../b", "a/..", "./a", "a//b", "a\0", "x" * 1025]
)
def test_glob(glob: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(outputs=["fine", glob])
    assert caught.value.reason == "GLOB_INVALID"
    assert caught.value.metadata["subject"] == "outputs[1]"


def test_globs_are_counted() -> None:
    assert reason_of(outputs=["a"] * 65) == "GLOB_INVALID"


@given(st.text(max_size=40))
def test_no_glob_leaves_work(glob: str) -> None:
    try:
        taken = request(outputs=[glob.encode(errors="ignore").decode()]).outputs
    except InvalidRequest as error:
        assert error.reason == "GLOB_INVALID"
    else:
        assert ".." not in taken[0].split("/")
        assert not taken[0].startswith("/")


@given(st.lists(st.binary(max_size=12), max_size=4))
def test_no_file_leaves_work(paths: list[bytes]) -> None:
    try:
        files = request(files=[file(path) for path in paths]).files
    except InvalidRequest as error:
        assert error.reason == "FILE_PATH_INVALID"
    else:
        for found in files:
            assert not set(found.path.split(b"/")) & {b"", b".", b".."}
            assert b"\0" not in found.path


@pytest.mark.parametrize("key", ["agent", "session", "workflow", "traceparent"])
def test_correlation(key: str) -> None:
    correlation = types_pb2.Correlation(**{key: "ä" * 300})
    assert reason_of(correlation=correlation) == "CORRELATION_TOO_LONG"


def test_a_trace_context_is_one_of_w3c() -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(correlation=types_pb2.Correlation(traceparent="foo"))
    assert caught.value.reason == "TRACEPARENT_INVALID"
    assert caught.value.metadata["subject"] == "correlation.traceparent"


def test_streams() -> None:
    assert translate.stream(types_pb2.STD_STREAM_STDERR) is Stream.STDERR
    for value in (0, 7):
        with pytest.raises(InvalidRequest) as caught:
            translate.stream(value)
        assert caught.value.reason == "STREAM_UNSPECIFIED"


@given(st.binary(max_size=20), st.integers(min_value=0, max_value=2**40))
def test_pieces(data: bytes, offset: int) -> None:
    found = list(translate.pieces(data, offset))
    assert b"".join(piece for _, piece in found) == data
    assert all(start >= offset for start, _ in found)
