"""The record as OCSF: 1.8.0, 1.1.0 as what is left of it, and 1.9.0 with the agent and the log's
own integrity besides.

An entry becomes at least one event of the class that it is nearest to; what a wall held, what is
not on record, and a log that is not what a witness knows become a Detection Finding besides. All
that OCSF has no place for is in `unmapped.stockade`: where the entry lies in the log, the call it
belongs to, and in `body` what of it stands nowhere else. What a body lacks is named in `missing`;
nothing in it can make this fail.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from supervisor.export.event import Entry, Event, Head, Opening, Source, uid_of_entry
from supervisor.export.formats import json_line, ocsf_calls, ocsf_own
from supervisor.export.formats import ocsf_facts as facts
from supervisor.export.formats.ocsf_alike import KINDS, Alikes, events_like
from supervisor.export.formats.ocsf_calls import Drafter
from supervisor.export.formats.ocsf_parts import (
    MILLISECOND_NS,
    Draft,
    Fields,
    Parts,
    Share,
    call_parts,
    fragment,
    own_parts,
)
from supervisor.export.formats.ocsf_shapes import Release, Shape, Shapes

PARTS_MAX = 256
"""Calls whose parts are kept, with their openings; beyond it, the oldest is made again."""

_DRAFTERS: Mapping[str, Drafter] = {**ocsf_calls.DRAFTERS, **ocsf_own.DRAFTERS}
_EVIDENCE = ("actor", "process", "src_endpoint", "dst_endpoint", "connection_info", "api", "query")


class Ocsf:
    """A `Format`. Keeps what all events of a call share, and nothing that changes what they are.
    Not for several threads at once."""

    def __init__(
        self, source: Source, release: Release = Release.V1_8, share: Share = fragment
    ) -> None:
        """`share` is `as_it_is` for who uses `told`."""
        self._source = source
        self._share = share
        self._old = release is Release.V1_1
        self._own = own_parts(source, old=self._old, share=share)
        self._calls: dict[int, tuple[Opening, Parts]] = {}
        self._shapes = Shapes(source, release)
        self._alikes = Alikes(self._made)
        self._head = Head(size=0, root=""), ""

    def encode(self, entry: Entry, opening: Opening | None, head: Head) -> Sequence[Event]:
        """Give the events of an entry."""
        parts = self._parts(entry, opening)
        if entry.kind in KINDS and (found := self._alikes.find(entry, parts)) is not None:
            alike, arguments = found
            return events_like(alike, entry, arguments, self._where(entry, parts, head))
        return self._made(entry, parts, lambda: self._where(entry, parts, head))

    def _made(self, entry: Entry, parts: Parts, where: Callable[[], str]) -> list[Event]:
        """Give the events of an entry, made from the beginning; `where` is asked once."""
        events, said = [], ""
        for event, draft, shape, own in self._told(entry, parts):
            said = said or where()  # which takes what the first shape has its call's parts keep
            event.data = _line(event, draft, shape, own, said)
            events.append(event)
        return events

    def told(
        self, entry: Entry, opening: Opening | None, head: Head
    ) -> Sequence[tuple[Event, dict[str, Any]]]:
        """Give the events of an entry, each without its data, and what would be that."""
        return [
            (event, self._whole(event, draft, shape, own, entry, head))
            for event, draft, shape, own in self._told(entry, self._parts(entry, opening))
        ]

    def _told(self, entry: Entry, parts: Parts) -> list[tuple[Event, Draft, Shape, dict[str, Any]]]:
        """Give the events of an entry, what each is made of, and what of it is its own."""
        told: list[tuple[Event, Draft, Shape, dict[str, Any]]] = []
        begin = uid_of_entry(entry)
        for draft in self._drafted(entry, parts):
            uid = f"{begin}-{len(told)}"
            shape, own = self._shaped(draft, entry, parts)
            told.append((_event(uid, shape, draft, entry, parts), draft, shape, own))
            if draft.finding:
                found = self._finding(draft, shape, entry, uid)
                uid = f"{begin}-{len(told)}"
                shape, own = self._shaped(found, entry, parts)
                told.append((_event(uid, shape, found, entry, parts), found, shape, own))
        told[-1][0].last = True
        return told

    def drafts(self, entry: Entry, opening: Opening | None) -> tuple[Parts, Sequence[Draft]]:
        """Give what an entry is told as, before it is put together."""
        parts = self._parts(entry, opening)
        return parts, self._drafted(entry, parts)

    def _drafted(self, entry: Entry, parts: Parts) -> Sequence[Draft]:
        drafter = _DRAFTERS.get(entry.kind, ocsf_calls.unknown)
        return drafter(Fields(entry.body), parts, self._source)

    def _parts(self, entry: Entry, opening: Opening | None) -> Parts:
        if opening is None:
            return self._own
        kept = self._calls.get(opening.index)
        if kept is not None and kept[0] is opening:
            return kept[1]
        parts = call_parts(opening, entry.call, self._source, old=self._old, share=self._share)
        if len(self._calls) >= PARTS_MAX:
            del self._calls[next(iter(self._calls))]
        self._calls[opening.index] = (opening, parts)
        return parts

    def _finding(self, draft: Draft, shape: Shape, entry: Entry, uid: str) -> Draft:
        """Give the finding for what a draft tells in the event `uid`."""
        evidence = {name: draft.more[name] for name in _EVIDENCE if name in draft.more}
        info: dict[str, Any] = {
            "uid": f"finding-{uid}",
            "title": draft.finding,
            "desc": draft.message,
            "types": [entry.kind],
            "created_time": (draft.time_ns or entry.time_ns) // MILLISECOND_NS,
            "related_events": [{"uid": uid, "type_uid": shape.type_uid}],
            "data_sources": [self._source.origin],
        }
        if draft.rule:
            info["analytic"] = {"name": draft.rule, "type_id": facts.RULE, "type": "Rule"}
        more = {"finding_info": info, "evidences": [evidence], "is_alert": True}
        return Draft(
            facts.DETECTION_FINDING, 1, draft.finding, more, severity=draft.severity,
            status=facts.NEW, status_code=draft.status_code, status_detail=draft.status_detail,
            decision=draft.decision, count=draft.count, time_ns=draft.time_ns, rule=draft.rule,
        )  # fmt: skip

    def _shaped(self, draft: Draft, entry: Entry, parts: Parts) -> tuple[Shape, dict[str, Any]]:
        """Give what a draft has in common with others, and all that is its own."""
        own = {
            "time": (draft.time_ns or entry.time_ns) // MILLISECOND_NS,
            "message": draft.message,
            **draft.more,
        }
        if draft.status_code:
            own["status_code"] = draft.status_code
        if draft.status_detail:
            own["status_detail"] = draft.status_detail
        if draft.count is not None:
            own["count"] = draft.count
        if self._shapes.release is Release.V1_9:
            own["attestation_list"] = self._attestation(entry)
        return self._shapes.shape(draft, parts, tuple(own)), own

    def _attestation(self, entry: Entry) -> list[dict[str, Any]]:
        """Say by OCSF's own means where an entry lies."""
        return [
            {
                "uid": uid_of_entry(entry),
                "authority_uid": self._source.origin,
                "chain_uid": self._source.origin,
                "fingerprint": {
                    "algorithm_id": facts.SHA_256,
                    "algorithm": "SHA-256",
                    "encoding_id": facts.HEXADECIMAL,
                    "encoding": "Hex",
                    # What is digested is the entry, of which the event is another spelling.
                    "serialization_id": facts.OTHER,
                    "serialization": "RFC 6962 leaf of the log's entry",
                    "value": entry.leaf,
                },
            }
        ]

    def _whole(
        self, event: Event, draft: Draft, shape: Shape, own: dict[str, Any], entry: Entry,
        head: Head,
    ) -> dict[str, Any]:  # fmt: skip
        """Give an event as it is; `_line` is its spelling."""
        place: dict[str, Any] = {"index": entry.index, "leaf": entry.leaf, "kind": entry.kind}
        if head.size:
            place["head"] = {"size": head.size, "root": head.root}
        metadata = {
            **shape.metadata,
            "uid": event.uid,
            "event_code": entry.kind,
            "sequence": entry.index,
            "logged_time": entry.time_ns // MILLISECOND_NS,
            "original_time": str(entry.time_ns),
        }
        if entry.call:
            metadata["correlation_uid"] = entry.call
            place["sequence"] = entry.sequence
            place["call"] = shape.call if shape.call is not None else {"id": entry.call}
        place |= _beside(draft, shape, own)
        return {**shape.fixed, **own, "metadata": metadata, "unmapped": {"stockade": place}}

    def _where(self, entry: Entry, parts: Parts, head: Head) -> str:
        """Give what all events of an entry say of it behind their uid, as JSON."""
        if self._head[0] is not head:
            self._head = head, _head_text(head)
        kind, correlation, call = quoted(entry.kind), "", ""
        if entry.call:
            uid = quoted(entry.call)
            correlation = f',"correlation_uid":{uid}'
            call = parts.call_text or f'{{"id":{uid}}}'
            call = f',"sequence":{_number(entry.sequence)},"call":{call}'
        logged = _number(entry.time_ns // MILLISECOND_NS)
        return (
            f'"event_code":{kind},"sequence":{entry.index},"logged_time":{logged},'
            f'"original_time":"{entry.time_ns}"{correlation}}},'
            f'"unmapped":{{"stockade":{{"index":{entry.index},"leaf":"{entry.leaf}",'
            f'"kind":{kind}{self._head[1]}{call}'
        )


def _line(event: Event, draft: Draft, shape: Shape, own: dict[str, Any], where: str) -> bytes:
    """Give an event as JSON; `Ocsf.told` tells the same. What many have in common is put in as text
    that was made once: this is what takes the time of a sink that is behind."""
    beside = _beside(draft, shape, own)
    more = f",{_inside(beside)}" if beside else ""
    return (
        f'{{{shape.fixed_text},{_inside(own)},"metadata":{{{shape.metadata_text},'
        f'"uid":"{event.uid}",{where}{more}}}}}}}'
    ).encode()


def _inside(fields: Mapping[str, Any]) -> str:
    """Give an object as JSON without its braces."""
    return json_line.encode(fields)[1:-1].decode()


def _beside(draft: Draft, shape: Shape, own: dict[str, Any]) -> dict[str, Any]:
    """Give what of a draft OCSF has no place for, and take from `own` what this release has not."""
    made: dict[str, Any] = {}
    if draft.rule:
        made["rule"] = draft.rule
    if draft.rest:
        made["body"] = draft.rest
    if draft.missing or shape.missing:
        made["missing"] = [*draft.missing, *shape.missing]
    if shape.lacking or shape.beside:
        made["ocsf"] = {**shape.beside, **{name: own.pop(name) for name in shape.lacking}}
    return made


def _head_text(head: Head) -> str:
    return f',"head":{{"size":{head.size},"root":{quoted(head.root)}}}' if head.size else ""


def _number(number: int) -> str:
    """Give an integer as `json_line` does."""
    return str(number) if number <= json_line.UINT64_MAX else f'"{number}"'


@functools.lru_cache(maxsize=4096)
def quoted(text: str) -> str:
    """Give a text as JSON."""
    return json_line.encode(text).decode()


def _event(uid: str, shape: Shape, draft: Draft, entry: Entry, parts: Parts) -> Event:
    return Event(
        uid, entry.index, False, draft.time_ns or entry.time_ns, entry.kind,
        draft.severity, shape.class_uid, b"", entry.call, parts.traceparent,
    )  # fmt: skip
