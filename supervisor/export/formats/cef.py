r"""The record as CEF (ArcSight Common Event Format, version 0): the events of OCSF on a line each.

    CEF:0|Stockade|Stockade|VERSION|TYPE|NAME|SEVERITY| KEY=VALUE …

In the header `\` and `|` are escaped, behind it `\`, `=` and what ends a line. Every other control
character is told as the text by which JSON would escape it. A space follows the last `|`, without
which liblognorm drops the first letter of the first key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from supervisor.export.event import Entry, Event, Head, Opening, Source
from supervisor.export.formats.ocsf import Ocsf
from supervisor.export.formats.ocsf_parts import PRODUCT

SEVERITIES = {1: 1, 2: 3, 3: 5, 4: 7, 5: 9, 6: 10}
"""Of OCSF → of CEF, 0 to 10."""

_CONTROLS = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"
_IN_HEADER = re.compile(f"[\\\\|{_CONTROLS}]")
_IN_EXTENSION = re.compile(f"[\\\\={_CONTROLS}]")
_BREAKS = {"\n": "\\n", "\r": "\\r"}


class Cef:
    """A `Format`."""

    def __init__(self, source: Source) -> None:
        self._ocsf = Ocsf(source)
        self._begin = f"CEF:0|{PRODUCT}|{PRODUCT}|{in_header(source.version)}|"

    def encode(self, entry: Entry, opening: Opening | None, head: Head) -> Sequence[Event]:
        """Give the events of an entry."""
        events = self._ocsf.encode(entry, opening, head)
        for event in events:
            event.data = self._line(orjson.loads(event.data)).encode()
        return events

    def _line(self, event: Mapping[str, Any]) -> str:
        name = event["finding_info"]["title"] if "finding_info" in event else _name(event)
        header = f"{event['type_uid']}|{in_header(name)}|{SEVERITIES[event['severity_id']]}|"
        told = " ".join(f"{key}={in_extension(value)}" for key, value in _fields(event))
        return f"{self._begin}{header} {told}"


def in_header(text: str) -> str:
    """Give a text as a field of the header."""
    return _IN_HEADER.sub(_in_header, text)


def in_extension(value: object) -> str:
    """Give a value as one behind the header."""
    return _IN_EXTENSION.sub(_in_extension, value if isinstance(value, str) else str(value))


def _in_header(found: re.Match[str]) -> str:
    one = found[0]
    return f"\\{one}" if one in "\\|" else _visible(one)


def _in_extension(found: re.Match[str]) -> str:
    one = found[0]
    return _BREAKS.get(one) or (f"\\{one}" if one in "\\=" else _visible(one))


def _visible(control: str) -> str:
    """Give a control character as JSON escapes it, and that escaped as a text here."""
    return f"\\\\u{ord(control):04x}"


def _name(event: Mapping[str, Any]) -> str:
    return f"{event['class_name']}: {event['activity_name']}"


def _fields(event: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Give what there is, by CEF's names, and by our own where it has none."""
    for key, value in _all(event):
        if value is not None and value != "":
            yield key, value


def _all(event: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    metadata, place = event["metadata"], event["unmapped"]["stockade"]
    yield "rt", event["time"]
    yield "externalId", metadata["uid"]
    yield "cat", event["class_name"]
    yield "act", event.get("disposition") or event.get("action")
    yield "outcome", event.get("status")
    yield "reason", event.get("status_code")
    yield "msg", event["message"]
    yield "cnt", event.get("count")
    yield "start", event.get("start_time")
    yield "end", event.get("end_time")
    yield "dvchost", _at(event, "device", "hostname")
    yield from _who(event)
    yield from _network(event)
    yield "fname", _at(event, "process", "file", "name")
    yield "filePath", _at(event, "process", "file", "path")
    yield "app", _at(event, "api", "operation") or _at(event, "kernel", "name")
    yield from _place(place)


def _who(event: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "suser", _at(event, "actor", "user", "name")
    yield "suid", _at(event, "actor", "user", "uid")
    yield "spid", _at(event, "actor", "process", "pid")
    yield "sproc", _at(event, "actor", "process", "name")
    yield "dpid", _at(event, "process", "pid")
    yield "dproc", _at(event, "process", "cmd_line")


def _network(event: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "src", _at(event, "src_endpoint", "ip")
    yield "spt", _at(event, "src_endpoint", "port")
    yield "shost", _at(event, "src_endpoint", "hostname")
    yield "dst", _at(event, "dst_endpoint", "ip")
    yield "dpt", _at(event, "dst_endpoint", "port")
    yield "dhost", _at(event, "dst_endpoint", "hostname") or _at(event, "query", "hostname")
    yield "out", _at(event, "traffic", "bytes_out")
    yield "in", _at(event, "traffic", "bytes_in")


def _place(place: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    named = (
        ("cs1", "call", _at(place, "call", "id")),
        ("cs2", "agent", _at(place, "call", "agent")),
        ("cs3", "session", _at(place, "call", "session")),
        ("cs4", "profile", _at(place, "call", "profile", "name")),
        ("cs5", "rule", place.get("rule")),
        ("cs6", "leaf", place["leaf"]),
        ("cn1", "index", place["index"]),
        ("cn2", "head", _at(place, "head", "size")),
    )
    for key, label, value in named:
        if value is not None and value != "":
            yield f"{key}Label", label
            yield key, value
    yield "stockadeKind", place["kind"]
    yield "stockadeProfileDigest", _at(place, "call", "profile", "digest")
    yield "stockadeTrace", _at(place, "call", "trace_id")
    yield "stockadeSpan", _at(place, "call", "span_id")
    yield "stockadeRoot", _at(place, "head", "root")
    yield "stockadeMode", _at(place, "call", "profile", "mode")
    if "body" in place:
        yield "stockadeBody", orjson.dumps(place["body"]).decode()


def _at(value: Any, *way: str) -> Any:
    for name in way:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
