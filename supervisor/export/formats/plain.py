"""Our own JSON: the entry as it is in the log, with its place and proof, and whose it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import orjson

from supervisor.audit.entry import Kind
from supervisor.call.types import Json
from supervisor.export.event import Entry, Event, Head, Opening, Source, uid_of

INFORMATIONAL, MEDIUM, HIGH = 1, 3, 4

_SEVERITY: Mapping[str, int] = {
    Kind.DENIED: MEDIUM,
    Kind.LOST: MEDIUM,
    Kind.REFUSED: MEDIUM,
    Kind.UNAUTHENTICATED: MEDIUM,
    Kind.REFUSALS_DROPPED: MEDIUM,
    Kind.LOG_CUT: HIGH,
    Kind.HEAD_CONTRADICTED: HIGH,
}


class Plain:
    """Makes one event of each entry."""

    def __init__(self, source: Source) -> None:
        self._source = {"host": source.host, "origin": source.origin, "version": source.version}

    def encode(self, entry: Entry, opening: Opening | None, head: Head) -> Sequence[Event]:
        """Give the event of an entry."""
        uid = uid_of(entry, 0)
        fields: dict[str, Json] = {
            "uid": uid,
            "log": {
                **self._source,
                "index": entry.index,
                "leaf": entry.leaf,
                "head": {"size": head.size, "root": head.root},
            },
            "time_ns": entry.time_ns,
            "kind": entry.kind,
            "call": entry.call,
            "sequence": entry.sequence,
            "body": dict(entry.body),
        }
        if opening is not None and entry.kind != Kind.INTENT:
            fields["of"] = _whose(opening)
        return [
            Event(
                uid=uid,
                index=entry.index,
                last=True,
                time_ns=entry.time_ns,
                kind=entry.kind,
                severity=_SEVERITY.get(entry.kind, INFORMATIONAL),
                class_uid=0,
                data=_line(fields),
            )
        ]


def _whose(opening: Opening) -> dict[str, Json]:
    """Give what an entry of a call needs of its INTENT to be understood alone."""
    body = opening.body
    shown = next((body[name] for name in ("request", "request_preview") if name in body), {})
    correlation = shown.get("correlation", {}) if isinstance(shown, dict) else {}
    return {
        "caller": body.get("caller"),
        "profile": body.get("profile"),
        "correlation": correlation,
    }


def _line(fields: Mapping[str, Json]) -> bytes:
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError:  # A lone surrogate, or an integer beyond 64 bits.
        return json.dumps(fields, separators=(",", ":")).encode()
