"""The doors of calls: what a call may connect to, and the port of its loopback it is led to.

What the kernel does with it: probes/include/door.h. A call's places are written first and its door
last, so there is no moment at which it may connect to some of them; nothing is changed afterwards.
The kernel never runs out of rows for connections: no door is opened that might need more than are
left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from supervisor.bpf import layout, pins
from supervisor.bpf.maps import BPF_NOEXIST, BpfMap, K, V
from supervisor.errors import CapacityError, HostError, InvariantError
from supervisor.linux.bpfmap import open_to_read

DOORS, PLACES, ORIGINS, PAST = "doors", "places", "origins", "past"
MAPS = (DOORS, PLACES, ORIGINS, PAST)
CALL_BITS = 64
RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A network and the TCP ports of it that may be connected to, each range with both its ends.

    `address` has 16 bytes, an IPv4 address is ::ffff:a.b.c.d; `prefix` is how many of its 128 bits
    count. The place with the longest prefix says it all about an address.
    """

    address: bytes
    prefix: int
    ports: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A call may connect to `places` and is led to `port` of its own loopback, with at most
    `flows_max` connections at a time."""

    port: int
    places: tuple[Place, ...]
    flows_max: int


class Doors:
    """The maps of one fence. `close` lets go of the descriptors; pinned maps stay."""

    def __init__(self, folder: Path) -> None:
        """Open the maps that are pinned in `folder`.

        Raises:
            OSError: one cannot be opened.
        """
        with contextlib.ExitStack() as opened:
            fds = {}
            for name in MAPS:
                fds[name] = pins.open_map(folder / name)
                opened.callback(os.close, fds[name])
            self.origins_fd = open_to_read(folder / ORIGINS)
            opened.pop_all()
        """Through which nothing can be written: for brokers."""
        self._doors = BpfMap(fds[DOORS], ctypes.c_uint64, layout.DoorRow, DOORS)
        self._places = BpfMap(fds[PLACES], layout.PlaceKey, layout.PlaceRow, PLACES)
        self.origins = BpfMap(fds[ORIGINS], layout.OriginKey, layout.Origin, ORIGINS)
        self._past = BpfMap(fds[PAST], layout.EndedKey, layout.OriginKey, PAST)
        self.maps = (self._doors, self._places, self.origins, self._past)
        self._open: dict[int, Door] = {}

    def open(self, cgroup_id: int, door: Door) -> None:
        """Let a call connect to its places; before its program runs, once.

        Raises:
            CapacityError: `FLOWS_EXHAUSTED`: other calls may need the rows.
            HostError: `WALL_NOT_STANDING`: a row cannot be written, or is there already.
            InvariantError: `PLACE_MALFORMED`.
        """
        if cgroup_id in self._open:
            raise HostError("WALL_NOT_STANDING", "fence: the call has a door already")
        promised = sum(one.flows_max + layout.FLOWS_ENDED_MAX for one in self._open.values())
        if promised + door.flows_max + layout.FLOWS_ENDED_MAX > layout.ORIGIN_ROWS_MAX:
            raise CapacityError(
                "FLOWS_EXHAUSTED", f"rows for {promised} connections are promised to other calls",
                retry_after_s=RETRY_AFTER_S,
            )  # fmt: skip
        rows = [(_key(cgroup_id, place), _row(place)) for place in door.places]
        self._open[cgroup_id] = door
        try:
            for key, value in rows:
                self._places.put(key, value, BPF_NOEXIST)
            row = layout.DoorRow(port=door.port, flows_max=door.flows_max)
            self._doors.put(ctypes.c_uint64(cgroup_id), row, BPF_NOEXIST)
        except OSError as error:
            self.close_door(cgroup_id)
            raise HostError("WALL_NOT_STANDING", f"fence: {error}") from error

    def stands(self, cgroup_id: int, door: Door) -> bool:
        """Say whether every row of a door is as it was written. A place whose row is gone, but
        which lies in another with the same ports, is as before.

        Raises:
            OSError: as the kernel says.
        """
        row = self._doors.get(ctypes.c_uint64(cgroup_id))
        if row is None or (row.port, row.flows_max) != (door.port, door.flows_max):
            return False
        for place in door.places:
            found = self._places.get(_key(cgroup_id, place))
            if found is None or bytes(found) != bytes(_row(place)):
                return False
        return True

    def flows(self, cgroup_id: int) -> int:
        """Give how many connections of a call the kernel counts now."""
        row = self._doors.get(ctypes.c_uint64(cgroup_id))
        return row.flows if row is not None else 0

    def close_door(self, cgroup_id: int) -> None:
        """Let a call connect to nothing any more, and forget what it was connected to; where it has
        no door this does nothing.

        Raises:
            OSError: as the kernel says.
        """
        door = self._open.pop(cgroup_id, None)
        if door is None:
            return
        row = self._doors.get(ctypes.c_uint64(cgroup_id))
        self._doors.delete(ctypes.c_uint64(cgroup_id))
        for place in door.places:
            self._places.delete(_key(cgroup_id, place))
        if row is None:
            return
        for number in range(min(row.ended, layout.FLOWS_ENDED_MAX)):
            key = layout.EndedKey(call=cgroup_id, place=number)
            over = self._past.get(key)
            if over is not None:
                self.origins.delete(over)
                self._past.delete(key)
        if row.flows:
            # Sockets that outlive their processes, until the other side has answered.
            for one in [one for one in self.origins.all_keys() if one.call == cgroup_id]:
                self.origins.delete(one)

    def clear(self) -> None:
        """Forget the doors of a former daemon's calls; their processes are dead.

        Raises:
            OSError: as the kernel says.
        """
        _empty(self._doors)
        _empty(self._places)
        _empty(self.origins)
        _empty(self._past)

    def close(self) -> None:
        """Let go of the maps."""
        for one in self.maps:
            one.close()
        if self.origins_fd >= 0:
            os.close(self.origins_fd)
            self.origins_fd = -1


def _empty(rows: BpfMap[K, V]) -> None:
    for key in list(rows.all_keys()):
        rows.delete(key)


def _key(cgroup_id: int, place: Place) -> layout.PlaceKey:
    if len(place.address) != layout.ADDRESS_BYTES or len(place.ports) > layout.PORT_RANGES_MAX:
        raise InvariantError("PLACE_MALFORMED", f"{place}")
    call = cgroup_id.to_bytes(CALL_BITS // 8, "little")
    return layout.PlaceKey(
        bits=CALL_BITS + place.prefix,
        call=(ctypes.c_uint8 * len(call))(*call),
        address=(ctypes.c_uint8 * layout.ADDRESS_BYTES)(*place.address),
    )


def _row(place: Place) -> layout.PlaceRow:
    row = layout.PlaceRow(count=len(place.ports))
    for number, (low, high) in enumerate(place.ports):
        row.ports[number] = layout.PortRange(low=low, high=high)
    return row
