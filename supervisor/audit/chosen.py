"""Takes secrets out of what a caller chose where it belongs to no call: what was looked for, asked
for, or given as a reason. Only the pack of rules is looked for: whose secrets it may hold, nobody
knows."""

from __future__ import annotations

from supervisor.audit.masked import FAILED
from supervisor.audit.masks import Masks
from supervisor.audit.redaction.literals import RedactionFailed
from supervisor.audit.redaction.redactor import ValueRedactor
from supervisor.call.types import Json
from supervisor.profile.model import Redact

SEEN_CHARACTERS_MAX = 8192
"""Of one text: what is behind it is not shown."""


class Chosen:
    """Cleans texts; equal secrets become the mark that they have in the records of calls."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks

    def text(self, text: str) -> str:
        """Clean one text."""
        mask = self._masks.make(Redact(), {})
        if mask is None or mask.failed:
            return FAILED.decode()
        try:
            values = ValueRedactor(mask.literals, mask.rules, mask.key)
            clean, _ = values.redact_text(text[:SEEN_CHARACTERS_MAX])
        except RedactionFailed:
            return FAILED.decode()
        if len(text) > SEEN_CHARACTERS_MAX:
            # A secret may be cut there, and the rest of it looks like none.
            return clean[: -mask.rules.longest]
        return clean

    def json(self, value: Json) -> Json:
        """Clean the texts in a value; names in it are ours."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.json(one) for one in value]
        if isinstance(value, dict):
            return {name: self.json(one) for name, one in value.items()}
        return value
