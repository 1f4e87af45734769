"""The values that describe a call: who asks, for what, and what went through its streams."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

ARGV_BYTES_MAX = 1 << 20
"""argv and env together. Linux takes at most a quarter of the stack limit, 2 MiB by default
(execve(2)); half of that leaves room for the environment of the profile."""

ARG_BYTES_MAX = 128 * 1024 - 1
"""One argument: the kernel's MAX_ARG_STRLEN, 32 pages, with its NUL (execve(2))."""

STDIN_CHUNK_BYTES_MAX = 1 << 20
BLOB_CHUNK_BYTES_MAX = 1 << 20
INPUT_FILES_MAX = 1024
OUTPUT_GLOBS_MAX = 64

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Stream(enum.StrEnum):
    """A standard stream of the program."""

    STDIN = "stdin"
    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """A SHA-256 in lower-case hexadecimal over exactly `size_bytes` bytes."""

    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """Digest `data`."""
        return cls(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


SESSION_KEY, UID_KEY, WATCHING_KEY = "stockade-session", "stockade-uid", "stockade-watching"
"""By which a request of the console's process names its session, the user whose browser it is, and
that a page is only watching. Nobody else's request is asked for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who the transport says is calling; `name` is from the configuration."""

    name: str
    transport: str  # "unix", "tls" or "console"
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    certificate_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """How the caller knows the call. Recorded as given; grants nothing."""

    agent: str = ""
    session: str = ""
    workflow: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A file for /work: its relative path, and its content inline (`data`) or by `digest`."""

    path: bytes
    digest: Digest
    data: bytes | None = None
    mode: int = 0o644


TERMINAL_SIDE_MAX = 1000
"""Rows, and columns, of a terminal: whoever shows it, or a recording of it, holds every cell."""


TERM_DEFAULT = "xterm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """A terminal for the program; `term` is TERM in its environment."""

    rows: int
    columns: int
    term: str = TERM_DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """What a caller asks for, checked and without any policy in it.

    `timeout_s` is None where the profile's limit applies. `stdin_open` keeps standard input
    open for later writes. With `terminal`, standard input, output and error are one.
    """

    request_id: str
    profile: str
    argv: tuple[bytes, ...]
    env: Mapping[str, bytes] = field(default_factory=dict)
    working_directory: bytes = b"/work"
    files: tuple[InputFile, ...] = ()
    outputs: tuple[str, ...] = ()
    stdin: bytes = b""
    stdin_open: bool = False
    timeout_s: float | None = None
    correlation: Correlation = Correlation()
    kill_on_disconnect: bool = False
    terminal: Terminal | None = None

    def canonical(self) -> bytes:
        """Give the request as canonical JSON, with file contents as digests.

        Equal requests give equal bytes; what is fingerprinted, and what the record keeps.
        """
        terminal = self.terminal
        return canonical_json(
            {
                "request_id": self.request_id,
                "profile": self.profile,
                "argv": [text(arg) for arg in self.argv],
                "env": {name: text(value) for name, value in self.env.items()},
                "working_directory": text(self.working_directory),
                "files": [
                    {
                        "path": text(file.path),
                        "sha256": file.digest.sha256,
                        "size_bytes": file.digest.size_bytes,
                        "mode": file.mode,
                    }
                    for file in self.files
                ],
                "outputs": list(self.outputs),
                "stdin": {
                    "sha256": hashlib.sha256(self.stdin).hexdigest(),
                    "size_bytes": len(self.stdin),
                },
                "stdin_open": self.stdin_open,
                "timeout_s": self.timeout_s,
                "correlation": {
                    "agent": self.correlation.agent,
                    "session": self.correlation.session,
                    "workflow": self.correlation.workflow,
                    "traceparent": self.correlation.traceparent,
                },
                "kill_on_disconnect": self.kill_on_disconnect,
                # Only where there is one: a repeat of an older daemon's request is still the same.
                **({"terminal": _terminal(terminal)} if terminal is not None else {}),
            }
        )

    def fingerprint(self) -> str:
        """Give the SHA-256 of `canonical()`, in hexadecimal: same id and same fingerprint is a
        repeat, same id and another fingerprint is a conflict."""
        return hashlib.sha256(self.canonical()).hexdigest()


def _terminal(value: Terminal) -> Json:
    return {"rows": value.rows, "columns": value.columns, "term": value.term}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """What went through a stream: `digest` covers all of it, `stored_bytes` are on record, and in
    these, `redactions` secrets have been replaced. Of them, `tail_bytes` are the stream's end, and
    the others its beginning."""

    stream: Stream
    digest: Digest
    stored_bytes: int
    redactions: int = 0
    tail_bytes: int = 0

    @property
    def truncated(self) -> bool:
        """Say whether the record holds less than the stream had."""
        return self.stored_bytes < self.digest.size_bytes

    @property
    def missing(self) -> tuple[int, int]:
        """Give where in the stream that begins, and ends, which the record does not hold."""
        begin = self.stored_bytes - self.tail_bytes
        return begin, max(begin, self.digest.size_bytes - self.tail_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """A file that the call left under /work and that a glob named."""

    path: bytes
    digest: Digest
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFile:
    """A path that a glob named and that was not taken: NOT_REGULAR, TOO_LARGE, TOO_MANY,
    UNREADABLE."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What all processes of a call used together.

    `pids_peak` counts what starts a sandbox, too, which is gone when the program begins and which
    no limit is about. `pids_start` is how many those were, 0 where that is not known: a
    `pids_peak` above it is the program's own, and otherwise the program had that many or fewer.
    """

    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    memory_peak_bytes: int = 0
    pids_peak: int = 0
    pids_start: int = 0

    @property
    def pids_told(self) -> bool:
        """Say whether `pids_peak` is what the program had."""
        return 0 < self.pids_start < self.pids_peak


def text(data: bytes) -> Json:
    """Give bytes as JSON: a string where they are UTF-8, else `{"base64": …}`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        import base64

        return {"base64": base64.b64encode(data).decode()}


def untext(value: Json) -> bytes:
    """Undo `text`."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and isinstance(value.get("base64"), str):
        import base64

        return base64.b64decode(str(value["base64"]), validate=True)
    raise ValueError(f"neither text nor base64: {value!r}")


_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
)


def canonical_json(value: Json) -> bytes:
    """Give canonical JSON: sorted keys, no white space, ASCII. Bytes are hashed as stored and
    never made again, so this need not be RFC 8785; it only has to be stable."""
    return _ENCODER.encode(value).encode()


def as_map(value: Json) -> Mapping[str, Json]:
    """Take a value for an object.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, dict):
        raise TypeError(f"not an object: {value!r}")
    return value


def as_list(value: Json) -> list[Json]:
    """Take a value for a list.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, list):
        raise TypeError(f"not a list: {value!r}")
    return value
