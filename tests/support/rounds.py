"""How often a test repeats itself, and what is kept for `make soak`."""

from __future__ import annotations

import os

ROUNDS = int(os.environ.get("STOCKADE_ROUNDS", "1"))
SOAK = ROUNDS > 1
"""Whether this is `make soak`, which has time for what `make test` has in short."""


def rounds(normal: int) -> int:
    """Give how often to repeat: `normal` in `make test`, a multiple of it in `make soak`."""
    return normal * ROUNDS
