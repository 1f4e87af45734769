"""Events as log records of OTLP (opentelemetry/proto/logs/v1/logs.proto). No I/O.

The body is the event's line as a string, not a list of keys and values: what arrives is byte for
byte what was made, so that it can be held against the log. What is asked for often stands in
attributes. `log.record.uid` is OpenTelemetry's own: records of the same uid are duplicates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from supervisor.export.event import Event, Source

SCOPE = "stockade.export"
FRAME_BYTES = 64
"""At most, for tags and lengths around the records of a request."""

RECORD_BYTES = 8
"""Likewise, around one record."""

SEVERITIES: dict[int, tuple[SeverityNumber.ValueType, str]] = {
    1: (SeverityNumber.SEVERITY_NUMBER_INFO, "Informational"),
    2: (SeverityNumber.SEVERITY_NUMBER_INFO2, "Low"),
    3: (SeverityNumber.SEVERITY_NUMBER_WARN, "Medium"),
    4: (SeverityNumber.SEVERITY_NUMBER_ERROR, "High"),
    5: (SeverityNumber.SEVERITY_NUMBER_ERROR2, "Critical"),
    6: (SeverityNumber.SEVERITY_NUMBER_FATAL, "Fatal"),
}
"""Of OCSF's ids. All others are unspecified."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")


def context_of(traceparent: str) -> tuple[bytes, bytes]:
    """Give the ids of a trace and of a span in it (W3C Trace Context); both are empty where a text
    names no trace, the span's where that is none."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return b"", b""
    trace, span = (bytes.fromhex(one) for one in found.groups())
    if not any(trace):
        return b"", b""
    return trace, span if any(span) else b""


def record(event: Event, observed_ns: int) -> LogRecord:
    """Give the record of an event."""
    number, word = SEVERITIES.get(
        event.severity, (SeverityNumber.SEVERITY_NUMBER_UNSPECIFIED, "Unknown")
    )
    trace, span = context_of(event.traceparent)
    attributes = [
        text("log.record.uid", event.uid),
        KeyValue(key="stockade.index", value=AnyValue(int_value=event.index)),
        KeyValue(key="stockade.class_uid", value=AnyValue(int_value=event.class_uid)),
    ]
    if event.call:
        attributes.append(text("stockade.call", event.call))
    return LogRecord(
        time_unix_nano=event.time_ns, observed_time_unix_nano=observed_ns,
        severity_number=number, severity_text=word, event_name=f"stockade.{event.kind}",
        body=AnyValue(string_value=event.data.decode("utf-8", "replace")), attributes=attributes,
        trace_id=trace, span_id=span,
    )  # fmt: skip


def resource_of(source: Source) -> Resource:
    """Give the resource that a daemon is to OpenTelemetry."""
    return Resource(
        attributes=[
            text("service.name", "stockade"),
            text("service.version", source.version),
            text("service.instance.id", source.origin),
            text("host.name", source.host),
        ]
    )


class Requests:
    """Makes requests of one source."""

    method = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
    path = "/v1/logs"
    answer = ExportLogsServiceResponse

    def __init__(self, source: Source, bytes_max: int) -> None:
        self._resource = resource_of(source)
        self._scope = InstrumentationScope(name=SCOPE, version=source.version)
        frame = self._resource.ByteSize() + self._scope.ByteSize() + FRAME_BYTES
        self.room = bytes_max - frame - RECORD_BYTES
        """How large a record can be."""

    def piece(self, event: Event, observed_ns: int) -> LogRecord:
        """Give the record of an event."""
        return record(event, observed_ns)

    def rejected(self, partial: ExportLogsPartialSuccess) -> int:
        """Give how many records an answer says to be rejected."""
        return int(partial.rejected_log_records)

    def size(self, one: LogRecord) -> int:
        """Give how much of a request a record takes."""
        return one.ByteSize() + RECORD_BYTES

    def whole(self, records: Sequence[LogRecord]) -> bytes:
        """Give a request, as it is sent."""
        scope = ScopeLogs(scope=self._scope, log_records=records)
        logs = ResourceLogs(resource=self._resource, scope_logs=[scope])
        return ExportLogsServiceRequest(resource_logs=[logs]).SerializeToString()


def records_in(body: bytes) -> Iterator[LogRecord]:
    """Read a request again: its records, in order."""
    for logs in ExportLogsServiceRequest.FromString(body).resource_logs:
        for scope in logs.scope_logs:
            yield from scope.log_records


def text(key: str, value: str) -> KeyValue:
    """Give an attribute that is a string."""
    return KeyValue(key=key, value=AnyValue(string_value=value))
