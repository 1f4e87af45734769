"""The record as OCSF: 1.8.0, 1.1.0 as what is left of it, and 1.9.0 with the agent and the log's
own integrity besides.

An entry becomes at least one event of the class that it is nearest to; what a wall held, what is
not on record, and a log that is not what a witness knows become a Detection Finding besides. All
that OCSF has no place for is in `unmapped.stockade`: where the entry lies in the log, the call it
belongs to, and in `body` what of it stands nowhere else. What a body lacks is named in `missing`;
nothing in it can make this fail.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor.export.event import Entry, Event, Head, Opening, Source, uid_of
from supervisor.export.formats import json_line, ocsf_calls, ocsf_own
from supervisor.export.formats import ocsf_facts as facts
from supervisor.export.formats.ocsf_calls import MILLISECOND_NS, Drafter
from supervisor.export.formats.ocsf_parts import (
    PRODUCT,
    Draft,
    Fields,
    Parts,
    Share,
    call_parts,
    fragment,
    own_parts,
    put,
)

PARTS_MAX = 256
"""Calls whose parts are kept, with their openings; beyond it, the oldest is made again."""

_DRAFTERS: Mapping[str, Drafter] = {**ocsf_calls.DRAFTERS, **ocsf_own.DRAFTERS}
_EVIDENCE = ("actor", "process", "src_endpoint", "dst_endpoint", "connection_info", "api", "query")


class Release(enum.StrEnum):
    """A release of OCSF."""

    V1_1 = "1.1.0"
    V1_8 = "1.8.0"
    V1_9 = "1.9.0"


class Ocsf:
    """A `Format`. Keeps what all events of a call share, and nothing that changes what they are.
    Not for several threads at once."""

    def __init__(
        self, source: Source, release: Release = Release.V1_8, share: Share = fragment
    ) -> None:
        """`share` is `as_it_is` for who uses `told`."""
        self._source = source
        self._share = share
        self._release = release
        self._old = release is Release.V1_1
        self._own = own_parts(source, old=self._old, share=share)
        self._calls: dict[int, tuple[Opening, Parts]] = {}
        product = put({"name": PRODUCT, "vendor_name": PRODUCT}, version=source.version)
        self._product = share(product)
        self._head: tuple[Head, Any] | None = None
        self._profiles: dict[tuple[str, ...], Any] = {}

    def encode(self, entry: Entry, opening: Opening | None, head: Head) -> Sequence[Event]:
        """Give the events of an entry."""
        told = self.told(entry, opening, head)
        for event, fields in told:
            event.data = json_line.encode(fields)
        return [event for event, _ in told]

    def told(
        self, entry: Entry, opening: Opening | None, head: Head
    ) -> Sequence[tuple[Event, dict[str, Any]]]:
        """Give the events of an entry, each without its data, and what would be that."""
        parts, drafts = self.drafts(entry, opening)
        told: list[tuple[Event, dict[str, Any]]] = []
        for draft in drafts:
            number = len(told)
            event = self._event(draft, entry, parts, head, number)
            told.append((_made(event, draft, entry, parts, number), event))
            if draft.finding:
                found = self._finding(draft, event, entry, number)
                finished = self._event(found, entry, parts, head, number + 1)
                told.append((_made(finished, found, entry, parts, number + 1), finished))
        told[-1][0].last = True
        return told

    def drafts(self, entry: Entry, opening: Opening | None) -> tuple[Parts, Sequence[Draft]]:
        """Give what an entry is told as, before it is put together."""
        parts = self._parts(entry, opening)
        drafter = _DRAFTERS.get(entry.kind, ocsf_calls.unknown)
        return parts, drafter(Fields(entry.body), parts, self._source)

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

    def _finding(self, draft: Draft, event: Mapping[str, Any], entry: Entry, number: int) -> Draft:
        """Give the finding for what a draft tells."""
        uid = uid_of(entry, number)
        evidence = {name: draft.more[name] for name in _EVIDENCE if name in draft.more}
        info: dict[str, Any] = {
            "uid": f"finding-{uid}",
            "title": draft.finding,
            "desc": draft.message,
            "types": [entry.kind],
            "created_time": event["time"],
            "related_events": [{"uid": uid, "type_uid": event["type_uid"]}],
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

    def _event(
        self, draft: Draft, entry: Entry, parts: Parts, head: Head, number: int
    ) -> dict[str, Any]:
        """Put an event together."""
        uid, activity_id = draft.class_uid, draft.activity_id
        if self._old and uid in facts.INSTEAD_1_1:
            uid = facts.INSTEAD_1_1[uid]
            activity_id = facts.OTHER
        about = facts.CLASSES[uid]
        activity = about.activities.get(activity_id) or "Other"
        time_ns = draft.time_ns or entry.time_ns
        event: dict[str, Any] = {
            "class_uid": uid,
            "class_name": about.name,
            "category_uid": about.category_uid,
            "category_name": about.category,
            "activity_id": activity_id,
            "activity_name": draft.activity or self._named(draft) or activity,
            "type_uid": uid * 100 + activity_id,
            "type_name": f"{about.name}: {activity}",
            "severity_id": draft.severity,
            "severity": facts.SEVERITIES[draft.severity],
            "time": time_ns // MILLISECOND_NS,
            "message": draft.message,
            **draft.more,
        }
        self._say_status(event, draft)
        if draft.count is not None:
            event["count"] = draft.count
        event["device"] = parts.device
        if parts.policy is not None:
            event["policy"] = parts.policy
        if parts.trace is not None and uid in facts.TRACED:
            event["trace"] = parts.trace
        place = self._place(draft, entry, parts, head)
        if self._old:
            self._lower(event, place)
        elif self._release is Release.V1_9:
            self._attest(event, entry, parts)
        event["metadata"] = self._metadata(event, entry, parts, number)
        event["unmapped"] = {"stockade": place}
        return event

    @staticmethod
    def _named(draft: Draft) -> str:
        return facts.CLASSES[draft.class_uid].activities.get(draft.activity_id, "")

    @staticmethod
    def _say_status(event: dict[str, Any], draft: Draft) -> None:
        if draft.status:
            event["status_id"] = draft.status
            new = draft.class_uid == facts.DETECTION_FINDING
            event["status"] = "New" if new else facts.STATUSES[draft.status]
        if draft.status_code:
            event["status_code"] = draft.status_code
        if draft.status_detail:
            event["status_detail"] = draft.status_detail
        if draft.decision is not None:
            action, disposition = draft.decision
            event["action_id"], event["action"] = action, facts.ACTIONS[action]
            event["disposition_id"] = disposition
            event["disposition"] = facts.DISPOSITIONS[disposition]

    def _place(self, draft: Draft, entry: Entry, parts: Parts, head: Head) -> dict[str, Any]:
        """Give what is the log's own: where the entry lies there, and what is told nowhere else."""
        place: dict[str, Any] = {
            "index": entry.index,
            "leaf": entry.leaf,
            "kind": entry.kind,
        }
        if head.size:
            if self._head is None or self._head[0] != head:
                self._head = (head, self._share({"size": head.size, "root": head.root}))
            place["head"] = self._head[1]
        if entry.call:
            place["sequence"] = entry.sequence
            place["call"] = parts.call if parts.call is not None else {"id": entry.call}
        if draft.rule:
            place["rule"] = draft.rule
        if draft.rest:
            place["body"] = draft.rest
        if draft.missing or parts.missing:
            place["missing"] = [*draft.missing, *parts.missing]
        return place

    def _lower(self, event: dict[str, Any], place: dict[str, Any]) -> None:
        """Take from an event what 1.1.0 has not, and keep it beside."""
        lacking = event.keys() & facts.LACKING_1_1[event["class_uid"]]
        if event["class_uid"] == facts.BASE_EVENT:
            lacking |= event.keys() & {"api", "src_endpoint", "firewall_rule"}
        if lacking:
            place["ocsf"] = {name: event.pop(name) for name in sorted(lacking)}
        if event.get("action_id") == facts.OBSERVED:
            event["action_id"] = facts.OTHER

    def _attest(self, event: dict[str, Any], entry: Entry, parts: Parts) -> None:
        """Say by OCSF's own means where the entry lies, and whose agent it was."""
        event["attestation_list"] = [
            {
                "uid": f"{entry.index}-{entry.leaf[:16]}",
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
        if parts.agent is not None and event["class_uid"] in facts.AI_OPERATION_1_9:
            event["ai_agent"] = parts.agent

    def _metadata(
        self, event: Mapping[str, Any], entry: Entry, parts: Parts, number: int
    ) -> dict[str, Any]:
        made: dict[str, Any] = {
            "version": self._release.value,
            "product": self._product,
            "uid": uid_of(entry, number),
            "profiles": self._profiles_of(event, parts),
            "log_name": self._source.origin,
            "log_provider": "stockade",
            "event_code": entry.kind,
            "sequence": entry.index,
            "logged_time": entry.time_ns // MILLISECOND_NS,
            "original_time": str(entry.time_ns),
        }
        if entry.call:
            made["correlation_uid"] = entry.call
        return made

    def _profiles_of(self, event: Mapping[str, Any], parts: Parts) -> Any:
        """Give the profiles whose attributes an event has."""
        uid = event["class_uid"]
        named = []
        if (
            "device" in event
            and (uid in facts.DEVICE_BY_PROFILE or (self._old and uid == facts.DETECTION_FINDING))
        ) or ("actor" in event and uid in facts.ACTOR_BY_PROFILE):
            named.append("host")
        if parts.container is not None and self._has_container(event):
            named.append("container")
        if "action_id" in event or "policy" in event or "firewall_rule" in event:
            named.append("security_control")
        if "trace" in event:
            named.append("trace")
        if "ai_agent" in event:
            named.append("ai_operation")
        if "attestation_list" in event:
            named.append("record_integrity")
        key = tuple(named)
        if key not in self._profiles:
            self._profiles[key] = self._share(named)
        return self._profiles[key]

    @staticmethod
    def _has_container(event: Mapping[str, Any]) -> bool:
        """Say whether something in it is in a container; in 1.1 an API's device is left out."""
        return "device" in event or "src_endpoint" in event or "actor" in event


def _made(event: Mapping[str, Any], draft: Draft, entry: Entry, parts: Parts, number: int) -> Event:
    return Event(
        uid_of(entry, number), entry.index, False, draft.time_ns or entry.time_ns, entry.kind,
        draft.severity, event["class_uid"], b"", entry.call, parts.traceparent,
    )  # fmt: skip
