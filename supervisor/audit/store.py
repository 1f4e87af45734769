"""The record's facade: what the engine and the API use of this room.

A state directory holds `log/` (entries), `blobs/` (contents and recordings), `index.db` (derived,
may be deleted) and `lock`. One daemon has it open at a time. Nothing of a call stays in memory
once its outcome is durable.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from supervisor.audit import interrupted as interruption
from supervisor.audit.account import (
    intent_body,
    is_inline,
    needs_blob,
    outcome_body,
    refs_of,
    row_of_intent,
)
from supervisor.audit.blobs import BlobStore
from supervisor.audit.entry import CALL_ID, Kind, StoredEntry
from supervisor.audit.index import (
    BlobRef,
    CallRow,
    CallSummary,
    Index,
    LowWater,
    with_outcome,
)
from supervisor.audit.interrupted import OpenCall
from supervisor.audit.journal import RETRY_AFTER_S, Journal, JournalObserver, JournalOptions
from supervisor.audit.reading import catch_up, low_water_of, read_call, read_entry
from supervisor.audit.recorder import CallRecorder
from supervisor.audit.recording import (
    FrameRef,
    RecordingReader,
    RecordingWriter,
    Sealed,
    open_recording,
)
from supervisor.audit.replay import event_of
from supervisor.call.events import CallEvent, Finished, Timeline
from supervisor.call.outcome import Failed
from supervisor.call.types import Caller, CallRequest, Digest, Json, Stream, Usage
from supervisor.errors import (
    AuditUnavailable,
    CapacityError,
    InvariantError,
    NotFound,
    StockadeError,
)

if TYPE_CHECKING:
    from supervisor.profile.model import EffectiveProfile

LOCK_NAME = "lock"
LOG_NAME = "log"
BLOBS_NAME = "blobs"
INDEX_NAME = "index.db"
LOCK_TRIES, LOCK_WAIT_S = 10, 0.02
"""`audit verify` holds the lock for an instant to see whether a daemon has it."""

PROFILES_KEPT_MAX = 1024
_CALL_KINDS = frozenset(
    {
        Kind.INTENT,
        Kind.STARTED,
        Kind.OUTPUT,
        Kind.TRUNCATED,
        Kind.DENIED,
        Kind.LOST,
        Kind.SIGNAL,
        Kind.OUTCOME,
    }
)
T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class _Live:
    recorder: CallRecorder
    row: CallRow


class Store:
    """An open state directory. `open` it; the async methods belong to one event loop."""

    def __init__(
        self,
        directory: Path,
        lock_fd: int,
        *,
        clock_ns: Callable[[], int],
        observer: JournalObserver | None,
        options: JournalOptions,
        on_fatal: Callable[[StockadeError], None] | None,
    ) -> None:
        self._directory = directory
        self._lock_fd = lock_fd
        self._clock_ns = clock_ns
        self._journal, end = Journal.open(
            directory / LOG_NAME, options=options, observer=observer, on_fatal=on_fatal
        )
        self.blobs = BlobStore.at(directory / BLOBS_NAME, self._journal.fail)
        self.blobs.sweep()
        self._index = Index(directory / INDEX_NAME)
        found = catch_up(self._journal, self._index, self.blobs)
        self._open = dict(found.open_calls)
        self._intents = dict(found.intents)
        self.interrupted = tuple(
            OpenCall(
                call_id=call_id,
                last_sequence=row.summary.last_sequence,
                intent=self._intents[call_id],
            )
            for call_id, row in self._open.items()
        )
        self._live: dict[str, _Live] = {}
        self._unplaced: dict[str, str] = {}
        self._profiles_kept: set[str] = set()
        self._tasks: set[asyncio.Task[CallEvent]] = set()
        self._executor = concurrent.futures.ThreadPoolExecutor(4, "record")
        if end.torn is not None:
            torn = end.torn
            body: dict[str, Json] = {
                "size_bytes": torn.size_bytes,
                "sha256": torn.sha256,
                "segment": torn.position.segment,
                "offset": torn.position.offset,
            }
            self._journal.append(Kind.LOG_CUT, body, time_ns=clock_ns(), reserved=True)
            self._journal.sync()
        self._find_unplaced()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        observer: JournalObserver | None = None,
        options: JournalOptions | None = None,
        on_fatal: Callable[[StockadeError], None] | None = None,
    ) -> Store:
        """Open a state directory, made where it is missing, and bring it up to date.

        `on_fatal` is called once, from the journal's thread, when the record can no longer be
        written; it must only leave word.

        Raises:
            AuditUnavailable: `STATE_LOCKED`, where another daemon has it.
            AuditCorrupt: `CHAIN_BROKEN`, where the log is damaged.
            HostError: `SQLITE_TOO_OLD`.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = _lock(directory / LOCK_NAME)
        try:
            return cls(
                directory,
                lock_fd,
                clock_ns=clock_ns,
                observer=observer,
                options=options or JournalOptions(),
                on_fatal=on_fatal,
            )
        except BaseException:
            os.close(lock_fd)
            raise

    @property
    def failure(self) -> StockadeError | None:
        """Give why the record can no longer be written; None while it can."""
        return self._journal.failure

    @property
    def healthy(self) -> bool:
        """Say whether the record can be written."""
        return self._journal.failure is None

    @property
    def reserve_is_promised(self) -> bool:
        """Say whether the reserve for outcomes consists of allocated blocks."""
        return self._journal.reserve_is_promised

    def check_admission(self, live_calls: int) -> None:
        """Make sure that one more call than `live_calls` can be recorded to its end.

        Raises:
            CapacityError: `JOURNAL_FULL`, with a delay.
            AuditUnavailable: `JOURNAL_UNAVAILABLE`.
        """
        self._journal.admit(live_calls)
        if self._unplaced:
            self._place_again()
        if not self._index.complete and not self._index.put([], [], self._low_water()):
            raise _journal_full("the index cannot be written")

    async def begin(
        self,
        call_id: str,
        caller: Caller,
        request: CallRequest,
        profile: EffectiveProfile,
        host: Mapping[str, Json],
    ) -> CallRecorder:
        """Write INTENT and wait until it is durable; nothing may run before.

        Raises:
            CapacityError: `JOURNAL_FULL`.
            AuditUnavailable: `JOURNAL_UNAVAILABLE`.
        """
        if not CALL_ID.fullmatch(call_id):
            raise InvariantError("CALL_ID_INVALID", f"{call_id!r} is no call id")
        canonical = request.canonical()
        body = intent_body(caller, request, canonical, profile, host)
        try:
            if self._has_inputs(request, canonical, profile):
                await self._in_thread(lambda: self._keep_inputs(request, canonical, profile))
            intent = self._journal.append(
                Kind.INTENT, body, time_ns=self._clock_ns(), call=call_id, sequence=1
            )
        except AuditUnavailable as error:
            if error.reason == "RECORD_FULL":
                raise _journal_full(error.message) from error
            raise
        live = self._register(intent, profile)
        try:
            await self._journal.commit()
        except asyncio.CancelledError:
            self._abandon(live.recorder)
            raise
        except StockadeError:
            self._forget(call_id)
            raise
        self._index.put([live.row], [], self._low_water())
        return live.recorder

    async def note(self, kind: str, body: Mapping[str, Json]) -> None:
        """Write an entry of the daemon itself and wait until it is durable.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        """
        if kind in _CALL_KINDS or not re.fullmatch(r"[a-z_]{1,32}", kind):
            raise InvariantError("KIND_INVALID", f"{kind!r} is no kind of the daemon's own")
        self._append_own(kind, body)
        await self._journal.commit()

    async def close_interrupted(self, call: OpenCall, message: str) -> None:
        """Give a call of a former daemon its outcome. Doing it again does nothing.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
            AuditCorrupt: `CHAIN_BROKEN`.
        """
        row = self._open.get(call.call_id)
        if row is None:
            return
        entry, finished, sealed = await self._in_thread(
            lambda: interruption.close(
                self._journal, self.blobs, row, message=message, time_ns=self._clock_ns()
            )
        )
        await self._journal.commit()
        if sealed is not None:
            self._place(call.call_id, sealed.sha256)
        self._open.pop(call.call_id, None)
        self._intents.pop(call.call_id, None)
        done = with_outcome(row, finished, last=entry.position, sequence=entry.sequence)
        self._index.put([done], refs_of(finished, row.summary.caller.name), self._low_water())

    def find_request(self, caller: str, request_id: str) -> tuple[str, str] | None:
        """Give call id and fingerprint of a request that this caller made before."""
        return self._index.find_request(caller, request_id)

    def get_call(self, call_id: str) -> CallSummary:
        """Give a call in short.

        Raises:
            NotFound: `CALL_NOT_FOUND`.
        """
        row = self._row(call_id)
        if row is None:
            raise NotFound("CALL_NOT_FOUND", f"there is no call {call_id[:80]!r}")
        return self._up_to_date(row.summary)

    def list_calls(
        self,
        *,
        caller: str | None = None,
        profile: str | None = None,
        denied_only: bool = False,
        since_ns: int = 0,
        limit: int,
        page_token: str = "",
    ) -> tuple[list[CallSummary], str]:
        """Give a page of calls, newest first, and the token of the next page, "" at the end.

        Raises:
            InvalidRequest: `PAGE_TOKEN_INVALID`.
        """
        summaries, token = self._index.page(
            caller=caller,
            profile=profile,
            denied_only=denied_only,
            since_ns=since_ns,
            limit=limit,
            token=page_token,
        )
        return [self._up_to_date(summary) for summary in summaries], token

    def entries(self, call_id: str, from_sequence: int = 1) -> Iterator[StoredEntry]:
        """Give the entries of a call as they are in the log, in order. Reads the disk.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`.
        """
        row = self._record(call_id)
        entries = read_call(self._journal, row)
        return (entry for entry in entries if entry.sequence >= from_sequence)

    def events(self, call_id: str, from_sequence: int = 1) -> Iterator[CallEvent]:
        """Give the record of a call as the events that its caller saw. Reads the disk.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`.
        """
        return self._replay(call_id, self.entries(call_id, from_sequence))

    def read_stream(self, call_id: str, stream: Stream) -> Iterator[tuple[int, bytes]]:
        """Give what is on record of a stream, as (offset, bytes). Reads the disk.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`.
        """
        return self._read_stream(call_id, self.entries(call_id), stream)

    def grant_blob(self, digest: Digest, caller: str) -> None:
        """Let a caller read, and name, a blob that it uploaded.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        """
        body: dict[str, Json] = {
            "sha256": digest.sha256,
            "size_bytes": digest.size_bytes,
            "caller": caller,
        }
        self._journal.append(Kind.BLOB, body, time_ns=self._clock_ns())
        self._index.put([], [BlobRef(sha256=digest.sha256, caller=caller)], self._low_water())

    def may_read_blob(self, digest: Digest, caller: str) -> bool:
        """Say whether a caller uploaded a blob, or a call of it left it behind."""
        return self._index.may_read(BlobRef(sha256=digest.sha256, caller=caller))

    async def close(self) -> None:
        """Make everything durable and let go of the directory."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._executor.shutdown()
        await asyncio.to_thread(self._journal.close)
        self._index.put([], [], self._low_water())
        self._index.close()
        os.close(self._lock_fd)

    def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _append_own(self, kind: str, body: Mapping[str, Json]) -> StoredEntry:
        return self._journal.append(kind, body, time_ns=self._clock_ns(), reserved=True)

    def _has_inputs(
        self, request: CallRequest, canonical: bytes, profile: EffectiveProfile
    ) -> bool:
        """Say whether there is anything to keep before INTENT can name it."""
        return (
            profile.digest not in self._profiles_kept
            or not is_inline(canonical)
            or any(file.data is not None for file in request.files)
        )

    def _keep_inputs(
        self, request: CallRequest, canonical: bytes, profile: EffectiveProfile
    ) -> None:
        """Keep what INTENT names by digest: the profile, a long request, files sent along."""
        if profile.digest not in self._profiles_kept:
            self.blobs.put(profile.canonical)
            if len(self._profiles_kept) >= PROFILES_KEPT_MAX:
                self._profiles_kept.clear()
            self._profiles_kept.add(profile.digest)
        if not is_inline(canonical):
            self.blobs.put(canonical)
        for file in request.files:
            if file.data is not None:
                self.blobs.put(file.data)

    def _register(self, intent: StoredEntry, profile: EffectiveProfile) -> _Live:
        recorder = CallRecorder(
            intent=intent,
            journal=self._journal,
            recording=RecordingWriter(self.blobs, intent.call_id, self._journal.fail),
            policy=profile.record,
            clock_ns=self._clock_ns,
            finish=self._finish,
        )
        live = _Live(recorder=recorder, row=row_of_intent(intent))
        self._live[intent.call_id] = live
        self._journal.set_live_calls(len(self._live))
        return live

    def _forget(self, call_id: str) -> None:
        del self._live[call_id]
        self._journal.set_live_calls(len(self._live))

    def _abandon(self, recorder: CallRecorder) -> None:
        """Close a call whose caller went away before it was told that it is on record."""
        now = self._clock_ns()
        finished = Finished(
            outcome=Failed(reason="ABANDONED", message="the caller went away before the start"),
            timeline=Timeline(accepted_ns=recorder.intent.time_ns, ended_ns=now, destroyed_ns=now),
            streams=(),
            outputs=(),
            skipped=(),
            usage=Usage(),
            denials=0,
        )
        task = asyncio.ensure_future(recorder.finish(finished))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, recorder: CallRecorder, finished: Finished) -> CallEvent:
        """Seal the recording and write OUTCOME: the second half of `CallRecorder.finish`."""
        live = self._live[recorder.call_id]
        sealed: Sealed | None = None
        if recorder.recording.begun:
            sealed = await self._in_thread(recorder.recording.seal)
        finished = replace(finished, streams=recorder.streams())

        def make_body() -> tuple[dict[str, Json], Finished]:
            return outcome_body(
                finished, sealed, record_full=recorder.record_full, blobs=self.blobs
            )

        blocks = needs_blob(finished)
        body, finished = await self._in_thread(make_body) if blocks else make_body()
        entry = recorder.append(Kind.OUTCOME, body, reserved=True)
        await self._journal.commit()
        if sealed is not None:
            self._place(recorder.call_id, sealed.sha256)
        finished = replace(finished, record=entry.leaf, record_bytes=len(entry.json) + 1)
        row = with_outcome(live.row, finished, last=entry.position, sequence=entry.sequence)
        self._forget(recorder.call_id)
        self._index.put([row], refs_of(finished, row.summary.caller.name), self._low_water())
        return CallEvent(
            call_id=entry.call_id, sequence=entry.sequence, time_ns=entry.time_ns, event=finished
        )

    def _low_water(self) -> LowWater:
        size_leaf = self._journal.head
        tail = LowWater(position=self._journal.tail, leaf=size_leaf[1].hex())
        intents = [live.recorder.intent for live in self._live.values()]
        return low_water_of([*intents, *self._intents.values()], tail)

    def _row(self, call_id: str) -> CallRow | None:
        live = self._live.get(call_id)
        return live.row if live is not None else self._index.get(call_id)

    def _record(self, call_id: str) -> CallRow:
        row = self._row(call_id)
        if row is None:
            raise NotFound("RECORD_NOT_FOUND", f"there is no record of call {call_id[:80]!r}")
        return row

    def _up_to_date(self, summary: CallSummary) -> CallSummary:
        live = self._live.get(summary.call_id)
        if live is None:
            return summary
        recorder = live.recorder
        return replace(summary, last_sequence=recorder.last_sequence, denials=recorder.denials)

    def _replay(self, call_id: str, entries: Iterator[StoredEntry]) -> Iterator[CallEvent]:
        with contextlib.closing(_Frames(self, call_id)) as frames:
            for entry in entries:
                event = event_of(entry, frames.read, self.blobs)
                if event is not None:
                    yield event

    def _read_stream(
        self, call_id: str, entries: Iterator[StoredEntry], stream: Stream
    ) -> Iterator[tuple[int, bytes]]:
        with contextlib.closing(_Frames(self, call_id)) as frames:
            for entry in entries:
                if entry.kind == Kind.OUTPUT:
                    ref = FrameRef.from_json(entry.body())
                    if ref.stream is stream:
                        yield ref.offset, frames.read(ref)

    def open_recording(self, call_id: str) -> RecordingReader:
        """Open the recording of a call, live or not.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
        """
        for _ in range(3):  # it may be sealed, which moves it, between looking and opening
            reader = open_recording(self.blobs, call_id, self._recording_digest(call_id))
            if reader is not None:
                return reader
        raise NotFound("RECORD_NOT_FOUND", f"the recording of call {call_id} is gone")

    def _recording_digest(self, call_id: str) -> str:
        live = self._live.get(call_id)
        if live is not None:
            return live.recorder.recording.sealed_sha256
        row = self._record(call_id)
        if row.summary.finished is None:
            return ""
        recording = read_entry(self._journal, row.last).body().get("recording")
        return str(recording["sha256"]) if isinstance(recording, dict) else ""

    def _place(self, call_id: str, sha256: str) -> None:
        if not self.blobs.place_recording(call_id, sha256):
            self._unplaced[call_id] = sha256

    def _find_unplaced(self) -> None:
        """Move recordings whose daemon ended, or had no room, before it could."""
        for path in self.blobs.part_directory.iterdir():
            row = self._index.get(path.name)
            if row is not None and row.summary.finished is not None:
                self._place(path.name, self._recording_digest(path.name))

    def _place_again(self) -> None:
        self._unplaced = {
            call_id: sha256
            for call_id, sha256 in self._unplaced.items()
            if not self.blobs.place_recording(call_id, sha256)
        }


class _Frames:
    """The recording of a call, opened when the first frame is read."""

    def __init__(self, store: Store, call_id: str) -> None:
        self._store = store
        self._call_id = call_id
        self._reader: RecordingReader | None = None

    def read(self, ref: FrameRef) -> bytes:
        if self._reader is None:
            self._reader = self._store.open_recording(self._call_id)
        return self._reader.read(ref)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for attempt in range(LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt < LOCK_TRIES - 1:
                time.sleep(LOCK_WAIT_S)
        else:
            return fd
    os.close(fd)
    raise AuditUnavailable(
        "STATE_LOCKED",
        f"another daemon has the state directory {path.parent}",
        hint="stop it, or give this one a --state of its own",
    )


def _journal_full(message: str) -> CapacityError:
    return CapacityError(
        "JOURNAL_FULL",
        f"the record has no room for another call: {message}",
        hint="make room on the filesystem of the state directory",
        retry_after_s=RETRY_AFTER_S,
    )
