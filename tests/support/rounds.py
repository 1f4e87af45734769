"""How often a test repeats itself."""

from __future__ import annotations

import os


def rounds(normal: int) -> int:
    """Give how often to repeat: `normal` in `make test`, a multiple of it in `make soak`."""
    return normal * int(os.environ.get("STOCKADE_ROUNDS", "1"))
