"""Inputs for a parser, random and mutated, as fast as Python makes them.

A target says what must hold for any bytes; what a run found can be repeated from the seed, or from
the input that it names.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

RANDOM_BYTES_MAX = 300
"""Of an input that is random from end to end."""

INPUT_BYTES_MAX = 8192
MUTATIONS_MAX = 6
RANDOM_EACH = 8
"""One in so many inputs is random, the others come from seeds."""

NUMBERS = (0, 1, 2, 12, 63, 64, 127, 128, 191, 192, 254, 255)
"""Bytes at which parsers decide."""

_PREFIX = "target_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is fuzzed: `check` raises where something that was promised does not hold. `seeds` are
    good inputs, `tokens` what is worth putting into them."""

    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An input for which a check raised."""

    data: bytes
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How many inputs were tried in which time, and the first that failed."""

    inputs: int
    duration_s: float
    failure: Failure | None = None


def names() -> list[str]:
    """Give the names of all targets: each is a file beside this one."""
    return sorted(
        path.stem.removeprefix(_PREFIX) for path in Path(__file__).parent.glob(f"{_PREFIX}*.py")
    )


def load(name: str) -> Target:
    """Give a target."""
    target = importlib.import_module(f"tests.fuzz.{_PREFIX}{name}").TARGET
    assert isinstance(target, Target)
    return target


def run(target: Target, count: int, seed: int) -> Result:
    """Try `count` inputs; stop at the first that fails."""
    started = time.monotonic()
    tried = 0
    for data in inputs(target, seed):
        if tried == count:
            break
        tried += 1
        try:
            target.check(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            failure = Failure(data=data, error=error)
            return Result(inputs=tried, duration_s=time.monotonic() - started, failure=failure)
    return Result(inputs=tried, duration_s=time.monotonic() - started)


def inputs(target: Target, seed: int) -> Iterator[bytes]:
    """Give inputs without end, the same for a seed; the target's own seeds first."""
    random = Random(seed)
    yield from target.seeds
    while True:
        if not target.seeds or random.randrange(RANDOM_EACH) == 0:
            yield random.randbytes(random.randrange(RANDOM_BYTES_MAX))
        else:
            yield mutated(random.choice(target.seeds), target, random)


def mutated(seed: bytes, target: Target, random: Random) -> bytes:
    """Change `seed` in a few places."""
    data = bytearray(seed)
    for _ in range(random.randint(1, MUTATIONS_MAX)):
        _mutate(data, target, random)
    return bytes(data[:INPUT_BYTES_MAX])


def _mutate(data: bytearray, target: Target, random: Random) -> None:
    at = random.randrange(len(data) + 1)
    size = random.choice((1, 1, 1, 2, 4, random.randrange(1, 65)))
    match random.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << random.randrange(8)
        case 1 if at < len(data):
            data[at] = random.choice(NUMBERS)
        case 2 if at < len(data):
            data[at] = random.randrange(256)
        case 3:
            del data[at : at + size]
        case 4:
            data[at:at] = random.randbytes(size)
        case 5:
            start = random.randrange(len(data) + 1)
            data[at:at] = data[start : start + size]
        case 6 if target.tokens:
            data[at : at + random.choice((0, 0, size))] = random.choice(target.tokens)
        case 7:
            other = random.choice(target.seeds)
            cut = random.randrange(len(other) + 1)
            data[at:] = other[cut:]
        case _:
            data += random.randbytes(1)
