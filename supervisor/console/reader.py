"""What the console asks the daemon for, each time in the name of a session.

The session of a request stands in `asking`, which every RPC carries along: there is no other way to
the daemon from here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc

from supervisor.call.types import SESSION_KEY, UID_KEY, WATCHING_KEY
from supervisor.client import Call, Record, RecordEntry, rpc, wire
from supervisor.client.address import channel_options
from supervisor.client.aio import AsyncSupervisor
from supervisor.client.follow import Retry
from supervisor.errors import Unauthenticated
from supervisor.v1 import audit_pb2, console_pb2, tool_pb2

TARGET = "unix:daemon"
"""In the working directory, which the daemon gave to this process."""

ATTEMPTS_MAX = 2
"""A page that fails can be asked for again, by who waits for it."""

ENTRIES_MAX = 20_000
"""Of one record, for one page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """In whose name: the secret of a session or a link, and the user whose browser it is. A page
    that is only `watching` keeps no session alive."""

    secret: str
    uid: int
    watching: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """The caller whose session it is."""

    caller: str
    reads_audit: bool


asking: ContextVar[Asking | None] = ContextVar("stockade_asking", default=None)


def named(metadata: Any) -> grpc.aio.Metadata:
    """Add the session of this task to what an RPC carries.

    Raises:
        Unauthenticated: `SESSION_UNKNOWN`: it has none, so nothing is asked.
    """
    now = asking.get()
    if now is None:
        raise Unauthenticated("SESSION_UNKNOWN", "nobody is asking")
    pairs = [(SESSION_KEY, now.secret), (UID_KEY, str(now.uid))]
    if now.watching:
        pairs.append((WATCHING_KEY, "1"))
    return grpc.aio.Metadata(*(metadata or ()), *pairs)


def _details(given: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
    return grpc.aio.ClientCallDetails(
        method=given.method,
        timeout=given.timeout,
        metadata=named(given.metadata),
        credentials=given.credentials,
        wait_for_ready=given.wait_for_ready,
    )


class _Single(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(_details(client_call_details), request)


class _Stream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(_details(client_call_details), request)


class Reader(AsyncSupervisor):
    """A client whose every request is in the name of `asking`."""

    def __init__(self, target: str = TARGET) -> None:
        super().__init__("unix:///daemon", retry=Retry(attempts_max=ATTEMPTS_MAX))
        self._target = target

    def _open_channel(self) -> grpc.aio.Channel:
        interceptors: Any = [_Single(), _Stream()]
        return grpc.aio.insecure_channel(
            self._target, options=channel_options(), interceptors=interceptors
        )

    async def enter(self) -> str:
        """Make the link that is asked by into a session."""
        request = console_pb2.EnterSessionRequest()
        answer = await self._unary(self._stubs.console.EnterSession, request, idempotent=False)
        return str(answer.session)

    async def who(self) -> Who:
        """Tell whose session it is."""
        answer = await self._unary(self._stubs.console.GetSession, console_pb2.GetSessionRequest())
        return Who(caller=answer.caller, reads_audit=answer.reads_audit)

    async def leave(self) -> None:
        """End the session."""
        await self._unary(self._stubs.console.LeaveSession, console_pb2.LeaveSessionRequest())

    async def live(self, limit: int) -> tuple[list[Call], bool]:
        """Give calls that live, newest first, and whether there are more."""
        request = tool_pb2.ListCallsRequest(live_only=True, page_size=limit)
        answer = await self._unary(self._stubs.tool.ListCalls, request)
        return [wire.call(one) for one in answer.calls], bool(answer.next_page_token)

    async def page(self, wanted: rpc.Wanted, token: str, limit: int) -> tuple[list[Call], str]:
        """Give a page of recorded calls, newest first, and the token of the next, "" at the end."""
        request = rpc.records_request(wanted)
        request.page_size, request.page_token = limit, token
        answer = await self._unary(self._stubs.audit.ListRecords, request)
        return [wire.call(one) for one in answer.records], str(answer.next_page_token)

    async def account(self, call_id: str) -> tuple[Record, bool]:
        """Give the record of a call, at most ENTRIES_MAX entries, and whether that is all."""
        entries: list[RecordEntry] = []
        following = 1
        while following and len(entries) < ENTRIES_MAX:
            request = audit_pb2.GetRecordRequest(call_id=call_id, from_sequence=following)
            answer = await self._unary(self._stubs.audit.GetRecord, request)
            entries += [wire.entry(entry) for entry in answer.entries]
            following = answer.next_sequence if answer.entries else 0
        record = Record(call=wire.call(answer.call), entries=tuple(entries))
        return record, not following
