"""Each way out works without walls, gets nowhere in a sandbox, and is on the sandbox's record."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.egress.arena import Frame, arrived, without_walls
from tests.egress.attacks import ATTACKS, Attack
from tests.egress.smuggling import SMUGGLED
from tests.support.world import World

WAYS = [*ATTACKS, *SMUGGLED]


@pytest.fixture(scope="module")
def outside(there: World) -> tuple[Mapping[str, str], set[Frame]]:
    """Try everything without walls; give what each attack got, and what the world saw."""
    mark = there.mark()
    got: dict[str, str] = {}
    for group in (WAYS[n : n + 40] for n in range(0, len(WAYS), 40)):
        said = iter(without_walls(there, [one for attack in group for one in attack.attempts]))
        for attack in group:
            got[attack.name] = [next(said) for _ in attack.attempts][-1]
    return got, arrived(there.settled(mark))


@pytest.mark.parametrize("attack", WAYS, ids=str)
def test_it_works_without_walls(
    there: World, outside: tuple[Mapping[str, str], set[Frame]], attack: Attack
) -> None:
    got, seen = outside
    assert attack.gets or attack.arrives
    of_ours = there.token if attack.gets.startswith(" of ") else ""
    assert of_ours + attack.gets in got[attack.name]
    if attack.arrives is not None:
        assert attack.arrives in seen


def test_each_has_a_name_of_its_own() -> None:
    assert len({attack.name for attack in WAYS}) == len(WAYS)
