"""What the process of a sink may tell the daemon."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import pytest

from supervisor.audit.cursors import Cursor
from supervisor.export import told
from supervisor.export.channel import PeerMisbehaves
from supervisor.export.letters import WHY_CHARACTERS_MAX, Letter
from supervisor.export.pump import Circuit, PumpState

LEAF = "ab" * 32
UID = f"7-{'0a' * 8}"
LETTER = {"index": 7, "uid": f"{UID}-0", "why": "no", "time_ns": 1}


def test_what_is_so_is_taken() -> None:
    assert told.cursor({"index": 8, "leaf": LEAF}, 8) == Cursor(index=8, leaf=LEAF)
    assert told.letter(LETTER, 8) == Letter(**LETTER)  # type: ignore[arg-type]
    assert told.letter(LETTER | {"uid": UID}, 8).uid == UID
    assert len(told.letter(LETTER | {"why": "x" * 9999}, 8).why) == WHY_CHARACTERS_MAX
    assert told.call({"call": "x"}) == "x"
    assert told.logged({"level": 50, "text": "x"}) == (logging.ERROR, "x")
    with pytest.raises(PeerMisbehaves):
        told.logged({"level": -1, "text": "x"})


@pytest.mark.parametrize(
    "changes",
    [{"index": 9}, {"index": -1}, {"index": 1.0}, {"index": True}, {"index": "1"}, {"index": None},
     {"leaf": ""}, {"leaf": LEAF + "\n"}, {"leaf": LEAF.upper()}, {"leaf": 5}],
)  # fmt: skip
def test_a_cursor_is_within_the_log(changes: dict[str, Any]) -> None:
    with pytest.raises(PeerMisbehaves):
        told.cursor({"index": 8, "leaf": LEAF} | changes, 8)


@pytest.mark.parametrize(
    "changes",
    [{"index": 8}, {"index": 6}, {"index": "7"}, {"uid": "7-x-0"}, {"uid": ["7"]},
     {"uid": UID + "-x"},
     {"uid": f"6-{'0a' * 8}-0"}, {"uid": UID + "-" + "1" * 200}, {"why": 5}, {"time_ns": -1},
     {"time_ns": 1 << 64}],
)  # fmt: skip
def test_a_letter_is_of_an_event(changes: dict[str, Any]) -> None:
    with pytest.raises(PeerMisbehaves):
        told.letter(LETTER | changes, 8)
    with pytest.raises(PeerMisbehaves):
        told.letter([LETTER], 8)


def test_what_became_of_letters_is_of_those_that_were_given() -> None:
    letters = [Letter(**LETTER | {"index": at, "uid": f"{at}-{'0a' * 8}-0"}) for at in (7, 8)]  # type: ignore[arg-type]
    uids = [one.uid for one in letters]
    again = asdict(letters[1]) | {"why": "still"}
    said = {"delivered": uids, "refused": [again], "stopped": ""}
    assert told.outcome(said, letters, 9) == ({uids[0]}, {uids[1]: Letter(**again)}, "")
    wrong: dict[str, Any]
    for wrong in (
        {"delivered": [f"{UID}-5"]}, {"delivered": [[]]}, {"delivered": "x"}, {"stopped": None},
        {"refused": [LETTER | {"uid": f"{UID}-5"}]}, {"refused": {}}, {"refused": [5]},
    ):  # fmt: skip
        with pytest.raises(PeerMisbehaves):
            told.outcome(said | wrong, letters, 9)


def test_what_it_says_of_itself_has_the_fields_of_a_pump() -> None:
    state = asdict(PumpState(circuit=Circuit.OPEN, why="w", events=3, waiting_since=1.5))
    assert told.state(state | {"tell": "state", "more": 1}) == state


@pytest.mark.parametrize(
    "changes",
    [{"events": -1}, {"events": 1 << 63}, {"segment": "x"}, {"offset": 0.5}, {"why": None},
     {"circuit": "x"}, {"circuit": []}, {"acknowledged_at": 1e300}, {"failing_since": -1.0},
     {"waiting_since": "1"}, {"waiting_since": True}],
)  # fmt: skip
def test_a_figure_is_one(changes: dict[str, Any]) -> None:
    with pytest.raises(PeerMisbehaves):
        told.state(asdict(PumpState()) | changes)
