"""The threads of the record: what reads and writes the disk, and what looks through requests."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

RECORD_THREADS = 4
"""What closes recordings and reads from the disk, away from the loop."""

INTAKE_THREADS = 2
"""What looks through long requests and files for secrets: it may take seconds, and nobody's end
waits for it."""


class RecordThreads:
    """Runs work away from the loop of the caller."""

    def __init__(self) -> None:
        self._record = concurrent.futures.ThreadPoolExecutor(RECORD_THREADS, "record")
        self._intake = concurrent.futures.ThreadPoolExecutor(INTAKE_THREADS, "intake")

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have something done that is short."""
        return asyncio.get_running_loop().run_in_executor(self._record, work)

    def take_in(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have something done that lasts as long as its caller likes."""
        return asyncio.get_running_loop().run_in_executor(self._intake, work)

    def submit(self, work: Callable[[], None]) -> concurrent.futures.Future[None]:
        """Have something short done that nobody waits for."""
        return self._record.submit(work)

    def shutdown(self) -> None:
        """Wait until all is done; nothing is taken any more."""
        self._record.shutdown()
        self._intake.shutdown()
