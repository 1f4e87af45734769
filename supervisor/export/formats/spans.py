"""Calls as spans of a trace: one for the call, and one for each phase of it below that.

Made of what is on record, once a call has its outcome; so a span says nothing that the record does
not, and is redacted as that is. An event is the spans of one call, as JSON:

    {"spans":[{"name":…,"trace":HEX,"span":HEX,"parent":HEX,"start":NS,"end":NS,"error":…,
               "attributes":{…}},…]}

Names are those of OpenTelemetry's conventions for generative AI (`execute_tool`), where there are
some. A caller that named a trace, and said that it is not sampled, gets no span. Ids are always the
same for a call: of a trace that nobody named, the beginning of SHA-256 of the call's id.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from supervisor.audit.entry import Kind
from supervisor.call.safe import safe
from supervisor.export.event import Entry, Event, Head, Opening, Source, uid_of
from supervisor.export.formats import json_line

PHASES = ("accepted", "preparing", "armed", "started", "ended", "destroyed")
"""Of a call's timeline, in order; a phase lasts until the next that was reached."""

SHOWN_CHARACTERS_MAX = 1000
INFORMATIONAL, MEDIUM = 1, 3
SAMPLED = 1

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Spans:
    """A `Format`: entries other than outcomes give no event."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def encode(self, entry: Entry, opening: Opening | None, head: Head) -> Sequence[Event]:
        """Give the event of an outcome."""
        if entry.kind != Kind.OUTCOME or opening is None:
            return ()
        request = _mapping(opening.body, "request") or _mapping(opening.body, "request_preview")
        given = _text(_mapping(request, "correlation"), "traceparent")
        trace, parent, flags = _context(given, entry.call)
        if not flags & SAMPLED:
            return ()
        spans = list(self._spans(entry, opening, request, trace, parent))
        severity = MEDIUM if spans[0]["error"] else INFORMATIONAL
        return [
            Event(
                uid_of(entry, 0), entry.index, True, entry.time_ns, entry.kind, severity, 0,
                json_line.encode({"spans": spans}), entry.call, given if parent else "",
            )
        ]  # fmt: skip

    def _spans(
        self,
        entry: Entry,
        opening: Opening,
        request: Mapping[str, Any],
        trace: str,
        parent: str,
    ) -> Iterator[dict[str, Any]]:
        profile = _mapping(opening.body, "profile")
        tool = _text(profile, "name") or _text(request, "profile")
        error = _error(_mapping(entry.body, "outcome"))
        marks = _marks(_mapping(entry.body, "timeline"), opening.time_ns, entry.time_ns)
        call = _id(entry.call, "call")
        yield {
            "name": f"execute_tool {tool}", "trace": trace, "span": call, "parent": parent,
            "start": marks[0][1], "end": marks[-1][1], "error": error,
            "attributes": self._attributes(entry, opening, request, tool, error),
        }  # fmt: skip
        for (name, start), (_, end) in itertools.pairwise(marks):
            yield {
                "name": name, "trace": trace, "span": _id(entry.call, name), "parent": call,
                "start": start, "end": end, "error": "", "attributes": {},
            }  # fmt: skip

    def _attributes(
        self,
        entry: Entry,
        opening: Opening,
        request: Mapping[str, Any],
        tool: str,
        error: str,
    ) -> dict[str, Any]:
        correlation = _mapping(request, "correlation")
        profile, outcome = _mapping(opening.body, "profile"), _mapping(entry.body, "outcome")
        usage = _mapping(entry.body, "usage")
        argv = request.get("argv")
        named = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": tool,
            "gen_ai.tool.call.id": entry.call,
            "gen_ai.agent.name": _text(correlation, "agent"),
            "gen_ai.conversation.id": _text(correlation, "session"),
            "error.type": error,
            "stockade.workflow": _text(correlation, "workflow"),
            "stockade.caller": _text(_mapping(opening.body, "caller"), "name"),
            "stockade.program": argv[0] if isinstance(argv, list) and argv else "",
            "stockade.profile.digest": _text(profile, "digest"),
            "stockade.profile.mode": _text(profile, "mode"),
            "stockade.outcome": _text(outcome, "kind"),
            "stockade.log": self._source.origin,
            "stockade.leaf": entry.leaf,
        }
        made: dict[str, Any] = {
            key: safe(value[:SHOWN_CHARACTERS_MAX])
            for key, value in named.items()
            if isinstance(value, str) and value
        }
        counted = {
            "stockade.index": entry.index,
            "stockade.opening.index": opening.index,
            "stockade.denials": entry.body.get("denials"),
            "process.exit.code": outcome.get("code"),
            "stockade.memory.peak_bytes": usage.get("memory_peak_bytes"),
        }
        return made | {key: value for key, value in counted.items() if type(value) is int}


def _context(traceparent: str, call: str) -> tuple[str, str, int]:
    """Give the trace that a call belongs to, the span that it is below, "" for none, and flags."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return hashlib.sha256(call.encode()).hexdigest()[:32], "", SAMPLED
    return found[1], found[2], int(found[3], 16)


def _marks(timeline: Mapping[str, Any], began: int, ended: int) -> list[tuple[str, int]]:
    """Give when each phase began that was reached, and in the end when the outcome was durable. No
    time is before the one ahead of it: the clock may have been set meanwhile."""
    found = [(name, timeline.get(f"{name}_ns")) for name in PHASES]
    reached = [(name, at) for name, at in found if type(at) is int and at > 0]
    marks = [*(reached or [(PHASES[0], began)]), ("", ended)]
    latest, made = 0, []
    for name, at in marks:
        latest = max(latest, at)
        made.append((name, latest))
    return made


def _error(outcome: Mapping[str, Any]) -> str:
    """Give what kind of failure an outcome is; "" where it is none. What an exit code means, the
    program knows alone: grep(1) that finds nothing has not failed."""
    kind = _text(outcome, "kind") or "unknown"
    return "" if kind == "exited" else kind


def _id(call: str, name: str) -> str:
    return hashlib.sha256(f"{call} {name}".encode()).hexdigest()[:16]


def _mapping(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key)
    return value if isinstance(value, dict) else {}


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    return value if isinstance(value, str) else ""
