"""Sessions of the console: links that are good once, and what they become.

A link's token and a session are secrets that the daemon keeps as digests only. Each belongs to one
user of this host: whoever else finds it, in a list of processes or among a browser's cookies, has
nothing. Who the caller is, and what it may do, is asked anew for each request, by `identify`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from supervisor.api.callers import Identity
from supervisor.errors import CapacityError, Unauthenticated

LINK_S = 60.0
IDLE_S = 30 * 60.0
SESSION_S = 12 * 3600.0
TOKEN_BYTES = 32
OF_CALLER_MAX = 16
"""Sessions of one caller, and links of one."""
SESSIONS_MAX = 256


@dataclass(slots=True, kw_only=True)
class _Held:
    """A link or a session. `until_s` is its end in any case, `idle_s` when it ends unless used."""

    caller: str
    uid: int
    identify: Callable[[], Identity]
    until_s: float
    idle_s: float


class Sessions:
    """All of them. `clock_s` never goes back."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._links: dict[bytes, _Held] = {}
        self._sessions: dict[bytes, _Held] = {}

    def open(self, caller: str, uid: int, identify: Callable[[], Identity]) -> str:
        """Give the token of a new link, for a browser of user `uid`.

        Raises:
            CapacityError: `CONSOLE_SESSIONS`.
        """
        until_s = self._clock_s() + LINK_S
        held = _Held(caller=caller, uid=uid, identify=identify, until_s=until_s, idle_s=until_s)
        return self._add(self._links, held)

    def opener(self, token: str, uid: int) -> Identity:
        """Give who opened a link.

        Raises:
            Unauthenticated: `SESSION_UNKNOWN`.
        """
        return self._find(self._links, token, uid).identify()

    def enter(self, token: str, uid: int) -> str:
        """Give the session that a link becomes; the link is no more.

        Raises:
            Unauthenticated: `SESSION_UNKNOWN`.
            CapacityError: `CONSOLE_SESSIONS`.
        """
        link = self._find(self._links, token, uid)
        now_s = self._clock_s()
        session = self._add(
            self._sessions,
            _Held(
                caller=link.caller,
                uid=uid,
                identify=link.identify,
                until_s=now_s + SESSION_S,
                idle_s=now_s + IDLE_S,
            ),
        )
        del self._links[_key(token)]
        return session

    def use(self, session: str, uid: int, *, watching: bool) -> Identity:
        """Give whose a session is; it is used, unless a page is only `watching`.

        Raises:
            Unauthenticated: `SESSION_UNKNOWN`, or what `identify` raises.
        """
        held = self._find(self._sessions, session, uid)
        identity = held.identify()
        if not watching:
            held.idle_s = self._clock_s() + IDLE_S
        return identity

    def leave(self, session: str) -> None:
        """End a session, where there is one."""
        self._sessions.pop(_key(session), None)

    def _add(self, where: dict[bytes, _Held], held: _Held) -> str:
        self._expire(where)
        of_caller = sum(one.caller == held.caller for one in where.values())
        if of_caller >= OF_CALLER_MAX or len(where) >= SESSIONS_MAX:
            raise CapacityError(
                "CONSOLE_SESSIONS",
                f"caller {held.caller!r} has {of_caller} sessions of the console, or links to one; "
                f"there may be {OF_CALLER_MAX} of a caller and {SESSIONS_MAX} of all",
                hint="leave one, or wait for its end",
                retry_after_s=LINK_S,
            )
        secret = secrets.token_urlsafe(TOKEN_BYTES)
        where[_key(secret)] = held
        return secret

    def _find(self, where: dict[bytes, _Held], secret: str, uid: int) -> _Held:
        self._expire(where)
        held = where.get(_key(secret))
        if held is None or held.uid != uid:
            raise Unauthenticated(
                "SESSION_UNKNOWN",
                "there is no such session of the console, or it is for another user's browser",
                hint="`stockade console` opens one",
            )
        return held

    def _expire(self, where: dict[bytes, _Held]) -> None:
        now_s = self._clock_s()
        for key in [k for k, one in where.items() if now_s >= min(one.until_s, one.idle_s)]:
            del where[key]


def _key(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
