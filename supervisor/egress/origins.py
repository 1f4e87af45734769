"""What a connection at the broker's door had asked for: the kernel wrote it down when it led the
connection here (probes/include/door.h).

The broker looks it up by the client's own address and port, which no two open connections of a
namespace share. Who connected straight to the door has no row.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from supervisor.profile.addresses import Address

KEY = struct.Struct("=Q16sHHI")
"""struct origin_key: call, address, port, family, padding. Ports are in host order."""

VALUE = struct.Struct("=16sQIIHHI16s")
"""struct origin: address, time_ns, tgid, tid, port, family, padding, comm."""

MAPPED = b"\0" * 10 + b"\xff\xff"

Peer = tuple[Any, ...]
"""A client's address as accept(2) gives it: host and port, and two numbers more for IPv6."""

Lookup = Callable[[int, bytes, int], bytes | None]
"""`linux.bpfmap.lookup`: a map's descriptor, a key, and how long a value is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What was asked for, by which process; `time_ns` is of CLOCK_BOOTTIME."""

    address: Address
    port: int
    pid: int
    program: bytes
    time_ns: int


class Origins:
    """The origins of one call."""

    def __init__(self, call: int, fd: int, lookup: Lookup) -> None:
        self._call = call
        self._fd = fd
        self._lookup = lookup

    def of(self, peer: Peer) -> Origin | None:
        """Give what the connection from `peer` had asked for; None where the kernel has no row.

        Raises:
            OSError: the map cannot be read.
        """
        host, port = peer[:2]
        value = self._lookup(self._fd, key_of(self._call, host, port), VALUE.size)
        return None if value is None else origin_of(value)


def key_of(call: int, host: str, port: int) -> bytes:
    """Give the key of a connection from this address of the loopback."""
    if ":" in host:
        return KEY.pack(call, IPv6Address(host).packed, port, socket.AF_INET6, 0)
    return KEY.pack(call, MAPPED + IPv4Address(host).packed, port, socket.AF_INET, 0)


def origin_of(value: bytes) -> Origin:
    """Read a row."""
    address, time_ns, tgid, _tid, port, _family, _padding, comm = VALUE.unpack(value)
    six = IPv6Address(address)
    return Origin(
        # A socket of either family may have asked for an IPv4 address.
        address=six.ipv4_mapped or six,
        port=port,
        pid=tgid,
        program=comm.partition(b"\0")[0],
        time_ns=time_ns,
    )
