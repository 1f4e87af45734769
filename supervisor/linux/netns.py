"""What there is in a call's network namespace, and what the daemon puts there."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from supervisor.linux.fds import closing_fd
from supervisor.linux.syscalls import CLONE_NEWNET, setns

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


LOOPBACK4, LOOPBACK6 = "127.0.0.1", "::1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """Sockets on both loopback addresses of a namespace: what listens for TCP at the door, and what
    takes DNS over UDP and TCP. Each is (IPv4, IPv6); the second is None where the kernel has no
    IPv6."""

    door: tuple[socket.socket, socket.socket | None]
    dns_udp: tuple[socket.socket, socket.socket | None]
    dns_tcp: tuple[socket.socket, socket.socket | None]

    def all(self) -> list[socket.socket]:
        """Give every socket that there is."""
        return [one for pair in (self.door, self.dns_udp, self.dns_tcp) for one in pair if one]

    def close(self) -> None:
        """Close all of them; whoever was given a copy keeps it."""
        for one in self.all():
            one.close()


CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")
UNPACED = "reno"
"""What every kernel has. A new network namespace takes what its host has set, and some of these set
a timer for each few packets, which a sandbox's only way, its loopback, does not need."""


def open_listeners(pid: int, *, door_port: int, dns_port: int, backlog: int) -> Listeners:
    """Open the listeners of a call in the network namespace of `pid`, before its program runs: so
    nobody in there can have had the ports first. From then on its TCP is not paced. Blocks, for as
    long as a thread takes to start.

    Raises:
        OSError: as the kernel says.
    """
    found: list[Listeners] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with closing_fd(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)) as fd:
                setns(fd, CLONE_NEWNET)
            CONGESTION_CONTROL.write_text(UNPACED)
            found.append(_open_all(door_port, dns_port, backlog))
        except BaseException as error:  # noqa: BLE001 (raised below, in the caller's thread)
            failed.append(error)

    # A thread of its own: one that has been in there is not to be used for anything else.
    thread = threading.Thread(target=work, name="netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def _open_all(door_port: int, dns_port: int, backlog: int) -> Listeners:
    stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
    with contextlib.ExitStack() as opened:

        def pair(kind: int, port: int) -> tuple[socket.socket, socket.socket | None]:
            first = opened.enter_context(_open(socket.AF_INET, kind, LOOPBACK4, port, backlog))
            if not Path("/proc/thread-self/net/if_inet6").exists():
                return first, None
            second = _open(socket.AF_INET6, kind, LOOPBACK6, port, backlog)
            return first, opened.enter_context(second)

        listeners = Listeners(
            door=pair(stream, door_port),
            dns_udp=pair(datagram, dns_port),
            dns_tcp=pair(stream, dns_port),
        )
        opened.pop_all()
    return listeners


def _open(family: int, kind: int, address: str, port: int, backlog: int) -> socket.socket:
    one = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((address, port))
        if kind == socket.SOCK_STREAM:
            one.listen(backlog)
    except BaseException:
        one.close()
        raise
    return one


def interfaces(pid: int) -> list[str]:
    """List the network interfaces that a process sees."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return [line.split(":")[0].strip() for line in lines]
