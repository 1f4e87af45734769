"""A call with a door, without a daemon: a client in its cgroup and network namespace, and somebody
who listens where the broker would.

The client is a Python that does line by line what a test says, so that a test can look at the
kernel's rows in between. The listener is made in the namespace by a process in no cgroup of ours,
as the daemon does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ipaddress
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.bpf import layout
from supervisor.bpf.doors import Door, Place
from supervisor.bpf.fence import Fence
from supervisor.bpf.watch import Watch
from supervisor.linux import cgroup
from supervisor.linux.bpfmap import lookup
from tests.unit.bpf.real import Ground, ground

CLONE_NEWNET = 0x40000000
PORT = 4433
WAIT_S = 30.0
PYTHON = "/usr/bin/python3"

ADDRESSES = ("203.0.113.9", "203.0.113.10", "2001:db8::9", "2001:db8::a")
"""Of the loopback device of a call's namespace, for who is not fenced: somebody is there."""

DRIVER = """
import ctypes, errno, json, os, socket, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
INET, INET6 = socket.AF_INET, socket.AF_INET6
DGRAM, FASTOPEN, FASTOPEN_CONNECT = socket.SOCK_DGRAM, 0x20000000, 30

def raw(one, address):
    if libc.connect(one.fileno(), address, len(address)):
        raise OSError(ctypes.get_errno(), "connect")

def unspecified(one):
    raw(one, bytes(16))

def inet(address, port, length=16):
    packed = struct.pack("=H", INET) + struct.pack("!H", port) + socket.inet_aton(address)
    return packed.ljust(length, bytes(1))

for line in sys.stdin:
    shown = []
    sys.displayhook = shown.append
    try:
        exec(compile(json.loads(line), "line", "single"), globals())
        said = shown[-1] if shown else None
    except OSError as error:
        said = errno.errorcode.get(error.errno, str(error))
    print(json.dumps(said, default=repr), flush=True)
"""


def sixteen(address: str) -> bytes:
    """Give an address as the kernel's rows have it."""
    one = ipaddress.ip_address(address)
    six = ipaddress.IPv6Address(f"::ffff:{one}") if one.version == 4 else one
    return six.packed


def place(network: str, *ports: tuple[int, int]) -> Place:
    """Give a place, by an address or a network in the usual form."""
    one = ipaddress.ip_network(network)
    prefix = one.prefixlen + (96 if one.version == 4 else 0)
    return Place(address=sixteen(str(one.network_address)), prefix=prefix, ports=ports)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What `origins` says about a connection."""

    address: str
    port: int
    family: int
    pid: int
    program: bytes


class Driven:
    """A Python that does what it is told."""

    def __init__(self, *enter: str) -> None:
        self.process = subprocess.Popen(
            [*enter, PYTHON, "-c", DRIVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.do("None")

    def do(self, *lines: str) -> Any:
        """Run lines; give the value of the last expression, or the name of an error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        said = None
        for line in lines:
            self.process.stdin.write(json.dumps(line) + "\n")
            self.process.stdin.flush()
            said = json.loads(self.process.stdout.readline())
        return said

    def end(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(WAIT_S)
        self.process.stdout.close()


class Client(Driven):
    """A program of one call."""

    def __init__(self, fence: Fence, call: cgroup.Cgroup, loop: asyncio.AbstractEventLoop) -> None:
        self.fence = fence
        self.call_id = call.identity()
        self.watch: Watch = loop.run_until_complete(fence.watch(self.call_id))
        addresses = "; ".join(f"ip addr add {one} dev lo" for one in ADDRESSES)
        enter = f"ip link set lo up; {addresses}; echo $$ >{call.unified}/cgroup.procs"
        super().__init__("unshare", "--net", "sh", "-ec", f'{enter}; exec "$0" "$@"')
        self.network = f"/proc/{self.process.pid}/ns/net"

    @contextlib.contextmanager
    def unfenced(self) -> Iterator[Driven]:
        """Have a program in the same namespace, but in no cgroup of ours: a control."""
        one = Driven("nsenter", f"--net={self.network}")
        try:
            yield one
        finally:
            one.end()

    def open(self, *places: Place, flows_max: int = 64, port: int = PORT) -> Door:
        """Open the call's door."""
        door = Door(port=port, places=places, flows_max=flows_max)
        self.fence.open_door(self.call_id, door)
        return door

    def listen(
        self, port: int = PORT, at: str = "127.0.0.1", *, backlog: int = 4096
    ) -> socket.socket:
        """Listen in the call's namespace, as the broker does at the door."""
        one = self._made(at, socket.SOCK_STREAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((at, port))
        one.listen(backlog)
        return one

    def receive(self, port: int, at: str) -> socket.socket:
        """Take datagrams in the call's namespace."""
        one = self._made(at, socket.SOCK_DGRAM)
        one.bind((at, port))
        return one

    def _made(self, at: str, kind: socket.SocketKind) -> socket.socket:
        made: list[socket.socket] = []
        family = socket.AF_INET6 if ":" in at else socket.AF_INET
        thread = threading.Thread(target=self._make, args=(made, family, kind))
        thread.start()
        thread.join()
        made[0].settimeout(WAIT_S)
        return made[0]

    def _make(self, made: list[socket.socket], family: int, kind: int) -> None:
        fd = os.open(self.network, os.O_RDONLY)
        assert ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) == 0
        os.close(fd)
        made.append(socket.socket(family, kind))

    def origin(self, peer: Sequence[Any]) -> Asked | None:
        """Look up what a client asked for, by its address as the listener sees it."""
        home = ipaddress.ip_address(peer[0])
        family = socket.AF_INET if home.version == 4 else socket.AF_INET6
        key = layout.OriginKey(call=self.call_id, port=peer[1], family=family)
        key.address[:] = sixteen(str(home))
        value = lookup(self.fence.origins_fd(), bytes(key), ctypes.sizeof(layout.Origin))
        if value is None:
            return None
        row = layout.Origin.from_buffer_copy(value)
        six = ipaddress.IPv6Address(bytes(row.address))
        return Asked(
            address=str(six.ipv4_mapped or six),
            port=row.port,
            family=row.family,
            pid=row.tgid,
            program=bytes(row.comm).rstrip(b"\0"),
        )

    def denials(self) -> dict[tuple[str, str], int]:
        """Give what was denied since the last look."""
        found: dict[tuple[str, str], int] = {}
        told = [batch.denials for batch in iter(self.watch.take, None)]
        told.append(self.watch.sweep(all_kinds=True).denials)
        for denial in (one for batch in told for one in batch):
            kind = (denial.refused.name, denial.refused.detail)
            found[kind] = found.get(kind, 0) + denial.count
        return found

    def close(self) -> None:
        """End the program and the call."""
        self.end()
        self.watch.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """A fence, and calls below it."""

    here: Ground
    fence: Fence
    loop: asyncio.AbstractEventLoop

    @contextlib.contextmanager
    def client(self, name: str = "call") -> Iterator[Client]:
        """Have a program in a call of its own."""
        top = Path(self.here.call.path).parent
        call = cgroup.Cgroup(cgroup.detect(), f"{top}/{name}")
        call.unified.mkdir(exist_ok=True)
        client = Client(self.fence, call, self.loop)
        try:
            yield client
        finally:
            client.close()
            call.destroy()


@contextlib.contextmanager
def calls() -> Iterator[Calls]:
    """Have a fence of its own."""
    loop = asyncio.new_event_loop()
    with ground() as here:
        fence = Fence(here.places)
        fence.open()
        try:
            yield Calls(here=here, fence=fence, loop=loop)
        finally:
            fence.close()
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
