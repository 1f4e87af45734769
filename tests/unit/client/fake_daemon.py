"""A daemon that plays a script: the services on a unix socket, no sandbox and no record.

A script is a function that takes the request and yields messages; it raises `Abort` to end with
a status. Scripts of one method are played in order, the last one again and again.
"""

# ruff: noqa: N802 - the methods have the names of the RPCs

from __future__ import annotations

import contextlib
import hashlib
import itertools
import socket
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from supervisor.v1 import (
    audit_pb2_grpc,
    console_pb2_grpc,
    export_pb2,
    export_pb2_grpc,
    profile_pb2_grpc,
    tool_pb2,
    tool_pb2_grpc,
    types_pb2,
)

CALL_ID = "call-1"
DIGEST = "ab" * 32
START_NS = 1_700_000_000_000_000_000


class Abort(Exception):
    """Ends an RPC: with ErrorInfo where a reason is given, as gRPC itself does where not."""

    def __init__(
        self,
        code: str,
        reason: str = "",
        message: str = "no",
        *,
        hint: str = "",
        retry_s: int = 0,
        **metadata: str,
    ) -> None:
        super().__init__(message)
        self.code = grpc.StatusCode[code]
        self.reason = reason
        self.message = message
        self.hint = hint
        self.retry_s = retry_s
        self.metadata = metadata

    def end(self, context: grpc.ServicerContext) -> None:
        if not self.reason:
            context.abort(self.code, self.message)
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain="stockade")
        info.metadata.update(self.metadata)
        if self.hint:
            info.metadata["hint"] = self.hint
        details = [info]
        if self.retry_s:
            delay = Duration(seconds=self.retry_s)
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        context.abort_with_status(rpc_status.to_status(status))


Script = Callable[[Any], Any]


class FakeDaemon:
    """What tests tell the daemon to say, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "s.sock"
        self.address = f"unix://{self.path}"
        self.requests: list[tuple[str, Any]] = []
        self.blobs: dict[str, bytes] = {}
        self._scripts: dict[str, list[Script]] = {}
        self._server: grpc.Server | None = None

    def play(self, method: str, *scripts: Script) -> None:
        """Set what `method` does, the first time, the second time, and so on."""
        self._scripts[method] = list(scripts)

    def plays(self, method: str) -> bool:
        """Say whether `method` was set."""
        return method in self._scripts

    def asked(self, method: str) -> list[Any]:
        """Give the requests of one method."""
        return [request for name, request in self.requests if name == method]

    def start(self) -> None:
        """Listen."""
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
        tool_pb2_grpc.add_ToolServiceServicer_to_server(_Tool(self), self._server)
        audit_pb2_grpc.add_AuditServiceServicer_to_server(_Audit(self), self._server)
        profile_pb2_grpc.add_ProfileServiceServicer_to_server(_Profile(self), self._server)
        console_pb2_grpc.add_ConsoleServiceServicer_to_server(_Console(self), self._server)
        export_pb2_grpc.add_ExportServiceServicer_to_server(_Export(self), self._server)
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def stop(self) -> None:
        """End at once."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def unary(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        """Play a method that answers once."""
        try:
            return self._script(method, request)(request)
        except Abort as abort:
            abort.end(context)

    def stream(self, method: str, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Play a method that answers with a stream."""
        try:
            yield from self._script(method, request)(request)
        except Abort as abort:
            abort.end(context)

    def _script(self, method: str, request: Any) -> Script:
        self.requests.append((method, request))
        scripts = self._scripts.get(method)
        if not scripts:
            raise Abort("UNIMPLEMENTED", message=method)
        return scripts.pop(0) if len(scripts) > 1 else scripts[0]


class _Tool(tool_pb2_grpc.ToolServiceServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def Execute(self, request: Any, context: Any) -> Any:
        for message in self.daemon.stream("Execute", request, context):
            yield tool_pb2.ExecuteResponse(event=message)

    def Attach(self, request: Any, context: Any) -> Any:
        for message in self.daemon.stream("Attach", request, context):
            yield tool_pb2.AttachResponse(event=message)

    def WriteStdin(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("WriteStdin", request, context)

    def ResizeTerminal(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("ResizeTerminal", request, context)

    def Signal(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("Signal", request, context)

    def GetCall(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("GetCall", request, context)

    def ListCalls(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("ListCalls", request, context)

    def WriteBlob(self, requests: Any, context: Any) -> Any:
        first = next(requests)
        if self.daemon.plays("WriteBlob"):
            return self.daemon.unary("WriteBlob", first, context)
        data = b"".join(request.data for request in itertools.chain([first], requests))
        self.daemon.requests.append(("WriteBlob", first))
        assert hashlib.sha256(data).hexdigest() == first.digest.sha256
        self.daemon.blobs[first.digest.sha256] = data
        return tool_pb2.WriteBlobResponse(digest=first.digest)

    def ReadBlob(self, request: Any, context: Any) -> Any:
        return self.daemon.stream("ReadBlob", request, context)


class _Audit(audit_pb2_grpc.AuditServiceServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def ListRecords(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("ListRecords", request, context)

    def ListEvents(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("ListEvents", request, context)

    def GetRecord(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("GetRecord", request, context)

    def GetCheckpoint(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("GetCheckpoint", request, context)

    def GetReceipt(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("GetReceipt", request, context)

    def AddCheckpoint(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("AddCheckpoint", request, context)

    def GetRetention(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("GetRetention", request, context)

    def HoldContents(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("HoldContents", request, context)

    def ReleaseContents(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("ReleaseContents", request, context)

    def ReadOutput(self, request: Any, context: Any) -> Any:
        return self.daemon.stream("ReadOutput", request, context)


class _Console(console_pb2_grpc.ConsoleServiceServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def OpenSession(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("OpenSession", request, context)


class _Profile(profile_pb2_grpc.ProfileServiceServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def ListProfiles(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("ListProfiles", request, context)

    def GetProfile(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("GetProfile", request, context)

    def ExplainProfile(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("ExplainProfile", request, context)


class _Export(export_pb2_grpc.ExportServiceServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def ListSinks(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("ListSinks", request, context)

    def TestSink(self, request: Any, context: Any) -> Any:
        return self.daemon.stream("TestSink", request, context)

    def ReplaySink(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("ReplaySink", request, context)

    def ListDeadLetters(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("ListDeadLetters", request, context)

    def RedeliverDeadLetters(self, request: Any, context: Any) -> Any:
        return self.daemon.stream("RedeliverDeadLetters", request, context)

    def DiscardDeadLetters(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("DiscardDeadLetters", request, context)

    def Reload(self, request: Any, context: Any) -> Any:
        return self.daemon.unary("Reload", request, context)


@contextlib.contextmanager
def fake_daemon(folder: Path) -> Iterator[FakeDaemon]:
    """Run one for the length of a test."""
    daemon = FakeDaemon(folder)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


@contextlib.contextmanager
def silence(folder: Path) -> Iterator[str]:
    """Give the address of a socket that takes connections and never says a word."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/silent")
        listener.listen(64)
        yield f"unix://{folder}/silent"


def event(sequence: int, **what: Any) -> tool_pb2.CallEvent:
    """Make an event; its time is as far from the start as its sequence says, in milliseconds."""
    message = tool_pb2.CallEvent(call_id=CALL_ID, sequence=sequence, **what)
    message.time.FromNanoseconds(START_NS + sequence * 1_000_000)
    return message


def accepted(mode: str = "enforce", **fields: Any) -> tool_pb2.CallEvent:
    return event(
        1,
        accepted=tool_pb2.Accepted(profile="python", profile_digest=DIGEST, mode=mode, **fields),
    )


def output(sequence: int, data: bytes, offset: int = 0, **fields: Any) -> tool_pb2.CallEvent:
    fields.setdefault("stream", types_pb2.STD_STREAM_STDOUT)
    return event(sequence, output=tool_pb2.Output(data=data, offset=offset, **fields))


def errors(sequence: int, data: bytes, offset: int = 0) -> tool_pb2.CallEvent:
    return output(sequence, data, offset, stream=types_pb2.STD_STREAM_STDERR)


def flow(sequence: int, **fields: Any) -> tool_pb2.CallEvent:
    given = {
        "name": "api.example.com",
        "address": "203.0.113.7",
        "port": 443,
        "rule": "*.example.com:443",
        "verdict": types_pb2.VERDICT_CLOSED,
        "sent": 1200,
        "received": 34_000,
        "duration": {"nanos": 310_000_000},
        "pid": 123,
        "program": b"curl",
    }
    return event(sequence, flow=tool_pb2.Flow(**{**given, **fields}))


def denied(sequence: int, **fields: Any) -> tool_pb2.CallEvent:
    given = {
        "wall": "syscall",
        "name": "unshare",
        "arguments": [0x10000000],
        "pid": 7,
        "count": 1,
        "rule": "syscalls",
    }
    return event(sequence, denied=tool_pb2.Denied(**{**given, **fields}))


def lost(sequence: int, reason: str, what: str = "output") -> tool_pb2.CallEvent:
    return event(sequence, lost=tool_pb2.Lost(what=what, count=3, reason=reason))


def summary(data: bytes, stream: int = types_pb2.STD_STREAM_STDOUT) -> types_pb2.StreamSummary:
    digest = types_pb2.Digest(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    return types_pb2.StreamSummary(stream=stream, digest=digest, stored_bytes=len(data))


def blob(data: bytes) -> types_pb2.Digest:
    return types_pb2.Digest(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def finish(**fields: Any) -> tool_pb2.Finished:
    outcomes = {"exited", "signaled", "timed_out", "out_of_memory", "limit_exceeded"}
    outcomes |= {"stopped", "failed", "interrupted"}
    if not outcomes & fields.keys():
        fields["exited"] = types_pb2.Exited(code=0)
    message = tool_pb2.Finished(
        record=types_pb2.Digest(sha256="cd" * 32, size_bytes=512),
        usage=types_pb2.ResourceUsage(memory_peak_bytes=4 << 20, pids_peak=2),
        **fields,
    )
    for step, phase in enumerate(
        ("accepted", "preparing", "armed", "started", "ended", "destroyed")
    ):
        getattr(message.timeline, phase).FromNanoseconds(START_NS + step * 5_000_000)
    message.usage.cpu_user.FromMilliseconds(12)
    return message


def finished(sequence: int, **fields: Any) -> tool_pb2.CallEvent:
    return event(sequence, finished=finish(**fields))


def call(**fields: Any) -> tool_pb2.Call:
    given: dict[str, Any] = {
        "call_id": CALL_ID,
        "request_id": "r-1",
        "caller": types_pb2.Caller(name="owner", transport="unix", uid=0),
        "profile": "python",
        "profile_digest": DIGEST,
        "state": types_pb2.CALL_STATE_RUNNING,
        "argv": [b"python3", b"-c", b"print(6*7)"],
        "correlation": types_pb2.Correlation(agent="writer"),
        "last_sequence": 3,
    }
    message = tool_pb2.Call(**{**given, **fields})
    message.accepted.FromNanoseconds(START_NS)
    return message


def sink(**fields: Any) -> export_pb2.Sink:
    given: dict[str, Any] = {
        "name": "siem",
        "kind": "syslog",
        "format": "ocsf",
        "status": export_pb2.SINK_STATUS_RUNNING,
        "acknowledged": 1200,
        "events": 1300,
    }
    message = export_pb2.Sink(**{**given, **fields})
    message.acknowledged_at.FromNanoseconds(START_NS)
    return message


def letter(index: int, **fields: Any) -> export_pb2.DeadLetter:
    given: dict[str, Any] = {"uid": f"{index}-ab-0", "why": "it is too large", "kind": "output"}
    message = export_pb2.DeadLetter(index=index, **{**given, **fields})
    message.time.FromNanoseconds(START_NS)
    return message
