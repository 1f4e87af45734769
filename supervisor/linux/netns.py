"""What the kernel counts in a call's network namespace."""

from __future__ import annotations

import os
from pathlib import Path

RMEM = 4
"""The column of /proc/net/netlink with the bytes of a socket's receive buffer."""

NETLINK_BYTES_MAX = 256 * 1024
"""Of /proc/net/netlink, about 2 500 sockets."""


class RouteCounters:
    """How often something in a network namespace wanted to go where there is no route.

    The files keep the namespace's counters readable after its last process is gone
    (net/ipv4/proc.c; OutNoRoutes is counted by connect and sendto alike).
    """

    def __init__(self, pid: int) -> None:
        self._snmp = os.open(f"/proc/{pid}/net/snmp", os.O_RDONLY | os.O_CLOEXEC)
        self._snmp6 = -1
        if Path(f"/proc/{pid}/net/snmp6").exists():
            self._snmp6 = os.open(f"/proc/{pid}/net/snmp6", os.O_RDONLY | os.O_CLOEXEC)

    def refused(self) -> dict[str, int]:
        """Count what found no route, by family."""
        counts = {"IPv4": _ipv4(os.pread(self._snmp, 1 << 16, 0).decode())}
        if self._snmp6 >= 0:
            counts["IPv6"] = _ipv6(os.pread(self._snmp6, 1 << 16, 0).decode())
        return counts

    def close(self) -> None:
        """Let the namespace go."""
        for fd in (self._snmp, self._snmp6):
            if fd >= 0:
                os.close(fd)


class NetlinkBuffers:
    """What netlink sockets of a network namespace hold for programs that do not read it.

    It is kernel memory that no cgroup is charged for (net/netlink/af_netlink.c allocates it without
    __GFP_ACCOUNT), as much as 16 MiB for each socket.
    """

    def __init__(self, pid: int) -> None:
        self._fd = os.open(f"/proc/{pid}/net/netlink", os.O_RDONLY | os.O_CLOEXEC)

    def held(self) -> tuple[int, int]:
        """Give how many sockets there are and the bytes of their receive buffers; of no more
        sockets than NETLINK_BYTES_MAX has lines for."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        text = b""
        while len(text) < NETLINK_BYTES_MAX and (data := os.read(self._fd, 1 << 16)):
            text += data
        lines = text.split(b"\n")[1:-1]
        return len(lines), sum(int(line.split()[RMEM]) for line in lines)

    def close(self) -> None:
        """Let the namespace go."""
        os.close(self._fd)


def _ipv4(text: str) -> int:
    rows = [line.split() for line in text.splitlines() if line.startswith("Ip: ")]
    return int(rows[1][rows[0].index("OutNoRoutes")])


def _ipv6(text: str) -> int:
    for line in text.splitlines():
        if line.startswith("Ip6OutNoRoutes"):
            return int(line.split()[1])
    return 0


def interfaces(pid: int) -> list[str]:
    """List the network interfaces that a process sees."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return [line.split(":")[0].strip() for line in lines]
