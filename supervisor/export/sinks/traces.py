"""Traces by OTLP: what `formats.spans` makes of calls, sent as `otlp` sends logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from supervisor.export.event import Event, Source
from supervisor.export.sink import Rejected
from supervisor.export.sinks.otlp import OtlpOptions, OtlpSink
from supervisor.export.sinks.records import FRAME_BYTES, RECORD_BYTES, resource_of, text

SCOPE = "stockade"
SAMPLED, PARENT_KNOWN, PARENT_REMOTE = 0x1, 0x100, 0x200
"""Flags of a span (opentelemetry/proto/trace/v1/trace.proto, SpanFlags)."""

RANDOM_BITS = 56
"""Of a trace's id, which are random (W3C Trace Context, level 2); samplers agree by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracesOptions(OtlpOptions):
    """As for logs; `sample` is the share of traces that nobody named, which are sent."""

    sample: float = 1.0

    def __post_init__(self) -> None:
        OtlpOptions.__post_init__(self)
        if not 0.0 <= self.sample <= 1.0:
            raise ValueError("a share is from 0 to 1")


class TracesSink(OtlpSink):
    """The sink. Errors are those of `Sink`."""

    def __init__(self, options: TracesOptions) -> None:
        self._sample = options.sample
        super().__init__(options, SpanRequests(options.source, options.body_bytes_max))

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Send the spans of a batch that are sampled; raises as `OtlpSink.send`."""
        chosen = [at for at, event in enumerate(batch) if self._is_sampled(event)]
        if not chosen:
            return ()
        rejected = await super().send([batch[at] for at in chosen])
        return [Rejected(chosen[one.position], one.why) for one in rejected]

    def _is_sampled(self, event: Event) -> bool:
        if event.traceparent or self._sample >= 1.0:
            return True  # who named the trace has decided
        trace: str = orjson.loads(event.data)["spans"][0]["trace"]
        return int(trace, 16) % (1 << RANDOM_BITS) < self._sample * (1 << RANDOM_BITS)


class SpanRequests:
    """Makes requests of one source; an event's piece is the spans of a call."""

    method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    path = "/v1/traces"
    answer = ExportTraceServiceResponse

    def __init__(self, source: Source, bytes_max: int) -> None:
        self._resource = resource_of(source)
        self._scope = InstrumentationScope(name=SCOPE, version=source.version)
        frame = self._resource.ByteSize() + self._scope.ByteSize() + FRAME_BYTES
        self.room = bytes_max - frame - RECORD_BYTES

    def piece(self, event: Event, observed_ns: int) -> list[Span]:
        """Give the spans of an event."""
        call, *phases = orjson.loads(event.data)["spans"]
        above = PARENT_REMOTE if call["parent"] else 0
        return [
            _span(call, event.uid, above),
            *(_span(phase, event.uid, 0) for phase in phases),
        ]

    def size(self, piece: Sequence[Span]) -> int:
        """Give how much of a request they take."""
        return sum(span.ByteSize() + RECORD_BYTES for span in piece)

    def whole(self, pieces: Sequence[Sequence[Span]]) -> bytes:
        """Give a request, as it is sent."""
        spans = [span for piece in pieces for span in piece]
        scope = ScopeSpans(scope=self._scope, spans=spans)
        found = ResourceSpans(resource=self._resource, scope_spans=[scope])
        return ExportTraceServiceRequest(resource_spans=[found]).SerializeToString()

    def rejected(self, partial: ExportTracePartialSuccess) -> int:
        """Give how many spans an answer says to be rejected."""
        return int(partial.rejected_spans)


def spans_in(body: bytes) -> Iterator[Span]:
    """Read a request again: its spans, in order."""
    for found in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in found.scope_spans:
            yield from scope.spans


def _span(told: dict[str, Any], uid: str, above: int) -> Span:
    failed = bool(told["error"])
    return Span(
        trace_id=bytes.fromhex(told["trace"]), span_id=bytes.fromhex(told["span"]),
        parent_span_id=bytes.fromhex(told["parent"]), name=told["name"],
        kind=Span.SPAN_KIND_INTERNAL, flags=SAMPLED | PARENT_KNOWN | above,
        start_time_unix_nano=told["start"], end_time_unix_nano=told["end"],
        attributes=[text("stockade.uid", uid), *map(_attribute, told["attributes"].items())],
        status=Status(code=Status.STATUS_CODE_ERROR if failed else Status.STATUS_CODE_UNSET),
    )  # fmt: skip


def _attribute(pair: tuple[str, Any]) -> KeyValue:
    key, value = pair
    if isinstance(value, int):
        return KeyValue(key=key, value=AnyValue(int_value=value))
    return text(key, value)
