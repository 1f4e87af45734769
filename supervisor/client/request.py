"""Turn the arguments of `run` and `execute` into one ExecuteRequest and what must go before it.

Small content travels in the request; a larger file is uploaded first and named by its digest;
standard input past the first piece is written while the program runs. A request id is always
set, so that Execute may be repeated.
"""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import select
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from google.protobuf.duration_pb2 import Duration

from supervisor.call.types import (
    ARGV_BYTES_MAX,
    BLOB_CHUNK_BYTES_MAX,
    STDIN_CHUNK_BYTES_MAX,
    Correlation,
    Digest,
    Terminal,
)
from supervisor.client import wire
from supervisor.errors import InvalidRequest, StockadeError
from supervisor.v1 import tool_pb2, types_pb2

INLINE_FILES_BYTES_MAX = 1 << 20
"""All input files that travel in the request, together; with argv and standard input at their
own limits the request stays below gRPC's customary 4 MiB."""

EXECUTABLE_MODE = 0o755
ANONYMOUS = Correlation()
ABOUT_CONTENT = frozenset({"BLOB_TOO_LARGE", "DIGEST_MISMATCH"})
"""Refusals of an upload that are about the content itself."""

WHY_BYTES_MAX = 1024
"""The daemon takes no longer reason for a signal."""

DURATION_S_MAX = 315_576_000_000  # google/protobuf/duration.proto

Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Content = bytes | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Content that the daemon has already: what this caller uploaded, gave to a call, or got from
    one. `mode` is that of the file, the daemon's own choice where 0."""

    digest: Digest
    mode: int = 0


File = Content | Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Content that has to be in the daemon's store before the call starts; `name` is the file's
    path, and for bytes the path that they get in the sandbox, where it is known."""

    digest: Digest
    source: bytes | Path
    name: str = ""

    def messages(self) -> Iterator[tool_pb2.WriteBlobRequest]:
        """Give the messages of WriteBlob, the digest in the first one; the file is opened at once.

        Raises:
            InvalidRequest: `FILE_UNREADABLE`.
        """
        source = self.source
        return self._pieces(io.BytesIO(source) if isinstance(source, bytes) else _open(source))

    def explain(self, error: StockadeError) -> None:
        """Put the name of the file into the daemon's refusal of it."""
        if self.name and error.reason in ABOUT_CONTENT:
            error.message = f"{self.name!r}: {error.message}"
            error.metadata.setdefault("path", self.name)

    def _pieces(self, file: BinaryIO) -> Iterator[tool_pb2.WriteBlobRequest]:
        """Cut the file up; one that grew since its digest was taken is left at its former size."""
        left = self.digest.size_bytes
        with file:
            yield tool_pb2.WriteBlobRequest(digest=wire.digest_message(self.digest))
            while left and (chunk := file.read(min(left, BLOB_CHUNK_BYTES_MAX))):
                left -= len(chunk)
                yield tool_pb2.WriteBlobRequest(data=chunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What to send: `uploads` first, then `execute`, then the rest of `stdin`, if any."""

    execute: tool_pb2.ExecuteRequest
    uploads: tuple[Upload, ...] = ()
    stdin: BinaryIO | None = None


def prepare(
    argv: Sequence[Argument],
    *,
    profile: str,
    env: Mapping[str, str | bytes] | None = None,
    cwd: Argument = "",
    files: Mapping[str, File] | None = None,
    outputs: Iterable[str] = (),
    stdin: bytes | BinaryIO = b"",
    stdin_open: bool = False,
    timeout: float | None = None,
    correlation: Correlation = ANONYMOUS,
    request_id: str | uuid.UUID | None = None,
    kill_on_disconnect: bool = False,
    terminal: Terminal | None = None,
) -> Prepared:
    """Build the request; reads the files that it names, and the beginning of `stdin`.

    Raises:
        InvalidRequest: `ARGV_TOO_LONG`, `TIMEOUT_INVALID`, `FILE_UNREADABLE`.
        TypeError: `argv` or `outputs` is one string, a file's content or `stdin` is text, or an
            argument is of another type.
    """
    if isinstance(argv, str | bytes | os.PathLike):
        raise TypeError("argv is a sequence of arguments, not one string: there is no shell")
    if isinstance(outputs, str | bytes):
        raise TypeError("outputs is a sequence of globs, not one string")
    arguments = [os.fsencode(argument) for argument in argv]
    variables = _variables(env or {})
    _check_size(arguments, variables)
    inputs, uploads = _inputs(files or {})
    head, rest = _stdin_head(stdin)
    request = tool_pb2.ExecuteRequest(
        request_id=identifier(request_id),
        profile=profile,
        kill_on_disconnect=kill_on_disconnect,
        command=tool_pb2.Command(argv=arguments, env=variables, working_directory=os.fsencode(cwd)),
        files=inputs,
        outputs=list(outputs),
        stdin=head,
        stdin_open=stdin_open or rest is not None,
        correlation=types_pb2.Correlation(
            agent=correlation.agent,
            session=correlation.session,
            workflow=correlation.workflow,
            traceparent=correlation.traceparent,
        ),
    )
    if terminal is not None:
        request.terminal.CopyFrom(
            tool_pb2.Terminal(rows=terminal.rows, columns=terminal.columns, term=terminal.term)
        )
    if timeout is not None:
        request.timeout.CopyFrom(_duration(timeout))
    return Prepared(execute=request, uploads=tuple(uploads), stdin=rest)


def _variables(env: Mapping[str, str | bytes]) -> dict[str, bytes]:
    for name, value in env.items():
        if not isinstance(name, str):
            raise TypeError(f"env: the name of a variable is text, not {_kind(name)}: {name!r}")
        if not isinstance(value, str | bytes | os.PathLike):
            raise TypeError(f"env[{name!r}]: give its value as text or bytes, not {_kind(value)}")
    return {name: os.fsencode(value) for name, value in env.items()}


def identifier(request_id: str | uuid.UUID | None) -> str:
    """Give the request id that goes out: the given one, or a new one.

    Raises:
        TypeError: it is neither text nor a UUID.
    """
    if not isinstance(request_id, str | uuid.UUID | None):
        raise TypeError(f"request_id is a UUID or its text, not {_kind(request_id)}")
    return str(request_id or uuid.uuid4())


def upload_of(content: Content) -> Upload:
    """Digest `content`, a file's path or bytes, for WriteBlob.

    Raises:
        InvalidRequest: `FILE_UNREADABLE`, also where a file grows while it is read.
        TypeError: it is neither bytes nor a path as an object.
    """
    _check_content("content", content)
    if isinstance(content, bytes):
        return Upload(digest=Digest.of(content), source=content)
    path = Path(content)
    with _open(path) as file:
        return _upload_of_file(path, file)


def read_some(source: BinaryIO) -> bytes:
    """Read what there is, at most one chunk of standard input; empty at the end."""
    read: Callable[[int], bytes | None] = getattr(source, "read1", source.read)
    while (data := read(STDIN_CHUNK_BYTES_MAX)) is None:
        select.select([source], [], [])  # It does not block, and has nothing yet.
    return data


def stdin_why(error: Exception) -> str:
    """Say why a call is stopped whose standard input broke, for its record."""
    reason = f"{error.reason}: {error.message}" if isinstance(error, StockadeError) else error
    text = f"standard input broke off: {reason}"
    return text.encode(errors="replace")[:WHY_BYTES_MAX].decode(errors="ignore")


def _inputs(files: Mapping[str, File]) -> tuple[list[tool_pb2.InputFile], list[Upload]]:
    """Inline files while there is room for them, smallest decision first: in the given order."""
    inputs: list[tool_pb2.InputFile] = []
    uploads: list[Upload] = []
    room = INLINE_FILES_BYTES_MAX
    for name, content in files.items():
        if isinstance(content, Stored):
            digest = wire.digest_message(content.digest)
            path = os.fsencode(name)
            inputs.append(tool_pb2.InputFile(path=path, digest=digest, mode=content.mode))
            continue
        _check_content(name, content)
        mode, data, upload = _input(os.fsdecode(name), content, room)
        if upload is None:
            room -= len(data)
            inputs.append(tool_pb2.InputFile(path=os.fsencode(name), data=data, mode=mode))
        else:
            uploads.append(upload)
            digest = wire.digest_message(upload.digest)
            inputs.append(tool_pb2.InputFile(path=os.fsencode(name), digest=digest, mode=mode))
    return inputs, uploads


def _input(name: str, content: Content, room: int) -> tuple[int, bytes, Upload | None]:
    """Give mode and bytes of one file, or its upload where there is no room for the bytes; a
    program on this side is a program on the other."""
    if isinstance(content, bytes):
        fits = len(content) <= room
        return 0, content, None if fits else replace(upload_of(content), name=name)
    path = Path(content)
    with _open(path) as file:
        status = os.fstat(file.fileno())
        mode = EXECUTABLE_MODE if status.st_mode & stat.S_IXUSR else 0
        if status.st_size <= room:
            # Not to the measured size: the kernel's own files, as in /proc, have none.
            data = _read(path, file, room + 1)
            if len(data) <= room:
                return mode, data, None
            file.seek(0)
        return mode, b"", _upload_of_file(path, file)


def _check_content(name: str, content: object) -> None:
    if not isinstance(content, bytes | os.PathLike):
        wanted = "give a file's content as bytes, or its path as a Path"
        raise TypeError(f"{name}: {wanted}, not {_kind(content)}")


def _kind(value: object) -> str:
    return type(value).__name__


def _stdin_head(stdin: bytes | BinaryIO) -> tuple[bytes, BinaryIO | None]:
    """Give what fits into the request and what is left to write; a pipe is not waited for."""
    if isinstance(stdin, io.TextIOBase) or not (
        isinstance(stdin, bytes) or callable(getattr(stdin, "read", None))
    ):
        raise TypeError(f"stdin is bytes or a file opened as binary, not {_kind(stdin)}")
    source = io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin
    if not source.seekable():
        return b"", source
    head = bytearray()
    while len(head) < STDIN_CHUNK_BYTES_MAX:
        piece = source.read(STDIN_CHUNK_BYTES_MAX - len(head))
        if not piece:
            return bytes(head), None
        head += piece
    return bytes(head), source


def _check_size(arguments: list[bytes], variables: dict[str, bytes]) -> None:
    size_bytes = sum(map(len, arguments))
    size_bytes += sum(len(name) + len(value) for name, value in variables.items())
    if size_bytes > ARGV_BYTES_MAX:
        raise InvalidRequest(
            "ARGV_TOO_LONG",
            f"argv and env have {size_bytes} bytes, at most {ARGV_BYTES_MAX} are possible",
            hint="pass large input as a file or on standard input",
            metadata={"size_bytes": str(size_bytes), "size_bytes_max": str(ARGV_BYTES_MAX)},
        )


def _duration(timeout_s: float) -> Duration:
    if not math.isfinite(timeout_s) or abs(timeout_s) > DURATION_S_MAX:
        raise InvalidRequest("TIMEOUT_INVALID", f"not a number of seconds: {timeout_s}")
    seconds, nanos = divmod(round(timeout_s * 1e9), 1_000_000_000)
    return Duration(seconds=seconds, nanos=nanos)


def _open(path: Path) -> BinaryIO:
    """Open a regular file; a pipe or a device may have no end, and a pipe blocks open(2) too."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _unreadable(path, "is not a regular file")
    return os.fdopen(descriptor, "rb")


def _upload_of_file(path: Path, file: BinaryIO) -> Upload:
    """Digest a file that is open at its beginning, at most one byte past the size that it has."""
    left = os.fstat(file.fileno()).st_size + 1
    sha256, size_bytes = hashlib.sha256(), 0
    while left and (data := _read(path, file, min(left, BLOB_CHUNK_BYTES_MAX))):
        sha256.update(data)
        size_bytes += len(data)
        left -= len(data)
    if not left:
        raise _unreadable(path, "grows while it is read")
    digest = Digest(sha256=sha256.hexdigest(), size_bytes=size_bytes)
    return Upload(digest=digest, source=path, name=str(path))


def _read(path: Path, file: BinaryIO, size_bytes: int) -> bytes:
    try:
        data: bytes | None = file.read(size_bytes)
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    if data is None:  # A file of the kernel's that would wait for news, as /proc/kmsg.
        raise _unreadable(path, os.strerror(errno.EAGAIN))
    return data


def _unreadable(path: Path, why: str | None) -> InvalidRequest:
    return InvalidRequest("FILE_UNREADABLE", f"{path}: {why}", metadata={"path": str(path)})
