"""Memory is given back once enough was read and refused, and not at every refusal."""

from __future__ import annotations

import asyncio
from unittest import mock

import pytest

from supervisor.api import heap
from supervisor.api.heap import SETTLE_BYTES, Heap


@pytest.mark.parametrize(("size_bytes", "times"), [(SETTLE_BYTES - 1, 0), (SETTLE_BYTES, 1)])
def test_once_for_many_bytes(size_bytes: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "SETTLE_S", 0.01)
    trim = mock.Mock()
    monkeypatch.setattr(heap, "trim_heap", trim)

    async def main() -> None:
        taken = Heap()
        taken.note(size_bytes)
        for _ in range(5):
            taken.settle()
        await asyncio.sleep(0.1)
        assert trim.call_count == times
        taken.settle()  # nothing was read since
        await asyncio.sleep(0.1)
        assert trim.call_count == times

    asyncio.run(main())
