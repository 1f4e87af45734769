"""Who was refused what is on record, and a flood of refusals does not fill it.

Each origin, which is a caller, or all those together that are none, has so many entries at once and
so many a minute, and for each reason fewer, so that many refusals of one kind do not hide the first
of another. The rest is counted, and the counts are an entry, too: every `DROPPED_EVERY_S`, and when
the daemon stops. Nobody waits for these entries: they are durable within a second.

Of what was asked there is what names it, without what the rules take for a secret, and no message
and no arguments.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

from supervisor.api.callers import Identity
from supervisor.api.pace import OTHERS, Pace
from supervisor.api.peers import Peer
from supervisor.audit.chosen import Chosen
from supervisor.audit.codec import caller_to_json
from supervisor.audit.entry import Kind
from supervisor.call.texts import brief
from supervisor.call.types import Json
from supervisor.errors import AuditUnavailable, StockadeError, Unauthenticated

log = logging.getLogger("stockade.api")

ORIGIN_PER_S, ORIGIN_BURST = 0.5, 32
"""Entries of one origin."""

REASON_PER_S, REASON_BURST = 0.1, 8
"""Entries of one origin for one reason."""

DROPPED_EVERY_S = 10.0
ROWS_MAX = 128
"""Origins, kinds and reasons that are told apart in one entry of what was left out; beyond it, the
origins are not."""

TEXT_MAX = 128
ASKED_MAX = 1024
"""Characters of a name that are looked through for secrets, before it is cut to `TEXT_MAX`."""

CONNECTION = "connection"
CONNECTION_REFUSED = "CONNECTION_REFUSED"
_NAMES = ("profile", "call_id", "name", "request_id", "sink")

asked: ContextVar[Mapping[str, Json]] = ContextVar("stockade_asked")
"""What the request of this task names, as it does: cleaned only where it is written."""


class Writer(Protocol):
    """Where they are written: `audit.own.OwnEntries`."""

    chosen: Chosen

    def append(self, kind: str, body: Mapping[str, Json]) -> object: ...  # noqa: D102


class RefusalEntries:
    """Writes `refused` and `unauthenticated`, and `refusals_dropped` for what it leaves out.

    `clock_s` never goes back, `clock_ns` is the time of day.
    """

    def __init__(
        self,
        writer: Writer,
        clock_s: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._writer = writer
        self.chosen = writer.chosen
        self._clock_ns = clock_ns
        self._origins = Pace(per_s=ORIGIN_PER_S, burst=ORIGIN_BURST, clock_s=clock_s)
        self._reasons = Pace(per_s=REASON_PER_S, burst=REASON_BURST, clock_s=clock_s)
        self._dropped: dict[tuple[str, str, str], int] = {}
        self._since_ns = 0

    def note(
        self, error: StockadeError, *, rpc: str, identity: Identity | None, peer: Peer | None
    ) -> None:
        """Write that a request was refused, or count it."""
        kind = Kind.UNAUTHENTICATED if isinstance(error, Unauthenticated) else Kind.REFUSED
        origin = identity.caller.name if identity is not None else ""
        due = self._reasons.take(f"{origin}/{error.reason}") and self._origins.take(origin)
        if not (due and self._write(kind, self._body(kind, error, rpc, identity, peer))):
            self._drop(kind, error.reason[:TEXT_MAX], origin or _origin(peer))

    def _body(
        self,
        kind: Kind,
        error: StockadeError,
        rpc: str,
        identity: Identity | None,
        peer: Peer | None,
    ) -> dict[str, Json]:
        body: dict[str, Json] = {
            "reason": error.reason[:TEXT_MAX],
            "rpc": rpc[:TEXT_MAX],
            "caller": caller_to_json(identity.caller) if identity is not None else None,
            "peer": _peer(peer),
        }
        if kind == Kind.UNAUTHENTICATED:
            certificate = error.metadata.get("certificate", "")
            body["certificate"] = self.chosen.text(certificate)[:TEXT_MAX]
        else:
            body["asked"] = cleaned(asked.get({}), self.chosen.text)
        return body

    def connection_refused(self, peer: Peer) -> None:
        """Count a connection that was closed before a request could come over it."""
        self._drop(CONNECTION, CONNECTION_REFUSED, _origin(peer))

    async def follow(self) -> None:
        """Write now and then what was left out, for ever."""
        while True:
            await asyncio.sleep(DROPPED_EVERY_S)
            self.flush()

    def flush(self) -> None:
        """Write what was left out since the last time; where that cannot be, keep counting."""
        if not self._dropped:
            return
        body: dict[str, Json] = {
            "count": sum(self._dropped.values()),
            "since_ns": self._since_ns,
            "until_ns": self._clock_ns(),
            "of": [
                {"kind": kind, "reason": reason, "who": who, "count": count}
                for (kind, reason, who), count in self._dropped.items()
            ],
        }
        if self._write(Kind.REFUSALS_DROPPED, body):
            self._dropped = {}
        else:
            log.warning("%d refusals are not on record yet", body["count"])

    def _write(self, kind: Kind, body: Mapping[str, Json]) -> bool:
        try:
            self._writer.append(kind, body)
        except AuditUnavailable:
            return False  # it stays counted, and is told once there is room
        return True

    def _drop(self, kind: str, reason: str, who: str) -> None:
        if not self._dropped:
            self._since_ns = self._clock_ns()
        row = (kind, reason, who)
        if row not in self._dropped and len(self._dropped) >= ROWS_MAX:
            row = (kind, reason, OTHERS)
            if row not in self._dropped and len(self._dropped) >= 2 * ROWS_MAX:
                row = (OTHERS, OTHERS, OTHERS)
        self._dropped[row] = self._dropped.get(row, 0) + 1


def asked_of(request: Any) -> dict[str, Json]:
    """Give what a request names: few bytes, whatever it has."""
    found: dict[str, Json] = {}
    for name in _NAMES:
        value = getattr(request, name, "")
        if isinstance(value, str) and value:
            found[name] = brief(value, ASKED_MAX)
    argv: Sequence[bytes] = getattr(getattr(request, "command", None), "argv", ())
    if argv:
        # A character has four bytes at most.
        program = argv[0][: 4 * ASKED_MAX + 4].decode(errors="replace")
        found["program"] = brief(program, ASKED_MAX)
        found["arguments"] = len(argv) - 1
    return found


def cleaned(found: Mapping[str, Json], clean: Callable[[str], str]) -> dict[str, Json]:
    """Give it without secrets, as it is written."""
    return {
        name: clean(value)[:TEXT_MAX] if isinstance(value, str) else value
        for name, value in found.items()
    }


def _peer(peer: Peer | None) -> Json:
    if peer is None:
        return None
    return {
        "transport": peer.transport,
        "address": peer.address,
        "uid": peer.uid,
        "gid": peer.gid,
        "pid": peer.pid,
    }


def _origin(peer: Peer | None) -> str:
    if peer is None:
        return "nobody"
    return peer.address.rpartition(":")[0] if peer.transport == "tls" else peer.address
