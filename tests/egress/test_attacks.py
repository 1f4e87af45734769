"""Each way out works without walls, gets nowhere in a sandbox, and is on the sandbox's record.

The ways of one group are tried by one program in turn, in one call: so all of it takes seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.egress.arena import RESOLVING, Frame, Trial, arrived, confined, frames, without_walls
from tests.egress.attacks import ATTACKS, DNS, Attack
from tests.egress.smuggling import SMUGGLED
from tests.support.daemon import Daemon
from tests.support.world import World

GROUPS = {
    name: tuple(make())
    for name, make in (
        *((f"attacks.{make.__name__}", make) for make in ATTACKS),
        *((f"smuggling.{make.__name__}", make) for make in SMUGGLED),
    )
}
WAYS = [(name, attack) for name, group in GROUPS.items() for attack in group]
REBINDING = "rebind.example.com"

ALLOWED = {
    f"{name}.example.com": ("GET / ", "GET /to?")
    for name in (
        "files", "length", "nobody", "rebind", "metadata", "private", "alias", "nat64",
        "sixtofour", "mapped", "loop", "zero",
    )
} | {"api.github.com": ("GET / ",), "paths.example.com": ("GET /open/x",)}  # fmt: skip
"""The names of the profile, and what each may have been asked for in the clear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of the attacks of one group: what each got, and what the world saw of all."""

    got: Mapping[str, str]
    seen: Sequence[Mapping[str, Any]]
    trial: Trial | None = None

    @property
    def arrived(self) -> set[Frame]:
        return arrived(self.seen)


def attempts(group: str) -> list[Mapping[str, Any]]:
    """Give all that a group tries, in one process and in turn."""
    return [one for attack in GROUPS[group] for one in attack.attempts]


def by_name(group: str, got: Sequence[str]) -> dict[str, str]:
    """Give what each attack of a group got, of what each attempt got."""
    rest = iter(got)
    return {attack.name: [next(rest) for _ in attack.attempts][-1] for attack in GROUPS[group]}


@pytest.fixture(scope="module")
def outside(there: World) -> Callable[[str], Tried]:
    """Try a group without walls, once."""

    @functools.cache
    def tried(group: str) -> Tried:
        there.rewind(REBINDING)
        mark = there.mark()
        got = without_walls(there, attempts(group))
        return Tried(got=by_name(group, got), seen=there.settled(mark))

    return tried


@pytest.fixture(scope="module")
def inside(there: World, daemon: Daemon) -> Callable[[str], Tried]:
    """Try a group in a sandbox, once."""

    @functools.cache
    def tried(group: str) -> Tried:
        there.rewind(REBINDING)
        mark = there.mark()
        (profile,) = {attack.profile for attack in GROUPS[group]}
        trial = confined(daemon, attempts(group), profile=profile)
        return Tried(got=by_name(group, trial.got()), seen=there.settled(mark), trial=trial)

    return tried


@pytest.mark.parametrize(("group", "attack"), WAYS, ids=str)
def test_it_works_without_walls(
    there: World, outside: Callable[[str], Tried], group: str, attack: Attack
) -> None:
    tried = outside(group)
    assert attack.gets or attack.arrives
    assert proof(there, attack) in tried.got[attack.name]
    assert attack.arrives is None or attack.arrives in tried.arrived


@pytest.mark.parametrize(("group", "attack"), WAYS, ids=str)
def test_it_gets_nowhere_and_is_told(
    there: World, inside: Callable[[str], Tried], group: str, attack: Attack
) -> None:
    tried = inside(group)
    got, trial = tried.got[attack.name], tried.trial
    assert trial is not None
    assert not attack.gets or proof(there, attack) not in got
    assert attack.arrives not in tried.arrived
    if not attack.walls:
        return  # What was asked is answered, with nothing.
    told = [
        body
        for body in trial.denials(*attack.walls, says=attack.says)
        if body["rule"].startswith(attack.rule)
    ]
    # Those of a group that are told in the same words, each at least once.
    words = (attack.walls, attack.says, attack.rule)
    alike = [one for one in GROUPS[group] if (one.walls, one.says, one.rule) == words]
    assert sum(body["count"] for body in told) >= len(alike), (got, trial.denied, trial.flows)
    # Who asked for a name is not known: a datagram has no owner.
    assert attack.walls == DNS or all(body["pid"] > 0 and body["program"] for body in told), told


@pytest.mark.parametrize("group", GROUPS)
def test_the_world_hears_nothing_of_it(inside: Callable[[str], Tried], group: str) -> None:
    tried = inside(group)
    may = {frame for attack in GROUPS[group] for frame in attack.may}
    assert frames(tried.seen) - RESOLVING <= may
    assert list(beyond(tried.seen)) == []


def proof(there: World, attack: Attack) -> str:
    """Give what comes back where an attack works."""
    return f"{there.token}{attack.gets}" if attack.gets.startswith(" of ") else attack.gets


def beyond(seen: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Find what the world should not have heard, whoever is allowed to be dialled."""
    for line in seen:
        match line["kind"]:
            case "frame" | "broken":
                continue
            case "hello":
                # The broker's own, where TLS ends at it: nothing of the program is in that.
                if line["sni"] not in ALLOWED or line["inner"]:
                    yield line
            case "query":
                if line["name"] not in ALLOWED or line["type"] not in ("A", "AAAA"):
                    yield line
            case "request":
                host = line["host"].partition(":")[0]
                asked = line["line"].replace("POST", "GET") if "paths" not in host else line["line"]
                if not asked.startswith(ALLOWED.get(host, ())):
                    yield line
            case _:
                yield line


def test_each_has_a_name_of_its_own() -> None:
    assert len({attack.name for _, attack in WAYS}) == len(WAYS)
