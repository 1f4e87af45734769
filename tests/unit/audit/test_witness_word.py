"""How witnesses do, as the daemon leaves word of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.audit.witness_word import (
    WORD_EVERY_S,
    WORD_NAME,
    WitnessState,
    WitnessWord,
    WordError,
    read_word,
    word_left_s,
)


class Told:
    """What the other observer heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def witness_took(self, witness: str, time_s: float) -> None:
        self.heard.append(("took", witness, time_s))

    def witness_fails(self, witness: str, why: str) -> None:
        self.heard.append(("fails", witness, why))

    def head_contradicted(self, witness: str, why: str) -> None:
        self.heard.append(("contradicted", witness, why))


def test_word_is_left_of_each_change(tmp_path: Path) -> None:
    told, now = Told(), [100.0]
    word = WitnessWord(tmp_path, told, lambda: now[0])
    assert read_word(tmp_path) == {}
    assert word_left_s(tmp_path) == 0
    word.witness_fails("/a", "no room")
    now[0] = 200.0
    word.witness_fails("/a", "gone")
    word.head_contradicted("/b", "it was cut back")
    assert read_word(tmp_path) == {
        "/a": WitnessState(failing_since_s=100.0, why="gone"),
        "/b": WitnessState(contradicted="it was cut back"),
    }
    os.utime(tmp_path / WORD_NAME, (7, 7))
    assert word_left_s(tmp_path) == 7
    word.witness_fails("/a", "")
    word.witness_took("/a", 300.0)
    assert read_word(tmp_path)["/a"] == WitnessState(taken_s=300.0)
    assert told.heard == [
        ("fails", "/a", "no room"),
        ("fails", "/a", "gone"),
        ("contradicted", "/b", "it was cut back"),
        ("fails", "/a", ""),
        ("took", "/a", 300.0),
    ]


def test_a_witness_that_goes_on_is_not_written_each_time(tmp_path: Path) -> None:
    word = WitnessWord(tmp_path, Told())
    word.witness_took("/a", 300.0)
    word.witness_took("/a", 299.0 + WORD_EVERY_S)
    assert read_word(tmp_path)["/a"].taken_s == 300.0
    word.witness_took("/a", 300.0 + WORD_EVERY_S)
    assert read_word(tmp_path)["/a"].taken_s == 300.0 + WORD_EVERY_S


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a":1}', b'{"a":{"more":1}}'])
def test_what_was_left_may_be_damaged(tmp_path: Path, data: bytes) -> None:
    (tmp_path / WORD_NAME).write_bytes(data)
    with pytest.raises(WordError, match="cannot be read"):
        read_word(tmp_path)


def test_a_folder_that_takes_no_word_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    WitnessWord(tmp_path / "none", Told()).witness_took("/a", 300.0)
    assert "cannot be written" in caplog.text
