"""Maps by descriptor, in the kernel."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator

import pytest

from supervisor.bpf.libbpf import check, library
from supervisor.bpf.maps import BPF_NOEXIST, BpfMap, make_ring, map_by_id

pytestmark = pytest.mark.root
BPF_MAP_TYPE_HASH = 1
Small = BpfMap[ctypes.c_uint64, ctypes.c_uint32]


@pytest.fixture
def small() -> Iterator[Small]:
    """A hash of two rows."""
    fd = check(library().bpf_map_create(BPF_MAP_TYPE_HASH, b"small", 8, 4, 2, None), "create")
    one: Small = BpfMap(fd, ctypes.c_uint64, ctypes.c_uint32, "small")
    yield one
    one.close()
    one.close()


def key(value: int) -> ctypes.c_uint64:
    return ctypes.c_uint64(value)


def test_rows_come_and_go(small: Small) -> None:
    assert small.get(key(1)) is None
    small.put(key(1), ctypes.c_uint32(10))
    small.put(key(1), ctypes.c_uint32(11))
    value = small.get(key(1))
    assert value is not None
    assert value.value == 11
    small.put(key(2), ctypes.c_uint32(20))
    assert sorted(one.value for one in small.all_keys()) == [1, 2]
    assert small.delete(key(1))
    assert not small.delete(key(1))
    assert [one.value for one in small.all_keys()] == [2]


def test_a_row_that_is_there_and_a_full_map(small: Small) -> None:
    small.put(key(1), ctypes.c_uint32(1), BPF_NOEXIST)
    with pytest.raises(OSError) as caught:
        small.put(key(1), ctypes.c_uint32(1), BPF_NOEXIST)
    assert caught.value.errno == errno.EEXIST
    small.put(key(2), ctypes.c_uint32(1))
    with pytest.raises(OSError) as caught:
        small.put(key(3), ctypes.c_uint32(1))
    assert caught.value.errno == errno.E2BIG


def test_a_map_that_is_closed_is_an_error() -> None:
    one: Small = BpfMap(1 << 20, ctypes.c_uint64, ctypes.c_uint32, "gone")
    for attempt in (lambda: one.get(key(1)), lambda: one.delete(key(1)), lambda: [*one.all_keys()]):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EBADF


def test_rings() -> None:
    ring = BpfMap(make_ring(4096), ctypes.c_uint32, ctypes.c_uint32, "ring")
    assert ring.fd >= 0
    ring.close()
    with pytest.raises(OSError):
        make_ring(4097)
    with pytest.raises(OSError):
        map_by_id(0xFFFFFFF0)
