"""Connections in a storm: whatever their pace, nothing is lost and nobody waits for ever."""

from __future__ import annotations

import time

import pytest

from supervisor.egress.passage import Passage
from supervisor.profile.model import Inspect
from tests.support.rounds import rounds
from tests.unit.egress.storming import Stormed, storm

STORM_S = 7
BREEZE_S = 2
"""For what nearly every exchange of its kind meets."""

STALLED_S = 4.0
"""For the other side to do nothing, where that is what is to be seen."""


def seed() -> int:
    """Give another one for each storm: one that found something is in what it says."""
    return time.time_ns() & 0xFFFFFFFF


@pytest.mark.slow
@pytest.mark.parametrize("inspect", list(Inspect))
def test_messages_are_whole_or_seen_to_be_broken(inspect: Inspect) -> None:
    tally = storm(inspect, seed=seed(), duration_s=rounds(STORM_S))
    assert tally.exchanges > tally.broken > 0
    assert tally.bytes > 0


def test_a_storm_sees_room_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Passage, "_resume", lambda *_: None)
    with pytest.raises(Stormed, match="TimeoutError"):
        storm(Inspect.HTTP, seed=seed(), duration_s=BREEZE_S, silence_s=STALLED_S)
