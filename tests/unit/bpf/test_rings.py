"""Rings: made when they must be, handed on, found again."""

from __future__ import annotations

import asyncio
import os

import pytest

from supervisor.bpf import rings
from supervisor.bpf.fence import Fence
from supervisor.errors import CapacityError
from tests.unit.bpf.real import ground

pytestmark = pytest.mark.root


def test_a_ring_is_handed_on() -> None:
    async def scenario() -> None:
        with ground() as here:
            fence = Fence(here.places)
            fence.open()
            pool = fence._pool
            assert not pool.must_grow
            first = await fence.watch(1)
            assert pool.must_grow
            second = await fence.watch(2)
            assert first.ring.place != second.ring.place
            first.close()
            assert not pool.must_grow
            third = await fence.watch(3)
            assert third.ring is first.ring
            second.close()
            third.close()
            fence.close()

    asyncio.run(scenario())


def test_no_more_rings_than_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings, "CALLS_MAX", 1)

    async def scenario() -> None:
        with ground() as here:
            fence = Fence(here.places)
            fence.open()
            watch = await fence.watch(1)
            with pytest.raises(CapacityError) as caught:
                await fence.watch(2)
            assert caught.value.reason == "RINGS_EXHAUSTED"
            watch.close()
            fence.close()

    asyncio.run(scenario())


def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings, "BATCH_MAX", 4)

    async def scenario() -> None:
        with ground() as here:
            fence = Fence(here.places)
            fence.open()
            watch = await fence.watch(here.call_id)
            here.run("for n in 1 2 3 4 5; do /bin/true; done")
            sizes = []
            while batch := watch.ring.read():
                sizes.append(len(batch))
            assert max(sizes) == 4
            assert sum(sizes) >= 10
            watch.close()
            fence.close()

    asyncio.run(scenario())


def test_descriptors_are_closed() -> None:
    def open_fds() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    async def scenario() -> None:
        with ground() as here:
            before = open_fds()
            fence = Fence(here.places)
            fence.open()
            (await fence.watch(1)).close()
            fence.close()
            assert open_fds() == before

    asyncio.run(scenario())
