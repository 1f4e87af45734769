"""The rings of events: one for each live call, taken from a pool that grows as it must.

Putting a ring into a map of maps makes the kernel wait for every program that runs (about 10 ms,
`maybe_wait_bpf_programs` in kernel/bpf/syscall.c), so a call that ends hands its ring on, empty.
"""

from __future__ import annotations

import ctypes
import os

from supervisor.bpf.layout import CALLS_MAX, RING_BYTES
from supervisor.bpf.libbpf import SAMPLE, check, failed, library
from supervisor.bpf.maps import BpfMap, make_ring, map_by_id
from supervisor.bpf.pins import object_ids
from supervisor.errors import CapacityError

BATCH_MAX = 256
"""Events read in a row before the event loop gets its turn."""

STOP = -1


class Ring:
    """One ring, and our way to read it. One reader at a time."""

    def __init__(self, place: int, fd: int) -> None:
        self.place = place
        self.fd = fd
        self._lib = library()
        self._taken: list[bytes] = []
        self._sample = SAMPLE(self._take)  # libbpf keeps the pointer: so do we
        self._buffer = self._lib.ring_buffer__new(fd, self._sample, None, None)
        if not self._buffer:
            raise failed("ring_buffer__new")
        self.epoll_fd: int = check(
            self._lib.ring_buffer__epoll_fd(self._buffer), "ring_buffer__epoll_fd"
        )

    def _take(self, _: int, data: int, size: int) -> int:
        self._taken.append(ctypes.string_at(data, size))
        return 0 if len(self._taken) < BATCH_MAX else STOP

    def read(self) -> list[bytes]:
        """Take at most BATCH_MAX records out of it; empty where there is none.

        Raises:
            OSError: as libbpf says.
        """
        self._taken = []
        code = self._lib.ring_buffer__consume(self._buffer)
        if code < 0 and code != STOP:
            check(code, "ring_buffer__consume")
        return self._taken

    def close(self) -> None:
        """Let go of it; the map keeps the ring."""
        if self._buffer:
            self._lib.ring_buffer__free(self._buffer)
            self._buffer = None
            os.close(self.fd)


RingMap = BpfMap[ctypes.c_uint32, ctypes.c_uint32]


class RingPool:
    """The rings of one daemon, by their place in the map `rings`."""

    def __init__(self, rings: RingMap) -> None:
        self._map = rings
        self._free: list[Ring] = []
        self._made = 0
        self.ids: list[int] = []
        """The kernel's ids of all rings that were made."""

    def adopt(self) -> None:
        """Take over the rings that a former daemon made; nobody may write into them any more.

        Raises:
            OSError: as the kernel says.
        """
        while self._made < CALLS_MAX:
            number = self._map.get(ctypes.c_uint32(self._made))
            if number is None:
                return
            self._free.append(Ring(self._made, map_by_id(number.value)))
            self.ids.append(number.value)
            self._made += 1

    def all_free(self) -> list[Ring]:
        """Give the rings that nobody has, to be read once."""
        return list(self._free)

    @property
    def must_grow(self) -> bool:
        """Say whether the next `take` waits for the kernel."""
        return not self._free

    def grow(self) -> None:
        """Make one more ring. Blocks for about 10 ms.

        Raises:
            CapacityError: `RINGS_EXHAUSTED`.
            OSError: as the kernel says.
        """
        if self._made >= CALLS_MAX:
            raise CapacityError(
                "RINGS_EXHAUSTED", f"{self._made} rings of events are in use", retry_after_s=1.0
            )
        fd = make_ring(RING_BYTES)
        try:
            self._map.put(ctypes.c_uint32(self._made), ctypes.c_uint32(fd))
            number, _ = object_ids(fd)
            self._free.append(Ring(self._made, fd))
            self.ids.append(number)
        except BaseException:
            os.close(fd)
            raise
        self._made += 1

    def take(self) -> Ring:
        """Take a ring out of the pool; `grow` first where it `must_grow`."""
        return self._free.pop()

    def give_back(self, ring: Ring) -> None:
        """Put a ring back, empty."""
        self._free.append(ring)

    def close(self) -> None:
        """Let go of the rings that are free."""
        for ring in self._free:
            ring.close()
        self._free = []
