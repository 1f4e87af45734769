"""Turn wire requests into values, and refuse what is not one: with `messages`, the only place.

Every check of a request's own shape is here, so that nothing behind the door meets an argument with
a NUL in it or a path that leaves /work. What is refused is named by `reason`, and by `subject` in
the metadata where there are several of a kind.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator

from google.protobuf.duration_pb2 import Duration

from supervisor.call.texts import brief, is_traceparent
from supervisor.call.types import (
    ARG_BYTES_MAX,
    ARGV_BYTES_MAX,
    BLOB_CHUNK_BYTES_MAX,
    INPUT_FILES_MAX,
    OUTPUT_GLOBS_MAX,
    TERM_DEFAULT,
    TERMINAL_SIDE_MAX,
    CallRequest,
    Correlation,
    Digest,
    InputFile,
    Stream,
    Terminal,
)
from supervisor.errors import InvalidRequest
from supervisor.profile.model import EffectiveProfile
from supervisor.v1 import tool_pb2, types_pb2

WORK = "/work"
TERM = "TERM"
PATH_BYTES_MAX = 4095
PATH_PARTS_MAX = 64
"""Folders are made one by one, as the sandbox's user; outputs are taken from no deeper either."""

"""PATH_MAX with its NUL is 4096 bytes (path_resolution(7))."""

NAME_BYTES_MAX = 255
GLOB_BYTES_MAX = 1024
GLOB_PARTS_MAX = 256
"""Of all globs together: each may have to be tried on each file that a call leaves."""

CORRELATION_BYTES_MAX = 512
WHY_BYTES_MAX = 1024
ENV_VARIABLES_MAX = 1024
POINTER_BYTES = 8
"""The kernel counts a pointer for each argument and variable as well (execve(2))."""

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000
SIGNAL_MAX = 64
MODE_MAX = 0o777
MODE_DEFAULT = 0o644
TIMEOUT_NANOS_MAX = 10**9

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}", re.ASCII)
_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)
"""No slash: programs look a file of this name up (terminfo(5))."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)

_STREAMS = {
    types_pb2.STD_STREAM_STDIN: Stream.STDIN,
    types_pb2.STD_STREAM_STDOUT: Stream.STDOUT,
    types_pb2.STD_STREAM_STDERR: Stream.STDERR,
}


def call_request(message: tool_pb2.ExecuteRequest, profile: EffectiveProfile) -> CallRequest:
    """Give the request as a value, checked against what `profile` allows.

    Files by digest come back without `data`; whether the caller has them is not known here.

    Raises:
        InvalidRequest: with the reasons that tool.proto lists at Execute.
    """
    command = _command(message)
    argv = tuple(command.argv)
    env = dict(command.env)
    terminal = _terminal(message) if message.HasField("terminal") else None
    _check_argv(argv)
    _check_env(env, profile, terminal=terminal is not None)
    _check_total(argv, env)
    return CallRequest(
        request_id=_request_id(message.request_id),
        profile=profile.name,
        argv=argv,
        env=env,
        working_directory=_working_directory(command.working_directory),
        files=_files(message.files, profile),
        outputs=_globs(message.outputs),
        stdin=message.stdin,
        stdin_open=message.stdin_open,
        timeout_s=_timeout(message, profile.limits.wall_s),
        correlation=_correlation(message.correlation),
        kill_on_disconnect=message.kill_on_disconnect,
        terminal=terminal,
    )


def digest(message: types_pb2.Digest) -> Digest:
    """Give a digest.

    Raises:
        InvalidRequest: `DIGEST_INVALID`.
    """
    if not _SHA256.fullmatch(message.sha256):
        raise InvalidRequest(
            "DIGEST_INVALID", "a digest is 64 lower-case hexadecimal characters and a size"
        )
    return Digest(sha256=message.sha256, size_bytes=message.size_bytes)


def stream(value: int) -> Stream:
    """Give one of the three standard streams.

    Raises:
        InvalidRequest: `STREAM_UNSPECIFIED`.
    """
    found = _STREAMS.get(value)  # type: ignore[call-overload]
    if found is None:
        raise InvalidRequest("STREAM_UNSPECIFIED", "name one of stdin, stdout, stderr")
    return Stream(found)


def terminal_size(rows: int, columns: int) -> tuple[int, int]:
    """Give rows and columns of a terminal.

    Raises:
        InvalidRequest: `TERMINAL_INVALID`.
    """
    if not (1 <= rows <= TERMINAL_SIDE_MAX and 1 <= columns <= TERMINAL_SIDE_MAX):
        raise InvalidRequest(
            "TERMINAL_INVALID",
            f"a terminal has 1 to {TERMINAL_SIDE_MAX} rows and columns, not {rows} and {columns}",
        )
    return rows, columns


def page_size(value: int) -> int:
    """Give how many rows are wanted.

    Raises:
        InvalidRequest: `PAGE_SIZE_INVALID`.
    """
    if not 0 <= value <= PAGE_SIZE_MAX:
        raise InvalidRequest("PAGE_SIZE_INVALID", f"a page has 1 to {PAGE_SIZE_MAX} rows")
    return value or PAGE_SIZE_DEFAULT


def signal_number(value: int) -> int:
    """Give a Linux signal number.

    Raises:
        InvalidRequest: `SIGNAL_INVALID`.
    """
    if not 1 <= value <= SIGNAL_MAX:
        raise InvalidRequest("SIGNAL_INVALID", f"a signal is a number from 1 to {SIGNAL_MAX}")
    return value


def _command(message: tool_pb2.ExecuteRequest) -> tool_pb2.Command:
    which = message.WhichOneof("what")
    if which == "tool":
        raise InvalidRequest(
            "TOOL_UNSUPPORTED",
            "named tools are not served by this version",
            hint="send a command with argv",
        )
    if which is None:
        raise InvalidRequest("ARGV_EMPTY", "there is nothing to run: set `command`")
    return message.command


def _check_argv(argv: tuple[bytes, ...]) -> None:
    if not argv or not argv[0]:
        raise InvalidRequest("ARGV_EMPTY", "argv[0] names the program and is not empty")
    for index, arg in enumerate(argv):
        if b"\0" in arg:
            raise InvalidRequest(
                "ARGV_NUL",
                f"argv[{index}] contains a NUL byte",
                metadata={"subject": f"argv[{index}]"},
            )
        if len(arg) > ARG_BYTES_MAX:
            raise InvalidRequest(
                "ARGV_TOO_LONG",
                f"argv[{index}] has {len(arg)} bytes and Linux takes {ARG_BYTES_MAX}",
                hint="hand large input over in stdin or in files",
                metadata={"subject": f"argv[{index}]"},
            )


def _terminal(message: tool_pb2.ExecuteRequest) -> Terminal:
    asked = message.terminal
    rows, columns = terminal_size(asked.rows, asked.columns)
    if asked.term and not _TERM.fullmatch(asked.term):
        raise InvalidRequest(
            "TERMINAL_INVALID", f"{brief(asked.term)!r} is not the name of a kind of terminal"
        )
    return Terminal(rows=rows, columns=columns, term=asked.term or TERM_DEFAULT)


def _check_env(env: dict[str, bytes], profile: EffectiveProfile, *, terminal: bool) -> None:
    if len(env) > ENV_VARIABLES_MAX:
        raise InvalidRequest("ENV_INVALID", f"at most {ENV_VARIABLES_MAX} variables are taken")
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            problem = "its name is not letters, digits and underscores"
        elif b"\0" in value:
            problem = "its value contains a NUL byte"
        elif len(name) + 1 + len(value) > ARG_BYTES_MAX:
            problem = f"Linux takes {ARG_BYTES_MAX} bytes"
        elif name in profile.env:
            problem = f"profile {profile.name!r} sets it"
        elif terminal and name == TERM:
            problem = "the terminal's `term` sets it"
        else:
            continue
        raise InvalidRequest(
            "ENV_INVALID",
            f"variable {brief(name)!r} is refused: {problem}",
            metadata={"subject": brief(name)},
        )


def _check_total(argv: tuple[bytes, ...], env: dict[str, bytes]) -> None:
    total = sum(len(arg) + 1 + POINTER_BYTES for arg in argv)
    total += sum(len(name) + len(value) + 2 + POINTER_BYTES for name, value in env.items())
    if total > ARGV_BYTES_MAX:
        raise InvalidRequest(
            "ARGV_TOO_LONG",
            f"argv and env have {total} bytes together and {ARGV_BYTES_MAX} are taken",
            hint="hand large input over in stdin or in files",
        )


def _request_id(value: str) -> str:
    if not value:
        return str(uuid.uuid4())
    if not _UUID.fullmatch(value):
        raise InvalidRequest("REQUEST_ID_INVALID", "request_id is a UUID with its hyphens")
    return value.lower()


def _working_directory(value: bytes) -> bytes:
    if not value:
        return WORK.encode()
    normal = value == b"/" or (
        value.startswith(b"/")
        and all(part not in (b"", b".", b"..") for part in value[1:].split(b"/"))
    )
    if not normal or b"\0" in value or len(value) > PATH_BYTES_MAX:
        raise InvalidRequest(
            "WORKING_DIRECTORY_INVALID",
            "the working directory is an absolute path without empty, '.' and '..' parts",
        )
    return value


def _timeout(message: tool_pb2.ExecuteRequest, wall_s: float) -> float | None:
    if not message.HasField("timeout"):
        return None
    timeout: Duration = message.timeout
    timeout_s = timeout.seconds + timeout.nanos / TIMEOUT_NANOS_MAX
    if timeout_s <= 0 or not 0 <= timeout.nanos < TIMEOUT_NANOS_MAX:
        raise InvalidRequest("TIMEOUT_INVALID", "a timeout is longer than nothing")
    if timeout_s > wall_s:
        raise InvalidRequest(
            "TIMEOUT_TOO_LONG",
            f"the timeout is {timeout_s:g} s and the profile allows {wall_s:g} s",
            hint="leave the timeout out to get the profile's",
            metadata={"limit_s": f"{wall_s:g}"},
        )
    return timeout_s


def _correlation(message: types_pb2.Correlation) -> Correlation:
    values = {
        "agent": message.agent,
        "session": message.session,
        "workflow": message.workflow,
        "traceparent": message.traceparent,
    }
    for key, value in values.items():
        if len(value.encode()) > CORRELATION_BYTES_MAX:
            raise InvalidRequest(
                "CORRELATION_TOO_LONG",
                f"correlation.{key} has more than {CORRELATION_BYTES_MAX} bytes",
                metadata={"subject": key},
            )
    if message.traceparent and not is_traceparent(message.traceparent):
        raise InvalidRequest(
            "TRACEPARENT_INVALID",
            f"correlation.traceparent: {brief(message.traceparent)!r} is no W3C trace context",
            hint="00-<32 hexadecimal digits>-<16>-<2>, in lower case and not all zero",
            metadata={"subject": "correlation.traceparent"},
        )
    return Correlation(**values)


def _files(
    messages: Iterable[tool_pb2.InputFile], profile: EffectiveProfile
) -> tuple[InputFile, ...]:
    files = tuple(_file(message) for message in messages)
    if len(files) > INPUT_FILES_MAX:
        raise InvalidRequest("FILES_TOO_MANY", f"at most {INPUT_FILES_MAX} files are taken")
    _check_tree(files)
    total = sum(file.digest.size_bytes for file in files)
    allowed = sum(mount.size_bytes for mount in profile.write if mount.path == WORK)
    if total > allowed:
        raise InvalidRequest(
            "FILES_TOO_LARGE",
            f"the files have {total} bytes and /work holds {allowed}",
            metadata={"size_bytes": str(total), "limit_bytes": str(allowed)},
        )
    if files and not allowed:
        raise InvalidRequest("FILES_TOO_LARGE", f"profile {profile.name!r} has no /work")
    return files


def _file(message: tool_pb2.InputFile) -> InputFile:
    path = message.path
    parts = path.split(b"/")
    if (
        any(part in (b"", b".", b"..") or len(part) > NAME_BYTES_MAX for part in parts)
        or b"\0" in path
        or len(path) > PATH_BYTES_MAX - len(WORK) - 1
        or len(parts) > PATH_PARTS_MAX
    ):
        raise _file_error("FILE_PATH_INVALID", path, "is not a plain path relative to /work")
    if message.mode > MODE_MAX:
        raise _file_error("FILE_MODE_INVALID", path, "has a mode beyond 0777")
    mode = message.mode or MODE_DEFAULT
    match message.WhichOneof("content"):
        case "data":
            data = message.data
            return InputFile(path=path, digest=Digest.of(data), data=data, mode=mode)
        case "digest":
            return InputFile(path=path, digest=digest(message.digest), mode=mode)
        case _:
            raise _file_error("FILE_CONTENT_MISSING", path, "has neither data nor digest")


def _check_tree(files: tuple[InputFile, ...]) -> None:
    paths = {file.path for file in files}
    if len(paths) < len(files):
        seen: set[bytes] = set()
        for file in files:
            if file.path in seen:
                raise _file_error("FILE_PATH_INVALID", file.path, "stands twice")
            seen.add(file.path)
    for path in paths:
        parts = path.split(b"/")
        for length in range(1, len(parts)):
            if b"/".join(parts[:length]) in paths:
                raise _file_error("FILE_PATH_INVALID", path, "lies below another file")


def _file_error(reason: str, path: bytes, problem: str) -> InvalidRequest:
    shown = brief(path.decode(errors="backslashreplace"), 200)
    return InvalidRequest(reason, f"file {shown!r} {problem}", metadata={"subject": shown})


def _globs(globs: Iterable[str]) -> tuple[str, ...]:
    taken = tuple(globs)
    if len(taken) > OUTPUT_GLOBS_MAX:
        raise InvalidRequest("GLOB_INVALID", f"at most {OUTPUT_GLOBS_MAX} globs are taken")
    if sum(glob.count("/") + 1 for glob in taken) > GLOB_PARTS_MAX:
        raise InvalidRequest(
            "GLOB_INVALID", f"all globs together have more than {GLOB_PARTS_MAX} parts"
        )
    for index, glob in enumerate(taken):
        if not glob or glob.startswith("/"):
            problem = "is not relative to /work"
        elif ".." in glob.split("/"):
            problem = "leaves /work"
        elif any(part in {"", "."} for part in glob.split("/")):
            problem = "has an empty or '.' part"
        elif "\0" in glob:
            problem = "contains a NUL"
        elif len(glob.encode()) > GLOB_BYTES_MAX:
            problem = f"has more than {GLOB_BYTES_MAX} bytes"
        else:
            continue
        raise InvalidRequest(
            "GLOB_INVALID",
            f"outputs[{index}] {brief(glob)!r} {problem}",
            metadata={"subject": f"outputs[{index}]"},
        )
    return taken


def pieces(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Cut bytes at `offset` of a stream into messages' worth, each with its own offset."""
    for start in range(0, len(data), BLOB_CHUNK_BYTES_MAX):
        yield offset + start, data[start : start + BLOB_CHUNK_BYTES_MAX]


def why(text: str) -> str:
    """Give the reason that goes on record with a signal.

    Raises:
        InvalidRequest: `WHY_TOO_LONG`.
    """
    if len(text.encode()) > WHY_BYTES_MAX:
        raise InvalidRequest("WHY_TOO_LONG", f"a reason has at most {WHY_BYTES_MAX} bytes")
    return text
