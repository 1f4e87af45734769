"""The record's facade: what the engine and the API use of this room.

A state directory holds `log/` (entries), `blobs/` (contents and recordings), `index.db` (derived,
may be deleted) and `lock`. One daemon has it open at a time. Nothing of a call stays in memory
once its outcome is durable.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from supervisor.audit import interrupted as interruption
from supervisor.audit.account import (
    intent_body,
    needs_blob,
    outcome_body,
    profile_of,
    ref_of,
    refs_of,
    row_of_intent,
)
from supervisor.audit.blobs import BlobStore
from supervisor.audit.directory import BLOBS_NAME, INDEX_NAME, LOG_NAME, lock_state
from supervisor.audit.entry import CALL_ID, CALL_KINDS, Kind, StoredEntry, marked
from supervisor.audit.index import (
    CallSummary,
    Index,
    LowWater,
    with_outcome,
)
from supervisor.audit.intake import Intake
from supervisor.audit.interrupted import OpenCall
from supervisor.audit.journal import RETRY_AFTER_S, Journal, JournalObserver, JournalOptions
from supervisor.audit.reading import CatchUp, catch_up, low_water_of
from supervisor.audit.recorder import CallRecorder
from supervisor.audit.recording import RecordingWriter, Sealed
from supervisor.audit.records import LiveCall, Records
from supervisor.audit.search import EVERYTHING, CallFilter, Trail
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

T = TypeVar("T")

log = logging.getLogger("stockade.audit")


class Store:
    """An open state directory. `open` it; the async methods belong to one event loop."""

    def __init__(
        self,
        journal: Journal,
        index: Index,
        blobs: BlobStore,
        *,
        found: CatchUp,
        lock_fd: int,
        clock_ns: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._index = index
        self.blobs = blobs
        self._lock_fd = lock_fd
        self._clock_ns = clock_ns
        self._open = dict(found.open_calls)
        self._intents = dict(found.intents)
        self.interrupted = tuple(
            OpenCall(
                call_id=call_id,
                mode=row.summary.mode,
                last_sequence=row.summary.last_sequence,
                intent=self._intents[call_id],
            )
            for call_id, row in self._open.items()
        )
        self._live: dict[str, LiveCall] = {}
        self._records = Records(journal, index, blobs, self._live)
        self._intake = Intake(blobs)
        self._unplaced: dict[str, str] = {}
        self._tasks: set[asyncio.Task[CallEvent]] = set()
        self._executor = concurrent.futures.ThreadPoolExecutor(4, "record")
        self._settling: concurrent.futures.Future[None] | None = None

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
        with contextlib.ExitStack() as undo:
            lock_fd = lock_state(directory)
            undo.callback(os.close, lock_fd)
            journal, end = Journal.open(
                directory / LOG_NAME,
                options=options or JournalOptions(),
                observer=observer,
                on_fatal=on_fatal,
            )
            undo.callback(journal.close)
            blobs = BlobStore.at(directory / BLOBS_NAME, journal.fail)
            undo.callback(blobs.close)
            blobs.sweep()
            index = Index(directory / INDEX_NAME)
            undo.callback(index.close)
            found = catch_up(journal, index, blobs)
            store = cls(journal, index, blobs, found=found, lock_fd=lock_fd, clock_ns=clock_ns)
            if end.torn is not None:
                store._append_own(Kind.LOG_CUT, end.torn.to_json())
                journal.sync()
            store._find_unplaced()
            undo.pop_all()
        return store

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
            CapacityError: `JOURNAL_FULL`, `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
            AuditUnavailable: `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        if not CALL_ID.fullmatch(call_id):
            raise InvariantError("CALL_ID_INVALID", f"{call_id!r} is no call id")
        if self._records.row(call_id) is not None:
            raise InvariantError("CALL_ID_TAKEN", f"there is a call {call_id} already")
        canonical = request.canonical()
        body = intent_body(caller, request, canonical, profile, host)
        try:
            if self._intake.has_work(request, canonical, profile):
                await self._in_thread(lambda: self._intake.keep(request, canonical, profile))
            intent = self._journal.append(
                Kind.INTENT,
                marked(body, profile.mode),
                time_ns=self._clock_ns(),
                call=call_id,
                sequence=1,
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
        if kind in CALL_KINDS or not re.fullmatch(r"[a-z_]{1,32}", kind):
            raise InvariantError("KIND_INVALID", f"{kind!r} is no kind of the daemon's own")
        self._append_own(kind, body)
        await self._journal.commit()

    async def close_interrupted(
        self, call: OpenCall, message: str, *, events: Sequence[interruption.Leftover] = ()
    ) -> None:
        """Give a call of a former daemon its outcome, after `events` that were waiting to be told.
        Doing it again does nothing.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
            AuditCorrupt: `CHAIN_BROKEN`.
        """
        row = self._open.get(call.call_id)
        if row is None:
            return
        entry, finished, sealed = await self._in_thread(
            lambda: interruption.close(
                self._journal,
                self.blobs,
                row,
                message=message,
                time_ns=self._clock_ns(),
                events=events,
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
        row = self._records.row(call_id)
        if row is None:
            raise NotFound("CALL_NOT_FOUND", f"there is no call {call_id[:80]!r}")
        return self._records.up_to_date(row.summary)

    def list_calls(
        self, wanted: CallFilter = EVERYTHING, *, limit: int, page_token: str = ""
    ) -> tuple[list[CallSummary], str]:
        """Give a page of calls, newest first, and the token of the next page, "" at the end.

        Raises:
            InvalidRequest: `PAGE_TOKEN_INVALID`, `FILTER_INVALID`.
            CapacityError: `INDEX_FULL`.
        """
        keys, more = self.find_calls(wanted, limit=limit, page_token=page_token)
        return self.calls_at(keys), wanted.token(keys[-1]) if more else ""

    def find_calls(
        self, wanted: CallFilter, *, limit: int, page_token: str
    ) -> tuple[list[int], bool]:
        """Find calls, newest first, by the entries with which they begin; say whether there are
        more. A live call is found by what its INTENT says. Reads the disk.

        Raises:
            InvalidRequest: `PAGE_TOKEN_INVALID`, `FILTER_INVALID`.
            CapacityError: `INDEX_FULL`.
        """
        return self._index.find(wanted, limit=limit, token=page_token)

    def calls_at(self, keys: Iterable[int]) -> list[CallSummary]:
        """Give calls that `find_calls` found, in that order."""
        return [self._records.up_to_date(summary) for summary in self._index.summaries(keys)]

    def entries(self, call_id: str, from_sequence: int = 1) -> Iterator[StoredEntry]:
        """Give the entries of a call as they are in the log, in order. Reads the disk.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`.
        """
        return self._records.entries(call_id, from_sequence)

    def profile(self, call_id: str) -> bytes:
        """Give the canonical JSON of the profile that a call ran under. Reads the disk.

        Raises:
            NotFound: `RECORD_NOT_FOUND`, `BLOB_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`.
        """
        return self.blobs.get(profile_of(next(self.entries(call_id)).body()))

    def events(self, call_id: str, from_sequence: int = 1) -> Iterator[CallEvent]:
        """Give the record of a call as the events that its caller saw. Reads the disk.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`.
        """
        return self._records.events(call_id, from_sequence)

    def read_stream(self, call_id: str, stream: Stream) -> Iterator[tuple[int, bytes]]:
        """Give what is on record of a stream, as (offset, bytes). Reads the disk.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`.
        """
        return self._records.read_stream(call_id, stream)

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
        self._index.put([], [ref_of(digest, caller)], self._low_water())

    def may_read_blob(self, digest: Digest, caller: str) -> bool:
        """Say whether a caller uploaded a blob, or a call of it left it behind.

        A digest with another size than the blob has is that of no blob.
        """
        return self._index.may_read(ref_of(digest, caller))

    async def close(self) -> None:
        """Make everything durable and let go of the directory."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._executor.shutdown()
        for live in self._live.values():
            live.recorder.recording.close()
        await asyncio.to_thread(self._journal.close)
        if self.healthy:  # else the log on disk may end before the place that would be noted
            self._index.put([], [], self._low_water())
        self._index.close()
        self.blobs.close()
        os.close(self._lock_fd)

    def _settle(self) -> None:
        """Let a thread make searchable what waits for it, once it is enough."""
        if self._index.is_unsettled and (self._settling is None or self._settling.done()):
            self._settling = self._executor.submit(self._settle_index)

    def _settle_index(self) -> None:
        try:
            self._index.settle()
        except CapacityError as error:
            log.warning("%s", error.message)  # a search tries again, and says so

    def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _append_own(self, kind: str, body: Mapping[str, Json]) -> StoredEntry:
        return self._journal.append(kind, body, time_ns=self._clock_ns(), reserved=True)

    def _register(self, intent: StoredEntry, profile: EffectiveProfile) -> LiveCall:
        row = row_of_intent(intent)
        recorder = CallRecorder(
            intent=intent,
            journal=self._journal,
            recording=RecordingWriter(self.blobs, intent.call_id, self._journal.fail),
            policy=profile.record,
            mode=profile.mode,
            trail=row.trail or Trail(),
            clock_ns=self._clock_ns,
            finish=self._finish,
        )
        live = LiveCall(recorder=recorder, row=row)
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
        # Whoever reads in another thread finds it in one place or in the other.
        water = self._low_water(without=recorder.call_id)
        self._index.put([row], refs_of(finished, row.summary.caller.name), water)
        self._forget(recorder.call_id)
        self._settle()
        return CallEvent(
            call_id=entry.call_id, sequence=entry.sequence, time_ns=entry.time_ns, event=finished
        )

    def _low_water(self, *, without: str = "") -> LowWater:
        size_leaf = self._journal.head
        tail = LowWater(position=self._journal.tail, leaf=size_leaf[1].hex())
        intents = [
            live.recorder.intent for call_id, live in self._live.items() if call_id != without
        ]
        return low_water_of([*intents, *self._intents.values()], tail)

    def _place(self, call_id: str, sha256: str) -> None:
        if not self.blobs.place_recording(call_id, sha256):
            self._unplaced[call_id] = sha256

    def _find_unplaced(self) -> None:
        """Move recordings whose daemon ended, or had no room, before it could."""
        for path in self.blobs.part_directory.iterdir():
            row = self._index.get(path.name)
            if row is not None and row.summary.finished is not None:
                self._place(path.name, self._records.recording_digest(path.name))

    def _place_again(self) -> None:
        self._unplaced = {
            call_id: sha256
            for call_id, sha256 in self._unplaced.items()
            if not self.blobs.place_recording(call_id, sha256)
        }


def _journal_full(message: str) -> CapacityError:
    return CapacityError(
        "JOURNAL_FULL",
        f"the record has no room for another call: {message}",
        hint="make room on the filesystem of the state directory",
        retry_after_s=RETRY_AFTER_S,
    )
