"""The index: which calls there are and where their entries lie. Derived from the log.

It is written after the log is durable and never synced for its own sake: what it misses after a
crash is read from the log again, from `low_water` on, the place before which it is complete. It
can be deleted at any time. Rows that cannot be written, because the disk is full, wait in memory
and are written with the next ones.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
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
from supervisor.audit.entry import Position
from supervisor.call.events import Finished
from supervisor.call.types import Caller, Correlation, text, untext
from supervisor.errors import HostError, InvalidRequest

SQLITE_MIN = "3.51.3"
"""Older ones can corrupt a database in WAL mode (sqlite.org, WAL-reset bug)."""

WAITING_ROWS_MAX = 10_000
_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE meta (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  low_segment INTEGER NOT NULL, low_offset INTEGER NOT NULL, low_leaf TEXT NOT NULL
) STRICT;
CREATE TABLE calls (
  call_id TEXT PRIMARY KEY,
  first_index INTEGER NOT NULL,
  caller TEXT NOT NULL, request_id TEXT NOT NULL, fingerprint TEXT NOT NULL,
  profile TEXT NOT NULL, accepted_ns INTEGER NOT NULL, denials INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL,
  first_segment INTEGER NOT NULL, first_offset INTEGER NOT NULL,
  last_segment INTEGER NOT NULL, last_offset INTEGER NOT NULL,
  detail TEXT NOT NULL, finished TEXT
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX calls_order ON calls (first_index);
CREATE INDEX calls_request ON calls (caller, request_id, first_index);
CREATE INDEX calls_caller ON calls (caller, first_index);
CREATE INDEX calls_profile ON calls (profile, first_index);
CREATE INDEX calls_denied ON calls (first_index) WHERE denials > 0;
CREATE TABLE blob_refs (
  sha256 TEXT NOT NULL, size_bytes INTEGER NOT NULL, caller TEXT NOT NULL,
  PRIMARY KEY (sha256, size_bytes, caller)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """What the index knows of a call: its summary and where its entries lie."""

    summary: CallSummary
    first_index: int
    first: Position
    last: Position


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
        self._refs: set[BlobRef] = set()
        self._db = _open(path)
        self.complete = True

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def reset(self) -> None:
        """Throw everything away, to build it again from the log."""
        with self._lock:
            self._db.close()
            _remove(self._path)
            self._db = _open(self._path)

    def low_water(self) -> LowWater | None:
        """Give the place before which the index is complete; None where it is empty."""
        with self._lock:
            row = self._db.execute("SELECT low_segment, low_offset, low_leaf FROM meta").fetchone()
        if row is None:
            return None
        return LowWater(position=Position(segment=row[0], offset=row[1]), leaf=row[2])

    def put(self, rows: Iterable[CallRow], refs: Iterable[BlobRef], low_water: LowWater) -> bool:
        """Write rows, and those that wait; give whether all is written now.

        False means that the disk is full or the file cannot be written: nothing is lost, and
        the next `put` tries again.
        """
        with self._lock:
            self._rows.update((row.summary.call_id, row) for row in rows)
            self._refs.update(refs)
            try:
                with self._db:
                    self._write(low_water)
            except apsw.Error:
                self.complete = False
                return False
            self._rows.clear()
            self._refs.clear()
            self.complete = True
            return True

    @property
    def waiting(self) -> int:
        """Give how many rows wait to be written."""
        with self._lock:
            return len(self._rows) + len(self._refs)

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

    def page(
        self,
        *,
        caller: str | None,
        profile: str | None,
        denied_only: bool,
        since_ns: int,
        limit: int,
        token: str,
    ) -> tuple[list[CallSummary], str]:
        """Give a page of calls, newest first, and the token of the next page.

        Raises:
            InvalidRequest: `PAGE_TOKEN_INVALID`.
        """
        where, values = ["accepted_ns >= ?"], [since_ns]
        conditions: tuple[tuple[str, Any], ...] = (
            ("caller = ?", caller),
            ("profile = ?", profile),
            ("first_index < ?", _parse_token(token)),
        )
        for condition, value in conditions:
            if value is not None:
                where.append(condition)
                values.append(value)
        if denied_only:
            where.append("denials > 0")
        clause = f"WHERE {' AND '.join(where)} ORDER BY first_index DESC LIMIT ?"
        with self._lock:
            rows = list(self._select(clause, (*values, limit + 1)))
            rows = [self._rows.get(row.summary.call_id, row) for row in rows]
        more = str(rows[limit - 1].first_index) if len(rows) > limit else ""
        return [row.summary for row in rows[:limit]], more

    def may_read(self, ref: BlobRef) -> bool:
        """Say whether a caller was granted a blob."""
        with self._lock:
            if ref in self._refs:
                return True
            query = "SELECT 1 FROM blob_refs WHERE sha256 = ? AND size_bytes = ? AND caller = ?"
            values = (ref.sha256, ref.size_bytes, ref.caller)
            return self._db.execute(query, values).fetchone() is not None

    def _write(self, low_water: LowWater) -> None:
        self._db.executemany(
            f"INSERT OR REPLACE INTO calls VALUES ({','.join('?' * 15)})",  # noqa: S608
            [_to_sql(row) for row in self._rows.values()],
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO blob_refs VALUES (?, ?, ?)",
            [(ref.sha256, ref.size_bytes, ref.caller) for ref in self._refs],
        )
        position = low_water.position
        self._db.execute(
            "INSERT OR REPLACE INTO meta VALUES (1, ?, ?, ?)",
            (position.segment, position.offset, low_water.leaf),
        )

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


def _open(path: Path) -> apsw.Connection:
    if tuple(map(int, apsw.sqlite_lib_version().split("."))) < tuple(
        map(int, SQLITE_MIN.split("."))
    ):
        raise HostError(
            "SQLITE_TOO_OLD",
            f"SQLite {apsw.sqlite_lib_version()} can corrupt its files; {SQLITE_MIN} is needed",
            hint="install apsw with its own SQLite: pip install --upgrade apsw",
        )
    try:
        return _open_file(path)
    except (apsw.NotADBError, apsw.CorruptError):
        _remove(path)
        return _open_file(path)


def _open_file(path: Path) -> apsw.Connection:
    path.touch(mode=0o600)
    db = apsw.Connection(str(path))
    try:
        # Exclusive: no shared memory file, which on a full disk could not grow.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -2048")
        db.execute("PRAGMA temp_store = MEMORY")  # a file of its own could find no descriptor
        version = db.execute("PRAGMA user_version").fetchone()
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise apsw.CorruptError("the index is damaged")
        if version != (_SCHEMA_VERSION,):
            if version != (0,):
                raise apsw.NotADBError(f"the index has version {version}")
            with db:
                db.execute(_SCHEMA)
                db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _remove(path: Path) -> None:
    for name in (path.name, path.name + "-wal", path.name + "-shm", path.name + "-journal"):
        (path.parent / name).unlink(missing_ok=True)


def _parse_token(token: str) -> int | None:
    if not token:
        return None
    if not (token.isascii() and token.isdigit() and len(token) <= 18):
        raise InvalidRequest("PAGE_TOKEN_INVALID", "the page token is not one of ours")
    return int(token)


def _to_sql(row: CallRow) -> tuple[Any, ...]:
    summary = row.summary
    detail = {
        "caller": caller_to_json(summary.caller),
        "profile_digest": summary.profile_digest,
        "mode": summary.mode,
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
        summary.call_id,
        row.first_index,
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
        call_id=columns[0],
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
    )
    return CallRow(
        summary=summary,
        first_index=columns[1],
        first=Position(segment=columns[9], offset=columns[10]),
        last=Position(segment=columns[11], offset=columns[12]),
    )
