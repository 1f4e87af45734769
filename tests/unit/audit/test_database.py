"""The SQLite files that are derived from the log."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from supervisor.audit.database import open_database, remove_database
from supervisor.errors import AuditUnavailable, HostError

SCHEMA = "CREATE TABLE things (name TEXT)"


def filled(path: Path, rows: int = 1, version: int = 3) -> None:
    db = open_database(path, SCHEMA, version)
    with db:
        db.executemany("INSERT INTO things VALUES (?)", [("x" * 100,)] * rows)
    db.close()


def count(path: Path, version: int = 3) -> int:
    db = open_database(path, SCHEMA, version)
    rows = int(db.execute("SELECT count(*) FROM things").get)
    db.close()
    return rows


def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    filled(tmp_path / "x.db")
    assert count(tmp_path / "x.db") == 1
    assert (tmp_path / "x.db").stat().st_mode & 0o777 == 0o600


def test_one_of_another_version_is_begun_again(tmp_path: Path) -> None:
    filled(tmp_path / "x.db")
    assert count(tmp_path / "x.db", version=4) == 0


def test_a_damaged_page_is_found_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    filled(path, rows=3000)
    data = bytearray(path.read_bytes())
    for page in range(2, len(data) // 4096, 3):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)
    assert count(path) == 0


def test_what_is_no_database_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database at all" * 300)
    assert count(tmp_path / "x.db") == 0


def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(HostError) as caught:
        open_database(tmp_path / "x.db", SCHEMA, 3)
    assert caught.value.reason == "SQLITE_TOO_OLD"
    assert not (tmp_path / "x.db").exists()


def test_a_file_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.db").mkdir()
    with pytest.raises(AuditUnavailable) as caught:
        open_database(tmp_path / "x.db", SCHEMA, 3)
    assert caught.value.reason == "INDEX_UNUSABLE"


def test_nothing_stays_of_one_that_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).touch()
    (tmp_path / "other.db").touch()
    remove_database(path)
    assert [one.name for one in tmp_path.iterdir()] == ["other.db"]
