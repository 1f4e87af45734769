"""Walls that hosts may lack: what is asked for and not seen to stand is missing."""

from __future__ import annotations

from supervisor.profile.explain import explain
from supervisor.profile.walls import ALWAYS, HOST_WALLS, WallState, missing

from .conftest import MakeSet

STANDS, GONE = WallState(standing=True), WallState(standing=False, why="no LSM")


def test_only_what_is_required_can_be_missing() -> None:
    host = {"guard": GONE, "cgroup-v2": STANDS}
    assert missing((), host) == {}
    assert missing(("cgroup-v2",), host) == {}
    assert missing(("cgroup-v2", "guard"), host) == {"guard": GONE}


def test_what_nobody_looked_for_does_not_stand() -> None:
    found = missing(("guard",), {})
    assert not found["guard"].standing
    assert found["guard"].why


def test_a_wall_is_a_choice_or_none() -> None:
    assert not ALWAYS & HOST_WALLS.keys()


def test_each_belongs_to_a_row_of_the_explanation(make_set: MakeSet) -> None:
    rows = {finding.wall for finding in explain(make_set().effective("base"))}
    assert {wall.row for wall in HOST_WALLS.values()} <= rows
