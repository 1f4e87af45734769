"""The record's facade: what the engine and the API use of this room.

A state directory holds `log/` (entries), `tlog/` (their tree, and its signed head), `log.key` and
`log.pub` (who signs it, unless another key is given), `blobs/` (contents and recordings),
`index.db` (derived, may be deleted) and `lock`. One daemon has it open at a time. Nothing of a call
stays in memory once its outcome is durable.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from supervisor.audit import interrupted as interruption
from supervisor.audit.account import (
    inputs_of,
    intent_body,
    needs_blob,
    outcome_body,
    profile_of,
    ref_of,
    refs_instead,
    refs_of,
    row_of_intent,
)
from supervisor.audit.blobs import BlobStore
from supervisor.audit.contents import Contents
from supervisor.audit.contradicted import push_heads
from supervisor.audit.directory import BLOBS_NAME, INDEX_NAME, LOG_NAME, TREE_NAME, lock_state
from supervisor.audit.entry import CALL_ID, Kind, StoredEntry, marked
from supervisor.audit.erasing import Eraser
from supervisor.audit.files import CallFiles
from supervisor.audit.index import CallSummary, Index, LowWater, with_outcome
from supervisor.audit.interrupted import OpenCall
from supervisor.audit.journal import (
    RETRY_AFTER_S,
    Journal,
    JournalObserver,
    JournalOptions,
    journal_full,
)
from supervisor.audit.keys import keep_public, keys_of
from supervisor.audit.locker import Locker, plainly
from supervisor.audit.masked import Kept, as_it_was, is_quick, keep
from supervisor.audit.masks import Masks, redact_key
from supervisor.audit.notes import Signer, VerifierKey
from supervisor.audit.outlet import Outlet
from supervisor.audit.own import OwnEntries
from supervisor.audit.placing import Placing
from supervisor.audit.reading import CatchUp, catch_up, low_water_of, read_payloads
from supervisor.audit.recorder import CallRecorder
from supervisor.audit.recording import RecordingWriter, Sealed
from supervisor.audit.records import LiveCall, Records
from supervisor.audit.recovery import TornTail
from supervisor.audit.redaction.found import Piece
from supervisor.audit.retention import RetainPolicy, Retention, open_retention
from supervisor.audit.sealing import ContentKey
from supervisor.audit.search import EVERYTHING, CallFilter, Trail
from supervisor.audit.space import make_folder, sync_directory
from supervisor.audit.threads import RecordThreads
from supervisor.audit.tree import LogTree
from supervisor.audit.vault import PLAIN, Encryption, Erasure, Vault
from supervisor.audit.watermark import Watermark
from supervisor.audit.witness import Pusher, Witness, WitnessObserver
from supervisor.call.events import CallEvent, Finished
from supervisor.call.texts import brief
from supervisor.call.types import Caller, CallRequest, Digest, Json, Stream
from supervisor.errors import (
    AuditUnavailable,
    CallStateError,
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
        locker: Locker,
        *,
        tree: LogTree,
        witnesses: Pusher,
        retention: Retention | None,
        found: CatchUp,
        lock_fd: int,
        masks: Masks,
        watermark: Watermark | None,
        clock_ns: Callable[[], int],
    ) -> None:
        self.masks = masks
        self._journal = journal
        self._tree = tree
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
        self.own = OwnEntries(journal, clock_ns, masks)
        self._live: dict[str, LiveCall] = {}
        self._threads = RecordThreads()
        self.locker = locker
        self.records = Records(journal, index, blobs, self._live, locker)
        self.outlet = Outlet(journal, tree, self.records)
        self.watermark = watermark
        self.eraser = Eraser(self.own, self.records, locker, self._threads.run, self._erased)
        self._placing = Placing(blobs)
        self._tasks: set[asyncio.Task[CallEvent]] = set()
        self._settling: concurrent.futures.Future[None] | None = None
        self._witnesses = witnesses
        self.contents = Contents(index, self.own, retention, self.eraser.turn)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        signer: Signer | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        observer: JournalObserver | None = None,
        options: JournalOptions | None = None,
        on_fatal: Callable[[StockadeError], None] | None = None,
        witnesses: Sequence[Witness] = (),
        witness_observer: WitnessObserver | None = None,
        retain: RetainPolicy | None = None,
        encryption: Encryption = PLAIN,
        masks: Callable[[bytes], Masks] = Masks,
        watermark: Watermark | None = None,
    ) -> Store:
        """Open a state directory, made where it is missing, and bring it up to date. From then on
        `witnesses` get its heads, and what `retain` does not keep goes; content is kept as
        `encryption` says. `signer` signs the log's heads; without, the key in the directory does.
        `on_fatal` is called once, from the journal's thread, when the record can no longer be
        written; it must only leave word.

        Raises:
            AuditUnavailable: `STATE_LOCKED`, where another daemon has it.
            AuditCorrupt: `CHAIN_BROKEN`, where the log is damaged; `CHECKPOINT_BROKEN`, where it
                is not the one whose head was signed.
            HostError: `SQLITE_TOO_OLD`, `KEY_INVALID`, `KEY_EXPOSED`, `KEY_OTHER`,
                `KEY_UNAVAILABLE`.
        """
        make_folder(directory)
        with contextlib.ExitStack() as undo:
            lock_fd = lock_state(directory)
            undo.callback(os.close, lock_fd)
            signer, former = keys_of(directory, signer)
            tree = LogTree(
                directory / TREE_NAME, signer, lambda at: read_payloads(journal, at), keys=former
            )
            journal, end = Journal.open(
                directory / LOG_NAME,
                options=options or JournalOptions(),
                observer=observer,
                on_fatal=on_fatal,
                on_durable=tree.extend,
            )
            undo.callback(journal.close)
            tree.load(end.size)
            keep_public(directory, signer.key)
            blobs = BlobStore.at(directory / BLOBS_NAME, journal.fail)
            undo.callback(blobs.close)
            blobs.sweep()
            sync_directory(directory)  # the log is no log if its folder is gone with the power
            index = Index(directory / INDEX_NAME)
            undo.callback(index.close)
            vault = Vault(directory, encryption, fail=journal.fail, fates=index)
            found = catch_up(journal, index, blobs)
            vault.destroy_all(found.erased)  # a daemon may have died after the entry of one
            retention = open_retention(directory, journal, index, blobs, vault, retain, clock_ns)
            undo.callback(retention.close if retention else lambda: None)
            store = cls(
                journal, index, blobs, Locker(blobs, vault), tree=tree,
                witnesses=push_heads(tree, journal, witnesses, witness_observer, clock_ns),
                retention=retention, found=found, lock_fd=lock_fd,
                masks=masks(redact_key(directory)), watermark=watermark, clock_ns=clock_ns,
            )  # fmt: skip
            store._begin(end.torn)
            undo.pop_all()
        return store

    def _begin(self, torn: TornTail | None) -> None:
        """Say what was cut off, and begin what goes on by itself."""
        if torn is not None:
            self.own.append(Kind.LOG_CUT, torn.to_json(), reserved=True)
            self._journal.sync()
        self._placing.find(self._recording_digest)
        self._witnesses.start()
        self.contents.start()

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
            CapacityError: `JOURNAL_FULL`, `AUDIT_BACKLOG`, with a delay.
            AuditUnavailable: `JOURNAL_UNAVAILABLE`, `HEAD_UNSIGNED`.
        """
        if self.watermark is not None:
            self.watermark.require()
        if (error := self._tree.unsigned) is not None:
            raise AuditUnavailable(
                "HEAD_UNSIGNED",
                f"the log's head cannot be signed: {error.message}",
                hint=error.hint,
                retry_after_s=RETRY_AFTER_S,
            )
        self._journal.admit(live_calls)
        self._placing.again()
        if not self._index.complete and not self._index.put([], [], self._low_water()):
            raise journal_full("the index cannot be written")

    async def begin(
        self,
        call_id: str,
        caller: Caller,
        request: CallRequest,
        profile: EffectiveProfile,
        host: Mapping[str, Json],
        secrets: Mapping[str, bytes] | None = None,
    ) -> CallRecorder:
        """Write INTENT and wait until it is durable; nothing may run before. `secrets` are the
        values by name that the daemon hands out to the call: they are kept off the record.

        Raises:
            CapacityError: `JOURNAL_FULL`, `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
            AuditUnavailable: `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        if not CALL_ID.fullmatch(call_id):
            raise InvariantError("CALL_ID_INVALID", f"{call_id!r} is no call id")
        if self.records.row(call_id) is not None:
            raise InvariantError("CALL_ID_TAKEN", f"there is a call {call_id} already")
        canonical = request.canonical()
        kept = await self._kept(canonical, profile, secrets or {})
        files = self.locker.files(call_id, caller.name, kept.mask)
        try:
            stored = plainly(request, kept.request)
            given = request, kept.request, profile
            if self.locker.has_work(*given):
                stored = await self._threads.take_in(
                    lambda: self.locker.keep(call_id, caller.name, *given, files)
                )
            body = intent_body(caller, request, profile, host, kept, stored)
            intent = self._journal.append(
                Kind.INTENT, marked(body, profile.mode), time_ns=self._clock_ns(), call=call_id,
                sequence=1,
            )  # fmt: skip
        except StockadeError as error:
            self.locker.vault.discard(call_id)  # no entry names its key
            if error.reason == "RECORD_FULL":
                raise journal_full(error.message) from error
            raise
        live = self._register(intent, profile, files, self.locker.begin(call_id, stored))
        try:
            await self._journal.commit()
        except asyncio.CancelledError:
            self._abandon(live.recorder)
            raise
        except StockadeError:
            self._forget(call_id)
            raise
        self._index.note([live.row], inputs_of(body, stored.files))
        return live.recorder

    async def note(self, kind: str, body: Mapping[str, Json]) -> None:
        """Write an entry of the daemon itself, durably; raises as `own.note`."""
        await self.own.note(kind, body)

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
        entry, finished, sealed = await self._threads.run(
            lambda: interruption.close(
                self._journal,
                self.blobs,
                row,
                message=message,
                time_ns=self._clock_ns(),
                events=events,
                mask=self.masks.of_former(call.intent.body()),
            )
        )
        await self._journal.commit()
        if sealed is not None:
            self._placing.place(call.call_id, sealed.sha256)
        self._open.pop(call.call_id, None)
        self._intents.pop(call.call_id, None)
        done = with_outcome(row, finished, last=entry.position, sequence=entry.sequence)
        refs = refs_of(finished, row.summary.caller.name, entry.body())
        self._index.put([done], refs, self._low_water())

    def find_request(self, caller: str, request_id: str) -> tuple[str, str] | None:
        """Give call id and fingerprint of a request that this caller made before; raises as
        `Records.fingerprint` does, where nobody here can tell that of an encrypted call."""
        found = self._index.find_request(caller, request_id)
        return None if found is None else (found[0], self.records.fingerprint(found[0]))

    def get_call(self, call_id: str) -> CallSummary:
        """Give a call in short.

        Raises:
            NotFound: `CALL_NOT_FOUND`.
        """
        row = self.records.row(call_id)
        if row is None:
            raise NotFound("CALL_NOT_FOUND", f"there is no call {brief(call_id)!r}")
        return self.records.up_to_date(row.summary)

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
        """Find calls, newest first, by their first entries; say whether there are more. A live
        call is found by what its INTENT says. Reads the disk.

        Raises:
            InvalidRequest: `PAGE_TOKEN_INVALID`, `FILTER_INVALID`.
            CapacityError: `INDEX_FULL`.
        """
        return self._index.find(wanted, limit=limit, token=page_token, clean=self.own.chosen.text)

    def calls_at(self, keys: Iterable[int]) -> list[CallSummary]:
        """Give calls that `find_calls` found, in that order."""
        return [self.records.up_to_date(summary) for summary in self._index.summaries(keys)]

    def entries(self, call_id: str, from_sequence: int = 1) -> Iterator[StoredEntry]:
        """Give the entries of a call as they are in the log, in order. Reads the disk.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`.
        """
        return self.records.entries(call_id, from_sequence)

    def profile(self, call_id: str) -> bytes:
        """Give the canonical JSON of the profile that a call ran under. Reads the disk.

        Raises:
            NotFound: `RECORD_NOT_FOUND`, `BLOB_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`.
        """
        return self.blobs.get(profile_of(next(self.entries(call_id)).body()))

    def head(self) -> tuple[bytes, VerifierKey]:
        """Give the log's head, signed now, and the key that verifies it."""
        return self._tree.signed(), self._tree.key

    def receipt(self, call_id: str) -> bytes:
        """Give the receipt of the OUTCOME entry of a call, with its exact bytes. Reads the disk.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            CallStateError: `CALL_NOT_CLOSED`.
            AuditUnavailable: `TREE_BEHIND`.
            AuditCorrupt: `CHAIN_BROKEN`.
        """
        for entry in self.records.entries(call_id, 1):
            if entry.kind == Kind.OUTCOME:
                return replace(self._tree.receipt(entry.index), extra=entry.json).encode()
        raise CallStateError(
            "CALL_NOT_CLOSED",
            f"call {call_id} has not ended: there is no outcome to give a receipt of",
            hint="ask again once it has",
        )

    def events(
        self, call_id: str, from_sequence: int = 1, *, content: bool = True
    ) -> Iterator[CallEvent]:
        """Give the record of a call as the events that its caller saw, without its output where
        `content` is not wanted. Reads the disk.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`.
        """
        return self.records.events(call_id, from_sequence, content=content)

    def read_stream(self, call_id: str, stream: Stream) -> Iterator[Piece]:
        """Give what is on record of a stream. Reads the disk.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`.
        """
        return self.records.read_stream(call_id, stream)

    def grant_blob(
        self, digest: Digest, caller: str, told: Mapping[str, Json] | None = None
    ) -> None:
        """Let a caller read, and name, a blob that it uploaded, by what it is stored as; `told`
        says what of it.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        """
        named: dict[str, Json] = {"sha256": digest.sha256, "size_bytes": digest.size_bytes}
        body = {**named, "caller": caller, **(told or {})}
        self.own.append(Kind.BLOB, body)
        refs = [ref_of(digest, caller), *refs_instead(body, caller)]
        self._index.put([], refs, self._low_water())

    def may_read_blob(self, digest: Digest, caller: str) -> bool:
        """Say whether a caller uploaded a blob, or gave it to a call, or a call of it left it
        behind.

        A digest with another size than the blob has is that of no blob.
        """
        return self.records.blob_named(digest, caller) is not None

    async def close(self) -> None:
        """Make everything durable and let go of the directory."""
        await asyncio.to_thread(self.contents.close)
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._threads.shutdown()
        for live in self._live.values():
            live.recorder.recording.close()
        await asyncio.to_thread(self._witnesses.settle)  # what they say is still to be recorded
        await asyncio.to_thread(self._journal.close)
        if self.healthy:
            await asyncio.to_thread(self._tree.close)
        await asyncio.to_thread(self._witnesses.close)
        if self.healthy:  # else the log on disk may end before the place that would be noted
            self._index.put([], [], self._low_water())
        self._index.close()
        self.blobs.close()
        os.close(self._lock_fd)

    def _settle(self) -> None:
        """Let a thread make searchable what waits for it, once it is enough."""
        if self._index.is_unsettled and (self._settling is None or self._settling.done()):
            self._settling = self._threads.submit(self._settle_index)

    def _settle_index(self) -> None:
        try:
            self._index.settle()
        except CapacityError as error:
            log.warning("%s", error.message)  # a search tries again, and says so

    async def _kept(
        self, canonical: bytes, profile: EffectiveProfile, secrets: Mapping[str, bytes]
    ) -> Kept:
        given = self.masks, profile.record.redact, secrets, canonical
        if is_quick(*given):
            return keep(*given)
        return await self._threads.take_in(lambda: keep(*given))

    def _register(
        self,
        intent: StoredEntry,
        profile: EffectiveProfile,
        files: CallFiles,
        key: ContentKey | None,
    ) -> LiveCall:
        row = row_of_intent(intent)
        recorder = CallRecorder(
            intent=intent,
            journal=self._journal,
            recording=RecordingWriter(self.blobs, intent.call_id, self._journal.fail, key),
            policy=profile.record,
            mode=profile.mode,
            trail=row.trail or Trail(),
            files=files,
            clock_ns=self._clock_ns,
            finish=self._finish,
        )
        live = LiveCall(recorder=recorder, row=row)
        self._live[intent.call_id] = live
        self._journal.set_live_calls(len(self._live))
        return live

    def _forget(self, call_id: str) -> None:
        del self._live[call_id]
        self.locker.end(call_id)
        self._journal.set_live_calls(len(self._live))

    def _abandon(self, recorder: CallRecorder) -> None:
        """Close a call whose caller went away before it was told that it is on record."""
        finished = interruption.abandoned(recorder.intent.time_ns, self._clock_ns())
        task = asyncio.ensure_future(recorder.finish(finished))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, recorder: CallRecorder, finished: Finished) -> CallEvent:
        """Seal the recording and write OUTCOME: the second half of `CallRecorder.finish`."""
        live = self._live[recorder.call_id]
        sealed: Sealed | None = None
        if recorder.holds:
            await self._threads.run(recorder.flush)
        if recorder.recording.begun:
            sealed = await self._threads.run(recorder.recording.seal)
        finished = replace(finished, streams=recorder.streams())
        shown, redactions = recorder.shown(finished)
        told, more = self.locker.recorded(recorder.call_id, shown)

        def make_body() -> tuple[dict[str, Json], Finished]:
            return outcome_body(told, sealed, record_full=recorder.record_full, blobs=self.blobs)

        blocks = needs_blob(told)
        body, stored = await self._threads.run(make_body) if blocks else make_body()
        entry = recorder.append(Kind.OUTCOME, {**body, **redactions, **more}, reserved=True)
        await self._journal.commit()
        if sealed is not None:
            self._placing.place(recorder.call_id, sealed.sha256)
        stored = replace(stored, record=entry.leaf, record_bytes=len(entry.json) + 1)
        row = with_outcome(live.row, stored, last=entry.position, sequence=entry.sequence)
        # Whoever reads in another thread finds it in one place or in the other.
        water = self._low_water(without=recorder.call_id)
        self._index.put([row], refs_of(stored, row.summary.caller.name, entry.body()), water)
        self._forget(recorder.call_id)
        self._settle()
        receipt = await self._threads.run(lambda: self._tree.receipt_or_none(entry.index))
        return CallEvent(
            call_id=entry.call_id,
            sequence=entry.sequence,
            time_ns=entry.time_ns,
            event=replace(as_it_was(finished, told, stored), receipt=receipt),
        )

    def _low_water(self, *, without: str = "") -> LowWater:
        size_leaf = self._journal.head
        tail = LowWater(position=self._journal.tail, leaf=size_leaf[1].hex())
        intents = [
            live.recorder.intent for call_id, live in self._live.items() if call_id != without
        ]
        return low_water_of([*intents, *self._intents.values(), *self.eraser.pending], tail)

    def _erased(self, call_id: str, erased: Erasure) -> None:
        self._index.put([], [], self._low_water(), erased={call_id: erased})

    def _recording_digest(self, call_id: str) -> str | None:
        row = self._index.get(call_id)
        ended = row is not None and row.summary.finished is not None
        return self.records.recording_digest(call_id) if ended else None
