"""A call by the beginning of its id, as people copy it.

An id begins with when it was made (RFC 9562, version 7), so that eight characters say which minute
to look in. What changes something takes a whole id.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.errors import InvalidRequest

if TYPE_CHECKING:
    from supervisor.client import Supervisor

LOOKED_AT_MAX = 5_000
MARGIN_MS = 60_000
"""A call is on record some time after its id was made."""

TIME_DIGITS = 12
MS_NS = 1_000_000
_BEGINNING = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,27}", re.ASCII)


def whole_id(client: Supervisor, text: str) -> str:
    """Give the id of the one recorded call that begins with `text`; or `text`, where it is no
    beginning of an id, or none is found.

    Raises:
        InvalidRequest: `CALL_AMBIGUOUS`.
    """
    if not _BEGINNING.fullmatch(text):
        return text
    digits = text.replace("-", "")[:TIME_DIGITS]
    first_ms, last_ms = (int(digits.ljust(TIME_DIGITS, fill), 16) for fill in "0f")
    calls = client.records(
        since_ns=max(1, first_ms - MARGIN_MS) * MS_NS,
        until_ns=(last_ms + MARGIN_MS) * MS_NS,
        limit=LOOKED_AT_MAX,
    )
    found = [call.call_id for call in calls if call.call_id.startswith(text)]
    if len(found) > 1:
        raise InvalidRequest(
            "CALL_AMBIGUOUS",
            f"{len(found)} calls begin with {text!r}",
            hint=f"give more of it, as in {found[0]} or {found[1]}",
        )
    return found[0] if found else text
