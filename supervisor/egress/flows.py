"""What a broker tells of its flows and of what it denied, bounded and folded.

A denial of a kind is told at once, its repeats once a second with their count. How much is told of
one call is bounded, since every entry takes room in the record for good: what comes beyond is
counted, and told as lost. Counts add up to how often it was. What is denied by one name has bounds
of its own: a flood of questions for names does not hide where somebody connects.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from dataclasses import dataclass, replace

from supervisor.call.events import Denied, Flow, Lost
from supervisor.egress.control import NAME_CHARS_MAX, TEXT_CHARS_MAX

FOLD_S = 1.0
KINDS_MAX = 128
"""Kinds of denials with one name that are told apart in one second."""

FLOWS_TOLD_MAX = 65_536
DENIALS_TOLD_MAX = 4096
"""Of one call, the latter of each name of a denial (there are seven): some 40 MB of record."""

BUDGET_REASON = "RECORD_BUDGET"
KINDS_REASON = "TOO_MANY_KINDS"

Told = Flow | Denied | Lost


@dataclass(slots=True)
class _Folded:
    last: Denied
    repeats: int = 0


class FlowLog:
    """Tells the daemon, through `tell`, of one call's flows and denials."""

    def __init__(
        self,
        tell: Callable[[Told], None],
        *,
        flows_max: int = FLOWS_TOLD_MAX,
        denials_max: int = DENIALS_TOLD_MAX,
        kinds_max: int = KINDS_MAX,
    ) -> None:
        self._tell = tell
        self._flows_left = flows_max
        self._denials_max = denials_max
        self._denials_told = collections.Counter[str]()
        self._kinds_max = kinds_max
        self._kinds = collections.Counter[str]()
        self._folded: dict[tuple[str, ...], _Folded] = {}
        self._lost: dict[tuple[str, str], int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def flow(self, flow: Flow) -> None:
        """Tell a flow that has ended."""
        if not self._flows_left:
            self._lose("flow", 1, BUDGET_REASON)
            return
        self._flows_left -= 1
        self._tell(
            replace(
                flow,
                name=_cut(flow.name, NAME_CHARS_MAX),
                rule=_cut(flow.rule),
                reason=_cut(flow.reason),
            )
        )

    def denied(self, denied: Denied) -> None:
        """Tell a denial, or fold it into the one of its kind that was told within this second."""
        denied = replace(denied, detail=_cut(denied.detail), rule=_cut(denied.rule))
        key = (denied.wall, denied.name, denied.detail, denied.rule)
        if (folded := self._folded.get(key)) is not None:
            folded.last = denied
            folded.repeats += denied.count
            return
        if self._kinds[denied.name] >= self._kinds_max:
            self._lose("denial", denied.count, KINDS_REASON)
            return
        self._kinds[denied.name] += 1
        self._folded[key] = _Folded(denied)
        self._tell_denied(denied)
        self._flush_later()

    def flush(self) -> None:
        """Tell what was folded and lost so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        folded, self._folded = self._folded, {}
        self._kinds.clear()
        for entry in folded.values():
            if entry.repeats:
                self._tell_denied(replace(entry.last, count=entry.repeats))
        lost, self._lost = self._lost, {}
        for (what, reason), count in lost.items():
            self._tell(Lost(what=what, count=count, reason=reason))

    def _tell_denied(self, denied: Denied) -> None:
        if self._denials_told[denied.name] >= self._denials_max:
            self._lose("denial", denied.count, BUDGET_REASON)
            return
        self._denials_told[denied.name] += 1
        self._tell(denied)

    def _lose(self, what: str, count: int, reason: str) -> None:
        key = (what, reason)
        self._lost[key] = self._lost.get(key, 0) + count
        self._flush_later()

    def _flush_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FOLD_S, self.flush)


def _cut(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """Give text that a message holds, whatever a sandbox had a part in."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
