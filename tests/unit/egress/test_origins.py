"""Keys and rows of the kernel's map, as it lays them out."""

from __future__ import annotations

import ctypes
import socket
from ipaddress import IPv4Address, IPv6Address

from supervisor.bpf import layout
from supervisor.egress.origins import KEY, MAPPED, VALUE, Origin, Origins, key_of, origin_of


def row(address: bytes, port: int = 443) -> layout.Origin:
    made = layout.Origin(time_ns=7, tgid=42, tid=43, port=port, family=socket.AF_INET)
    made.address[:] = address
    made.comm[:4] = b"curl"
    return made


def test_the_layout_is_the_kernels() -> None:
    assert KEY.size == ctypes.sizeof(layout.OriginKey)
    assert VALUE.size == ctypes.sizeof(layout.Origin)
    key = layout.OriginKey(call=1 << 40, port=4660, family=socket.AF_INET)
    key.address[:] = MAPPED + bytes((127, 0, 0, 1))
    assert key_of(1 << 40, "127.0.0.1", 4660) == bytes(key)
    key = layout.OriginKey(call=3, port=1, family=socket.AF_INET6)
    key.address[:] = IPv6Address("::1").packed
    assert key_of(3, "::1", 1) == bytes(key)


def test_a_row_says_who_asked_for_what() -> None:
    four = origin_of(bytes(row(MAPPED + bytes((203, 0, 113, 9)))))
    assert four == Origin(
        address=IPv4Address("203.0.113.9"), port=443, pid=42, program=b"curl", time_ns=7
    )
    six = origin_of(bytes(row(IPv6Address("2001:db8::9").packed)))
    assert six.address == IPv6Address("2001:db8::9")


def test_it_is_looked_up_by_the_clients_own_address() -> None:
    asked: list[tuple[int, bytes, int]] = []

    def lookup(fd: int, key: bytes, size: int) -> bytes | None:
        asked.append((fd, key, size))
        return None if len(asked) == 1 else bytes(row(MAPPED + bytes(4)))

    origins = Origins(5, 77, lookup)
    assert origins.of(("127.0.0.1", 50000)) is None
    assert origins.of(("::1", 50001, 0, 0)) is not None
    assert asked == [
        (77, key_of(5, "127.0.0.1", 50000), VALUE.size),
        (77, key_of(5, "::1", 50001), VALUE.size),
    ]
