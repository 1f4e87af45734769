"""Events as log records of OTLP (opentelemetry/proto/logs/v1/logs.proto). No I/O.

The body is the event's line as a string, not a list of keys and values: what arrives is byte for
byte what was made, so that it can be held against the log. What is asked for often stands in
attributes. `log.record.uid` is OpenTelemetry's own: records of the same uid are duplicates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
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

_TRACE, _SPAN = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{16}")


class Context(NamedTuple):
    """The call, the trace and the span that an event is of; empty where it says none."""

    call: str
    trace: bytes
    span: bytes


def context_of(data: bytes) -> Context:
    """Read them from an event: OCSF's and ECS' `trace` and `span`, and `call` where it is one. An
    event that is no JSON object says none."""
    try:
        row = orjson.loads(data)
    except orjson.JSONDecodeError:
        return Context("", b"", b"")
    if not isinstance(row, dict):
        return Context("", b"", b"")
    trace = row.get("trace")
    holder = trace if isinstance(trace, dict) else {}
    call = row.get("call")
    trace_id = _id(holder.get("uid", holder.get("id")), _TRACE)
    span = holder.get("span", row.get("span"))
    span_id = _id(span.get("uid", span.get("id")) if isinstance(span, dict) else None, _SPAN)
    # A span without its trace is no place (logs.proto).
    return Context(call if isinstance(call, str) else "", trace_id, span_id if trace_id else b"")


def _id(value: object, form: re.Pattern[str]) -> bytes:
    if isinstance(value, str) and form.fullmatch(value) and value.strip("0"):
        return bytes.fromhex(value)
    return b""


def record(event: Event, observed_ns: int) -> LogRecord:
    """Give the record of an event."""
    number, text = SEVERITIES.get(
        event.severity, (SeverityNumber.SEVERITY_NUMBER_UNSPECIFIED, "Unknown")
    )
    context = context_of(event.data)
    attributes = [
        _text("log.record.uid", event.uid),
        KeyValue(key="stockade.index", value=AnyValue(int_value=event.index)),
        KeyValue(key="stockade.class_uid", value=AnyValue(int_value=event.class_uid)),
    ]
    if context.call:
        attributes.append(_text("stockade.call", context.call))
    return LogRecord(
        time_unix_nano=event.time_ns, observed_time_unix_nano=observed_ns,
        severity_number=number, severity_text=text, event_name=f"stockade.{event.kind}",
        body=AnyValue(string_value=event.data.decode("utf-8", "replace")), attributes=attributes,
        trace_id=context.trace, span_id=context.span,
    )  # fmt: skip


class Requests:
    """Makes requests of one source."""

    def __init__(self, source: Source, bytes_max: int) -> None:
        self._resource = Resource(
            attributes=[
                _text("service.name", "stockade"),
                _text("service.version", source.version),
                _text("service.instance.id", source.origin),
                _text("host.name", source.host),
            ]
        )
        self._scope = InstrumentationScope(name=SCOPE, version=source.version)
        frame = self._resource.ByteSize() + self._scope.ByteSize() + FRAME_BYTES
        self.room = bytes_max - frame - RECORD_BYTES
        """How large a record can be."""

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


def _text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))
