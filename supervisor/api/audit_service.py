"""AuditService: the record of what calls did, for those who may read it.

Each read is itself on record before it is answered: see `reads`.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator

from google.protobuf.timestamp_pb2 import Timestamp

from supervisor.api import callers, messages, translate
from supervisor.api.denied import require_denial
from supervisor.api.intercept import Context
from supervisor.api.paging import RECORD_BYTES, in_thread, page, to_end
from supervisor.api.reads import Reads
from supervisor.audit.codec import caller_to_json
from supervisor.audit.index import CallSummary
from supervisor.audit.own import OwnFilter
from supervisor.audit.records import no_record
from supervisor.audit.search import TIME_NS_MAX, CallFilter
from supervisor.audit.witnessed import Witnessed
from supervisor.call.state import State
from supervisor.call.types import Json
from supervisor.engine import Engine
from supervisor.errors import InvalidRequest, NotFound, NotPermitted
from supervisor.v1 import audit_pb2, audit_pb2_grpc, tool_pb2

NANOS = 10**9


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """Answers from the store; a record that this caller may not read is not there."""

    def __init__(self, engine: Engine, witnessed: Witnessed) -> None:
        self._witnessed = witnessed
        self._engine = engine
        self._store = engine.store
        self._reads = Reads(engine.store.own, time.monotonic)

    async def ListRecords(
        self, request: audit_pb2.ListRecordsRequest, context: Context
    ) -> audit_pb2.ListRecordsResponse:
        """List records, newest first."""
        rows_max = translate.page_size(request.page_size)
        require_denial(request.denied)
        owner = self._owner_wanted(request.caller)
        wanted = CallFilter(
            caller=owner or "",
            profile=request.profile,
            agent=request.agent,
            session=request.session,
            outcome=request.outcome,
            denied_only=request.denied_only,
            denied=request.denied,
            since_ns=_moment(request.HasField("since"), request.since),
            until_ns=_moment(request.HasField("until"), request.until),
            to=request.to,
            program=request.program,
            text=request.text,
        )
        keys, more = await to_end(
            lambda: self._store.find_calls(wanted, limit=rows_max, page_token=request.page_token)
        )
        await self._reads.note(
            "ListRecords", {"filter": _set_in(wanted)}, following=request.page_token
        )
        left = collections.deque(keys)

        def fetch(limit: int, token: str) -> tuple[list[CallSummary], str]:
            taken = [left.popleft() for _ in range(min(limit, len(left)))]
            following = wanted.token(taken[-1]) if left or (more and taken) else ""
            return self._store.calls_at(taken), following

        rows, token = page(fetch, self._call, rows_max=rows_max, token=request.page_token)
        return audit_pb2.ListRecordsResponse(records=rows, next_page_token=token)

    async def GetRecord(
        self, request: audit_pb2.GetRecordRequest, context: Context
    ) -> audit_pb2.GetRecordResponse:
        """Give every entry of one call, as many as fit into one answer, and the profile that it
        ran under, where wanted."""
        summary = self._record(request.call_id)
        first, wanted = max(request.from_sequence, 1), request.profile
        await self._reads.note(
            "GetRecord",
            {"call": request.call_id, "profile": wanted},
            following=first if first > 1 else "",
        )
        entries, following = await to_end(self._entries, request.call_id, first)
        summary = await to_end(self._store.records.restored, summary)
        return audit_pb2.GetRecordResponse(
            call=self._call(summary),
            entries=entries,
            next_sequence=following,
            profile_json=await to_end(self._store.profile, request.call_id) if wanted else b"",
        )

    async def ReadOutput(
        self, request: audit_pb2.ReadOutputRequest, context: Context
    ) -> AsyncIterator[audit_pb2.ReadOutputResponse]:
        """Give the recorded bytes of one stream back."""
        stream = translate.stream(request.stream)
        self._record(request.call_id)
        await self._reads.note("ReadOutput", {"call": request.call_id, "stream": stream.value})
        parts = in_thread(self._store.read_stream(request.call_id, stream))
        async with contextlib.aclosing(parts):
            async for part in parts:
                covered = part.end - part.offset if part.found is not None else 0
                for offset, data in translate.pieces(part.data, part.offset):
                    yield audit_pb2.ReadOutputResponse(data=data, offset=offset, covered=covered)

    async def ListEvents(
        self, request: audit_pb2.ListEventsRequest, context: Context
    ) -> audit_pb2.ListEventsResponse:
        """List the daemon's own entries, newest first."""
        rows_max = translate.page_size(request.page_size)
        grants = callers.current().grants
        grants.require_audit()
        if grants.audit != "all":
            raise NotPermitted(
                "AUDIT_NOT_GRANTED", "the daemon's own entries are for callers with `audit: all`"
            )
        wanted = OwnFilter(
            kind=request.kind,
            since_ns=_moment(request.HasField("since"), request.since),
            until_ns=_moment(request.HasField("until"), request.until),
            call=request.call_id,
            caller=request.caller,
        )
        found, token = await to_end(
            lambda: self._store.own.find(wanted, limit=rows_max, token=request.page_token)
        )
        await self._reads.note(
            "ListEvents", {"filter": _set_in(wanted)}, following=request.page_token
        )
        entries: list[audit_pb2.RecordEntry] = []
        size = 0
        for stored in found:
            if size >= RECORD_BYTES:
                token = str(entries[-1].index)
                break
            entries.append(messages.record_entry(stored))
            size += entries[-1].ByteSize()
        return audit_pb2.ListEventsResponse(entries=entries, next_page_token=token)

    async def GetCheckpoint(
        self, request: audit_pb2.GetCheckpointRequest, context: Context
    ) -> audit_pb2.GetCheckpointResponse:
        """Give the log's signed head."""
        callers.current().grants.require_audit()
        checkpoint, key = await to_end(self._store.head)
        return audit_pb2.GetCheckpointResponse(checkpoint=checkpoint, key=str(key))

    async def GetReceipt(
        self, request: audit_pb2.GetReceiptRequest, context: Context
    ) -> audit_pb2.GetReceiptResponse:
        """Give the receipt of a call that has ended."""
        self._record(request.call_id)
        await self._reads.note("GetReceipt", {"call": request.call_id})
        receipt = await to_end(self._store.receipt, request.call_id)
        return audit_pb2.GetReceiptResponse(receipt=receipt)

    async def GetRetention(
        self, request: audit_pb2.GetRetentionRequest, context: Context
    ) -> audit_pb2.GetRetentionResponse:
        """Tell what retention would remove now."""
        grants = callers.current().grants
        grants.require_audit()
        if grants.audit != "all":
            raise NotPermitted(
                "AUDIT_NOT_GRANTED", "what would be removed is told to callers with `audit: all`"
            )
        return messages.retention(await to_end(self._store.contents.plan))

    async def HoldContents(
        self, request: audit_pb2.HoldContentsRequest, context: Context
    ) -> audit_pb2.HoldContentsResponse:
        """Keep what a call left from retention."""
        holds = await self._hold(request.call_id, request.why, release=False)
        return audit_pb2.HoldContentsResponse(holds=holds)

    async def ReleaseContents(
        self, request: audit_pb2.ReleaseContentsRequest, context: Context
    ) -> audit_pb2.ReleaseContentsResponse:
        """Let retention have what a call left again."""
        holds = await self._hold(request.call_id, request.why, release=True)
        return audit_pb2.ReleaseContentsResponse(holds=holds)

    async def AddCheckpoint(
        self, request: audit_pb2.AddCheckpointRequest, context: Context
    ) -> audit_pb2.AddCheckpointResponse:
        """Keep the head of another log."""
        identity = callers.current()
        identity.grants.require_witness()
        caller = caller_to_json(identity.caller)
        proof = tuple(request.proof)
        await to_end(self._witnessed.take, request.checkpoint, request.old_size, proof, caller)
        await self._witnessed.commit()
        return audit_pb2.AddCheckpointResponse()

    async def _hold(self, call_id: str, why: str, *, release: bool) -> int:
        identity = callers.current()
        identity.grants.require_holds()
        self._record(call_id)
        if not translate.why(why).strip():
            raise InvalidRequest("WHY_MISSING", "say why: it goes on record", hint="--why")
        body: dict[str, Json] = {"caller": caller_to_json(identity.caller), "why": why}
        return await self._store.contents.hold(call_id, body, release=release)

    async def Erase(
        self, request: audit_pb2.EraseRequest, context: Context
    ) -> audit_pb2.EraseResponse:
        """Erase the content of a call."""
        identity = callers.current()
        identity.grants.require_erase()
        why = translate.why(request.why)
        if not why.strip():
            raise InvalidRequest("WHY_MISSING", "erasing needs a reason: it goes on record")
        owner = self._engine.owner(request.call_id)
        if not identity.grants.erases(owner):
            raise no_record(request.call_id)
        erased = await self._store.eraser.erase(request.call_id, identity.caller, why)
        return audit_pb2.EraseResponse(erased=messages.erased(erased))

    def _owner_wanted(self, caller: str) -> str | None:
        grants = callers.current().grants
        grants.require_audit()
        wanted = caller or None
        if grants.audit == "own":
            wanted = wanted or grants.caller
        if wanted is not None and not grants.reads_audit(wanted):
            raise NotPermitted("AUDIT_NOT_GRANTED", "only this caller's own records may be read")
        return wanted

    def _record(self, call_id: str) -> CallSummary:
        grants = callers.current().grants
        grants.require_audit()
        missing = no_record(call_id)
        try:
            summary, _ = self._engine.get(call_id)
        except NotFound:
            raise missing from None
        if not grants.reads_audit(summary.caller.name):
            raise missing
        return summary

    def _call(self, summary: CallSummary) -> tool_pb2.Call:
        if summary.finished is not None:
            removal = self._store.contents.removal(summary.call_id)
            return messages.call(summary, State.CLOSED, removal)
        return messages.call(summary, self._engine.get(summary.call_id)[1])

    def _entries(self, call_id: str, from_sequence: int) -> tuple[list[audit_pb2.RecordEntry], int]:
        entries: list[audit_pb2.RecordEntry] = []
        size = 0
        for stored in self._store.entries(call_id, from_sequence):
            if size >= RECORD_BYTES:
                return entries, stored.sequence
            entry = messages.record_entry(stored)
            entries.append(entry)
            size += entry.ByteSize()
        return entries, 0


def _set_in(wanted: CallFilter | OwnFilter) -> dict[str, Json]:
    """Give what a filter asks for; its `check` bounds it."""
    return {
        field.name: value
        for field in dataclasses.fields(wanted)
        if (value := getattr(wanted, field.name)) != field.default
    }


def _moment(given: bool, value: Timestamp) -> int:
    """Give a time of a filter in nanoseconds, 0 where it is not given; one that no call can have is
    moved to the nearest that the index can compare with."""
    return max(1, min(value.seconds * NANOS + value.nanos, TIME_NS_MAX)) if given else 0
