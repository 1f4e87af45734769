"""The threads of the record."""

from __future__ import annotations

import asyncio
import threading

from supervisor.audit.threads import INTAKE_THREADS, RecordThreads


def test_what_is_short_does_not_wait_for_what_is_long() -> None:
    async def main() -> None:
        threads, gate = RecordThreads(), threading.Event()
        long = [threads.take_in(gate.wait) for _ in range(INTAKE_THREADS + 9)]
        try:
            assert await asyncio.wait_for(threads.run(lambda: 42), 20) == 42
            assert not any(one.done() for one in long)
        finally:
            gate.set()
        assert all(await asyncio.gather(*long))
        done = threads.submit(lambda: None)
        threads.shutdown()
        assert done.done()

    asyncio.run(main())
