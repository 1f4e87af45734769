"""Verification of what is not there: it is missing, or an entry of the log says that it went.

A file may be gone where each call and each upload that names it was let go by a `removed` entry.
Whether it was may stand far behind the entries that name it, so what is missing is told at the end.
"""

from __future__ import annotations

from collections import Counter

from supervisor.audit.entry import Kind, StoredEntry
from supervisor.audit.verify_log import Problem, Report
from supervisor.call.types import as_list


class Missing:
    """Takes what is not there, and the entries that may say why."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._of: dict[str, dict[str, Problem]] = {}
        self._held: Counter[str] = Counter()
        self.removed: set[str] = set()
        """Calls whose contents were removed."""

    def add(self, entry: StoredEntry, sha256: str, message: str, holder: str | None = None) -> None:
        """Note that a file which `entry` names is not there. `holder` is "" where nothing excuses
        that; else it is the call of the entry, or the entry itself."""
        if holder is None:
            holder = entry.call_id or _upload(entry.index)
        if holder not in self.removed:
            self._of.setdefault(holder, {}).setdefault(sha256, Problem.of(entry, message))

    def take(self, entry: StoredEntry, closed: set[str]) -> None:
        """Take an entry of the daemon's own; `closed` are the calls that have ended so far."""
        if entry.kind == Kind.HELD:
            self._held[str(entry.body()["call"])] += 1
        elif entry.kind == Kind.RELEASED:
            self._held -= Counter([str(entry.body()["call"])])  # never less than none
        elif entry.kind == Kind.REMOVED:
            body = entry.body()
            for call_id in map(str, as_list(body["calls"])):
                self._take_removal(entry, call_id, closed)
            for index in as_list(body["uploads"]):
                self._of.pop(_upload(int(str(index))), None)

    def finish(self) -> None:
        """Report what is missing, each file once."""
        told: set[str] = set()
        for missing in self._of.values():
            for sha256, problem in missing.items():
                if sha256 not in told:
                    self._report(problem)
                told.add(sha256)

    def _take_removal(self, entry: StoredEntry, call_id: str, closed: set[str]) -> None:
        if call_id not in closed:
            self._report(
                Problem.of(entry, f"it removes what call {call_id} has, which had not ended")
            )
        elif call_id in self._held:
            self._report(Problem.of(entry, f"it removes what call {call_id} has, which was held"))
        else:
            self._of.pop(call_id, None)
            self.removed.add(call_id)


def _upload(index: int) -> str:
    return f"#{index}"  # no call is named so
