"""ToolService: run a program, follow it, talk to it, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from supervisor.api import callers, messages, translate
from supervisor.api.blobs import BlobDoor
from supervisor.api.intercept import Context
from supervisor.api.paging import page, to_end
from supervisor.api.reads import Reads
from supervisor.audit.index import CallSummary
from supervisor.audit.locker import without_any_digest
from supervisor.call.events import CallEvent, Finished
from supervisor.call.state import State
from supervisor.call.texts import brief
from supervisor.call.types import STDIN_CHUNK_BYTES_MAX, CallRequest, Json
from supervisor.engine import Engine, Subscription
from supervisor.errors import CapacityError, InvalidRequest, NotFound, NotPermitted, StockadeError
from supervisor.v1 import tool_pb2, tool_pb2_grpc

SHARE_RETRY_S = 1.0
INLINE_BYTES = 256 * 1024
LIVE_ROWS_MAX = 10_000
LIVE_TOKEN = re.compile(r"[0-9a-f-]{36}", re.ASCII)


class ToolService(tool_pb2_grpc.ToolServiceServicer):
    """Answers from the engine; another caller's call is not there without the right to it.

    `calls_per_caller` is how many live calls one caller may have, None for as many as there is
    room; `rejected` hears the reason of every request that is refused before the engine saw it.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        blob_bytes_max: int,
        calls_per_caller: int | None,
        rejected: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._calls_per_caller = calls_per_caller
        self._rejected = rejected
        self._reads = Reads(engine.store.own, time.monotonic)
        self._blobs = BlobDoor(engine.store, blob_bytes_max=blob_bytes_max)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def Execute(
        self, request: tool_pb2.ExecuteRequest, context: Context
    ) -> AsyncIterator[tool_pb2.ExecuteResponse]:
        """Run one program and stream what happens."""
        identity = callers.current()
        try:
            call_request = await self._request(identity, request)
        except StockadeError as error:
            self._rejected(error.reason)
            raise
        finally:
            # What was handed in can be large, and the stream lives as long as the call does. Not
            # Clear(): a message keeps its memory (upb's arena) as long as it is there itself.
            del request
        subscription = await self._submit(identity, call_request)
        del call_request
        try:
            if subscription.attached:  # a repeat is given what is on record
                await self._reads.note("Execute", {"call": subscription.call_id})
            async for event in subscription:
                yield tool_pb2.ExecuteResponse(event=messages.call_event(event))
        finally:
            await subscription.close()

    async def Attach(
        self, request: tool_pb2.AttachRequest, context: Context
    ) -> AsyncIterator[tool_pb2.AttachResponse]:
        """Follow a call from any of its events on."""
        grants = self._require_sight(request.call_id)
        first = max(request.from_sequence, 1)
        call, _ = self._engine.get(request.call_id)
        # What has happened so far is read back from the record. Its own caller may follow a live
        # call from here on without: of that, nothing is.
        is_recorded = call.finished is not None or first <= call.last_sequence
        owner = call.caller.name
        if is_recorded or owner != grants.caller:
            of: dict[str, Json] = {"call": request.call_id}
            await self._reads.note("Attach", of, following=first if first > 1 else "")
        reads = owner == grants.caller or grants.reads_audit(owner)
        subscription = await self._engine.attach(request.call_id, first)
        try:
            async for event in subscription:
                told = event if reads else _without_digests(event, encrypted=call.encrypted)
                yield tool_pb2.AttachResponse(event=messages.call_event(told))
        finally:
            await subscription.close()

    async def WriteStdin(
        self, request: tool_pb2.WriteStdinRequest, context: Context
    ) -> tool_pb2.WriteStdinResponse:
        """Append to the standard input of a running call."""
        if len(request.data) > STDIN_CHUNK_BYTES_MAX:
            raise InvalidRequest(
                "STDIN_CHUNK_TOO_LARGE", f"at most {STDIN_CHUNK_BYTES_MAX} bytes at a time"
            )
        self._require_own(request.call_id)
        next_offset = await self._engine.write_stdin(
            request.call_id, offset=request.offset, data=request.data, end=request.end
        )
        return tool_pb2.WriteStdinResponse(next_offset=next_offset)

    async def ResizeTerminal(
        self, request: tool_pb2.ResizeTerminalRequest, context: Context
    ) -> tool_pb2.ResizeTerminalResponse:
        """Give a call's terminal another size."""
        rows, columns = translate.terminal_size(request.rows, request.columns)
        self._require_own(request.call_id)
        await self._engine.resize_terminal(request.call_id, rows=rows, columns=columns)
        return tool_pb2.ResizeTerminalResponse()

    async def Signal(
        self, request: tool_pb2.SignalRequest, context: Context
    ) -> tool_pb2.SignalResponse:
        """Send a signal to a running call."""
        number = translate.signal_number(request.signal)
        why = translate.why(request.why)
        grants = self._require_sight(request.call_id)
        await self._engine.signal(request.call_id, by=grants.caller, signal=number, why=why)
        return tool_pb2.SignalResponse()

    async def GetCall(
        self, request: tool_pb2.GetCallRequest, context: Context
    ) -> tool_pb2.GetCallResponse:
        """Tell where a call is, and how it ended."""
        grants = self._require_sight(request.call_id)
        summary, state = self._engine.get(request.call_id)
        owner = summary.caller.name
        if owner == grants.caller or grants.reads_audit(owner):
            restored = await to_end(self._engine.store.records.restored, summary)
            if restored.finished != summary.finished:  # digests that the record has sealed
                await self._reads.note("GetCall", {"call": request.call_id})
                summary = restored
        return tool_pb2.GetCallResponse(call=messages.call(summary, state))

    async def ListCalls(
        self, request: tool_pb2.ListCallsRequest, context: Context
    ) -> tool_pb2.ListCallsResponse:
        """List calls, newest first."""
        grants = callers.current().grants
        rows_max = translate.page_size(request.page_size)

        owner = None if grants.calls == "all" else grants.caller

        def fetch(limit: int, token: str) -> tuple[list[tuple[CallSummary, State]], str]:
            if request.live_only:
                return self._live_page(owner, request.profile, limit, token)
            return self._engine.list(
                caller=owner,
                profile=request.profile,
                live_only=False,
                limit=limit,
                page_token=token,
            )

        rows, token = page(
            fetch,
            lambda row: messages.call(*row),
            rows_max=rows_max,
            token=request.page_token,
        )
        return tool_pb2.ListCallsResponse(calls=rows, next_page_token=token)

    async def WriteBlob(
        self, request_iterator: AsyncIterator[tool_pb2.WriteBlobRequest], context: Context
    ) -> tool_pb2.WriteBlobResponse:
        """Take content that a later Execute names."""
        stored = await self._blobs.write(callers.current().caller.name, request_iterator)
        return tool_pb2.WriteBlobResponse(digest=messages.digest(stored))

    async def ReadBlob(
        self, request: tool_pb2.ReadBlobRequest, context: Context
    ) -> AsyncIterator[tool_pb2.ReadBlobResponse]:
        """Give content of this caller: uploaded, given to a call, or left behind by one."""
        wanted = translate.digest(request.digest)
        caller = callers.current().caller.name
        # Not `wanted`: of encrypted content, guesses could be held to that ever after.
        stored = self._blobs.stored(caller, wanted)
        of: dict[str, Json] = {"sha256": stored.sha256, "size_bytes": stored.size_bytes}
        await self._reads.note("ReadBlob", of, following=request.offset or "")
        content = await self._blobs.content(caller, wanted)
        if content is not None:
            yield tool_pb2.ReadBlobResponse(content=messages.digest(content))
        async with contextlib.aclosing(self._blobs.read(caller, wanted, request.offset)) as parts:
            async for data in parts:
                yield tool_pb2.ReadBlobResponse(data=data)

    def _live_page(
        self, owner: str | None, profile: str, limit: int, token: str
    ) -> tuple[list[tuple[CallSummary, State]], str]:
        # The engine gives the live calls as they are now, all of them; ids sort by time, so the
        # last one of a page is where the next begins, whatever has ended meanwhile.
        if token and not LIVE_TOKEN.fullmatch(token):
            raise InvalidRequest("PAGE_TOKEN_INVALID", "the page token is not one of ours")
        live, _ = self._engine.list(
            caller=owner, profile=profile, live_only=True, limit=LIVE_ROWS_MAX, page_token=""
        )
        live.sort(key=lambda row: row[0].call_id, reverse=True)
        rest = [row for row in live if not token or row[0].call_id < token]
        return rest[:limit], rest[limit - 1][0].call_id if len(rest) > limit else ""

    async def _request(
        self, identity: callers.Identity, message: tool_pb2.ExecuteRequest
    ) -> CallRequest:
        if not identity.grants.may_use(message.profile):
            # The same answer whether there is such a profile or not: names are not given away.
            raise NotPermitted(
                "PROFILE_NOT_GRANTED",
                f"caller {identity.caller.name!r} may not use profile {brief(message.profile)!r}",
                hint="the daemon's configuration grants profiles under `callers:`",
            )
        profile = self._engine.profiles.effective(message.profile)
        if message.ByteSize() <= INLINE_BYTES:
            request = translate.call_request(message, profile)
        else:  # hashing megabytes must not hold up everybody else's output
            request = await to_end(translate.call_request, message, profile)
        self._blobs.require(
            identity.caller.name, [file.digest for file in request.files if file.data is None]
        )
        return request

    async def _submit(self, identity: callers.Identity, request: CallRequest) -> Subscription:
        if self._calls_per_caller is None:
            return await self._engine.submit(identity.caller, request)
        # One at a time for each caller, so that two requests cannot both see the last place.
        async with self._turns[identity.caller.name]:
            self._require_share(identity.caller.name, request.request_id, self._calls_per_caller)
            return await self._engine.submit(identity.caller, request)

    def _require_share(self, caller: str, request_id: str, most: int) -> None:
        if self._engine.store.find_request(caller, request_id) is not None:
            return  # a repeat takes no place
        live, _ = self._engine.list(
            caller=caller, profile="", live_only=True, limit=most, page_token=""
        )
        if len(live) >= most:
            self._rejected("CALLS_LIMIT")
            raise CapacityError(
                "CALLS_LIMIT",
                f"caller {caller!r} has {most} live calls, which is its share",
                hint="the daemon's configuration sets this as limits.calls_per_caller",
                metadata={"scope": "caller", "limit": str(most)},
                retry_after_s=SHARE_RETRY_S,
            )

    def _require_sight(self, call_id: str) -> callers.Grants:
        grants = callers.current().grants
        if not grants.sees(self._engine.owner(call_id)):
            raise NotFound("CALL_NOT_FOUND", f"there is no call {brief(call_id)!r}")
        return grants

    def _require_own(self, call_id: str) -> None:
        self._require_sight(call_id).require_input(self._engine.owner(call_id))


def _without_digests(event: CallEvent, *, encrypted: bool) -> CallEvent:
    if not encrypted or not isinstance(event.event, Finished):
        return event
    return replace(event, event=without_any_digest(event.event))
