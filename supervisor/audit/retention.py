"""Retention: the contents of calls that ended long ago, or that there is no room for, go.

What goes are recordings and blobs, the oldest first; the log's entries and its tree stay. A
`removed` entry says which calls and uploads are let go, and is durable before the first file is
unlinked: what a crash leaves is finished by the next start, since files are unlinked by what the
log says and by nothing else.

Nothing goes that somebody needs: a call that has not ended, or is held (`held`, `released`), what
an exporter has not acknowledged, a file that another call or upload holds, or that was asked for
within the hour. Where it cannot be told how far exporters are, or what time it is, nothing goes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import apsw

from supervisor.audit.account import removals_of
from supervisor.audit.blobs import BlobStore
from supervisor.audit.cursors import CursorError, Cursors, Exported
from supervisor.audit.entry import Kind, Position, StoredEntry
from supervisor.audit.holdings import (
    AFTER_ALL,
    HOLDINGS_NAME,
    KEY_PREFIX,
    Followed,
    Holder,
    Holdings,
    path_of,
)
from supervisor.audit.index import Index, LowWater
from supervisor.audit.journal import Journal
from supervisor.audit.passed import AHEAD_NS_MAX, Passed, running_ns
from supervisor.audit.reading import read_log, still_there
from supervisor.audit.segment import MAGIC
from supervisor.audit.vault import Vault
from supervisor.call.types import Json
from supervisor.errors import AuditUnavailable, CapacityError, StockadeError

PROBLEM_NAME = "retention.json"
"""In the state folder: why nothing goes, for who looks without asking the daemon."""

EVERY_S = 60.0
ENTRIES_A_STEP = 2000
HOLDERS_A_STEP = 64
"""Calls and uploads in one `removed` entry."""

FILES_A_STEP = 512
"""Files of which an entry has the names, and that are unlinked at a time."""

STEPS_A_RUN = 256
"""So much is removed before the next run; what is left waits for it."""

LOOKED_AT_MAX = 10_000
"""Calls and uploads that one run looks at."""

PAGE = 256
RESERVED_FROM_BYTES = 1 << 20
"""From this much on that goes, the entry that says so may use the reserve for outcomes."""

log = logging.getLogger("stockade.audit")


class RetentionObserver(Protocol):
    """Who counts."""

    def removed(self, why: str, calls: int, bytes_: int) -> None:
        """Hear what was removed."""

    def retention_problem(self, problem: str) -> None:
        """Hear why nothing can be removed; "" where it can."""

    def contents(self, bytes_: int) -> None:
        """Hear how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainPolicy:
    """How long contents stay, and how much of them; `exported_by` are the exporters that must have
    acknowledged them before, and `sinks` gives the daemon's own, which must have as well. What is
    None does not bound. The `observer` counts."""

    age_ns: int | None = None
    size_bytes: int | None = None
    exported_by: tuple[str, ...] = ()
    sinks: Callable[[], tuple[str, ...]] = field(default=tuple, compare=False)
    observer: RetentionObserver | None = field(default=None, compare=False)

    @property
    def exporters(self) -> tuple[str, ...]:
        """Give all exporters that count now."""
        return tuple(dict.fromkeys((*self.exported_by, *self.sinks())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """A call, or with `call_id` "" an upload, that goes: why, and which files with it."""

    holder: Holder
    why: str
    files: dict[str, int]

    @property
    def bytes_(self) -> int:
        """Give what its files take."""
        return sum(self.files.values())


@dataclass(slots=True, kw_only=True)
class Plan:
    """What would go now, the oldest first, and why not more: `rest` says what the next in line
    waits for, `problem` why nothing goes at all. `contents_bytes` is what there is."""

    going: list[Going] = field(default_factory=list)
    rest: str = ""
    problem: str = ""
    held: int = 0
    in_use: int = 0
    contents_bytes: int = 0
    believed_ns: int = 0


class Retention:
    """Removes in a thread of its own, when it starts and every minute."""

    def __init__(
        self,
        *,
        state: Path,
        journal: Journal,
        index: Index,
        blobs: BlobStore,
        vault: Vault,
        policy: RetainPolicy | None,
        clock_ns: Callable[[], int],
        running: Callable[[], int] = running_ns,
        every_s: float = EVERY_S,
    ) -> None:
        """Open what is known of contents; without a `policy`, only finish what was begun."""
        self._journal = journal
        self._index = index
        self._blobs = blobs
        self._vault = vault
        self._policy = policy
        self._clock_ns = clock_ns
        self._running = running
        self._observer = policy.observer if policy else None
        self._every_s = every_s
        self._holdings = Holdings(state / HOLDINGS_NAME, blobs)
        self._exported = Exported(
            Cursors(state),
            lambda: policy.exporters if policy else (),
            self._leaf_at,
            self._holdings.highest(),
        )
        self._born = journal.head[0]
        """What is in the log from here on is this daemon's, by the clock of now."""
        self._passed: Passed | None = None
        self._problem = ""
        self._told = state / PROBLEM_NAME
        self.deciding = threading.Lock()
        """Held from looking at the log until what goes is in it."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    @property
    def is_on(self) -> bool:
        """Say whether there is a policy, and not only something to finish."""
        return self._policy is not None

    def start(self) -> None:
        """Begin."""
        self._tell("")
        self._thread.start()

    def close(self) -> None:
        """Stop. Blocks, for as long as one step takes."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._holdings.close()

    def run_once(self) -> None:
        """Remove what may go now, as far as one run goes.

        Raises:
            StockadeError: the record cannot be read or written; the next run tries again.
        """
        for _ in range(STEPS_A_RUN):
            with self.deciding, _unwritable():
                if not self._follow():
                    return
                going = self._decide(step=True).going
                if going:
                    self._let_go(going)
                    self._follow()
                self._unlink()
            if not going or self._stop.is_set():
                return

    def plan(self) -> Plan:
        """Say what would go now, and remove nothing. Reads the disk.

        Raises:
            StockadeError: as `run_once`.
        """
        with self.deciding, _unwritable():
            if not self._follow():
                raise AuditUnavailable("SHUTTING_DOWN", "retention is stopping")
            return self._decide(step=False)

    def _run(self) -> None:
        while True:
            try:
                self.run_once()
            except StockadeError as error:
                self._tell(f"{error.reason}: {error.message}")
            except Exception as error:  # nothing goes; the daemon serves on
                log.exception("retention failed")
                self._tell(f"FAILED: {type(error).__name__}")
            if self._stop.wait(self._every_s):
                return

    def _follow(self) -> bool:
        """Read what is new in the log; False where it was stopped before the end of it, and nothing
        may be decided by what is known."""
        followed = self._holdings.followed()
        if self._passed is not None:
            followed.believed_ns = self._passed.now()
        if not followed.mark.position.offset or not still_there(self._journal, followed.mark):
            self._holdings.reset()
            followed.mark = LowWater(position=Position(segment=0, offset=len(MAGIC)), leaf="")
            followed.chain_ns = 0
        before_ns = followed.chain_ns
        entries = read_log(self._journal, followed.mark.position)
        while batch := list(itertools.islice(entries, ENTRIES_A_STEP)):
            with self._holdings.changing():
                for entry in batch:
                    self._take(entry, followed)
                    before_ns = followed.chain_ns if entry.index < self._born else before_ns
                last = batch[-1]
                followed.mark = LowWater(position=last.position, leaf=last.head.prev.hex())
                self._holdings.put_followed(followed)
            if self._stop.is_set():
                return False
        if self._passed is None:
            believed_ns = followed.believed_ns or before_ns
            self._passed = Passed(
                believed_ns=believed_ns, wall=self._clock_ns, running=self._running
            )
            followed.believed_ns = self._passed.believed_ns
            with self._holdings.changing():
                self._holdings.put_followed(followed)
        return True

    def _take(self, entry: StoredEntry, followed: Followed) -> None:
        self._holdings.take(entry, followed)
        if entry.kind == Kind.REMOVED:
            self._index.put_removals(removals_of(entry))

    def _decide(self, *, step: bool) -> Plan:
        plan = Plan(contents_bytes=self._holdings.total_bytes())
        if self._observer is not None:
            self._observer.contents(plan.contents_bytes)
        if self._policy is None or self._passed is None:
            return plan
        plan.believed_ns = self._passed.now()
        try:
            below = self._exported.below()
            with self._holdings.changing():
                self._holdings.put_highest(self._exported.highest)
        except CursorError as error:
            plan.problem = f"CURSOR_UNUSABLE: {error}"
        if not self._passed.is_settled():
            plan.problem = "CLOCK_STEPPED: the clock was set within the last hour"
        self._tell(plan.problem or self._late())
        if plan.problem:
            plan.rest = plan.problem
            return plan
        with self._holdings.trial():
            self._choose(self._policy, below, plan, step=step)
        return plan

    def _late(self) -> str:
        """Say that the wall clock is not believed; things go, only later."""
        ahead_ns = self._passed.ahead_ns if self._passed else 0
        if ahead_ns <= AHEAD_NS_MAX:
            return ""
        return f"CLOCK_AHEAD: the clock is {ahead_ns // 10**9} s ahead of the time that passed here"

    def _choose(self, policy: RetainPolicy, below: int | None, plan: Plan, *, step: bool) -> None:
        """Choose what goes, for a `step` no more than fits into one entry, and let it go on trial,
        so that the next one is judged without it."""
        left, files = plan.contents_bytes, 0
        for holder in itertools.islice(self._oldest(), LOOKED_AT_MAX):
            why = _why(policy, holder, plan.believed_ns, left)
            if not why:
                plan.rest = (
                    f"the next, of entry {holder.last_index}, is neither too old nor too much"
                )
                return
            if below is not None and holder.last_index >= below:
                plan.rest = f"the next, of entry {holder.last_index}, is not exported: {below} is"
                return
            if holder.held:
                plan.held += 1
                continue
            sole = self._holdings.sole_files(holder)
            if not all(map(self._is_unused, sole)):
                plan.in_use += 1
                continue
            if (
                step
                and plan.going
                and (
                    len(plan.going) >= HOLDERS_A_STEP
                    or files + len(sole) > FILES_A_STEP
                    or why != plan.going[0].why
                )
            ):
                plan.rest = "there is more, in the next step"
                return
            self._holdings.let_go(holder.first_index)
            plan.going.append(Going(holder=holder, why=why, files=sole))
            left, files = left - sum(sole.values()), files + len(sole)
        plan.rest = "nothing else that ended has contents"

    def _oldest(self) -> Iterator[Holder]:
        after = -1
        while page := self._holdings.ended(after, PAGE):
            yield from page
            after = page[-1].last_index

    def _is_unused(self, name: str) -> bool:
        touched_ns = self._blobs.touched_ns(path_of(name))
        return self._passed is not None and self._passed.is_unused(touched_ns)

    def _let_go(self, going: list[Going]) -> None:
        """Write that these go, and wait until that is durable."""
        names = [name for one in going for name in one.files]
        calls = [one.holder.call_id for one in going if one.holder.call_id]
        freed = sum(one.bytes_ for one in going)
        body: dict[str, Json] = {
            "why": going[0].why,
            "calls": list(calls),
            "uploads": [one.holder.last_index for one in going if not one.holder.call_id],
            "files": list(names[:FILES_A_STEP]),
            "files_count": len(names),
            "bytes": freed,
        }
        # A full disk is where it counts that room is made.
        self._journal.append(
            Kind.REMOVED, body, time_ns=self._clock_ns(), reserved=freed > RESERVED_FROM_BYTES
        )
        self._journal.sync()
        log.info(
            "retention: the contents of %d calls and %d uploads go by %s: %d files, %d bytes",
            len(calls), len(going) - len(calls), going[0].why, len(names), freed,
        )  # fmt: skip
        if self._observer is not None:
            self._observer.removed(going[0].why, len(calls), freed)

    def _unlink(self) -> None:
        """Unlink what the log says is removed, the keys first, and what is in use not yet."""
        passed, before = self._passed, AFTER_ALL
        while passed is not None and not self._stop.is_set():
            names = self._holdings.condemned(FILES_A_STEP, before)
            if not names:
                return
            # Read from the log is not durable yet: the wait for it may have failed.
            self._journal.sync()
            before = names[-1]
            keys = [name for name in names if name.startswith(KEY_PREFIX)]
            self._vault.destroy_all(name.removeprefix(KEY_PREFIX) for name in keys)
            files = [name for name in names if not name.startswith(KEY_PREFIX)]
            gone = [name for name in files if self._blobs.discard(path_of(name), passed.is_unused)]
            for folder in sorted({path_of(name).rpartition("/")[0] for name in gone}):
                self._blobs.sync_names(folder)
            self._holdings.unlinked(keys + gone)

    def _leaf_at(self, index: int) -> str | None:
        segment = max((first for first in self._journal.segments if first <= index), default=0)
        for entry in read_log(self._journal, Position(segment=segment, offset=len(MAGIC))):
            if entry.index == index:
                return entry.leaf
        return None

    def _tell(self, problem: str) -> None:
        """Say why nothing goes, when that begins, changes, and is over."""
        reason, before = problem.partition(":")[0], self._problem.partition(":")[0]
        if reason != before and problem:
            log.warning("retention: %s", problem)
        elif reason != before:
            log.info("retention goes on")
        if not self._told.exists() or read_problem(self._told.parent) != problem:
            write_problem(self._told, problem)
        self._problem = problem
        if self._observer is not None:
            self._observer.retention_problem(reason)


@contextlib.contextmanager
def _unwritable() -> Iterator[None]:
    """Say what it means where the file of what is known of contents cannot be written.

    Raises:
        CapacityError: `HOLDINGS_FULL`; nothing goes.
    """
    try:
        yield
    except apsw.Error as error:
        raise CapacityError(
            "HOLDINGS_FULL",
            f"{HOLDINGS_NAME} cannot be written: {error}",
            hint="make room on the filesystem of the state directory",
        ) from error


def open_retention(
    state: Path,
    journal: Journal,
    index: Index,
    blobs: BlobStore,
    vault: Vault,
    policy: RetainPolicy | None,
    clock_ns: Callable[[], int],
) -> Retention | None:
    """Give what removes, or finishes what was begun; None where there is neither."""
    if policy is None and not (state / HOLDINGS_NAME).exists():
        return None
    return Retention(
        state=state, journal=journal, index=index, blobs=blobs, vault=vault, policy=policy,
        clock_ns=clock_ns,
    )  # fmt: skip


def _why(policy: RetainPolicy, holder: Holder, now_ns: int, left_bytes: int) -> str:
    if policy.age_ns is not None and holder.ended_ns <= now_ns - policy.age_ns:
        return "age"
    if policy.size_bytes is not None and left_bytes > policy.size_bytes:
        return "size"
    return ""


def write_problem(path: Path, problem: str) -> None:
    """Leave word of a problem, "" where there is none."""
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps({"problem": problem}) + "\n")
        part.rename(path)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error.strerror)


def read_problem(state: Path) -> str:
    """Give what the daemon of a state folder said last; "" where nothing keeps retention."""
    try:
        found = json.loads((state / PROBLEM_NAME).read_bytes())
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"{PROBLEM_NAME} cannot be read: {error}"
    return (
        str(found.get("problem", "")) if isinstance(found, dict) else f"{PROBLEM_NAME} is damaged"
    )
