"""A real broker between a program behind the fence and servers of a test, without a daemon.

    with rig(rule("203.0.113.0/24", 9000)) as here:
        server = here.listen(9000)
        here.client.do("s = socket.create_connection(('203.0.113.2', 9000), 10)")
        far, _ = server.accept()

The program is in a call's cgroup and in a network namespace of its own; the zygote and its broker
are in a second one, which a wire joins to a third, where a test's servers listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from supervisor.bpf.doors import Place
from supervisor.call.events import Denied, Flow, Lost
from supervisor.egress.client import Broker, Order, Zygote
from supervisor.egress.plan import Plan
from supervisor.linux.netns import Listeners
from supervisor.linux.syscalls import CLONE_NEWNET, setns
from supervisor.profile.model import EgressRule, PortRange
from supervisor.sandbox.uids import FIRST_ID
from tests.support.doors import PORT, Calls, Client, calls

T = TypeVar("T")

NEAR, FAR, FAR_MORE = "203.0.113.1", "203.0.113.2", "203.0.113.3"
NEAR6, FAR6 = "2001:db8::1", "2001:db8::2"
UID = FIRST_ID + 65_000
WAIT_S = 30.0
MIB = 1 << 20


def rule(place: str, *ports: int, **more: Any) -> EgressRule:
    """Give a rule for a name or a network."""
    ranges = tuple(PortRange(low=port, high=port) for port in ports)
    with contextlib.suppress(ValueError):
        return EgressRule(cidr=str(ip_network(place)), ports=ranges, **more)
    return EgressRule(host=place, ports=ranges, **more)


ECHO = rule("203.0.113.0/24", 9000)
ECHO6 = rule("2001:db8::/64", 9000)


def inside(pid: int, work: Callable[[], T]) -> T:
    """Do something in the network namespace of a process, in a thread of its own."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            enter(pid)
            done.append(work())
        except BaseException as error:  # noqa: BLE001 (raised below)
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def enter(pid: int) -> None:
    """Move this thread into the network namespace of a process."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    setns(fd, CLONE_NEWNET)
    os.close(fd)


@contextlib.contextmanager
def _namespace(setup: str) -> Iterator[int]:
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-ec", f"ip link set lo up; {setup} echo ready; exec cat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"ready\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()


@contextlib.contextmanager
def wire() -> Iterator[tuple[int, int]]:
    """Give two processes whose namespaces are joined by a wire: near and far."""
    with _namespace("") as far:
        near_up = f"""
            ip link add near0 type veth peer name far0 netns {far}
            ip addr add {NEAR}/24 dev near0; ip addr add {NEAR6}/64 dev near0 nodad
            ip link set near0 up;"""
        far_up = f"""
            ip addr add {FAR}/24 dev far0; ip addr add {FAR_MORE}/24 dev far0
            ip addr add {FAR6}/64 dev far0 nodad; ip link set far0 up"""
        with _namespace(near_up) as near:
            subprocess.run(["nsenter", f"--target={far}", "--net", "sh", "-ec", far_up], check=True)
            yield near, far


@dataclass(kw_only=True)
class Rig:
    """A program of one call, its broker, and what the broker told."""

    calls: Calls
    client: Client
    near: int
    far: int
    loop: asyncio.AbstractEventLoop
    zygote: Zygote
    told: list[Any] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)
    broker: Broker = None  # type: ignore[assignment]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the daemon's side of the broker."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_S)

    def listen(self, port: int = 9000, host: str = FAR, backlog: int = 4096) -> socket.socket:
        """Listen over there."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def make() -> socket.socket:
            return socket.create_server((host, port), family=family, backlog=backlog)

        server = inside(self.far, make)
        server.settimeout(WAIT_S)
        return server

    def connected(
        self, server: socket.socket, name: str = "s", host: str = FAR, port: int = 9000
    ) -> socket.socket:
        """Have the client connect; give the far end."""
        made = f"{name} = socket.create_connection(({host!r}, {port}), {WAIT_S})"
        assert self.client.do(made) is None
        far, _ = server.accept()
        far.settimeout(WAIT_S)
        return far

    def of(self, kind: type[T]) -> list[T]:
        """Give what was told of a kind so far."""
        return [one for one in self.told if isinstance(one, kind)]

    def wait_for(self, kind: type[T], count: int = 1) -> list[T]:
        """Give what was told of a kind, once it is as many."""
        end = time.monotonic() + WAIT_S
        while len(self.of(kind)) < count:
            assert time.monotonic() < end, f"{kind.__name__}: {self.told} {self.failed}"
            time.sleep(0.01)
        return self.of(kind)

    @property
    def flows(self) -> list[Flow]:
        return self.of(Flow)

    @property
    def denials(self) -> list[Denied]:
        return self.of(Denied)

    @property
    def lost(self) -> list[Lost]:
        return self.of(Lost)

    def pid(self) -> int:
        """Give the broker's process id."""
        info = Path(f"/proc/self/fdinfo/{self.broker._pidfd}").read_text()
        return int(info.split("Pid:")[1].split()[0])


def order(client: Client, *rules: EgressRule, **more: Any) -> Order:
    """Give an order for a client's broker, with listeners of its own."""
    homes = ("127.0.0.1", "::1")
    door, dns = (tuple(client.listen(port, at) for at in homes) for port in (PORT, 53))
    datagrams = tuple(client.receive(53, at) for at in homes)
    given = Order(
        call_id="call", call=client.call_id, uid=UID, rules=rules,
        egress_bytes=1 << 40, origins_fd=client.fence.origins_fd(),
        listeners=Listeners(door=door, dns_udp=datagrams, dns_tcp=dns),  # type: ignore[arg-type]
        resolvers=(f"{FAR}:53",),
    )  # fmt: skip
    return replace(given, **more)


@contextlib.contextmanager
def rig(*rules: EgressRule, flows_max: int = 256, **more: Any) -> Iterator[Rig]:
    """Have a broker with these rules; `more` goes into its order."""
    with contextlib.ExitStack() as stack:
        near, far = stack.enter_context(wire())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        loop = stack.enter_context(_loop_inside(near))
        zygote = Zygote(folder / "root")
        here = stack.enter_context(calls())
        client = stack.enter_context(here.client())
        one = Rig(calls=here, client=client, near=near, far=far, loop=loop, zygote=zygote)
        places = [
            Place(address=row.address, prefix=row.prefix,
                  ports=tuple((ports.low, ports.high) for ports in row.ports))
            for row in Plan.of(rules).rows
        ]  # fmt: skip
        client.open(*places, flows_max=flows_max, port=PORT)
        given = order(client, *rules, flows_max=flows_max, **more)
        stack.callback(one.run, zygote.close())
        try:
            one.broker = one.run(zygote.start_broker(given, one.told.append, one.failed.append))
        finally:
            given.listeners.close()
        stack.callback(loop.call_soon_threadsafe, one.broker.close)
        yield one


@contextlib.contextmanager
def _loop_inside(pid: int) -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread that is in the network namespace of a process, as is what it
    starts."""
    loop = asyncio.new_event_loop()

    def run() -> None:
        enter(pid)
        loop.run_forever()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
