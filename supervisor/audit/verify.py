"""Verify a state directory: no daemon needed, nothing written.

Checked are every byte of the log, the chain from the first entry to the last, each call's
sequence, every recording and every blob that an entry names. A log that was rewritten from some
entry on, with all its hashes, is found only by who kept a leaf hash: pass those as `expect`.

A daemon may write meanwhile. Its log is checked up to where it had been made durable, and further
as far as it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.audit.blobs import BlobStore
from supervisor.audit.directory import BLOBS_NAME, LOG_NAME, is_locked
from supervisor.audit.entry import NO_LEAF
from supervisor.audit.verify_calls import CallCheck
from supervisor.audit.verify_log import LogCheck, Problem
from supervisor.errors import InvariantError, StockadeError

PROBLEMS_MAX = 1000
"""Problems that a report lists; one lost entry can make thousands that do not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was found. `head_index` is -1 for an empty log; `live` says that a daemon writes."""

    entries: int
    calls: int
    open_calls: tuple[str, ...]
    head_index: int
    head_leaf: str
    live: bool
    problems: tuple[Problem, ...]
    problem_count: int

    @property
    def ok(self) -> bool:
        """Say whether nothing is wrong."""
        return self.problem_count == 0


def verify(
    directory: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    expect: Mapping[str, str] | None = None,
) -> VerifyReport:
    """Verify the state directory; `expect` maps call ids to the leaf hashes of their outcomes.

    `progress` is told how many bytes of the log are done, and how many there are.
    """
    problems: list[Problem] = []
    count = 0

    def report(problem: Problem) -> None:
        nonlocal count
        count += 1
        if len(problems) < PROBLEMS_MAX:
            problems.append(problem)

    live = is_locked(directory)
    blobs = BlobStore(directory / BLOBS_NAME, _never)
    log = LogCheck(directory / LOG_NAME, report, live=live, progress=progress)
    calls = CallCheck(blobs, report, live=live, expect=expect or {})
    entries = 0
    for entry in log.entries():
        entries += 1
        calls.take(entry)
    calls.finish()
    return VerifyReport(
        entries=entries,
        calls=calls.calls,
        open_calls=calls.open_calls,
        head_index=log.index - 1,
        head_leaf=(log.leaf or NO_LEAF).hex(),
        live=live,
        problems=tuple(problems),
        problem_count=count,
    )


def _never(what: str, error: OSError) -> StockadeError:
    return InvariantError("VERIFY_WROTE", f"verification wrote: {what}: {error}")
