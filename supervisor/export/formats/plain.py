"""The record as our own JSON: an event for each entry, with its body as it is in the log, its place
there, and whose call it was.

    {"body":{…},"call":{"id":…},"head":{…},"host":…,"index":7,"kind":"denied","leaf":…,"log":…,
     "sequence":3,"severity":3,"time_ns":…,"uid":…,"version":…}

`call` and `sequence` are of a call's entries alone; `severity` is that of OCSF.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from supervisor.export.event import Entry, Event, Head, Opening, Source, uid_of
from supervisor.export.formats import json_line
from supervisor.export.formats.ocsf import Ocsf


class Plain:
    """A `Format`. What is severe, and how it is classed, is as in OCSF."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ocsf = Ocsf(source)

    def encode(self, entry: Entry, opening: Opening | None, head: Head) -> Sequence[Event]:
        """Give the event of an entry."""
        parts, drafts = self._ocsf.drafts(entry, opening)
        severity = max(draft.severity for draft in drafts)
        uid = uid_of(entry, 0)
        told: dict[str, Any] = {
            "uid": uid,
            "log": self._source.origin,
            "host": self._source.host,
            "version": self._source.version,
            "index": entry.index,
            "leaf": entry.leaf,
            "time_ns": entry.time_ns,
            "kind": entry.kind,
            "severity": severity,
            "body": dict(entry.body),
        }
        if head.size:
            told["head"] = {"size": head.size, "root": head.root}
        if entry.call:
            told["sequence"] = entry.sequence
            told["call"] = parts.call if parts.call is not None else {"id": entry.call}
        data = json_line.encode(told)
        return [
            Event(
                uid, entry.index, True, entry.time_ns, entry.kind, severity, drafts[0].class_uid,
                data, entry.call, parts.traceparent,
            )
        ]  # fmt: skip
