"""What there is in a call's network namespace."""

from __future__ import annotations

import os
from pathlib import Path

RMEM = 4
"""The column of /proc/net/netlink with the bytes of a socket's receive buffer."""

NETLINK_BYTES_MAX = 256 * 1024
"""Of /proc/net/netlink, about 2 500 sockets."""


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


def interfaces(pid: int) -> list[str]:
    """List the network interfaces that a process sees."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return [line.split(":")[0].strip() for line in lines]
