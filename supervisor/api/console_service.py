"""ConsoleService: a link for a caller, and a session for the console's process."""

from __future__ import annotations

import time

from supervisor.api import callers
from supervisor.api.console import Console, secret_of
from supervisor.api.console_sessions import LINK_S
from supervisor.api.intercept import Context
from supervisor.audit.codec import caller_to_json
from supervisor.audit.entry import Kind
from supervisor.audit.own import OwnEntries
from supervisor.call.types import Json
from supervisor.errors import CallStateError, InvalidRequest
from supervisor.v1 import console_pb2, console_pb2_grpc

NS = 10**9


class ConsoleService(console_pb2_grpc.ConsoleServiceServicer):
    """Answers from the console, None where there is none."""

    def __init__(self, console: Console | None, entries: OwnEntries) -> None:
        self._console = console
        self._entries = entries

    async def OpenSession(
        self, request: console_pb2.OpenSessionRequest, context: Context
    ) -> console_pb2.OpenSessionResponse:
        """Give a link."""
        console = self._on()
        uid = request.uid if request.HasField("uid") else callers.current().caller.uid
        if uid is None:
            raise InvalidRequest(
                "USER_MISSING",
                "this caller is no user of the daemon's host, so whose browser will come?",
                hint="stockade console --user NAME",
            )
        url = console.open(context, uid)
        response = console_pb2.OpenSessionResponse(url=url, uid=uid)
        response.expires.FromNanoseconds(time.time_ns() + int(LINK_S * NS))
        return response

    async def EnterSession(
        self, request: console_pb2.EnterSessionRequest, context: Context
    ) -> console_pb2.EnterSessionResponse:
        """Make a link's token into a session."""
        console = self._on()
        token, uid = secret_of(context)
        session = console.sessions.enter(token, uid)
        try:
            body: dict[str, Json] = {"caller": caller_to_json(callers.current().caller), "uid": uid}
            await self._entries.note_read(body, kind=Kind.CONSOLE_ENTERED)
        except BaseException:
            console.sessions.leave(session)
            raise
        return console_pb2.EnterSessionResponse(session=session)

    async def GetSession(
        self, request: console_pb2.GetSessionRequest, context: Context
    ) -> console_pb2.GetSessionResponse:
        """Tell whose the session is."""
        self._on()
        grants = callers.current().grants
        return console_pb2.GetSessionResponse(
            caller=grants.caller, reads_audit=grants.audit != "none"
        )

    async def LeaveSession(
        self, request: console_pb2.LeaveSessionRequest, context: Context
    ) -> console_pb2.LeaveSessionResponse:
        """End the session."""
        session, _ = secret_of(context)
        self._on().sessions.leave(session)
        return console_pb2.LeaveSessionResponse()

    def _on(self) -> Console:
        if self._console is None:
            raise CallStateError(
                "CONSOLE_OFF",
                "this daemon serves no console",
                hint="the daemon's configuration turns it on: console: {listen: 127.0.0.1:7480}",
            )
        return self._console
