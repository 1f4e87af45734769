"""Cursors on disk, and how far all of them have come."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.audit.cursors import CURSORS_NAME, Cursor, CursorError, Cursors, Exported
from supervisor.errors import InvalidRequest

LEAVES = {index: f"{index:064x}" for index in range(100)}


def at(index: int) -> Cursor:
    return Cursor(index=index, leaf=LEAVES[index - 1]) if index else Cursor(index=0)


def exported(tmp_path: Path, *names: str, highest: dict[str, int] | None = None) -> Exported:
    return Exported(
        Cursors(tmp_path), lambda: names, LEAVES.get, highest if highest is not None else {}
    )


def test_a_cursor_reads_back(tmp_path: Path) -> None:
    cursors = Cursors(tmp_path)
    cursors.advance("siem", at(7))
    assert cursors.read("siem") == at(7)
    cursors.advance("siem", at(7))
    cursors.advance("siem", at(9))
    assert cursors.read("siem") == at(9)
    assert [path.name for path in (tmp_path / CURSORS_NAME).iterdir()] == ["siem"]


def test_a_cursor_never_moves_back(tmp_path: Path) -> None:
    Cursors(tmp_path).advance("siem", at(7))
    with pytest.raises(InvalidRequest) as caught:
        Cursors(tmp_path).advance("siem", at(6))
    assert caught.value.reason == "CURSOR_REWINDS"
    assert Cursors(tmp_path).read("siem") == at(7)


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "A", "a" * 64, "a/b"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    for do in (
        lambda: Cursors(tmp_path).read(name),
        lambda: Cursors(tmp_path).advance(name, at(1)),
    ):
        with pytest.raises(InvalidRequest) as caught:
            do()
        assert caught.value.reason == "CURSOR_INVALID"


@pytest.mark.parametrize("data", [b"", b"7\n", at(7).encode()[:-1], at(7).encode() + b"x", b"\xff"])
def test_a_damaged_cursor_says_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / CURSORS_NAME).mkdir()
    (tmp_path / CURSORS_NAME / "siem").write_bytes(data)
    with pytest.raises(CursorError, match="damaged"):
        Cursors(tmp_path).read("siem")
    with pytest.raises(CursorError, match="the cursor siem: it is damaged"):
        exported(tmp_path, "siem").below()
    with pytest.raises(CursorError, match="damaged"):  # nor is it written over
        Cursors(tmp_path).advance("siem", at(9))


def test_the_slowest_counts(tmp_path: Path) -> None:
    Cursors(tmp_path).advance("fast", at(50))
    Cursors(tmp_path).advance("slow", at(3))
    assert exported(tmp_path, "fast", "slow").below() == 3
    assert exported(tmp_path, "fast").below() == 50
    assert exported(tmp_path).below() is None


def test_one_that_is_missing_stops_all(tmp_path: Path) -> None:
    Cursors(tmp_path).advance("fast", at(50))
    with pytest.raises(CursorError, match="the cursor slow: it is missing"):
        exported(tmp_path, "fast", "slow").below()


def test_one_that_moved_back_stops_all(tmp_path: Path) -> None:
    highest: dict[str, int] = {}
    Cursors(tmp_path).advance("siem", at(50))
    assert exported(tmp_path, "siem", highest=highest).below() == 50
    assert highest == {"siem": 50}
    (tmp_path / CURSORS_NAME / "siem").write_bytes(at(49).encode())  # as from a backup
    with pytest.raises(CursorError, match="was 50 and is 49"):
        exported(tmp_path, "siem", highest=highest).below()


def test_one_of_another_log_stops_all(tmp_path: Path) -> None:
    Cursors(tmp_path).advance("siem", Cursor(index=5, leaf="ab" * 32))
    with pytest.raises(CursorError, match="entry 4 of this log is not"):
        exported(tmp_path, "siem").below()
    (tmp_path / CURSORS_NAME / "siem").write_bytes(Cursor(index=101, leaf="00" * 32).encode())
    with pytest.raises(CursorError, match="past the end"):
        exported(tmp_path, "siem").below()


def test_one_at_the_beginning_fits_any_log(tmp_path: Path) -> None:
    Cursors(tmp_path).advance("siem", at(0))
    assert exported(tmp_path, "siem").below() == 0
