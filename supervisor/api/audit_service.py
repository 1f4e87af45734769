"""AuditService: the record of what calls did, for those who may read it."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import AsyncIterator

from google.protobuf.timestamp_pb2 import Timestamp

from supervisor.api import callers, messages, translate
from supervisor.api.intercept import Context
from supervisor.api.paging import RECORD_BYTES, in_thread, page, to_end
from supervisor.audit.index import CallSummary
from supervisor.audit.search import TIME_NS_MAX, CallFilter
from supervisor.call.state import State
from supervisor.engine import Engine
from supervisor.errors import NotFound, NotPermitted
from supervisor.v1 import audit_pb2, audit_pb2_grpc, tool_pb2

NANOS = 10**9


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """Answers from the store; a record that this caller may not read is not there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._store = engine.store

    async def ListRecords(
        self, request: audit_pb2.ListRecordsRequest, context: Context
    ) -> audit_pb2.ListRecordsResponse:
        """List records, newest first."""
        rows_max = translate.page_size(request.page_size)
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
        entries, following = await to_end(
            self._entries, request.call_id, max(request.from_sequence, 1)
        )
        wanted = request.profile
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
        parts = in_thread(self._store.read_stream(request.call_id, stream))
        async with contextlib.aclosing(parts):
            async for offset, data in parts:
                for piece_offset, piece in translate.pieces(data, offset):
                    yield audit_pb2.ReadOutputResponse(data=piece, offset=piece_offset)

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
        missing = NotFound("RECORD_NOT_FOUND", f"there is no record of call {call_id[:100]!r}")
        try:
            summary, _ = self._engine.get(call_id)
        except NotFound:
            raise missing from None
        if not grants.reads_audit(summary.caller.name):
            raise missing
        return summary

    def _call(self, summary: CallSummary) -> tool_pb2.Call:
        if summary.finished is not None:
            return messages.call(summary, State.CLOSED)
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


def _moment(given: bool, value: Timestamp) -> int:
    """Give a time of a filter in nanoseconds, 0 where it is not given; one that no call can have is
    moved to the nearest that the index can compare with."""
    return max(1, min(value.seconds * NANOS + value.nanos, TIME_NS_MAX)) if given else 0
