"""The runner finds what is wrong, and the same inputs come from the same seed."""

from __future__ import annotations

import itertools

import pytest

from tests.fuzz import runner
from tests.fuzz.runner import Target

SEEDS = (b"good", b"GET / HTTP/1.1")


def fails_on(data: bytes) -> None:
    assert b"\xff" not in data


def test_a_failure_is_found_and_named() -> None:
    target = Target(check=fails_on, seeds=SEEDS)
    result = runner.run(target, 10_000, seed=1)
    assert result.failure is not None
    assert b"\xff" in result.failure.data
    assert isinstance(result.failure.error, AssertionError)
    assert result.inputs < 10_000


def test_all_inputs_are_tried() -> None:
    seen: list[bytes] = []
    target = Target(check=seen.append, seeds=SEEDS, tokens=(b"token",))
    result = runner.run(target, 2000, seed=1)
    assert (result.inputs, result.failure) == (2000, None)
    assert tuple(seen[:2]) == SEEDS
    assert len(set(seen)) > 1500
    assert any(b"token" in data for data in seen)


def test_a_seed_gives_the_same_inputs() -> None:
    target = Target(check=fails_on, seeds=SEEDS)
    first, again, other = (
        list(itertools.islice(runner.inputs(target, seed), 200)) for seed in (7, 7, 8)
    )
    assert first == again != other


@pytest.mark.parametrize("name", runner.names())
def test_seeds_are_good_inputs(name: str) -> None:
    target = runner.load(name)
    assert target.seeds
    for seed in target.seeds:
        target.check(seed)
