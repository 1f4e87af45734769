"""Pages end by rows and by bytes, and nothing is skipped between them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.api.paging import PAGE_BYTES, in_thread, page, to_end
from supervisor.v1 import tool_pb2


def source(sizes: list[int]) -> tuple[list[tuple[int, int]], object]:
    rows = list(enumerate(sizes))

    def fetch(limit: int, token: str) -> tuple[list[tuple[int, int]], str]:
        start = int(token or 0)
        end = start + limit
        return rows[start:end], str(end) if end < len(rows) else ""

    return rows, fetch


def render(row: tuple[int, int]) -> tool_pb2.Call:
    return tool_pb2.Call(call_id=str(row[0]), argv=[bytes(row[1])])


@given(
    st.lists(st.sampled_from([0, 10, PAGE_BYTES // 4, PAGE_BYTES]), max_size=60),
    st.integers(min_value=1, max_value=50),
)
def test_all_rows_once_and_in_order(sizes: list[int], rows_max: int) -> None:
    _, fetch = source(sizes)
    seen: list[str] = []
    token = ""
    while True:
        rows, token = page(fetch, render, rows_max=rows_max, token=token)  # type: ignore[arg-type]
        assert len(rows) <= rows_max
        seen += [row.call_id for row in rows]
        if not token:
            break
        assert rows
    assert seen == [str(number) for number in range(len(sizes))]


def test_large_rows_end_a_page() -> None:
    _, fetch = source([PAGE_BYTES // 16] * 1000)
    rows, token = page(fetch, render, rows_max=1000, token="")  # type: ignore[arg-type]
    assert sum(row.ByteSize() for row in rows) < 3 * PAGE_BYTES
    assert token


def test_work_is_ended_before_anybody_goes_on() -> None:
    async def main() -> None:
        started, go, ended = threading.Event(), threading.Event(), threading.Event()

        def work() -> None:
            started.set()
            go.wait(10)
            ended.set()

        task = asyncio.create_task(to_end(work))
        await asyncio.to_thread(started.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_nobody_is_left_to_hear_of_it(fails: bool) -> None:
    """Cancelled twice: the work ends first, its result is undone, its error is not lost to the
    loop's handler."""
    unheard: list[dict[str, object]] = []
    undone: list[str] = []

    async def main() -> None:
        started, go = threading.Event(), threading.Event()
        asyncio.get_running_loop().set_exception_handler(lambda loop, told: unheard.append(told))

        def work() -> str:
            started.set()
            go.wait(10)
            if fails:
                raise OSError("disk")
            return "made"

        task = asyncio.create_task(to_end(work, undo=undone.append))
        await asyncio.to_thread(started.wait, 10)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert unheard == []
    assert undone == ([] if fails else ["made"])


def test_an_error_of_the_work_comes_through() -> None:
    async def main() -> None:
        def values() -> Iterator[int]:
            yield 1
            raise OSError("disk")

        seen = []
        with pytest.raises(OSError, match="disk"):
            async with contextlib.aclosing(in_thread(values())) as walk:
                async for value in walk:
                    seen.append(value)  # noqa: PERF401
        assert seen == [1]

    asyncio.run(main())
