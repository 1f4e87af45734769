"""Spans by OTLP, against a receiver that is made from its own messages; how requests go and fail is
`test_otlp`'s."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from supervisor.export.event import Event, Source
from supervisor.export.sinks.http import Endpoint
from supervisor.export.sinks.traces import SpanRequests, TracesOptions, TracesSink, spans_in
from tests.support.posts import Post, Posts, Reply
from tests.unit.export.sinks.samples import event

SOURCE = Source(origin="box.example/log", host="box", version="1.2")
KIND = {"content-type": "application/x-protobuf"}


def options(url: str, **more: Any) -> TracesOptions:
    where = Endpoint(url=url, tls=None, plain_because="a test", stall_s=5.0, deadline_s=5.0)
    return TracesOptions(endpoint=where, source=SOURCE, headers={}, **{"grpc": False, **more})


def of_call(number: int, trace: str = "ab" * 16, error: str = "") -> Event:
    told = {
        "name": f"execute_tool {number}", "trace": trace, "span": f"{number:016x}", "parent": "",
        "start": 5, "end": 9, "error": error, "attributes": {"a": "b", "n": 7},
    }  # fmt: skip
    below = {**told, "name": "started", "span": f"{number + 1000:016x}", "parent": told["span"]}
    return event(number, json.dumps({"spans": [told, below]}).encode(), kind="outcome")


class Collector(TraceServiceServicer):
    """Keeps spans; `answers` are used up first."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.requests: list[ExportTraceServiceRequest] = []
        self.answers: deque[ExportTraceServiceResponse] = deque()

    def take(self, body: bytes) -> ExportTraceServiceResponse:
        self.requests.append(ExportTraceServiceRequest.FromString(body))
        self.spans += spans_in(body)
        return self.answers.popleft() if self.answers else ExportTraceServiceResponse()

    def __call__(self, post: Post) -> Reply:
        assert (post.path, post.headers["content-type"]) == ("/v1/traces", KIND["content-type"])
        return Reply(headers=KIND, body=self.take(post.body).SerializeToString())

    async def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:  # noqa: N802
        return self.take(request.SerializeToString())


@pytest.mark.parametrize("over_grpc", [False, True])
def test_spans_arrive_as_they_were_made(over_grpc: bool) -> None:
    collector = Collector()

    async def send(url: str) -> None:
        sink = TracesSink(options(url, grpc=over_grpc))
        assert not await sink.send([of_call(1), of_call(2, error="timed_out")])
        await sink.close()

    async def main() -> None:
        if not over_grpc:
            async with Posts(collector) as posts:
                await send(posts.url)
            return
        server = grpc.aio.server()
        add_TraceServiceServicer_to_server(collector, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await send(f"http://127.0.0.1:{port}")
        await server.stop(None)

    asyncio.run(main())
    assert [span.name for span in collector.spans] == [
        "execute_tool 1", "started", "execute_tool 2", "started",
    ]  # fmt: skip
    first, below, failed, _ = collector.spans
    assert (first.trace_id, first.span_id, first.parent_span_id) == (
        bytes.fromhex("ab" * 16), (1).to_bytes(8, "big"), b"",
    )  # fmt: skip
    assert below.parent_span_id == first.span_id
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (5, 9)
    assert first.kind == Span.SPAN_KIND_INTERNAL
    values = {one.key: one.value for one in first.attributes}
    assert (values["a"].string_value, values["n"].int_value) == ("b", 7)
    assert values["stockade.uid"].string_value == of_call(1).uid
    assert (first.flags, below.flags) == (0x101, 0x101)
    assert first.status.code == Status.STATUS_CODE_UNSET
    assert failed.status.code == Status.STATUS_CODE_ERROR
    (spans,) = collector.requests[0].resource_spans
    named = {one.key: one.value.string_value for one in spans.resource.attributes}
    assert (named["service.name"], named["service.instance.id"]) == ("stockade", SOURCE.origin)


def test_what_is_rejected_in_part_is_told_of_all() -> None:
    async def main() -> None:
        collector = Collector()
        partial = ExportTracePartialSuccess(rejected_spans=1, error_message="no")
        collector.answers.append(ExportTraceServiceResponse(partial_success=partial))
        async with Posts(collector) as posts:
            sink = TracesSink(options(posts.url, sample=0.5))
            batch = [of_call(1, "f" * 32), of_call(2, "0" * 31 + "1"), of_call(3, "0" * 31 + "2")]
            rejected = await sink.send(batch)
            assert [one.position for one in rejected] == [1, 2]
            assert {one.why for one in rejected} == {"1 of 2 are rejected, not said which: no"}
            await sink.close()

    asyncio.run(main())


def test_a_share_of_traces_is_sent_and_all_that_a_caller_named() -> None:
    async def main() -> None:
        collector = Collector()
        async with Posts(collector) as posts:
            sink = TracesSink(options(posts.url, sample=0.25))
            batch = [of_call(at, f"{'e' * 18}{at << 48:014x}") for at in range(256)]
            assert not await sink.send(batch)
            sent = {span.name for span in collector.spans if span.name != "started"}
            assert sent == {f"execute_tool {at}" for at in range(64)}
            collector.spans.clear()
            batch[200].traceparent = "00-x"
            none = TracesSink(options(posts.url, sample=0.0))
            assert not await none.send(batch)
            assert [span.name for span in collector.spans] == ["execute_tool 200", "started"]
            assert not await none.send(batch[:9])
            await sink.close()
            await none.close()

    asyncio.run(main())


def test_a_parent_is_of_elsewhere() -> None:
    told = json.loads(of_call(1).data)
    told["spans"][0]["parent"] = "ab" * 8
    call, below = SpanRequests(SOURCE, 1 << 20).piece(event(1, json.dumps(told).encode()), 0)
    assert (call.flags, below.flags) == (0x301, 0x101)
    assert call.parent_span_id == bytes.fromhex("ab" * 8)


def test_a_share_is_one() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        options("http://127.0.0.1:1", sample=1.5)


def test_the_size_of_a_request_is_known_before() -> None:
    requests = SpanRequests(SOURCE, 1 << 20)
    pieces = [requests.piece(of_call(at), 0) for at in range(50)]
    whole = requests.whole(pieces)
    assert len(whole) <= sum(map(requests.size, pieces)) + (1 << 20) - requests.room
    assert len(whole) >= sum(map(requests.size, pieces)) // 2
