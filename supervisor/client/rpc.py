"""The methods of the daemon as both clients see them, and the settings that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import grpc

from supervisor.call.types import Correlation
from supervisor.client import address as addresses
from supervisor.client import status
from supervisor.errors import CallStateError, StockadeError, Unreachable
from supervisor.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    console_pb2_grpc,
    export_pb2_grpc,
    profile_pb2_grpc,
    tool_pb2_grpc,
)

UNARY_TIMEOUT_S = 30.0
"""For a call that is not a stream: all its attempts together, and the connecting."""

PAGE_SIZE = 200
SEQUENCE_MAX = (1 << 63) - 1  # past every entry


class Wanted(TypedDict, total=False):
    """Which recorded calls: all that is given, and not empty, has to hold.

    `outcome` is a kind, "ok" or "not_ok"; `denied` a wall, or the name of what was denied; `to` is
    HOST, HOST:PORT or [ADDRESS]:PORT; `program` a path, or a name without folders; `text` words of
    argv, names, rules and denials. Times are nanoseconds since the epoch: from `since_ns` on, and
    before `until_ns`.
    """

    profile: str
    caller: str
    agent: str
    session: str
    outcome: str
    denied_only: bool
    denied: str
    since_ns: int
    until_ns: int
    to: str
    program: str
    text: str


def records_request(wanted: Wanted) -> audit_pb2.ListRecordsRequest:
    """Give the request for recorded calls."""
    fields: dict[str, Any] = dict(wanted)
    since_ns, until_ns = fields.pop("since_ns", 0), fields.pop("until_ns", 0)
    request = audit_pb2.ListRecordsRequest(**fields)
    if since_ns:
        request.since.FromNanoseconds(since_ns)
    if until_ns:
        request.until.FromNanoseconds(until_ns)
    return request


class EventsWanted(TypedDict, total=False):
    """Which of the daemon's own entries: of a kind, since and before a time, about a call, and of a
    caller by its name."""

    kind: str
    since_ns: int
    until_ns: int
    call: str
    caller: str


def events_request(wanted: EventsWanted) -> audit_pb2.ListEventsRequest:
    """Give the request for the daemon's own entries."""
    request = audit_pb2.ListEventsRequest(
        kind=wanted.get("kind", ""),
        call_id=wanted.get("call", ""),
        caller=wanted.get("caller", ""),
    )
    if since_ns := wanted.get("since_ns", 0):
        request.since.FromNanoseconds(since_ns)
    if until_ns := wanted.get("until_ns", 0):
        request.until.FromNanoseconds(until_ns)
    return request


@dataclass(frozen=True, slots=True, kw_only=True)
class Stubs:
    """The services on one channel; generated code without types, hence Any."""

    tool: Any
    profile: Any
    audit: Any
    console: Any
    export: Any

    @classmethod
    def on(cls, channel: Any) -> Stubs:
        """Make the stubs of a sync or an async channel."""
        tool: Callable[[Any], Any] = tool_pb2_grpc.ToolServiceStub
        profile: Callable[[Any], Any] = profile_pb2_grpc.ProfileServiceStub
        audit: Callable[[Any], Any] = audit_pb2_grpc.AuditServiceStub
        console: Callable[[Any], Any] = console_pb2_grpc.ConsoleServiceStub
        export: Callable[[Any], Any] = export_pb2_grpc.ExportServiceStub
        return cls(
            tool=tool(channel),
            profile=profile(channel),
            audit=audit(channel),
            console=console(channel),
            export=export(channel),
        )


def credentials(tls: addresses.Tls) -> grpc.ChannelCredentials:
    """Read the files of mutual TLS.

    Raises:
        InvalidRequest: `TLS_FILE_UNREADABLE`, `TLS_UNUSABLE`.
    """
    ca, certificate, key = addresses.read_tls(tls)
    addresses.check_tls(tls)
    return grpc.ssl_channel_credentials(
        root_certificates=ca, private_key=key, certificate_chain=certificate
    )


def error_of(address: addresses.Address, failure: Any) -> StockadeError:
    """Give the error for a failed RPC, sync or async; says why where nobody answers."""
    error = status.error_of(
        failure.code().name, failure.details() or "", failure.trailing_metadata() or ()
    )
    if isinstance(error, Unreachable):
        return addresses.unreachable(address, error.message, reason=error.reason)
    return error


def closed() -> CallStateError:
    """Give the error for a use of a client after its `close`."""
    return CallStateError(
        "CLIENT_CLOSED", "this client was closed", hint="a new one can attach to a call by its id"
    )


def correlation(
    given: Correlation, *, agent: str, session: str, workflow: str, traceparent: str
) -> Correlation:
    """Fill in the client's own values where the call has none."""
    return Correlation(
        agent=agent or given.agent,
        session=session or given.session,
        workflow=workflow or given.workflow,
        traceparent=traceparent or given.traceparent,
    )
