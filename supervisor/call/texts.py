"""Texts that somebody else chose, in messages of ours."""

from __future__ import annotations

import re

_LAST_WORD = re.compile(r"[A-Za-z0-9_.~%+/=:@-]*\Z")


def brief(text: str, most: int = 80) -> str:
    """Give the beginning of a text, at most `most` characters and an ellipsis.

    No word of it is cut in two: half a secret is not found by who takes secrets out of messages.
    """
    if len(text) <= most:
        return text
    return _LAST_WORD.sub("", text[:most]) + "…"
