"""What events of OCSF have in common with others of their call: made once for each kind of event,
and put into each as it is.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from supervisor.export.event import Source
from supervisor.export.formats import json_line
from supervisor.export.formats import ocsf_facts as facts
from supervisor.export.formats.ocsf_parts import PRODUCT, Draft, Parts, put

SHAPES_MAX = 32
"""Of a call; a body can name activities as it likes."""


class Release(enum.StrEnum):
    """A release of OCSF."""

    V1_1 = "1.1.0"
    V1_8 = "1.8.0"
    V1_9 = "1.9.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is the same in all events of a call that are of one class, activity, severity, status
    and decision, and have attributes of their own by the same names.

    `lacking` are those of their own that the release has not, `beside` what else it has not: both
    are told in `unmapped`. A `_text` is JSON, of an object without its braces.
    """

    class_uid: int
    type_uid: int
    fixed: Mapping[str, Any]
    fixed_text: str
    metadata: Mapping[str, Any]
    metadata_text: str
    call: Any
    beside: Mapping[str, Any]
    lacking: Sequence[str]
    missing: Sequence[str]


class Shapes:
    """Makes the shapes of a release, and keeps them with the parts of their call."""

    def __init__(self, source: Source, release: Release) -> None:
        self.release = release
        self._old = release is Release.V1_1
        product = put({"name": PRODUCT, "vendor_name": PRODUCT}, version=source.version)
        self._metadata = {
            "version": release.value,
            "product": product,
            "log_name": source.origin,
            "log_provider": "stockade",
        }

    def shape(self, draft: Draft, parts: Parts, own: tuple[str, ...]) -> Shape:
        """Give the shape of a draft; `own` are the names of what is the event's own."""
        key = (
            draft.class_uid, draft.activity_id, draft.activity, draft.severity, draft.status,
            draft.decision, own,
        )  # fmt: skip
        kept = parts.shapes.get(key)
        if kept is None:
            if len(parts.shapes) >= SHAPES_MAX:
                parts.shapes.clear()
            kept = parts.shapes[key] = self._make(draft, parts, own)
        return kept

    def _make(self, draft: Draft, parts: Parts, own: tuple[str, ...]) -> Shape:
        uid, activity_id = draft.class_uid, draft.activity_id
        if self._old and uid in facts.INSTEAD_1_1:
            uid, activity_id = facts.INSTEAD_1_1[uid], facts.OTHER
        fixed = self._fixed(draft, parts, uid, activity_id)
        beside: dict[str, Any] = {}
        lacking: AbstractSet[str] = frozenset()
        if self._old:
            gone = facts.LACKING_1_1[uid]
            if uid == facts.BASE_EVENT:
                gone = gone | {"api", "src_endpoint", "firewall_rule"}
            beside = {name: fixed.pop(name) for name in sorted(fixed.keys() & gone)}
            lacking = gone & set(own)
            if fixed.get("action_id") == facts.OBSERVED:
                fixed["action_id"] = facts.OTHER
        profiles = self._profiles({*fixed, *own} - lacking, uid, parts)
        if parts.call is not None and not parts.call_text:
            parts.call_text = json_line.encode(parts.call).decode()
        metadata = {**self._metadata, "profiles": profiles}
        return Shape(
            class_uid=uid,
            type_uid=fixed["type_uid"],
            fixed=fixed,
            fixed_text=json_line.encode(fixed)[1:-1].decode(),
            metadata=metadata,
            metadata_text=json_line.encode(metadata)[1:-1].decode(),
            call=parts.call,
            beside=beside,
            lacking=sorted(lacking),
            missing=parts.missing,
        )

    def _fixed(self, draft: Draft, parts: Parts, uid: int, activity_id: int) -> dict[str, Any]:
        about = facts.CLASSES[uid]
        activity = about.activities.get(activity_id) or "Other"
        named = facts.CLASSES[draft.class_uid].activities.get(draft.activity_id)
        fixed: dict[str, Any] = {
            "class_uid": uid,
            "class_name": about.name,
            "category_uid": about.category_uid,
            "category_name": about.category,
            "activity_id": activity_id,
            "activity_name": draft.activity or named or activity,
            "type_uid": uid * 100 + activity_id,
            "type_name": f"{about.name}: {activity}",
            "severity_id": draft.severity,
            "severity": facts.SEVERITIES[draft.severity],
        }
        if draft.status:
            fixed["status_id"] = draft.status
            new = draft.class_uid == facts.DETECTION_FINDING
            fixed["status"] = "New" if new else facts.STATUSES[draft.status]
        if draft.decision is not None:
            action, disposition = draft.decision
            fixed["action_id"], fixed["action"] = action, facts.ACTIONS[action]
            fixed["disposition_id"] = disposition
            fixed["disposition"] = facts.DISPOSITIONS[disposition]
        fixed["device"] = parts.device
        if parts.policy is not None:
            fixed["policy"] = parts.policy
        if parts.trace is not None and uid in facts.TRACED:
            fixed["trace"] = parts.trace
        agents = self.release is Release.V1_9 and uid in facts.AI_OPERATION_1_9
        if agents and parts.agent is not None:
            fixed["ai_agent"] = parts.agent
        return fixed

    def _profiles(self, names: set[str], uid: int, parts: Parts) -> list[str]:
        """Give the profiles whose attributes an event has."""
        found = []
        device = uid in facts.DEVICE_BY_PROFILE or (self._old and uid == facts.DETECTION_FINDING)
        if ("device" in names and device) or ("actor" in names and uid in facts.ACTOR_BY_PROFILE):
            found.append("host")
        # In 1.1 an API's device is left out.
        if parts.container is not None and names & {"device", "src_endpoint", "actor"}:
            found.append("container")
        if names & {"action_id", "policy", "firewall_rule"}:
            found.append("security_control")
        by_name = {
            "trace": "trace", "ai_agent": "ai_operation", "attestation_list": "record_integrity",
        }  # fmt: skip
        return [*found, *(profile for name, profile in by_name.items() if name in names)]
