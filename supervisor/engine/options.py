"""What the engine can be told, and whom it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from supervisor.call.events import Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Limits of one daemon.

    `subscriber_bytes` bounds what waits for one stream's reader; a reader that takes nothing for
    `subscriber_stall_s` is let go, and can attach again.
    """

    calls_max: int = 64
    keep_alive_s: float = 15.0
    retry_after_s: float = 1.0
    subscriber_bytes: int = 8 << 20
    subscriber_stall_s: float = 10.0
    pump_threads: int = 4


class EngineObserver(Protocol):
    """Who keeps the figures. Nothing here may raise or block."""

    def call_closed(self, profile: str, outcome: str, timeline: Timeline) -> None:
        """Note that a call was closed."""

    def call_rejected(self, reason: str) -> None:
        """Note that a call was not admitted."""

    def call_admitted(self, policy_s: float, record_s: float) -> None:
        """Note how long it took to decide on a call that was admitted, and to record it."""

    def denied(self, wall: str, name: str, count: int) -> None:
        """Note that a wall held."""

    def watched(self, name: str, count: int) -> None:
        """Note that a watched system call was let through."""

    def lost(self, what: str, reason: str, count: int) -> None:
        """Note that something could not be recorded; `count` is 0 where nobody knows how much."""

    def flow(self, verdict: str, sent: int, received: int) -> None:
        """Note that a connection through the broker has ended, and the bytes that it carried."""

    def live_calls(self, count: int) -> None:
        """Note how many calls live."""

    def orphans(self, kind: str, count: int) -> None:
        """Note what nobody looked after any more, and was ended: a "sandbox" or a "process"."""

    def strays(self, counts: Mapping[str, int]) -> None:
        """Note how many denials, by what was denied, met processes that belong to no live call."""


class NoObserver:
    """Keeps no figures."""

    def call_closed(self, profile: str, outcome: str, timeline: Timeline) -> None:
        """Do nothing."""

    def call_rejected(self, reason: str) -> None:
        """Do nothing."""

    def call_admitted(self, policy_s: float, record_s: float) -> None:
        """Do nothing."""

    def denied(self, wall: str, name: str, count: int) -> None:
        """Do nothing."""

    def watched(self, name: str, count: int) -> None:
        """Do nothing."""

    def lost(self, what: str, reason: str, count: int) -> None:
        """Do nothing."""

    def flow(self, verdict: str, sent: int, received: int) -> None:
        """Do nothing."""

    def live_calls(self, count: int) -> None:
        """Do nothing."""

    def orphans(self, kind: str, count: int) -> None:
        """Do nothing."""

    def strays(self, counts: Mapping[str, int]) -> None:
        """Do nothing."""
