"""The index: which calls there are, where their entries lie, and what they can be found by.
Derived from the log.

It is written after the log is durable and never synced for its own sake: what it misses after a
crash is read from the log again, from `low_water` on, the place before which it is complete. It
can be deleted at any time. Rows that cannot be written, because the disk is full, wait in memory
and are written with the next ones.

What a call can be found by is put into `unsettled` first, and from there into the full-text index
in batches: one by one, each call would wait for a merge.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apsw

from supervisor.audit.codec import (
    caller_from_json,
    caller_to_json,
    correlation_from_json,
    fields_to_json,
    finished_from_json,
    finished_to_json,
)
from supervisor.audit.database import open_database, remove_database
from supervisor.audit.entry import Position
from supervisor.audit.search import TIME_NS_MAX, CallFilter, Trail, document
from supervisor.audit.vault import Erasure, Removal
from supervisor.call.events import Finished
from supervisor.call.types import Caller, Correlation, text, untext
from supervisor.errors import CapacityError

WAITING_ROWS_MAX = 10_000
UNSETTLED_MAX = 256
"""So many calls wait for the full-text index before whoever writes should call `settle`."""

KEYS_MAX = 1001
RETRY_AFTER_S = 5.0
_SCHEMA_VERSION = 8
_SCHEMA = """
CREATE TABLE meta (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  low_segment INTEGER NOT NULL, low_offset INTEGER NOT NULL, low_leaf TEXT NOT NULL
) STRICT;
CREATE TABLE calls (
  first_index INTEGER PRIMARY KEY,
  call_id TEXT NOT NULL UNIQUE,
  caller TEXT NOT NULL, request_id TEXT NOT NULL, fingerprint TEXT NOT NULL,
  profile TEXT NOT NULL, accepted_ns INTEGER NOT NULL, denials INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL,
  first_segment INTEGER NOT NULL, first_offset INTEGER NOT NULL,
  last_segment INTEGER NOT NULL, last_offset INTEGER NOT NULL,
  detail TEXT NOT NULL, finished TEXT
) STRICT;
CREATE INDEX calls_request ON calls (caller, request_id, first_index);
CREATE INDEX calls_caller ON calls (caller, first_index);
CREATE INDEX calls_profile ON calls (profile, first_index);
CREATE INDEX calls_denied ON calls (first_index) WHERE denials > 0;
CREATE INDEX calls_time ON calls (accepted_ns, first_index);
CREATE TABLE unsettled (
  first_index INTEGER PRIMARY KEY, facts TEXT NOT NULL, words TEXT NOT NULL
) STRICT;
CREATE VIRTUAL TABLE found USING fts5(
  facts, words, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 0'
);
CREATE TABLE blob_refs (
  sha256 TEXT NOT NULL, size_bytes INTEGER NOT NULL, caller TEXT NOT NULL,
  PRIMARY KEY (sha256, size_bytes, caller)
) STRICT, WITHOUT ROWID;
CREATE TABLE removed (
  name TEXT PRIMARY KEY, time_ns INTEGER NOT NULL, why TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE erased (
  call_id TEXT PRIMARY KEY, by TEXT NOT NULL, time_ns INTEGER NOT NULL, why TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE holds (
  call_id TEXT NOT NULL, entry INTEGER NOT NULL, change INTEGER NOT NULL,
  PRIMARY KEY (call_id, entry)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSummary:
    """A call in short; `argv` is cut to 4 KiB, `finished` is None while it lives."""

    call_id: str
    request_id: str
    fingerprint: str
    caller: Caller
    profile: str
    profile_digest: str
    mode: str
    argv: tuple[bytes, ...]
    accepted_ns: int
    correlation: Correlation
    last_sequence: int
    denials: int
    finished: Finished | None
    encrypted: bool = False
    erased: Erasure | None = None
    holds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """What the index knows of a call: its summary and where its entries lie. A row that is written
    has its `trail`, one that was read has none."""

    summary: CallSummary
    first_index: int
    first: Position
    last: Position
    trail: Trail | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LowWater:
    """Before `position`, which follows the entry with hash `leaf`, the index is complete."""

    position: Position
    leaf: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRef:
    """A caller that may read a blob; a blob with another size is another blob."""

    sha256: str
    size_bytes: int
    caller: str


class Index:
    """The index file. Methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._path = path
        self._rows: dict[str, CallRow] = {}
        self._documents: dict[int, tuple[str, str]] = {}
        self._unsettled = UNSETTLED_MAX  # nobody has counted yet
        self._refs: set[BlobRef] = set()
        self._removals: dict[str, Removal] = {}
        self._erased: dict[str, Erasure] = {}
        self._holds: dict[tuple[str, int], int] = {}
        self._db = open_database(path, _SCHEMA, _SCHEMA_VERSION)
        self.complete = True

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def reset(self) -> None:
        """Throw everything away, to build it again from the log."""
        with self._lock:
            self._db.close()
            remove_database(self._path)
            self._db = open_database(self._path, _SCHEMA, _SCHEMA_VERSION)

    def low_water(self) -> LowWater | None:
        """Give the place before which the index is complete; None where it is empty."""
        with self._lock:
            row = self._db.execute("SELECT low_segment, low_offset, low_leaf FROM meta").fetchone()
        if row is None:
            return None
        return LowWater(position=Position(segment=row[0], offset=row[1]), leaf=row[2])

    def note(self, rows: Iterable[CallRow], refs: Iterable[BlobRef]) -> None:
        """Take rows that the next `put` is to write, or a search that comes before it. The place
        before which the index is complete does not move, so a crash loses none."""
        with self._lock:
            self._take(rows, refs)

    def put(
        self,
        rows: Iterable[CallRow],
        refs: Iterable[BlobRef],
        low_water: LowWater,
        removals: Iterable[Removal] = (),
        *,
        erased: Mapping[str, Erasure] | None = None,
        holds: Mapping[tuple[str, int], int] | None = None,
    ) -> bool:
        """Write rows, and those that wait; give whether all is written now. `holds` are 1 for a
        hold and -1 for the end of one, by the call and the entry.

        False means that the disk is full or the file cannot be written: nothing is lost, and
        the next `put` tries again.
        """
        with self._lock:
            self._take(rows, refs)
            self._removals.update((removal.name, removal) for removal in removals)
            self._erased.update(erased or {})
            self._holds.update(holds or {})
            return self._write_all(low_water)

    def _take(self, rows: Iterable[CallRow], refs: Iterable[BlobRef]) -> None:
        for row in rows:
            self._rows[row.summary.call_id] = row
            self._documents[row.first_index] = document(row.summary, row.trail)
        self._refs.update(refs)

    def _write_all(self, low_water: LowWater | None) -> bool:
        """Write all that waits; say whether it could be."""
        try:
            with self._db:
                self._write(low_water)
                self._write_removals(self._removals.values())
        except apsw.Error:
            self.complete = False
            return False
        self._unsettled += len(self._documents)
        self._rows.clear()
        self._documents.clear()
        self._refs.clear()
        self._removals.clear()
        self._erased.clear()
        self._holds.clear()
        self.complete = True
        return True

    def put_removals(self, removals: Iterable[Removal]) -> None:
        """Write what was removed.

        Raises:
            CapacityError: `INDEX_FULL`.
        """
        with self._lock:
            try:
                with self._db:
                    self._write_removals(removals)
            except apsw.Error as error:
                raise _full(str(error)) from error

    def removal(self, name: str) -> Removal | None:
        """Give when and why a call's contents, or a file, were removed; None where they were
        not."""
        with self._lock:
            if name in self._removals:
                return self._removals[name]
            row = self._db.execute("SELECT * FROM removed WHERE name = ?", (name,)).fetchone()
        return None if row is None else Removal(name=row[0], time_ns=row[1], why=row[2])

    @property
    def waiting(self) -> int:
        """Give how many rows wait to be written."""
        with self._lock:
            return len(self._rows) + len(self._refs) + len(self._erased) + len(self._holds)

    def get(self, call_id: str) -> CallRow | None:
        """Give the row of a call."""
        with self._lock:
            row = self._rows.get(call_id)
            if row is None:
                row = next(self._select("WHERE call_id = ?", (call_id,)), None)
        return row

    def find_request(self, caller: str, request_id: str) -> tuple[str, str] | None:
        """Give the call id and the fingerprint of a request that was seen before."""
        with self._lock:
            for row in self._rows.values():
                summary = row.summary
                if (summary.caller.name, summary.request_id) == (caller, request_id):
                    return summary.call_id, summary.fingerprint
            found = self._db.execute(
                "SELECT call_id, fingerprint FROM calls WHERE caller = ? AND request_id = ?"
                " ORDER BY first_index DESC LIMIT 1",
                (caller, request_id),
            ).fetchone()
        return None if found is None else (str(found[0]), str(found[1]))

    def unfinished(self) -> list[CallRow]:
        """Give the calls without an outcome, oldest first."""
        with self._lock:
            return list(self._select("WHERE finished IS NULL ORDER BY first_index", ()))

    def find(
        self,
        wanted: CallFilter,
        *,
        limit: int,
        token: str,
        clean: Callable[[str], str] | None = None,
    ) -> tuple[list[int], bool]:
        """Give the first entries of wanted calls, newest first, and whether there are more; also
        of calls that have what `clean` makes of the filter.

        Raises:
            InvalidRequest: `PAGE_TOKEN_INVALID`, `FILTER_INVALID`.
            CapacityError: `INDEX_FULL`.
        """
        limit = min(limit, KEYS_MAX - 1)
        before = wanted.parse_token(token)
        wanted.check()
        with self._lock:
            if self._rows and self.complete:
                self._write_all(None)  # Where there is no room, `complete` says that it is not.
            if wanted.searches:
                self._settle_to_search()
            also = wanted.cleaned(clean) if clean is not None else None
            query = self._query(wanted, before, also)
            if query is None:
                return [], False
            sql, values = query
            rows = self._db.execute(f"{sql} LIMIT ?", (*values, limit + 1)).fetchall()
            keys: list[Any] = [row[0] for row in rows]
        return keys[:limit], len(keys) > limit

    def summaries(self, keys: Iterable[int]) -> list[CallSummary]:
        """Give the calls with these first entries, in that order."""
        with self._lock:
            rows = [row for key in keys for row in self._select("WHERE first_index = ?", (key,))]
            return [self._rows.get(row.summary.call_id, row).summary for row in rows]

    @property
    def is_unsettled(self) -> bool:
        """Say whether enough waits for the full-text index that `settle` is worth it."""
        return self._unsettled >= UNSETTLED_MAX

    def settle(self) -> None:
        """Put what waits into the full-text index. May be called again where there was no room:
        what waits is kept.

        Raises:
            CapacityError: `INDEX_FULL`.
        """
        more = True
        while more:
            with self._lock:  # whoever has a call to begin waits for one batch
                more = self._settle()

    def may_read(self, ref: BlobRef) -> bool:
        """Say whether a caller was granted a blob."""
        with self._lock:
            if ref in self._refs:
                return True
            query = "SELECT 1 FROM blob_refs WHERE sha256 = ? AND size_bytes = ? AND caller = ?"
            values = (ref.sha256, ref.size_bytes, ref.caller)
            return self._db.execute(query, values).fetchone() is not None

    def erasure(self, call_id: str) -> Erasure | None:
        """Give by whom, when and why the content of a call was erased; None where it was not."""
        with self._lock:
            if call_id in self._erased:
                return self._erased[call_id]
            query = "SELECT by, time_ns, why FROM erased WHERE call_id = ?"
            found = self._db.execute(query, (call_id,)).fetchone()
        return None if found is None else Erasure(by=found[0], time_ns=found[1], why=found[2])

    def holds(self, call_id: str) -> int:
        """Give how many hold what a call left."""
        with self._lock:
            rows: Iterable[Any] = self._db.execute(
                "SELECT entry, change FROM holds WHERE call_id = ?", (call_id,)
            )
            changes = dict(rows)
            changes.update({at: one for (of, at), one in self._holds.items() if of == call_id})
        count = 0
        for _, change in sorted(changes.items()):
            count = max(0, count + change)  # once, what was not held could be released
        return count

    def change_holds(self, call_id: str, change: int, append: Callable[[], int]) -> None:
        """Note one more or one less, by the entry that `append` writes, in one step: the place
        before which the index is complete is never behind an entry that is not noted."""
        with self._lock:
            self._holds[call_id, append()] = change

    def _write(self, low_water: LowWater | None) -> None:
        self._db.executemany(
            f"INSERT OR REPLACE INTO calls VALUES ({','.join('?' * 15)})",  # noqa: S608
            [_to_sql(row) for row in self._rows.values()],
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO unsettled VALUES (?, ?, ?)",
            [(first_index, *document) for first_index, document in self._documents.items()],
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO blob_refs VALUES (?, ?, ?)",
            [(ref.sha256, ref.size_bytes, ref.caller) for ref in self._refs],
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO erased VALUES (?, ?, ?, ?)",
            [(call_id, one.by, one.time_ns, one.why) for call_id, one in self._erased.items()],
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO holds VALUES (?, ?, ?)",
            [(*key, change) for key, change in self._holds.items()],
        )
        if low_water is None:
            return
        position = low_water.position
        self._db.execute(
            "INSERT OR REPLACE INTO meta VALUES (1, ?, ?, ?)",
            (position.segment, position.offset, low_water.leaf),
        )

    def _write_removals(self, removals: Iterable[Removal]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO removed VALUES (?, ?, ?)",
            [(removal.name, removal.time_ns, removal.why) for removal in removals],
        )

    def _settle_to_search(self) -> None:
        if self._documents:
            raise _full("calls wait for room")
        while self._settle():
            pass

    def _settle(self) -> bool:
        """Put one batch into the full-text index; say whether there may be more."""
        try:
            with self._db:
                batch = self._db.execute(
                    "SELECT * FROM unsettled ORDER BY first_index LIMIT ?", (UNSETTLED_MAX,)
                ).fetchall()
                self._db.executemany(
                    "INSERT OR REPLACE INTO found (rowid, facts, words) VALUES (?, ?, ?)", batch
                )
                self._db.executemany(
                    "DELETE FROM unsettled WHERE first_index = ?", [row[:1] for row in batch]
                )
        except apsw.Error as error:
            raise _full(str(error)) from error
        if len(batch) == UNSETTLED_MAX:
            return True
        self._unsettled = 0
        return False

    def _query(
        self, wanted: CallFilter, before: int | None, also: CallFilter | None
    ) -> tuple[str, tuple[Any, ...]] | None:
        """Give the query for first entries; None where nothing can match."""
        tables, where, values = "calls", [], []
        if wanted.searches:
            # The order of the full-text index is that of the entries: it is read from its end.
            tables = "found CROSS JOIN calls ON calls.first_index = found.rowid"
            either = [one.match() for one in (wanted, also) if one is not None]
            match = " OR ".join(f"({one})" for one in either) if also else either[0]
            where, values = ["found MATCH ?"], [match]
        key = "found.rowid" if wanted.searches else "first_index"
        bounds = self._bounds(wanted)
        if bounds is None:
            return None
        conditions: tuple[tuple[str, Any], ...] = (
            (f"{key} < ?", before),
            (f"{key} >= ?", bounds[0]),
            (f"{key} <= ?", bounds[1]),
            ("accepted_ns >= ?", wanted.since_ns or None),
            ("accepted_ns < ?", wanted.until_ns or None),
            ("caller = ?", wanted.caller or None),
            ("profile = ?", wanted.profile or None),
        )
        for condition, value in conditions:
            if value is not None:
                where.append(condition)
                values.append(value)
        if wanted.denied_only:
            where.append("denials > 0")
        clause = f"WHERE {' AND '.join(where)}" if where else ""
        return f"SELECT {key} FROM {tables} {clause} ORDER BY {key} DESC", tuple(values)  # noqa: S608

    def _bounds(self, wanted: CallFilter) -> tuple[int | None, int | None] | None:
        """Give between which entries the calls of a time lie; None where there is none. A clock
        that was set back makes this wider, never wrong."""
        if not (wanted.since_ns or wanted.until_ns):
            return None, None
        until_ns = wanted.until_ns or TIME_NS_MAX
        row = self._db.execute(
            "SELECT min(first_index), max(first_index) FROM calls"
            " WHERE accepted_ns >= ? AND accepted_ns < ?",
            (wanted.since_ns, until_ns),
        ).fetchone()
        return None if row is None or row[0] is None else (row[0], row[1])

    def _select(self, clause: str, values: tuple[Any, ...]) -> Iterator[CallRow]:
        return map(_from_sql, self._db.execute(f"SELECT * FROM calls {clause}", values))  # noqa: S608


def with_last(row: CallRow, *, last: Position, sequence: int, denials: int) -> CallRow:
    """Give a row with a later last entry."""
    summary = replace(row.summary, last_sequence=sequence, denials=denials)
    return replace(row, summary=summary, last=last)


def with_outcome(row: CallRow, finished: Finished, *, last: Position, sequence: int) -> CallRow:
    """Give the row of a finished call."""
    summary = replace(
        row.summary, finished=finished, last_sequence=sequence, denials=finished.denials
    )
    return replace(row, summary=summary, last=last)


def _full(why: str) -> CapacityError:
    return CapacityError(
        "INDEX_FULL",
        f"not every call can be searched: {why}",
        hint="make room on the filesystem of the state directory",
        retry_after_s=RETRY_AFTER_S,
    )


def _to_sql(row: CallRow) -> tuple[Any, ...]:
    summary = row.summary
    detail = {
        "caller": caller_to_json(summary.caller),
        "profile_digest": summary.profile_digest,
        "mode": summary.mode,
        "encrypted": summary.encrypted,
        "argv": [text(argument) for argument in summary.argv],
        "correlation": fields_to_json(summary.correlation),
    }
    finished = None
    if summary.finished is not None:
        finished = json.dumps(
            {
                **finished_to_json(summary.finished),
                "record": summary.finished.record,
                "record_bytes": summary.finished.record_bytes,
            }
        )
    return (
        row.first_index,
        summary.call_id,
        summary.caller.name,
        summary.request_id,
        summary.fingerprint,
        summary.profile,
        summary.accepted_ns,
        summary.denials,
        summary.last_sequence,
        row.first.segment,
        row.first.offset,
        row.last.segment,
        row.last.offset,
        json.dumps(detail),
        finished,
    )


def _from_sql(columns: tuple[Any, ...]) -> CallRow:
    detail = json.loads(columns[13])
    finished = None
    if columns[14] is not None:
        data = json.loads(columns[14])
        finished = finished_from_json(
            data, record=data["record"], record_bytes=data["record_bytes"]
        )
    summary = CallSummary(
        call_id=columns[1],
        request_id=columns[3],
        fingerprint=columns[4],
        caller=caller_from_json(detail["caller"]),
        profile=columns[5],
        profile_digest=detail["profile_digest"],
        mode=detail["mode"],
        argv=tuple(untext(argument) for argument in detail["argv"]),
        accepted_ns=columns[6],
        correlation=correlation_from_json(detail["correlation"]),
        last_sequence=columns[8],
        denials=columns[7],
        finished=finished,
        encrypted=detail["encrypted"],
    )
    return CallRow(
        summary=summary,
        first_index=columns[0],
        first=Position(segment=columns[9], offset=columns[10]),
        last=Position(segment=columns[11], offset=columns[12]),
    )
