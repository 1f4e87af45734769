"""Gather the events of a call into one value, and hand its files out with their digests checked.

Nothing that came over the wire is trusted more than its digest: a file whose bytes do not match
is an error, and a path that leads out of the folder it is saved to is one too.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from supervisor.call import outcome
from supervisor.call.events import (
    Accepted,
    CallEvent,
    Denied,
    Finished,
    Flow,
    Lost,
    Output,
    Timeline,
)
from supervisor.call.types import Digest, OutputFile, SkippedFile, Stream, Usage
from supervisor.errors import (
    AuditCorrupt,
    CapacityError,
    InvariantError,
    OutcomeError,
    StockadeError,
)

OUTPUT_BYTES_MAX = 64 << 20
"""What `run` keeps of each stream in memory; `execute` and `read_output` have no such bound."""

DENIALS_MAX = 10_000
STDERR_TAIL_BYTES = 2_000


class BlobCheck:
    """Follow the bytes of one piece of content and hold them against its digest."""

    def __init__(self, digest: Digest) -> None:
        self.offset = 0
        self._digest = digest
        self._hash = hashlib.sha256()

    def expect(self, content: Digest) -> None:
        """Hold the content to this digest: the one that it was asked by is of an encrypted file."""
        self._digest = content

    def take(self, data: bytes) -> None:
        """Count and hash.

        Raises:
            AuditCorrupt: `DIGEST_MISMATCH`, as soon as there is more than announced.
        """
        self.offset += len(data)
        self._hash.update(data)
        if self.offset > self._digest.size_bytes:
            raise _mismatch(self._digest)

    def close(self) -> None:
        """Check the end.

        Raises:
            AuditCorrupt: `DIGEST_MISMATCH`.
        """
        whole = self.offset == self._digest.size_bytes
        if not whole or self._hash.hexdigest() != self._digest.sha256:
            raise _mismatch(self._digest)


class Outputs(Mapping[str, bytes]):
    """The files that the call left behind, by path under /work; read when asked for, checked."""

    def __init__(self, files: tuple[OutputFile, ...], read: Callable[[Digest], bytes]) -> None:
        self.files = {os.fsdecode(file.path): file for file in files}
        self._read = read

    def __getitem__(self, path: str) -> bytes:
        return self._read(self.files[path].digest)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return _listed(self, self.files)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write every file below `folder` and give their paths.

        Raises:
            InvariantError: `OUTPUT_PATH`, for a path that would leave `folder`.
        """
        return [
            write_output(Path(folder), file, self._read(file.digest))
            for file in self.files.values()
        ]


class AsyncOutputs:
    """The files that the call left behind, by path under /work; the async twin of `Outputs`."""

    def __init__(
        self, files: tuple[OutputFile, ...], read: Callable[[Digest], Awaitable[bytes]]
    ) -> None:
        self.files = {os.fsdecode(file.path): file for file in files}
        self._read = read

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __contains__(self, path: object) -> bool:
        return path in self.files

    def __repr__(self) -> str:
        return _listed(self, self.files)

    async def read(self, path: str) -> bytes:
        """Give a file's bytes, checked against their digest."""
        return await self._read(self.files[path].digest)

    async def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write every file below `folder` and give their paths.

        Raises:
            InvariantError: `OUTPUT_PATH`, for a path that would leave `folder`.
        """
        return [
            write_output(Path(folder), file, await self._read(file.digest))
            for file in self.files.values()
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """A call that has ended, and everything that it said.

    `stdout` and `stderr` are what arrived; the `…_truncated` flags say that the stream had more. Of
    `denials`, `flows` and `lost`, the first ten thousand each are kept.
    `record` is the leaf hash of the OUTCOME entry, and `receipt` shows that it is in the log: who
    keeps them can show a rewritten log.
    """

    call_id: str
    profile: str
    profile_digest: str
    finished: Finished
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool
    stderr_truncated: bool
    denials: tuple[Denied, ...]
    flows: tuple[Flow, ...]
    lost: tuple[Lost, ...]

    @property
    def outcome(self) -> outcome.Outcome:
        """How the call ended."""
        return self.finished.outcome

    @property
    def exit_code(self) -> int:
        """The program's exit code; 124 timed out, 125 not run, 128+n killed by signal n."""
        return outcome.exit_code(self.finished.outcome)

    @property
    def ok(self) -> bool:
        """Whether the program ended by itself with 0."""
        return self.finished.outcome == outcome.Exited(code=0)

    @property
    def usage(self) -> Usage:
        """What the call's processes used together."""
        return self.finished.usage

    @property
    def timeline(self) -> Timeline:
        """When the call entered each phase."""
        return self.finished.timeline

    @property
    def record(self) -> str:
        """The leaf hash of the OUTCOME entry, in hexadecimal."""
        return self.finished.record

    @property
    def receipt(self) -> bytes:
        """What shows, without the log, that the OUTCOME entry is in it (C2SP tlog-proof); empty for
        who attached when the call had ended: `Supervisor.receipt` gives it then."""
        return self.finished.receipt

    @property
    def skipped(self) -> tuple[SkippedFile, ...]:
        """Files that a glob named and that were not taken."""
        return self.finished.skipped

    def raise_for_outcome(self) -> None:
        """Do nothing where the program ended with 0.

        Raises:
            OutcomeError: for every other end, the outcome's name as its reason and this call as
                its `call`.
        """
        if self.ok:
            return
        tail = self.stderr[-STDERR_TAIL_BYTES:].decode(errors="replace").strip()
        started = self.finished.timeline.started_ns > 0
        error = OutcomeError(
            outcome.kind(self.outcome).upper(),
            f"call {self.call_id} {outcome.describe(self.outcome, started=started)}",
            hint=f"its standard error ends: {tail}" if tail else "",
            metadata={"call_id": self.call_id, "exit_code": str(self.exit_code)},
        )
        error.exit_code = self.exit_code
        error.call = self
        raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedCall(_Ended):
    """A call that has ended; `outputs` reads each file when it is asked for."""

    outputs: Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncFinishedCall(_Ended):
    """A call that has ended; `await call.outputs.read(path)` gives a file."""

    outputs: AsyncOutputs


class Collector:
    """Gather the events of one call, within bounds."""

    def __init__(self) -> None:
        self._accepted: Accepted | None = None
        self._finished: Finished | None = None
        self._call_id = ""
        self._data = {Stream.STDOUT: bytearray(), Stream.STDERR: bytearray()}
        self._cut = {Stream.STDOUT: False, Stream.STDERR: False}
        self._ends = {Stream.STDOUT: 0, Stream.STDERR: 0}
        self._redacted = {Stream.STDOUT: False, Stream.STDERR: False}
        self._denials: list[Denied] = []
        self._flows: list[Flow] = []
        self._lost: list[Lost] = []

    def take(self, event: CallEvent) -> None:
        """Note one event."""
        self._call_id = event.call_id
        match event.event:
            case Accepted() as accepted:
                self._accepted = accepted
            case Output() as output:
                self._take_output(output)
            case Denied() as denied if len(self._denials) < DENIALS_MAX:
                self._denials.append(denied)
            case Flow() as flow if len(self._flows) < DENIALS_MAX:
                self._flows.append(flow)
            case Lost() as lost if len(self._lost) < DENIALS_MAX:
                self._lost.append(lost)
            case Finished() as finished:
                self._finished = finished

    def finish(self, read: Callable[[Digest], bytes]) -> FinishedCall:
        """Give the call as a value.

        Raises:
            AuditCorrupt: `DIGEST_MISMATCH`, where a stream arrived whole but not as recorded.
        """
        ended = self._ended()
        return FinishedCall(**ended, outputs=Outputs(ended["finished"].outputs, read))

    def finish_async(self, read: Callable[[Digest], Awaitable[bytes]]) -> AsyncFinishedCall:
        """Give the call as a value; see `finish`."""
        ended = self._ended()
        return AsyncFinishedCall(**ended, outputs=AsyncOutputs(ended["finished"].outputs, read))

    def _ended(self) -> dict[str, typing.Any]:
        if self._accepted is None or self._finished is None:
            raise InvariantError("STREAM_INCOMPLETE", "the call has no beginning or no end")
        sizes = {}
        for summary in self._finished.streams:
            sizes[summary.stream] = summary.digest.size_bytes
            unchanged = not (self._cut.get(summary.stream) or self._redacted.get(summary.stream))
            if summary.stream in self._data and unchanged:
                self._verify(summary.stream, summary.digest)
        cut = {
            stream: self._cut[stream] or self._redacted[stream] or end < sizes.get(stream, 0)
            for stream, end in self._ends.items()
        }
        return {
            "call_id": self._call_id,
            "profile": self._accepted.profile,
            "profile_digest": self._accepted.profile_digest,
            "finished": self._finished,
            "stdout": bytes(self._data[Stream.STDOUT]),
            "stderr": bytes(self._data[Stream.STDERR]),
            "stdout_truncated": cut[Stream.STDOUT],
            "stderr_truncated": cut[Stream.STDERR],
            "denials": tuple(self._denials),
            "flows": tuple(self._flows),
            "lost": tuple(self._lost),
        }

    def _verify(self, stream: Stream, digest: Digest) -> None:
        data = self._data[stream]
        whole = len(data) == digest.size_bytes and digest.sha256 != ""
        if whole and hashlib.sha256(data).hexdigest() != digest.sha256:
            raise _mismatch(digest)

    def _take_output(self, output: Output) -> None:
        """Keep what is in order and within the bound; after a hole nothing more is kept."""
        data = self._data.get(output.stream)
        if data is None:
            return
        room = OUTPUT_BYTES_MAX - len(data)
        if self._cut[output.stream] or output.offset != self._ends[output.stream]:
            self._cut[output.stream] = True
            return
        data += output.data[:room]
        self._ends[output.stream] = output.end
        self._redacted[output.stream] |= output.covered > 0
        self._cut[output.stream] = len(output.data) > room


def write_output(folder: Path, file: OutputFile, data: bytes) -> Path:
    """Write one file below `folder`: a temporary file first, then its name, through no symlink.

    Raises:
        InvariantError: `OUTPUT_PATH`, for a path that would leave `folder`.
        CapacityError: `OUTPUT_UNWRITABLE`.
    """
    name = os.fsdecode(file.path)
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise InvariantError("OUTPUT_PATH", f"a path that leads elsewhere: {name!r}")
    root = folder.resolve()
    target = root.joinpath(*parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.parent.resolve().is_relative_to(root):
            raise InvariantError("OUTPUT_PATH", f"a path that leads elsewhere: {name!r}")
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as temporary:
            temporary.write(data)
        Path(temporary.name).chmod(file.mode & 0o777)
        Path(temporary.name).replace(target)
    except OSError as error:
        raise CapacityError("OUTPUT_UNWRITABLE", f"{str(target)!r}: {error.strerror}") from error
    return target


def _listed(outputs: object, files: Mapping[str, OutputFile]) -> str:
    sizes = ", ".join(f"{path!r}: {file.digest.size_bytes} bytes" for path, file in files.items())
    return f"{type(outputs).__name__}({{{sizes}}})"


def _mismatch(digest: Digest) -> StockadeError:
    return AuditCorrupt(
        "DIGEST_MISMATCH",
        f"the bytes that came are not those of sha256:{digest.sha256}",
        metadata={"sha256": digest.sha256},
    )
