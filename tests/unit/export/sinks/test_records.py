"""Events as log records."""

from __future__ import annotations

import dataclasses

import pytest

from supervisor.export.event import Source
from supervisor.export.sinks.records import Requests, context_of, record, records_in
from tests.support.deliveries import event, events

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SOURCE = Source(origin="box.example/log", host="box", version="1.2")


def test_a_record() -> None:
    one = dataclasses.replace(event(7), severity=4)
    made = record(one, 99)
    assert (made.time_unix_nano, made.observed_time_unix_nano) == (one.time_ns, 99)
    assert (made.severity_number, made.severity_text) == (17, "High")
    assert made.event_name == "stockade.output"
    assert made.body.string_value.encode() == one.data
    values = {each.key: each.value for each in made.attributes}
    assert values["log.record.uid"].string_value == one.uid
    assert values["stockade.index"].int_value == 7
    assert values["stockade.class_uid"].int_value == 6003
    assert not made.trace_id


@pytest.mark.parametrize(
    ("severity", "number"), [(0, 0), (1, 9), (2, 10), (3, 13), (4, 17), (5, 18), (6, 21), (99, 0)]
)
def test_severities(severity: int, number: int) -> None:
    made = record(dataclasses.replace(event(0), severity=severity), 1)
    assert made.severity_number == number


@pytest.mark.parametrize(
    ("traceparent", "trace", "span"),
    [
        (f"00-{TRACE}-{SPAN}-01", TRACE, SPAN),
        (f"01-{TRACE}-{SPAN}-01-more", TRACE, SPAN),
        (f"00-{TRACE}-{'0' * 16}-01", TRACE, ""),
        (f"00-{'0' * 32}-{SPAN}-01", "", ""),
        (f"00-{TRACE.upper()}-{SPAN}-01", "", ""),
        (f"00-{TRACE}-{SPAN}-01\n", "", ""),
        ("", "", ""),
    ],
)
def test_context(traceparent: str, trace: str, span: str) -> None:
    assert tuple(one.hex() for one in context_of(traceparent)) == (trace, span)


def test_a_record_has_its_context_whatever_its_format() -> None:
    of_call = {"call": "c1", "traceparent": f"00-{TRACE}-{SPAN}-01"}
    made = record(dataclasses.replace(event(0), data=b"CEF:0|x", **of_call), 1)  # type: ignore[arg-type]
    assert (made.trace_id.hex(), made.span_id.hex()) == (TRACE, SPAN)
    assert made.attributes[-1].value.string_value == "c1"


@pytest.mark.parametrize("count", [1, 2, 300])
@pytest.mark.parametrize("pad", [0, 200, 20_000])
def test_a_request_is_never_larger_than_its_records_say(count: int, pad: int) -> None:
    requests = Requests(SOURCE, 1 << 30)
    records = [record(one, 1) for one in events(count, pad=pad)]
    whole = requests.whole(records)
    frame = (1 << 30) - requests.room
    assert len(whole) <= frame + sum(map(requests.size, records))
    assert list(records_in(whole)) == records
