"""The rows of doors, in the kernel; what they do to a program: tests/escape/test_doors.py."""

from __future__ import annotations

import ctypes
import errno
from dataclasses import replace

import pytest

from supervisor.bpf import doors as doors_module
from supervisor.bpf import layout
from supervisor.bpf.doors import Door
from supervisor.bpf.fence import Fence
from supervisor.errors import CapacityError, HostError, InvariantError
from supervisor.linux.bpfmap import lookup
from tests.support.doors import place, sixteen
from tests.unit.bpf.real import Ground, with_fence

pytestmark = pytest.mark.root
PLACES = (
    place("203.0.113.9", (443, 443), (8000, 8010)),
    place("198.51.100.0/24", (5432, 5432)),
    place("2001:db8::/64", (1, 65535)),
)
DOOR = Door(port=4433, places=PLACES, flows_max=8)


def rows(fence: Fence) -> list[int]:
    return [len(list(one.all_keys())) for one in fence._doors.maps]


def test_a_door_comes_and_goes_with_its_call() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id)
        assert not fence.door_stands(here.call_id, DOOR)
        fence.open_door(here.call_id, DOOR)
        assert fence.door_stands(here.call_id, DOOR)
        assert rows(fence) == [1, 3, 0, 0]
        assert fence.flows(here.call_id) == 0
        watch.close()
        assert not fence.door_stands(here.call_id, DOOR)
        assert rows(fence) == [0] * 4
        watch = await fence.watch(here.call_id)
        assert not fence.door_stands(here.call_id, DOOR)
        watch.close()

    with_fence(scenario)


def test_what_is_not_as_it_was_written_does_not_stand() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id)
        fence.open_door(here.call_id, DOOR)
        places, calls = fence._doors._places, fence._doors._doors
        for one in DOOR.places:
            key = doors_module._key(here.call_id, one)
            good = places.get(key)
            assert good is not None
            places.delete(key)
            assert not fence.door_stands(here.call_id, DOOR)
            places.put(key, layout.PlaceRow(count=1))
            assert not fence.door_stands(here.call_id, DOOR)
            places.put(key, good)
            assert fence.door_stands(here.call_id, DOOR)
        for port, flows_max in ((4434, 8), (4433, 9)):
            row = layout.DoorRow(port=port, flows_max=flows_max)
            calls.put(ctypes.c_uint64(here.call_id), row)
            assert not fence.door_stands(here.call_id, DOOR)
        watch.close()
        assert rows(fence) == [0] * 4

    with_fence(scenario)


def test_a_door_is_opened_once() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id)
        fence.open_door(here.call_id, DOOR)
        with pytest.raises(HostError) as caught:
            fence.open_door(here.call_id, replace(DOOR, port=1))
        assert caught.value.reason == "WALL_NOT_STANDING"
        assert fence.door_stands(here.call_id, DOOR)
        watch.close()

    with_fence(scenario)


@pytest.mark.parametrize("number", [0, 1])
def test_of_a_row_that_cannot_be_written_nothing_stays(number: int) -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id)
        if number:
            twice = replace(DOOR, places=(*PLACES, PLACES[0]))
        else:
            twice = DOOR
            fence._doors._doors.put(ctypes.c_uint64(here.call_id), layout.DoorRow(port=1))
        with pytest.raises(HostError) as caught:
            fence.open_door(here.call_id, twice)
        assert caught.value.reason == "WALL_NOT_STANDING"
        assert rows(fence) == [0] * 4
        watch.close()

    with_fence(scenario)


def test_what_no_row_can_say_is_our_own_mistake() -> None:
    many = place("203.0.113.9", *((n, n) for n in range(1, layout.PORT_RANGES_MAX + 2)))
    short = replace(PLACES[0], address=b"1234")

    async def scenario(here: Ground, fence: Fence) -> None:
        for wrong in (many, short):
            with pytest.raises(InvariantError):
                fence.open_door(here.call_id, replace(DOOR, places=(wrong,)))
        assert rows(fence) == [0] * 4

    with_fence(scenario)


def test_no_more_connections_are_promised_than_there_are_rows_for() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        # Each has some that are over besides.
        most = layout.ORIGIN_ROWS_MAX - DOOR.flows_max - 2 * layout.FLOWS_ENDED_MAX
        fence.open_door(1, replace(DOOR, flows_max=most))
        fence.open_door(2, DOOR)
        with pytest.raises(CapacityError) as caught:
            fence.open_door(3, replace(DOOR, flows_max=1))
        assert caught.value.reason == "FLOWS_EXHAUSTED"
        assert rows(fence) == [2, 6, 0, 0]
        fence._doors.close_door(2)
        fence.open_door(3, DOOR)

    with_fence(scenario)


def test_a_row_of_origins_goes_with_its_call() -> None:
    """Of a socket that outlives its process."""

    async def scenario(here: Ground, fence: Fence) -> None:
        watch = await fence.watch(here.call_id)
        fence.open_door(here.call_id, DOOR)
        for call in (here.call_id, 1):
            key = layout.OriginKey(call=call, port=4000, family=2)
            key.address[:] = sixteen("127.0.0.1")
            fence._doors.origins.put(key, layout.Origin(port=443))
        value = lookup(fence.origins_fd(), bytes(key), ctypes.sizeof(layout.Origin))
        assert value is not None
        assert layout.Origin.from_buffer_copy(value).port == 443
        row = layout.DoorRow(port=4433, flows_max=8, flows=1)
        fence._doors._doors.put(ctypes.c_uint64(here.call_id), row)
        watch.close()
        assert [key.call for key in fence._doors.origins.all_keys()] == [1]

    with_fence(scenario)


def test_through_what_is_handed_out_nothing_is_written() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        from supervisor.bpf.maps import BpfMap

        through = BpfMap(fence.origins_fd(), layout.OriginKey, layout.Origin, "through")
        key = layout.OriginKey(call=1)
        with pytest.raises(PermissionError):
            through.put(key, layout.Origin())
        fence._doors.origins.put(key, layout.Origin())
        with pytest.raises(PermissionError):
            through.delete(key)
        assert through.get(key) is not None

    with_fence(scenario)


def test_the_next_daemon_forgets_the_doors_of_the_former() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        await fence.watch(here.call_id)
        fence.open_door(here.call_id, DOOR)
        fence._doors.origins.put(layout.OriginKey(call=here.call_id), layout.Origin())
        heir = Fence(here.places)
        heir.open()
        assert heir.adopted
        # It still stands for a process of the call that is not dead yet.
        assert heir.door_stands(here.call_id, DOOR)
        heir.leftovers()
        assert rows(heir) == [0] * 4
        heir._doors.close()

    with_fence(scenario)


def test_a_fence_without_one_of_the_maps_is_not_taken_over() -> None:
    async def scenario(here: Ground, fence: Fence) -> None:
        (here.places.pins / here.places.version() / "maps/places").unlink()
        [fault] = fence.faults()
        assert fault == "fence: the map places is no longer pinned"
        with pytest.raises(OSError) as caught:
            doors_module.Doors(here.places.pins / here.places.version() / "maps")
        assert caught.value.errno == errno.ENOENT
        heir = Fence(here.places)
        heir.open()
        assert not heir.adopted
        heir._doors.close()

    with_fence(scenario)
