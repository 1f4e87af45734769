"""Dead letters."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.export import letters as module
from supervisor.export.letters import WHY_CHARACTERS_MAX, Letter, Letters


def letter(index: int, **changes: Any) -> Letter:
    return Letter(
        **{"index": index, "uid": f"{index}-x", "why": "too large", "time_ns": 1, **changes}
    )


def test_letters_wait_until_they_are_delivered(tmp_path: Path) -> None:
    letters = Letters(tmp_path / "siem.dead")
    assert letters.waiting() == []
    letters.add([letter(9), letter(3)])
    letters.add([letter(5)])
    letters.add([letter(3, why="again")])
    assert [one.index for one in letters.waiting()] == [3, 5, 9]
    letters.delivered(["5-x", "unknown"], 7)
    assert letters.waiting() == [letter(3, why="again"), letter(9)]
    assert (tmp_path / "siem.dead").stat().st_mode & 0o777 == 0o600


def test_a_reason_is_cut_and_cannot_forge_a_line(tmp_path: Path) -> None:
    letters = Letters(tmp_path / "dead")
    letters.add([letter(1, why='\n{"delivered":"1-x","time_ns":1}\n' + "x" * 9000)])
    (one,) = letters.waiting()
    assert len(one.why) == WHY_CHARACTERS_MAX


def test_a_file_is_written_anew_and_has_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BYTES_MAX", 1000)
    monkeypatch.setattr(module, "WAITING_BYTES_MAX", 750)
    path = tmp_path / "dead"
    letters = Letters(path)
    for at in range(300):
        letters.add([letter(at)])
        assert path.stat().st_size <= 1000
        letters.discarded([f"{at}-x"], 7)
    assert letters.waiting() == []
    with pytest.raises(OSError, match="too many dead letters wait") as raised:
        for at in range(300):
            letters.add([letter(at)])
    assert raised.value.errno == errno.EDQUOT
    kept = letters.waiting()
    assert [one.index for one in kept] == list(range(len(kept)))
    assert 10 < len(kept) < 20
    with pytest.raises(OSError, match="too many"):
        letters.add([letter(1000)])
    letters.delivered([one.uid for one in kept], 7)
    letters.add([letter(1000)])
    assert letters.waiting() == [letter(1000)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_half_a_line_of_a_daemon_that_was_killed(tmp_path: Path) -> None:
    letters = Letters(tmp_path / "dead")
    letters.add([letter(1), letter(2)])
    path = tmp_path / "dead"
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        letters.add([letter(7)])
        assert letters.waiting()[-1] == letter(7), end
        assert len(letters.waiting()) >= whole[:end].count(b"\n") + 1


@pytest.mark.parametrize("line", [b"[]", b'{"a":1}', b'{"index":1,"uid":2}', b"garbage}"])
def test_a_line_that_is_none_of_ours_is_named(tmp_path: Path, line: bytes) -> None:
    letters = Letters(tmp_path / "dead")
    letters.add([letter(1)])
    with (tmp_path / "dead").open("ab") as file:
        file.write(line + b"\n")
    letters.add([letter(2)])
    with pytest.raises(ValueError, match=r"dead:2: "):
        letters.waiting()


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "dead").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Letters(tmp_path / "dead").add([letter(1)])
    assert not (tmp_path / "elsewhere").exists()


def test_what_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = Letters(tmp_path / "dead")
    letters.add([letter(1)])
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:10]))
    with pytest.raises(OSError, match="No space"):
        letters.add([letter(2)])
    monkeypatch.undo()
    assert letters.waiting() == [letter(1)]


def test_a_letter_that_is_given_up_waits_no_more_until_it_comes_again(tmp_path: Path) -> None:
    letters = Letters(tmp_path / "dead")
    letters.add([letter(1), letter(2)])
    letters.discarded([letter(1).uid], 7)
    assert letters.waiting() == [letter(2)]
    letters.add([letter(1)])
    assert letters.waiting() == [letter(1), letter(2)]
