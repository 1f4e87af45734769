"""Keeps the search linear: how often what only looks like a secret is looked at in vain.

Whatever begins as a secret does has to be looked at, and what is refused may hold the beginning of
the next: `pwd=pwd=pwd=` would be read as often as it has bytes. So what was looked at in vain is
counted for each block of a stream. Where it is more than `TIMES_MAX` times the block, nothing more
is refused there: what looks like a secret is replaced, unasked. Blocks lie at fixed places, so that
what comes out does not depend on chunks.
"""

from __future__ import annotations

BLOCK_BYTES = 4096
TIMES_MAX = 4
"""Text that was not made for it comes to less than 2."""


class Patience:
    """Counts for one stream, or for values one after the other, of which `origin` is the next."""

    def __init__(self) -> None:
        self.origin = 0
        self.resume = 0
        """Before it, nothing is to be looked for any more."""
        self._block = 0
        self._spent = 0

    def lasts(self, at: int, length: int) -> bool:
        """Say whether what was found at a place, and looked at in vain, may be left as it is."""
        block = (self.origin + at) // BLOCK_BYTES
        if block != self._block:
            self._block, self._spent = block, 0
        self._spent += length
        return self._spent <= BLOCK_BYTES * TIMES_MAX


class Effort:
    """The patience with look-alikes of the rules, and that with beginnings of known secrets."""

    def __init__(self) -> None:
        self.rules = Patience()
        self.literals = Patience()

    def next_value(self, length: int) -> None:
        """Begin another value behind one of so many bytes."""
        for one in (self.rules, self.literals):
            one.origin += length
            one.resume = 0
