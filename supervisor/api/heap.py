"""Give memory back after large requests that came to nothing.

What a request took is freed with it, but the allocator keeps such pieces for the next one, and what
is left in a circle of references waits for a full garbage collection. The engine gives back what a
large call has used; here it is done for whatever was refused before it got there.
"""

from __future__ import annotations

import asyncio
import gc

from supervisor.linux.process import trim_heap

SETTLE_BYTES = 16 << 20
"""Read since the last time: below that, nothing is done."""

SETTLE_S = 1.0
"""The least time between two: each holds the loop up for some milliseconds."""


class Heap:
    """Counts the bytes of requests, and collects and trims once refused ones were many."""

    def __init__(self) -> None:
        self._read_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def note(self, size_bytes: int) -> None:
        """Count a message that was read."""
        self._read_bytes += size_bytes

    def settle(self) -> None:
        """Have it done soon, where enough was read; a request has just come to nothing."""
        if self._read_bytes >= SETTLE_BYTES and self._timer is None:
            # Later, since the request that was refused is not gone yet.
            self._timer = asyncio.get_running_loop().call_later(SETTLE_S, self._give_back)

    def _give_back(self) -> None:
        self._timer = None
        self._read_bytes = 0
        gc.collect()
        trim_heap()
