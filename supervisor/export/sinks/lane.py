"""A thread for what blocks, one job at a time, also where who waited for one has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec

from supervisor.export.sink import SinkError

P = ParamSpec("P")


class Lane:
    """Jobs of one sink. A job that hangs is waited for by the next, for `deadline_s`: never is more
    than one batch in here."""

    def __init__(self, name: str, deadline_s: float) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"export {name}")
        self._deadline_s = deadline_s
        self._job: Future[None] | None = None

    async def run(self, job: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a job in the thread. Where the task that waits is stopped, the job goes on.

        Raises:
            SinkError: it, or the one before, is not done in time; and whatever the job raises.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                if self._job is not None and not self._job.done():
                    before = asyncio.wrap_future(self._job)
                    before.add_done_callback(_heed)
                    await asyncio.wait([before])
                self._job = self._pool.submit(job, *args, **kwargs)
                await asyncio.wrap_future(self._job)
        except TimeoutError:
            raise SinkError(f"nothing is written for {self._deadline_s:g} s") from None

    def close(self) -> None:
        """Take no more jobs; one that runs ends by itself."""
        self._pool.shutdown(wait=False)


def _heed(future: asyncio.Future[None]) -> None:
    """Take note of how a job ended that nobody waits for any more: its batch is sent again."""
    if not future.cancelled():
        future.exception()
