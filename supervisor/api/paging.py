"""Cut what is long into answers that every client takes: 4 MiB is gRPC's default for a message."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Protocol, TypeVar

PAGE_BYTES = 1 << 20
"""A page ends after the row that crosses this."""

BATCH_ROWS = 16
"""Rows fetched at a time: a page is at most `PAGE_BYTES` and this many rows long."""

RECORD_BYTES = 3 << 20
"""Entries of one GetRecord answer; one more entry, below 64 KiB, still fits into 4 MiB."""


class Message(Protocol):
    """A wire message, for its size."""

    def ByteSize(self) -> int: ...  # noqa: N802, D102 - protobuf's name


log = logging.getLogger(__name__)

T = TypeVar("T")
M = TypeVar("M", bound=Message)


def page(
    fetch: Callable[[int, str], tuple[list[T], str]],
    render: Callable[[T], M],
    *,
    rows_max: int,
    token: str,
) -> tuple[list[M], str]:
    """Give one page of rendered rows and the token of the next.

    `fetch` takes how many rows and from where, and gives rows and the token that follows them.
    """
    rows: list[M] = []
    size = 0
    while len(rows) < rows_max and size < PAGE_BYTES:
        batch, token = fetch(min(BATCH_ROWS, rows_max - len(rows)), token)
        for value in batch:
            row = render(value)
            rows.append(row)
            size += row.ByteSize()
        if not token:
            break
    return rows, token


async def to_end(
    work: Callable[..., T], *arguments: object, undo: Callable[[T], object] | None = None
) -> T:
    """Run `work` in a thread; cancelled, even twice, or not, return only when it is done.

    So nobody closes under a thread what the thread still uses. `undo` gets a result that came
    when nobody was there any more to take it.
    """
    task = asyncio.create_task(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # the first one is raised below
                await asyncio.wait([task])
        if not task.cancelled():
            _leave(task, undo)
        raise
    finally:
        # The task holds its exception, and that this frame with what was handed in: no circle.
        del task, arguments


def _leave(task: asyncio.Task[T], undo: Callable[[T], object] | None) -> None:
    error = task.exception()
    if error is not None:
        log.info("whoever asked is gone, and it failed: %s", error)
    elif undo is not None:
        undo(task.result())


async def in_thread(values: Iterator[T]) -> AsyncGenerator[T, None]:
    """Walk an iterator that blocks on the disk without blocking anybody else."""
    end = object()
    while (value := await to_end(next, values, end)) is not end:
        yield value
