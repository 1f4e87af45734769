r"""The record as CEF (ArcSight Common Event Format, version 0): the events of OCSF on a line each.

    CEF:0|Stockade|Stockade|VERSION|TYPE|NAME|SEVERITY| KEY=VALUE …

In the header `\` and `|` are escaped, behind it `\`, `=` and what ends a line. Every other control
character is told as the text by which JSON would escape it. A space follows the last `|`, without
which liblognorm drops the first letter of the first key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from supervisor.export.event import Entry, Event, Head, Opening, Source
from supervisor.export.formats import json_line
from supervisor.export.formats.ocsf import PARTS_MAX, Ocsf
from supervisor.export.formats.ocsf_parts import PRODUCT, as_it_is

SEVERITIES = {1: 1, 2: 3, 3: 5, 4: 7, 5: 9, 6: 10}
"""Of OCSF → of CEF, 0 to 10."""

# And surrogates, which are no UTF-8.
_CONTROLS = (
    "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
)
_IN_HEADER = re.compile(f"[\\\\|{_CONTROLS}]")
_IN_EXTENSION = re.compile(f"[\\\\={_CONTROLS}]")
_BREAKS = {"\n": "\\n", "\r": "\\r"}
_NONE: Mapping[str, Any] = {}


class _Call(NamedTuple):
    """What all events of a call say, as it stands behind the header; `of` is the object that it was
    made of."""

    of: Mapping[str, Any]
    who: str
    trace: str


class Cef:
    """A `Format`. Keeps what all events of a call share. Not for several threads at once."""

    def __init__(self, source: Source) -> None:
        self._ocsf = Ocsf(source, share=as_it_is)
        self._begin = f"CEF:0|{PRODUCT}|{PRODUCT}|{in_header(source.version)}|"
        self._calls: dict[int, _Call] = {}

    def encode(self, entry: Entry, opening: Opening | None, head: Head) -> Sequence[Event]:
        """Give the events of an entry."""
        told = self._ocsf.told(entry, opening, head)
        for event, fields in told:
            event.data = self._line(fields).encode()
        return [event for event, _ in told]

    def _line(self, event: Mapping[str, Any]) -> str:
        name = event["finding_info"]["title"] if "finding_info" in event else _name(event)
        header = f"{event['type_uid']}|{in_header(name)}|{SEVERITIES[event['severity_id']]}|"
        place = event["unmapped"]["stockade"]
        call = self._call(place.get("call", _NONE))
        parts = (
            extension(_fields(event)),
            call.who,
            extension(_place(place)),
            call.trace,
            extension(_rest(place)),
        )
        return f"{self._begin}{header} {' '.join([part for part in parts if part])}"

    def _call(self, call: Mapping[str, Any]) -> _Call:
        kept = self._calls.get(id(call))
        if kept is not None and kept.of is call:
            return kept
        profile = call.get("profile", _NONE)
        made = _Call(
            call,
            extension(
                [
                    *_labelled("cs1", "call", call.get("id")),
                    *_labelled("cs2", "agent", call.get("agent")),
                    *_labelled("cs3", "session", call.get("session")),
                    *_labelled("cs4", "profile", profile.get("name")),
                ]
            ),
            extension(
                [
                    ("stockadeProfileDigest", profile.get("digest")),
                    ("stockadeTrace", call.get("trace_id")),
                    ("stockadeSpan", call.get("span_id")),
                    ("stockadeMode", profile.get("mode")),
                ]
            ),
        )
        if len(self._calls) >= PARTS_MAX:
            del self._calls[next(iter(self._calls))]
        self._calls[id(call)] = made
        return made


def extension(fields: Iterable[tuple[str, object]]) -> str:
    """Give what there is of fields, as it stands behind the header."""
    told: list[str] = []
    for key, value in fields:
        if value is None or value == "":
            continue
        if type(value) is not int:
            value = in_extension(value)
        told.append(f"{key}={value}")
    return " ".join(told)


def _is_plain(text: str) -> bool:
    """Say whether a text surely has nothing to escape behind the header: most have not, and this
    tells fast. What is printable is no control, no surrogate, and ends no line."""
    return text.isprintable() and "=" not in text and "\\" not in text


def in_header(text: str) -> str:
    """Give a text as a field of the header."""
    return _IN_HEADER.sub(_in_header, text)


def in_extension(value: object) -> str:
    """Give a value as one behind the header."""
    text = value if isinstance(value, str) else str(value)
    return text if _is_plain(text) else _IN_EXTENSION.sub(_in_extension, text)


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


def _fields(event: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Give all by CEF's names, and by our own where it has none; what there is not is None."""
    get = event.get
    metadata = event["metadata"]
    actor, told = get("actor", _NONE), get("process", _NONE)
    user, process = actor.get("user", _NONE), actor.get("process", _NONE)
    file, traffic = told.get("file", _NONE), get("traffic", _NONE)
    source, target = get("src_endpoint", _NONE), get("dst_endpoint", _NONE)
    return [
        ("rt", event["time"]),
        ("externalId", metadata["uid"]),
        ("cat", event["class_name"]),
        ("act", get("disposition") or get("action")),
        ("outcome", get("status")),
        ("reason", get("status_code")),
        ("msg", event["message"]),
        ("cnt", get("count")),
        ("start", get("start_time")),
        ("end", get("end_time")),
        ("dvchost", get("device", _NONE).get("hostname")),
        ("suser", user.get("name")),
        ("suid", user.get("uid")),
        ("spid", process.get("pid")),
        ("sproc", process.get("name")),
        ("dpid", told.get("pid")),
        ("dproc", told.get("cmd_line")),
        ("src", source.get("ip")),
        ("spt", source.get("port")),
        ("shost", source.get("hostname")),
        ("dst", target.get("ip")),
        ("dpt", target.get("port")),
        ("dhost", target.get("hostname") or get("query", _NONE).get("hostname")),
        ("out", traffic.get("bytes_out")),
        ("in", traffic.get("bytes_in")),
        ("fname", file.get("name")),
        ("filePath", file.get("path")),
        ("app", get("api", _NONE).get("operation") or get("kernel", _NONE).get("name")),
    ]


def _labelled(key: str, meaning: str, value: object) -> Sequence[tuple[str, object]]:
    """Give a field of ours and its label, or nothing."""
    return () if value is None or value == "" else ((f"{key}Label", meaning), (key, value))


def _place(place: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Give where the entry lies."""
    return [
        *_labelled("cs5", "rule", place.get("rule")),
        ("cs6Label", "leaf"),
        ("cs6", place["leaf"]),
        ("cn1Label", "index"),
        ("cn1", place["index"]),
        *_labelled("cn2", "head", place.get("head", _NONE).get("size")),
        ("stockadeKind", place["kind"]),
    ]


def _rest(place: Mapping[str, Any]) -> list[tuple[str, object]]:
    told = [("stockadeRoot", place.get("head", _NONE).get("root"))]
    if "body" in place:
        told.append(("stockadeBody", json_line.encode(place["body"]).decode()))
    return told
