"""Texts that somebody else chose, in messages of ours."""

from __future__ import annotations

import re

_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII
)
_LAST_WORD = re.compile(r"[A-Za-z0-9_.~%+/=:@-]*\Z")


def brief(text: str, most: int = 80) -> str:
    """Give the beginning of a text, at most `most` characters and an ellipsis.

    No word of it is cut in two: half a secret is not found by who takes secrets out of messages.
    """
    if len(text) <= most:
        return text
    return _LAST_WORD.sub("", text[:most]) + "…"


def is_traceparent(text: str) -> bool:
    """Say whether a text is the header of W3C Trace Context (section 3.2): versions after 00 may
    have more at the end."""
    found = _TRACEPARENT.fullmatch(text)
    return found is not None and not (found[1] == "00" and found[2])
