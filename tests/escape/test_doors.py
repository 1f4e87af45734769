"""Doors in the kernel: what a call may connect to is led to its own loopback, and nothing else is.

In each namespace somebody is at the addresses that are asked for, and hears who gets through: who
is in no cgroup of ours reaches them by the same lines, a call never does. The same tests run on
other kernels: see tests/vm/guest_doors.py. How connections are counted: test_door_flows.py.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.doors import ADDRESSES, PORT, Asked, Calls, Client, Driven, calls, place
from tests.support.world import wait_until

pytestmark = pytest.mark.root

PLACES = (
    place("203.0.113.9", (443, 443), (8000, 8010)),
    place("203.0.113.0/24", (5432, 5432)),
    place("2001:db8::9", (443, 443)),
)
WORLD_PORTS = (443, 444, 5432, 8005)
QUIET_S = 0.1


@pytest.fixture(scope="module")
def fenced() -> Iterator[Calls]:
    with calls() as made:
        yield made


@pytest.fixture(scope="module")
def one(fenced: Calls) -> Iterator[Client]:
    """A call with a door, and a client in it."""
    with fenced.client() as client:
        client.open(*PLACES)
        yield client


@pytest.fixture(scope="module")
def free(one: Client) -> Iterator[Driven]:
    """The control: a client in the same namespace that nothing fences."""
    with one.unfenced() as client:
        yield client


class World:
    """Who is at the addresses themselves."""

    def __init__(self, client: Client) -> None:
        at = [(port, address) for address in ADDRESSES for port in WORLD_PORTS]
        self.tcp = [client.listen(*each) for each in at]
        self.udp = [client.receive(*each) for each in at]

    def heard(self, wait_s: float = QUIET_S) -> int:
        """Say how many connections and datagrams have come since the last look."""
        count = 0
        while ready := select.select([*self.tcp, *self.udp], [], [], wait_s)[0]:
            count += len(ready)
            for each in ready:
                if each in self.tcp:
                    each.accept()[0].close()
                else:
                    each.recv(100)
            wait_s = 0
        return count

    def close(self) -> None:
        for each in (*self.tcp, *self.udp):
            each.close()


@pytest.fixture(scope="module")
def world(one: Client) -> Iterator[World]:
    made = World(one)
    yield made
    made.close()


@dataclass(frozen=True, slots=True)
class Way:
    """Lines of a client that are denied, and what is told of it: hook and detail."""

    name: str
    lines: tuple[str, ...]
    told: str

    def __str__(self) -> str:
        return self.name


def tcp(family: str, address: str, port: int = 443) -> tuple[str, ...]:
    return (f"s = socket.socket({family})", f"s.connect(('{address}', {port}))")


def udp(family: str, address: str, port: int = 443) -> tuple[str, ...]:
    connect = f"s.connect(('{address}', {port}))"
    return (f"s = socket.socket({family}, DGRAM)", connect, "n = s.send(b'x')")


def fast(family: str, address: str, port: int = 443) -> tuple[str, ...]:
    send = f"n = s.sendto(b'x', FASTOPEN, ('{address}', {port}))"
    return (f"s = socket.socket({family})", send)


def deferred(family: str, address: str, port: int = 443) -> tuple[str, ...]:
    made, connect = tcp(family, address, port)
    return (made, "s.setsockopt(6, FASTOPEN_CONNECT, 1)", connect, "n = s.send(b'x')")


OUT4, OUT6, OUT_MAPPED = "203.0.113.10", "2001:db8::a", "::ffff:203.0.113.10"
IN4, IN6, IN_MAPPED = "203.0.113.9", "2001:db8::9", "::ffff:203.0.113.9"
ANY4 = "0.0.0.0"  # noqa: S104
OTHER_FAMILY = ("s = socket.socket(INET6, DGRAM)", f"raw(s, inet('{IN4}', 443))")

DENIED = (
    Way("another port", tcp("INET", IN4, 444), f"connect {IN4}:444 tcp"),
    Way("another address", tcp("INET", OUT4), f"connect {OUT4}:443 tcp"),
    Way("a port of the network around it", tcp("INET", IN4, 5432), f"connect {IN4}:5432 tcp"),
    Way("another address, mapped", tcp("INET6", OUT_MAPPED), f"connect {OUT4}:443 tcp"),
    Way("another port, mapped", tcp("INET6", IN_MAPPED, 444), f"connect {IN4}:444 tcp"),
    Way("another port, IPv6", tcp("INET6", IN6, 444), f"connect [{IN6}]:444 tcp"),
    Way("another address, IPv6", tcp("INET6", OUT6), f"connect [{OUT6}]:443 tcp"),
    Way("fast open", fast("INET", OUT4), f"connect {OUT4}:443 tcp"),
    Way("fast open, IPv6", fast("INET6", OUT6), f"connect [{OUT6}]:443 tcp"),
    Way("fast open by connect", deferred("INET", OUT4), f"connect {OUT4}:443 tcp"),
    Way("a datagram", udp("INET", IN4), f"egress {IN4}:443 udp"),
    Way("a datagram, other port", udp("INET", IN4, 444), f"egress {IN4}:444 udp"),
    Way("a datagram, IPv6", udp("INET6", IN6), f"egress [{IN6}]:443 udp"),
    Way("a datagram, mapped", udp("INET6", IN_MAPPED), f"egress {IN4}:443 udp"),
    Way("a datagram to another place", udp("INET6", OUT6), f"connect [{OUT6}]:443 udp"),
    Way(
        "a datagram of a socket of another family", (*OTHER_FAMILY, "n = s.send(b'x')"),
        f"egress {IN4}:443 udp",
    ),
    Way(
        "a datagram without a connection",
        ("s = socket.socket(INET, DGRAM)", f"n = s.sendto(b'x', ('{IN4}', 443))"),
        f"sendmsg {IN4}:443 udp",
    ),
    Way(
        "a datagram elsewhere than connected",
        (*udp("INET", OUT4)[:2], f"n = s.sendto(b'x', ('{IN4}', 443))"), f"sendmsg {IN4}:443 udp",
    ),
)  # fmt: skip
"""By the last line; what comes before it is allowed."""


@pytest.mark.parametrize("way", DENIED, ids=str)
def test_what_is_no_place_of_the_call_is_denied(
    one: Client, free: Driven, world: World, way: Way
) -> None:
    one.denials()
    said = [None]
    for line in way.lines:
        if said[-1] is None:
            said.append(one.do(line))
    assert said == [None] * (len(said) - 1) + ["EPERM"]
    assert world.heard() == 0
    hook, _, detail = way.told.partition(" ")
    assert one.denials() == {(hook, detail): 1}
    assert one.fence.flows(one.call_id) == 0
    one.do("s.close()")
    # The control: nothing but the fence is in the way.
    assert [free.do(line) for line in way.lines] == [None] * len(way.lines)
    assert world.heard(10) == 1


@dataclass(frozen=True, slots=True)
class Let:
    """Lines that connect, from where to what."""

    name: str
    lines: tuple[str, ...]
    address: str
    port: int = 443
    home: str = "127.0.0.1"
    peer: str = ""

    def __str__(self) -> str:
        return self.name


BOUND = ("s = socket.socket(INET)", "s.bind(('127.0.0.5', 4000))", f"s.connect(('{IN4}', 443))")

ALLOWED = (
    Let("tcp", tcp("INET", IN4), IN4),
    Let("a range of ports", tcp("INET", IN4, 8010), IN4, 8010),
    Let("a network", tcp("INET", "203.0.113.200", 5432), "203.0.113.200", 5432),
    Let("tcp, IPv6", tcp("INET6", IN6), IN6, home="::1"),
    Let("tcp, mapped", tcp("INET6", IN_MAPPED), IN4, peer=IN_MAPPED),
    Let("fast open", fast("INET", IN4), IN4),
    Let("fast open, IPv6", fast("INET6", IN6), IN6, home="::1"),
    Let("fast open, mapped", fast("INET6", IN_MAPPED), IN4, peer=IN_MAPPED),
    Let("fast open by connect", deferred("INET", IN4), IN4),
    Let("fast open by connect, IPv6", deferred("INET6", IN6), IN6, home="::1"),
    Let("from an address of its own", BOUND, IN4, home="127.0.0.5"),
)


@pytest.mark.parametrize("let", ALLOWED, ids=str)
def test_a_place_of_the_call_is_at_the_door(one: Client, world: World, let: Let) -> None:
    with one.listen() as door, one.listen(at="::1") as door6:
        assert [one.do(line) for line in let.lines] == [None] * len(let.lines)
        accepted, peer = (door6 if ":" in let.home else door).accept()
        family = socket.AF_INET6 if ":" in let.address else socket.AF_INET
        assert peer[0] == let.home
        assert one.origin(peer) == Asked(
            address=let.address, port=let.port, family=family, pid=one.process.pid,
            program=b"python3",
        )  # fmt: skip
        assert one.do("s.getpeername()")[:2] == [let.peer or let.address, let.port]
        assert one.do("s.getsockname()")[1] == peer[1]
        assert one.fence.flows(one.call_id) == 1
        with accepted:
            # Bytes go both ways, in order.
            one.do("n = s.send(b'ping')")
            asked = b"ping" if let.lines[-1].startswith("s.connect") else b"xping"
            assert accepted.recv(100) == asked
            accepted.sendall(b"pong")
            assert one.do("s.recv(100)") == repr(b"pong")
        one.do("s.close()")
    # Its end is the kernel's own moment: it may wait for an answer of the other side.
    wait_until(lambda: one.fence.flows(one.call_id) == 0, "end of the connection")
    assert world.heard() == 0
    assert one.denials() == {}


STRAIGHT = (
    ("INET", "127.0.0.1"), ("INET", ANY4), ("INET6", "::1"),
    ("INET6", "::"), ("INET6", "::ffff:127.0.0.1"), ("INET6", "::ffff:0.0.0.0"),
)  # fmt: skip


@pytest.mark.parametrize(("family", "address"), STRAIGHT)
def test_nobody_gets_to_the_door_straight(
    one: Client, free: Driven, family: str, address: str
) -> None:
    with one.listen() as door, one.listen(at="::1") as door6:
        for lines in (tcp(family, address, PORT), fast(family, address, PORT)):
            assert one.do(*lines) == "EPERM"
        told = address.removeprefix("::ffff:")
        told = f"[{told}]:{PORT} tcp" if ":" in told else f"{told}:{PORT} tcp"
        assert one.denials() == {("connect", told): 2}
        assert select.select([door, door6], [], [], QUIET_S)[0] == []
        assert free.do(*tcp(family, address, PORT)) is None


def test_ones_own_loopback_is_as_before(one: Client) -> None:
    with one.listen(5000) as own, one.listen(5000, "::1") as own6:
        for lines, listener in (
            (tcp("INET", "127.0.0.1", 5000), own),
            (tcp("INET", ANY4, 5000), own),
            (tcp("INET6", "::1", 5000), own6),
            (tcp("INET6", "::ffff:127.0.0.1", 5000), own),
        ):
            assert one.do(*lines) is None
            accepted, peer = listener.accept()
            assert one.origin(peer) is None
            assert one.do("s.getpeername()")[1] == 5000
            accepted.close()
    assert one.fence.flows(one.call_id) == 0
    assert one.denials() == {}


def test_a_call_without_a_door_connects_to_nothing(fenced: Calls, one: Client) -> None:
    with fenced.client("closed") as closed, closed.listen() as door:
        for lines, told in (
            (tcp("INET", IN4), f"connect {IN4}:443 tcp"),
            (tcp("INET6", IN6), f"connect [{IN6}]:443 tcp"),
            (udp("INET", IN4)[:2], f"connect {IN4}:443 udp"),
        ):
            assert closed.do(*lines) == "EPERM"
            hook, _, detail = told.partition(" ")
            assert closed.denials() == {(hook, detail): 1}
        assert select.select([door], [], [], QUIET_S)[0] == []
        # The port is nobody's there.
        assert closed.do(*tcp("INET", "127.0.0.1", PORT)) is None


def test_a_neighbours_places_are_its_own(fenced: Calls, one: Client) -> None:
    with fenced.client("neighbour") as other, one.listen() as door, other.listen(4434) as theirs:
        other.open(place(OUT4, (443, 443)), port=4434)
        assert other.do(*tcp("INET", IN4)) == "EPERM"
        assert other.do(*tcp("INET", IN4, 5432)) == "EPERM"
        assert one.do(*tcp("INET", OUT4)) == "EPERM"
        assert other.do(*tcp("INET", OUT4)) is None
        assert one.do(*tcp("INET", IN4)) is None
        (accepted, peer), (accepted2, peer2) = door.accept(), theirs.accept()
        mine, its = one.origin(peer), other.origin(peer2)
        assert mine is not None
        assert its is not None
        assert (mine.address, its.address) == (IN4, OUT4)
        accepted.close()
        accepted2.close()
        one.denials()


def test_an_address_of_another_family_leads_nowhere(one: Client) -> None:
    """TCP of IPv6 hands such an address to us as if it were one of its own family, and refuses it
    then. Its bytes at the place of an IPv6 address are those of a place of the call."""
    lines = (
        "s = socket.socket(INET6)",
        f"odd = inet('127.0.0.1', 443)[:8] + socket.inet_pton(INET6, '{IN6}') + bytes(4)",
        "raw(s, odd)",
    )
    with one.listen() as door, one.listen(at="::1") as door6, one.listen(5000) as own:
        assert one.do(*lines) == "EAFNOSUPPORT"
        assert one.do("s.getpeername()") == "ENOTCONN"
        assert select.select([door, door6], [], [], QUIET_S)[0] == []
        assert one.do("s.connect(('::ffff:127.0.0.1', 5000))") is None
        accepted, peer = own.accept()
        assert one.origin(peer) is None
        assert one.do("s.getpeername()")[:2] == ["::ffff:127.0.0.1", 5000]
        accepted.close()
    assert one.fence.flows(one.call_id) == 0


def test_a_datagram_socket_is_its_own_again(one: Client) -> None:
    """What it was led to does not stick to it, and keeps it from nothing that it may."""
    with one.receive(7000, "127.0.0.1") as own:
        lines = udp("INET", IN4)
        assert one.do(*lines[:2], "s.getpeername()") == [IN4, 443]
        # To another address for once, while it is connected.
        assert one.do("s.sendto(b'1', ('127.0.0.1', 7000))") == 1
        assert one.do("s.send(b'x')") == "EPERM"
        assert one.do("unspecified(s)", "s.sendto(b'2', ('127.0.0.1', 7000))") == 1
        assert one.do("s.getpeername()") == "ENOTCONN"
        assert one.do(lines[1], "s.send(b'x')") == "EPERM"
        assert one.do("s.connect(('127.0.0.1', 7000))", "s.send(b'3')") == 1
        assert one.do("s.getpeername()") == ["127.0.0.1", 7000]
        assert [own.recv(10) for _ in range(3)] == [b"1", b"2", b"3"]
    assert one.denials() == {("egress", f"{IN4}:443 udp"): 2}


def test_who_may_not_connect_stays_connected(one: Client) -> None:
    lines = udp("INET", IN4)
    assert one.do(*lines[:2], "s.connect(('198.51.100.1', 443))") == "EPERM"
    assert one.do("s.getpeername()") == [IN4, 443]
    assert one.do("s.send(b'x')") == "EPERM"
    assert one.denials() == {
        ("connect", "198.51.100.1:443 udp"): 1, ("egress", f"{IN4}:443 udp"): 1,
    }  # fmt: skip
