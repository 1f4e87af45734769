"""Who needs which file: contents, and the calls and uploads that hold them. Derived from the log.

A content is one file under `blobs/`, however many calls had it as input or left it behind. It may
go when the last that holds it is let go. What is no content, the profiles, policies and lists of
files that entries are read with, stays for good, whoever else holds a file of the same bytes.

`holdings.db` follows the log at its own pace and decides nothing by itself: `removed` entries are
what lets go, and `condemned` files are those that they name and that are still to be unlinked. It
can be deleted at any time; then the log is read again from its beginning.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.audit.account import blobs_named, digest_of, files_of, kept_of, profile_of
from supervisor.audit.blobs import BLOB_SUFFIX, SEALED_SUFFIX, BlobStore
from supervisor.audit.database import open_database, remove_database
from supervisor.audit.entry import Kind, Position, StoredEntry
from supervisor.audit.index import LowWater
from supervisor.call.types import Digest, Json, as_list
from supervisor.errors import NotFound

HOLDINGS_NAME = "holdings.db"
PART_PREFIX = "part/"
"""A recording that could not be moved to its digest lies there, under its call's id."""

KEY_PREFIX = "key/"
"""The key of an encrypted call; it is no file below `blobs/`."""

AFTER_ALL = "~"
"""Comes after every name of a file."""

_VERSION = 2
_SCHEMA = """
CREATE TABLE meta (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  segment INTEGER NOT NULL, offset INTEGER NOT NULL, leaf TEXT NOT NULL,
  chain_ns INTEGER NOT NULL, believed_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE holders (
  first_index INTEGER PRIMARY KEY,
  call_id TEXT, last_index INTEGER, ended_ns INTEGER
) STRICT;
CREATE UNIQUE INDEX holders_call ON holders (call_id) WHERE call_id IS NOT NULL;
CREATE INDEX holders_ended ON holders (last_index) WHERE last_index IS NOT NULL;
CREATE TABLE holds (
  name TEXT NOT NULL, first_index INTEGER NOT NULL, PRIMARY KEY (name, first_index)
) STRICT, WITHOUT ROWID;
CREATE INDEX holds_holder ON holds (first_index);
CREATE TABLE files (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE kept (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE condemned (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE held (call_id TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE cursors (name TEXT PRIMARY KEY, highest INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""
_BEGINNING = (0, 0, 0, "", 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A call that ended, or with `call_id` "" an upload, and what it holds on to.

    `ended_ns` is never before that of one that ended earlier, so that a clock that was set back for
    a while makes nothing old. `last_index` is its last entry.
    """

    first_index: int
    last_index: int
    call_id: str
    ended_ns: int
    held: bool


@dataclass(slots=True, kw_only=True)
class Followed:
    """How far the log was read, and what time it was by its entries, `chain_ns`, and as far as that
    is believed, `believed_ns`; 0 where nobody knows."""

    mark: LowWater
    chain_ns: int
    believed_ns: int


class Holdings:
    """The file. Not thread-safe: one thread has it."""

    def __init__(self, path: Path, blobs: BlobStore) -> None:
        self._path = path
        self._blobs = blobs
        self._db = open_database(path, _SCHEMA, _VERSION)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def reset(self) -> None:
        """Throw all away, to make it again from the log; what the cursors were is not in there."""
        highest = self.highest()
        self._db.close()
        remove_database(self._path)
        self._db = open_database(self._path, _SCHEMA, _VERSION)
        with self._db:
            self.put_highest(highest)

    def followed(self) -> Followed:
        """Give how far the log was read."""
        row = self._db.execute("SELECT * FROM meta").fetchone()
        _, segment, offset, leaf, chain_ns, believed_ns = row or _BEGINNING
        return Followed(
            mark=LowWater(position=Position(segment=segment, offset=offset), leaf=leaf),
            chain_ns=chain_ns,
            believed_ns=believed_ns,
        )

    def put_followed(self, followed: Followed) -> None:
        """Say how far the log was read."""
        position = followed.mark.position
        self._db.execute(
            "INSERT OR REPLACE INTO meta VALUES (1, ?, ?, ?, ?, ?)",
            (position.segment, position.offset, followed.mark.leaf, followed.chain_ns,
             followed.believed_ns),
        )  # fmt: skip

    def changing(self) -> contextlib.AbstractContextManager[Any]:
        """Make all changes within the block, or none."""
        return self._db

    def take(self, entry: StoredEntry, followed: Followed) -> None:
        """Take one more entry of the log into account."""
        followed.chain_ns = max(followed.chain_ns, entry.time_ns)
        taker = _TAKERS.get(entry.kind)
        if taker is not None:
            ended_ns = min(followed.chain_ns, followed.believed_ns or followed.chain_ns)
            taker(self, entry, entry.body(), ended_ns)

    def highest(self) -> dict[str, int]:
        """Give the furthest that each cursor was seen at."""
        rows: Iterable[Any] = self._db.execute("SELECT name, highest FROM cursors")
        return dict(rows)

    def put_highest(self, highest: Mapping[str, int]) -> None:
        """Remember it."""
        self._db.executemany("INSERT OR REPLACE INTO cursors VALUES (?, ?)", highest.items())

    def total_bytes(self) -> int:
        """Give the size of all contents that somebody holds."""
        return int(self._db.execute("SELECT coalesce(sum(bytes), 0) FROM files").get)

    def ended(self, after: int, limit: int) -> list[Holder]:
        """Give those that ended, the oldest first, from the one after entry `after` on."""
        rows = self._db.execute(
            "SELECT first_index, last_index, coalesce(holders.call_id, ''), ended_ns,"
            " held.call_id IS NOT NULL FROM holders LEFT JOIN held USING (call_id)"
            " WHERE last_index > ? ORDER BY last_index LIMIT ?",
            (after, limit),
        )
        return [
            Holder(first_index=row[0], last_index=row[1], call_id=row[2], ended_ns=row[3],
                   held=bool(row[4]))
            for row in rows
        ]  # fmt: skip

    def sole_files(self, holder: Holder) -> dict[str, int]:
        """Give the files that only this one holds, with their sizes."""
        rows: Iterable[Any] = self._db.execute(
            "SELECT name, bytes FROM holds JOIN files USING (name) WHERE first_index = ?1 AND"
            " NOT EXISTS (SELECT 1 FROM holds AS other WHERE other.name = holds.name AND"
            " other.first_index <> ?1) AND name NOT IN (SELECT name FROM kept)",
            (holder.first_index,),
        )
        return dict(rows)

    @contextlib.contextmanager
    def trial(self) -> Iterator[None]:
        """Undo at the end whatever is let go within the block."""
        self._db.execute("SAVEPOINT trial")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK TO trial; RELEASE trial")

    def let_go(self, first_index: int) -> None:
        """Forget one that held files, and condemn those that nobody else holds."""
        query = "SELECT name FROM holds WHERE first_index = ?"
        names = self._db.execute(query, (first_index,)).fetchall()
        self._db.execute("DELETE FROM holds WHERE first_index = ?", (first_index,))
        self._db.execute("DELETE FROM holders WHERE first_index = ?", (first_index,))
        self._db.executemany(
            "INSERT OR IGNORE INTO condemned SELECT name FROM files"
            " WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM holds WHERE name = ?1)",
            names,
        )
        self._db.executemany(
            "DELETE FROM files"
            " WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM holds WHERE name = ?1)",
            names,
        )

    def condemned(self, limit: int, before: str = AFTER_ALL) -> list[str]:
        """Give what is to be unlinked, removed by an entry and held by nobody: what is named before
        `before`, backwards, so that keys come before the files that they open."""
        with self._db:
            self._db.execute(
                "DELETE FROM condemned WHERE name IN (SELECT name FROM holds)"
                " OR name IN (SELECT name FROM kept)"
            )
        rows = self._db.execute(
            "SELECT name FROM condemned WHERE name < ? ORDER BY name DESC LIMIT ?", (before, limit)
        )
        return [row[0] for row in rows]

    def unlinked(self, names: list[str]) -> None:
        """Say that these are gone."""
        with self._db:
            self._db.executemany(
                "DELETE FROM condemned WHERE name = ?", [(name,) for name in names]
            )

    def _take_intent(self, entry: StoredEntry, body: Mapping[str, Json], ended_ns: int) -> None:
        self._keep(blob_name(profile_of(body).sha256))
        self._db.execute(
            "INSERT OR IGNORE INTO holders VALUES (?, ?, NULL, NULL)", (entry.index, entry.call_id)
        )
        request = body.get("request_blob")
        if isinstance(request, dict):
            self._hold(entry.index, self._name_of(digest_of(request).sha256))
        listed = body.get("request_files")
        if isinstance(listed, dict):
            self._keep(blob_name(digest_of(listed).sha256))
        try:
            files = files_of(body, self._blobs)
        except NotFound:
            return  # the long request is gone, by a removal that is still to be read
        for digest in kept_of(body, files):
            self._hold(entry.index, self._name_of(digest.sha256))

    def _take_outcome(self, entry: StoredEntry, body: Mapping[str, Json], ended_ns: int) -> None:
        row = self._db.execute(
            "SELECT first_index FROM holders WHERE call_id = ?", (entry.call_id,)
        ).fetchone()
        if row is None:
            return  # it is of a call whose intent is not in this log, which `verify` tells
        first_index = row[0]
        files_blob = body.get("files_blob")
        for digest in self._outputs(body):
            self._hold(first_index, self._name_of(digest))
        if isinstance(files_blob, dict):
            self._keep(blob_name(digest_of(files_blob).sha256))
        recording = body.get("recording")
        if isinstance(recording, dict):
            sealed = digest_of(recording)
            self._hold(first_index, sealed.sha256, sealed.size_bytes)
        self._db.execute(
            "UPDATE holders SET last_index = ?, ended_ns = ? WHERE first_index = ?",
            (entry.index, ended_ns, first_index),
        )
        self._db.execute(
            "DELETE FROM holders WHERE first_index = ?1 AND NOT EXISTS"
            " (SELECT 1 FROM holds WHERE first_index = ?1)",
            (first_index,),
        )

    def _outputs(self, body: Mapping[str, Json]) -> Iterator[str]:
        files_blob = body.get("files_blob")
        if not isinstance(files_blob, dict):
            yield from (digest.sha256 for digest in blobs_named(Kind.OUTCOME, body))
            return
        listed = json.loads(self._blobs.get(digest_of(files_blob)))
        outputs = (digest_of(output) for output in listed["outputs"])
        yield from (digest.sha256 for digest in kept_of(body, outputs))

    def _take_upload(self, entry: StoredEntry, body: Mapping[str, Json], ended_ns: int) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO holders VALUES (?, NULL, ?, ?)",
            (entry.index, entry.index, ended_ns),
        )
        for digest in blobs_named(Kind.BLOB, body):
            self._hold(entry.index, self._name_of(digest.sha256))

    def _take_policy(self, entry: StoredEntry, body: Mapping[str, Json], ended_ns: int) -> None:
        for digest in blobs_named(entry.kind, body):
            self._keep(blob_name(digest.sha256))

    def _take_removed(self, entry: StoredEntry, body: Mapping[str, Json], ended_ns: int) -> None:
        for call_id in map(str, as_list(body["calls"])):
            row = self._db.execute(
                "SELECT first_index FROM holders WHERE call_id = ?", (call_id,)
            ).fetchone()
            if row is not None:
                self.let_go(row[0])
            self._db.executemany(
                "INSERT OR IGNORE INTO condemned VALUES (?)",
                [(PART_PREFIX + call_id,), (KEY_PREFIX + call_id,)],
            )
        for index in as_list(body["uploads"]):
            self.let_go(int(str(index)))

    def _take_held(self, entry: StoredEntry, body: Mapping[str, Json], ended_ns: int) -> None:
        self._db.execute(
            "INSERT INTO held VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
            (str(body["call"]),),
        )

    def _take_released(self, entry: StoredEntry, body: Mapping[str, Json], ended_ns: int) -> None:
        self._db.execute(
            "UPDATE held SET count = count - 1 WHERE call_id = ?", (str(body["call"]),)
        )
        self._db.execute("DELETE FROM held WHERE count = 0")

    def _name_of(self, sha256: str) -> str:
        """Give the name of a blob's file, which is another where its call is encrypted."""
        sealed = self._blobs.is_sealed(Digest(sha256=sha256, size_bytes=0))
        return sha256 + SEALED_SUFFIX if sealed else blob_name(sha256)

    def _hold(self, first_index: int, name: str, size_bytes: int | None = None) -> None:
        if size_bytes is None:
            size_bytes = self._blobs.size_of(path_of(name))
        self._db.execute("INSERT OR IGNORE INTO holds VALUES (?, ?)", (name, first_index))
        self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (name, size_bytes))

    def _keep(self, name: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO kept VALUES (?)", (name,))


def blob_name(sha256: str) -> str:
    """Give the name of a blob's file; that of a recording is its digest alone."""
    return sha256 + BLOB_SUFFIX


def path_of(name: str) -> str:
    """Give where a file lies below `blobs/`."""
    return name if name.startswith(PART_PREFIX) else f"sha256/{name[:2]}/{name}"


_TAKERS: Mapping[str, Callable[[Holdings, StoredEntry, Mapping[str, Json], int], None]] = {
    Kind.INTENT: Holdings._take_intent,
    Kind.OUTCOME: Holdings._take_outcome,
    Kind.BLOB: Holdings._take_upload,
    Kind.POLICY: Holdings._take_policy,
    Kind.REMOVED: Holdings._take_removed,
    Kind.HELD: Holdings._take_held,
    Kind.RELEASED: Holdings._take_released,
}
