"""One line in the log for each kind of refusal and each caller, and no more in a while.

Whoever is refused again and again must be seen, and must not flood the log: after a line the same
refusal of the same caller is only counted, and the next line says how often that was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from supervisor.errors import CapacityError, NotPermitted, StockadeError, Unauthenticated

log = logging.getLogger("stockade.api")

QUIET_S = 10.0
KEYS_MAX = 1024
"""Callers times reasons that are told apart at a time; beyond it, they share one line."""

TEXT_MAX = 300
LOUD = frozenset({"MALFORMED_REQUEST", "MESSAGE_TOO_LARGE", "METHOD_UNKNOWN"})
"""Reasons that, with those of the classes below, an operator should see."""


@dataclass(slots=True)
class _Seen:
    quiet_until_s: float
    more: int = 0


class Refusals:
    """Counts refusals, and logs them. `count` hears every reason, `clock_s` never goes back,
    and `clean` takes secrets out of what a caller chose."""

    def __init__(
        self,
        count: Callable[[str], None],
        clock_s: Callable[[], float],
        clean: Callable[[str], str],
    ) -> None:
        self._clean = clean
        self._count = count
        self._clock_s = clock_s
        self._seen: dict[tuple[str, str], _Seen] = {}

    def note(
        self,
        error: StockadeError,
        *,
        method: str,
        who: str,
        key: str,
        profile: str = "",
        counted: bool = False,
    ) -> None:
        """Note that `method` was refused to `who`; `key` tells one caller from another.

        `counted` says that somebody else has counted it.
        """
        if not counted:
            self._count(error.reason)
        seen = self._turn(error.reason, key)
        if seen is None:
            return
        more = f"; {seen.more} more like it before" if seen.more else ""
        seen.more = 0
        loud = isinstance(error, Unauthenticated | NotPermitted | CapacityError)
        log.log(
            logging.WARNING if loud or error.reason in LOUD else logging.INFO,
            "refused %s to %s: %s%s: %s%s",
            _plain(method),
            _plain(who),
            error.reason,
            f" (profile {_plain(self._clean(profile))})" if profile else "",
            _plain(self._clean(error.message.partition("\n")[0])),
            more,
        )

    def _turn(self, reason: str, key: str) -> _Seen | None:
        """Give what is known of this kind of refusal where a line is due, else count it."""
        now_s = self._clock_s()
        where = (reason, key)
        if where not in self._seen and len(self._seen) >= KEYS_MAX:
            self._seen = {
                place: seen for place, seen in self._seen.items() if seen.quiet_until_s > now_s
            }
            if len(self._seen) >= KEYS_MAX:
                where = ("", "")
        seen = self._seen.setdefault(where, _Seen(quiet_until_s=now_s))
        if now_s < seen.quiet_until_s:
            seen.more += 1
            return None
        seen.quiet_until_s = now_s + QUIET_S
        return seen


def _plain(text: str) -> str:
    """What a caller chose must not look like a line of ours."""
    cut = text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + "…"
    return "".join(letter if letter.isprintable() else "?" for letter in cut)
