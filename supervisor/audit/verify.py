"""Verify a state directory: no daemon needed, nothing written.

Checked are every byte of the log, the chain from the first entry to the last, the tree over it and
its signed head, each call's sequence, every recording and every blob that an entry names, and the
keys of encrypted calls, whose contents are held to the digests of their files: no key is needed.

A log that was rewritten by who has its key, or cut back to an earlier head, is found only by who
kept something of it: pass heads as `heads`, and leaf hashes as `expect`. A key that lies beside the
log says no more than that the log fits itself: pass the one that you know as `key`. Where the log
was handed over since, the later ones follow from it.

Where something in the folder is no file, as a pipe, that is all that is said: nothing is read.

A daemon may write meanwhile. Its log is checked up to where it had been made durable, and further
as far as it goes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.audit.blobs import BlobStore
from supervisor.audit.directory import BLOBS_NAME, KEYS_NAME, LOG_NAME, TREE_NAME, is_locked
from supervisor.audit.entry import NO_LEAF, Kind, StoredEntry
from supervisor.audit.keys import PUBLIC_NAME, first_key
from supervisor.audit.notes import VerifierKey
from supervisor.audit.runs import Run
from supervisor.audit.verify_calls import CallCheck
from supervisor.audit.verify_files import strange_files, stray_files
from supervisor.audit.verify_keys import KeyCheck
from supervisor.audit.verify_log import LogCheck, Problem
from supervisor.audit.verify_tree import OF_WHAT_WAS_GIVEN, KeptHead, TreeCheck
from supervisor.errors import HostError, InvariantError, StockadeError

PROBLEMS_MAX = 1000
"""Problems that a report lists; one lost entry can make thousands that do not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """An entry that says that a witness has a head which the log does not begin with."""

    index: int
    time_ns: int
    witness: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was found. Of `removed_calls` the contents went by retention, as entries say; what is
    missing beside them is a problem. `erased` is of how many calls the content was erased.
    `head_index` is -1 for an empty log, `head_leaf` "" where the last entry cannot be read;
    `contradictions` is how often the log itself says that a witness knows another one; `live` says
    that a daemon writes.

    `signed_size` is how many entries the signed head of `origin` is over, -1 where nothing is
    signed; `signers` are the public keys from the one that was known on, of which the last signs
    the log now; `heads` are those that were given, and `consistent` how many of them are of this
    log.
    """

    entries: int
    calls: int
    open_calls: tuple[str, ...]
    removed_calls: int
    erased: int
    head_index: int
    head_leaf: str
    contradictions: int
    last_contradiction: Contradiction | None
    live: bool
    origin: str
    signed_size: int
    signers: tuple[str, ...]
    consistent: int
    heads: tuple[KeptHead, ...]
    problems: tuple[Problem, ...]
    problem_count: int

    @property
    def ok(self) -> bool:
        """Say whether nothing is wrong."""
        return self.problem_count == 0

    @property
    def is_of_other(self) -> bool:
        """Say whether all that is wrong is that this is not the log of the key and heads that were
        given."""
        of_given = all(problem.reason in OF_WHAT_WAS_GIVEN for problem in self.problems)
        return not self.ok and of_given and self.problem_count == len(self.problems)


def verify(
    directory: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    expect: Mapping[str, str] | None = None,
    key: VerifierKey | None = None,
    heads: Sequence[tuple[str, bytes]] = (),
) -> VerifyReport:
    """Verify the state directory; `expect` maps call ids to the leaf hashes of their outcomes.

    `key`, or one that it handed the log over to, signs the log; where it is None, the first that
    lies beside it. `heads` are signed heads that were kept, each with what it is called. `progress`
    is told how many bytes of the log are done, and how many there are.
    """
    problems: list[Problem] = []
    count = 0

    def report(problem: Problem) -> None:
        nonlocal count
        count += 1
        if len(problems) < PROBLEMS_MAX:
            problems.append(problem)

    for strange in strange_files(directory):
        report(strange)
    if count:
        return _unread(problems, count)
    for stray in stray_files(directory / BLOBS_NAME):
        report(stray)
    live = is_locked(directory)
    blobs = BlobStore(directory / BLOBS_NAME, _never)
    tree = TreeCheck(
        directory / TREE_NAME,
        report,
        key=key or _own(directory, report),
        beside=_beside(directory) if key else None,
        heads=heads,
        live=live,
    )
    tree.begin()
    log = LogCheck(directory / LOG_NAME, report, live=live, progress=progress)
    keys = KeyCheck(directory / KEYS_NAME, report, live=live)
    calls = CallCheck(blobs, report, live=live, expect=expect or {}, keys=keys)
    entries, contradicted = 0, _Contradicted()
    for run in log.runs():
        entries += len(run)
        contradicted.take(run)
        tree.take(run)
        calls.take_run(run)
    tree.finish(log.index)
    calls.finish()
    return VerifyReport(
        entries=entries,
        calls=calls.calls,
        open_calls=calls.open_calls,
        removed_calls=calls.removed,
        erased=keys.erased,
        head_index=log.index - 1,
        head_leaf=log.leaf.hex() if log.leaf is not None else "",
        contradictions=contradicted.count,
        last_contradiction=contradicted.last(),
        live=live,
        origin=tree.head.origin if tree.head else "",
        signed_size=tree.head.size if tree.head else -1,
        signers=tuple(map(str, tree.signers)),
        consistent=tree.consistent,
        heads=tree.heads,
        problems=tuple(problems),
        problem_count=count,
    )


def _own(directory: Path, report: Callable[[Problem], None]) -> VerifierKey | None:
    try:
        key, why = first_key(directory), "it is missing"
    except HostError as error:
        key, why = None, error.message
    except PermissionError:
        raise
    except OSError as error:
        key, why = None, error.strerror or str(error)
    if key is None:
        report(Problem(message=f"{PUBLIC_NAME}, the key that signs the log: {why}"))
    return key


def _beside(directory: Path) -> VerifierKey | None:
    """Give the key that lies there, where the log is held to another: it need not be there."""
    try:
        return first_key(directory)
    except (HostError, OSError):
        return None


class _Contradicted:
    """Takes what a log says of heads that it does not begin with."""

    def __init__(self) -> None:
        self.count = 0
        self._last: StoredEntry | None = None

    def take(self, run: Run) -> None:
        for place in run.places_of(Kind.HEAD_CONTRADICTED):
            self.count, self._last = self.count + 1, run.entry(place)

    def last(self) -> Contradiction | None:
        """Read the last such entry; whether it can be read is told elsewhere."""
        entry = self._last
        if entry is None:
            return None
        body: Mapping[str, object] = {}
        with contextlib.suppress(TypeError, ValueError):
            body = entry.body()
        return Contradiction(
            index=entry.index,
            time_ns=entry.time_ns,
            witness=str(body.get("witness", "")),
            why=str(body.get("why", "")),
        )


def _never(what: str, error: OSError) -> StockadeError:
    return InvariantError("VERIFY_WROTE", f"verification wrote: {what}: {error}")


def _unread(problems: Sequence[Problem], count: int) -> VerifyReport:
    """Make the report on a folder that was not read, for what lies in it."""
    return VerifyReport(
        entries=0,
        calls=0,
        open_calls=(),
        removed_calls=0,
        erased=0,
        head_index=-1,
        head_leaf=NO_LEAF.hex(),
        contradictions=0,
        last_contradiction=None,
        live=False,
        origin="",
        signed_size=-1,
        signers=(),
        consistent=0,
        heads=(),
        problems=tuple(problems),
        problem_count=count,
    )
