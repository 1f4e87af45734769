"""A receiver of OTLP logs, made from the messages and the service of opentelemetry-proto."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from tests.support.posts import Post, Reply

KIND = {"content-type": "application/x-protobuf"}
STALL, KILL = "stall", "kill"


def partial(count: int, why: str) -> ExportLogsServiceResponse:
    """Give the answer that some are rejected."""
    said = ExportLogsPartialSuccess(rejected_log_records=count, error_message=why)
    return ExportLogsServiceResponse(partial_success=said)


class Collector:
    """Keeps the records that arrive; `answers` are used up first."""

    def __init__(self, token: str = "") -> None:
        self.token = token
        self.records: list[LogRecord] = []
        self.requests: list[ExportLogsServiceRequest] = []
        self.answers: deque[ExportLogsServiceResponse] = deque()

    @property
    def received(self) -> list[str]:
        """Give the uids, in the order of their arrival."""
        return [text_of(one, "log.record.uid") for one in self.records]

    def take(self, request: ExportLogsServiceRequest) -> ExportLogsServiceResponse:
        """Take a request."""
        self.requests.append(request)
        for logs in request.resource_logs:
            for scope in logs.scope_logs:
                self.records += scope.log_records
        return self.answers.popleft() if self.answers else ExportLogsServiceResponse()

    def __call__(self, post: Post) -> Reply:
        """Take one that came over HTTP."""
        if post.headers.get("authorization", "") != self.token:
            return Reply(status=401, headers=KIND, body=status(16, "no: " + self.token))
        if post.path != "/v1/logs" or post.headers.get("content-type") != KIND["content-type"]:
            return Reply(status=404)
        answer = self.take(ExportLogsServiceRequest.FromString(post.body))
        return Reply(headers=KIND, body=answer.SerializeToString())


class Served(LogsServiceServicer):
    """A collector over gRPC. `faults` are used up first, one for each request: a code to answer
    with, the code and a wait in seconds, `STALL`, or `KILL` once it has taken the request."""

    def __init__(self, collector: Collector, credentials: grpc.ServerCredentials | None = None):
        self.collector = collector
        self.faults: deque[object] = deque()
        self.asked = 0
        self.metadata: Mapping[str, str | bytes] = {}
        self.port = 0
        self._credentials = credentials
        self._server: grpc.aio.Server | None = None
        self._again: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, on the same port as before."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_LogsServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        place = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = server.add_insecure_port(place)
        else:
            self.port = server.add_secure_port(place, self._credentials)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Let go of everything at once."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def close(self) -> None:
        """Stop, and wait for what restarts it."""
        await asyncio.gather(*self._again)
        await self.stop()

    async def Export(  # noqa: N802 (named by the .proto file)
        self, request: ExportLogsServiceRequest, context: Any
    ) -> ExportLogsServiceResponse:
        """Take a request."""
        self.asked += 1
        self.metadata = dict(context.invocation_metadata())
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, tuple):
            code, wait_s = fault
            context.set_trailing_metadata((("grpc-status-details-bin", waits(code, wait_s)),))
            await context.abort(code, "wait")
        if isinstance(fault, grpc.StatusCode):
            await context.abort(fault, "it is as it is")
        if self.metadata.get("authorization", "") != self.collector.token:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no: " + self.collector.token)
        answer = self.collector.take(request)
        if fault == STALL:
            await asyncio.Event().wait()
        if fault == KILL:
            self._again.add(asyncio.create_task(self._restart()))
            await asyncio.Event().wait()
        return answer

    async def _restart(self) -> None:
        await self.stop()
        await self.start()


def status(code: int, message: str, details: Iterable[Packed] = ()) -> bytes:
    """Give a Status, as it is sent."""
    whole = Status(code=code, message=message, details=list(details))
    return bytes(whole.SerializeToString())


def waits(code: grpc.StatusCode, wait_s: float) -> bytes:
    """Give a Status with a RetryInfo."""
    detail = Packed()
    nanos = round(wait_s % 1 * 10**9)
    detail.Pack(RetryInfo(retry_delay=Duration(seconds=int(wait_s), nanos=nanos)))
    number: int = code.value[0]
    return status(number, "wait", [detail])


def text_of(record: LogRecord, key: str) -> str:
    """Give an attribute that is text."""
    return next(one.value.string_value for one in record.attributes if one.key == key)
