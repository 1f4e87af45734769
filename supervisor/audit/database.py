"""The SQLite files of a state directory. Each is derived from the log and may be deleted at any
time: one that is damaged, or of another version, is thrown away and begun again."""

from __future__ import annotations

from pathlib import Path

import apsw

from supervisor.errors import AuditUnavailable, HostError

SQLITE_MIN = "3.51.3"
"""Older ones can corrupt a database in WAL mode (sqlite.org, WAL-reset bug)."""


def open_database(path: Path, schema: str, version: int) -> apsw.Connection:
    """Open the file, with the tables of `schema` in it.

    Raises:
        HostError: `SQLITE_TOO_OLD`.
        AuditUnavailable: `INDEX_UNUSABLE`.
    """
    if _numbers(apsw.sqlite_lib_version()) < _numbers(SQLITE_MIN):
        raise HostError(
            "SQLITE_TOO_OLD",
            f"SQLite {apsw.sqlite_lib_version()} can corrupt its files; {SQLITE_MIN} is needed",
            hint="install apsw with its own SQLite: pip install --upgrade apsw",
        )
    try:
        try:
            return _open(path, schema, version)
        except (apsw.NotADBError, apsw.CorruptError):
            remove_database(path)
            return _open(path, schema, version)
    except apsw.Error as error:
        raise AuditUnavailable(
            "INDEX_UNUSABLE",
            f"{path} cannot be used: {error}",
            hint="look at the disk under the state directory; the file itself may be deleted",
        ) from error


def remove_database(path: Path) -> None:
    """Remove the file, which nobody may have open, with all that SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _open(path: Path, schema: str, version: int) -> apsw.Connection:
    path.touch(mode=0o600)
    db = apsw.Connection(str(path))
    try:
        # Exclusive: no shared memory file, which on a full disk could not grow.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -2048")
        db.execute("PRAGMA temp_store = MEMORY")  # a file of its own could find no descriptor
        found = db.execute("PRAGMA user_version").get
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise apsw.CorruptError("it is damaged")
        if found not in (0, version):
            raise apsw.NotADBError(f"it has version {found}")
        if found == 0:
            with db:
                db.execute(schema)
                db.execute(f"PRAGMA user_version = {version}")
    except BaseException:
        db.close()
        raise
    return db


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
