"""Connections through a door are counted: each once, from when it is made until it is over, however
it ends; and what is told of one is never told of another."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from supervisor.bpf import layout
from tests.support.doors import Calls, Client, calls, place
from tests.support.rounds import rounds

pytestmark = pytest.mark.root

PLACES = (place("203.0.113.0/24", (443, 443)), place("2001:db8::9", (443, 443)))
FIRST, SECOND, SIX = "('203.0.113.9', 443)", "('203.0.113.10', 443)", "('2001:db8::9', 443)"
NOWHERE = "('198.51.100.1', 443)"
FLOWS_MAX = 8
MANY = 500
NEW = "s = socket.socket()"
FILL = (
    "s.setblocking(False)",
    "try:\n    while True: n = s.send(bytes(1 << 16))\nexcept BlockingIOError: pass\n",
)
"""Send as much as nobody reads."""

WAIT_S = 30.0


@pytest.fixture(scope="module")
def fenced() -> Iterator[Calls]:
    with calls() as made:
        yield made


@pytest.fixture
def one(fenced: Calls) -> Iterator[Client]:
    with fenced.client() as client:
        client.open(*PLACES, flows_max=FLOWS_MAX)
        yield client
        client.end()
        until(lambda: client.fence.flows(client.call_id) == 0)
        client.watch.close()
        assert [len(list(one.all_keys())) for one in client.fence._doors.maps] == [0] * 4


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def flows(client: Client) -> int:
    return client.fence.flows(client.call_id)


def row_of(client: Client) -> layout.DoorRow:
    row = client.fence._doors._doors.get(ctypes.c_uint64(client.call_id))
    assert row is not None
    return row


def asked(client: Client, peer: tuple[str, int]) -> str:
    """Give the address that a connection was for."""
    origin = client.origin(peer)
    return "" if origin is None else origin.address


def own(client: Client) -> tuple[str, int]:
    """Give the client's own address of its socket `s`."""
    address, port = client.do("s.getsockname()")[:2]
    return address, port


@contextlib.contextmanager
def accepting(listener: socket.socket) -> Iterator[list[socket.socket]]:
    """Accept whoever comes, and close what was accepted."""
    listener.settimeout(0.05)
    over = threading.Event()
    accepted: list[socket.socket] = []

    def work() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                accepted.append(listener.accept()[0])
                accepted[-1].close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield accepted
    finally:
        over.set()
        thread.join()


def test_of_thousands_of_connections_none_stays_counted(one: Client) -> None:
    """Half of them are refused: nobody listens for IPv6. As many as may be at a time."""
    loop = f"for n in range({MANY}):\n    one({{}})\n"
    one.do(
        "refused = 0",
        "def one(family, address):\n"
        "    global refused\n"
        "    s = socket.socket(family)\n"
        "    while True:\n"
        "        try: s.connect(address)\n"
        "        except ConnectionRefusedError: refused += 1\n"
        "        except PermissionError: continue\n"
        "        break\n"
        "    s.close()\n",
    )
    with one.listen() as door, accepting(door) as accepted:
        for call in (f"INET, {FIRST}", f"INET6, {SIX}", f"INET, {SECOND}", f"INET6, {SIX}"):
            assert one.do(loop.format(call)) is None
        until(lambda: len(accepted) == 2 * MANY)
    assert one.do("refused") == 2 * MANY
    until(lambda: flows(one) == 0)
    rows = list(one.fence._doors.origins.all_keys())
    assert len(rows) <= layout.FLOWS_ENDED_MAX
    assert row_of(one).ended == 4 * MANY


CHAOS = """
import random
def chaos(seed):
    rng = random.Random(seed)
    for n in range(TURNS):
        four = rng.random() < 0.7
        s = socket.socket(INET if four else INET6)
        for again in range(rng.randrange(1, 4)):
            if rng.random() < 0.3: s.setblocking(False)
            to = (f"203.0.113.{rng.randrange(1, 9)}" if four else "2001:db8::9", 443)
            if rng.random() < 0.1: to = ("127.0.0.1" if four else "::1", 5000)
            try:
                if rng.random() < 0.2: s.sendto(b"x", FASTOPEN, to)
                else: s.connect(to)
                if rng.random() < 0.5: s.send(bytes(rng.randrange(1, 100_000)))
            except OSError: pass
            try:
                if rng.random() < 0.3: s.shutdown(rng.randrange(3))
                if rng.random() < 0.5: unspecified(s)
            except OSError: pass
        if rng.random() < 0.3: s.setsockopt(1, 13, struct.pack("ii", 1, 0))
        s.close()
threads = [threading.Thread(target=chaos, args=(n,)) for n in range(8)]
for one in threads: one.start()
for one in threads: one.join()
"""


def test_whatever_is_done_to_sockets_they_are_counted_once(fenced: Calls) -> None:
    """Refused, given up, reset, half closed, disconnected and connected again, at the same time."""
    turns = rounds(100)
    with fenced.client("chaos") as one:
        one.open(*PLACES, flows_max=1000)
        with one.listen() as door, one.listen(5000) as own, accepting(door), accepting(own):
            assert one.do(f"TURNS = {turns}", f"exec({CHAOS!r}, globals())") is None
            until(lambda: flows(one) == 0)
        assert row_of(one).ended > 8 * turns / 2
        assert {hook for hook, _ in one.denials()} <= {"connect"}


def test_one_too_many_is_denied_and_told(one: Client) -> None:
    with one.listen() as door:
        one.do("kept = []")
        for _ in range(FLOWS_MAX):
            assert one.do(NEW, f"s.connect({FIRST})", "kept.append(s)") is None
        assert flows(one) == FLOWS_MAX
        assert one.do(NEW, f"s.connect({SECOND})") == "EPERM"
        assert one.do("s = socket.socket(INET6)", f"s.connect({SIX})") == "EPERM"
        more = ": too many connections at once"
        assert one.denials() == {
            ("connect", f"203.0.113.10:443 tcp{more}"): 1,
            ("connect", f"[2001:db8::9]:443 tcp{more}"): 1,
        }
        # Datagram sockets are none.
        assert one.do("s = socket.socket(INET, DGRAM)", f"s.connect({FIRST})") is None
        one.do("kept.pop().close()")
        until(lambda: flows(one) < FLOWS_MAX)
        assert one.do(NEW, f"s.connect({SECOND})") is None
        assert [asked(one, door.accept()[1]) for _ in range(FLOWS_MAX + 1)] == (
            ["203.0.113.9"] * FLOWS_MAX + ["203.0.113.10"]
        )
        one.do("s.close()", "kept.clear()")


def test_a_flood_gets_no_more_than_it_may_have(one: Client) -> None:
    one.do(
        "connected = []",
        "def flood():\n"
        "    for n in range(50):\n"
        "        s = socket.socket()\n"
        "        try: s.connect(('203.0.113.9', 443))\n"
        "        except PermissionError: continue\n"
        "        connected.append(s)\n",
        "threads = [threading.Thread(target=flood) for n in range(32)]",
    )
    with one.listen() as door:
        one.do("for one in threads: one.start()\n", "for one in threads: one.join()\n")
        connected = one.do("len(connected)")
        assert flows(one) == FLOWS_MAX
        # More than one may be asked about before any is counted: then the broker knows of none.
        told = [asked(one, door.accept()[1]) for _ in range(connected)]
        assert told.count("203.0.113.9") == FLOWS_MAX
        assert told.count("") == connected - FLOWS_MAX
        detail = "203.0.113.9:443 tcp: too many connections at once"
        assert one.denials() == {("connect", detail): 32 * 50 - FLOWS_MAX}
        one.do("for s in connected: s.close()\n")


def test_who_is_refused_can_ask_again_by_the_same_socket(one: Client) -> None:
    assert one.do(NEW, f"s.connect({FIRST})") == "ECONNREFUSED"
    assert one.do("s.getpeername()") == "ENOTCONN"
    assert flows(one) == 0
    with one.listen() as door, one.listen(5000) as other:
        assert one.do(f"s.connect({SECOND})", "s.getpeername()") == ["203.0.113.10", 443]
        accepted, peer = door.accept()
        assert asked(one, peer) == "203.0.113.10"
        assert one.do("unspecified(s)", "s.getpeername()") == "ENOTCONN"
        assert flows(one) == 0
        accepted.close()
        # Denied, and then to its own loopback: nothing of what it was led to is left.
        assert one.do(f"s.connect({NOWHERE})") == "EPERM"
        assert one.do("s.connect(('127.0.0.1', 5000))", "s.getpeername()") == ["127.0.0.1", 5000]
        accepted, peer = other.accept()
        assert asked(one, peer) == ""
        accepted.close()
        assert one.do("unspecified(s)", f"s.connect({FIRST})") is None
        accepted, peer = door.accept()
        assert asked(one, peer) == "203.0.113.9"
        assert flows(one) == 1
        one.do("s.close()")
        accepted.close()


def test_the_own_address_tells_connections_from_one_port_apart(one: Client) -> None:
    with one.listen() as door:
        for name, home, to in (("a", "127.0.0.5", FIRST), ("b", "127.0.0.6", SECOND)):
            one.do(f"{name} = socket.socket()", f"{name}.setsockopt(1, 2, 1)")
            assert one.do(f"{name}.bind(('{home}', 4000))", f"{name}.connect({to})") is None
        found = {(peer := door.accept()[1])[0]: asked(one, peer) for _ in range(2)}
        assert found == {"127.0.0.5": "203.0.113.9", "127.0.0.6": "203.0.113.10"}
        # From one address and port there can be one connection through the door.
        one.do("c = socket.socket()", "c.setsockopt(1, 2, 1)", "c.bind(('127.0.0.5', 4000))")
        assert one.do(f"c.connect({SECOND})") == "EADDRNOTAVAIL"
        assert asked(one, ("127.0.0.5", 4000)) == "203.0.113.9"
        assert flows(one) == 2
        one.do("a.close(); b.close(); c.close()")


def test_a_broker_that_is_late_still_learns_what_it_was(one: Client) -> None:
    """A program may connect, send and close before anybody has accepted it."""
    with one.listen() as door:
        one.do(NEW, f"s.connect({FIRST})", "n = s.send(b'gone')", "s.close()")
        until(lambda: flows(one) == 0)
        accepted, peer = door.accept()
        assert asked(one, peer) == "203.0.113.9"
        assert accepted.recv(10) == b"gone"
        accepted.close()
        for _ in range(layout.FLOWS_ENDED_MAX - 1):
            one.do(NEW, f"s.connect({SECOND})", "s.close()")
            door.accept()[0].close()
        assert asked(one, peer) == "203.0.113.9"
        one.do(NEW, f"s.connect({SECOND})", "s.close()")
        door.accept()[0].close()
        assert asked(one, peer) == ""


def test_a_port_that_is_used_again_tells_what_is_asked_for_now(one: Client) -> None:
    bind = "s.bind(('127.0.0.1', 4001))"
    reset = "s.setsockopt(1, 13, struct.pack('ii', 1, 0))"
    peer = ("127.0.0.1", 4001)
    with one.listen() as door:
        assert one.do(NEW, reset, bind, f"s.connect({FIRST})", "s.close()") is None
        door.accept()[0].close()
        assert asked(one, peer) == "203.0.113.9"
        assert one.do(NEW, reset, bind, f"s.connect({SECOND})") is None
        door.accept()[0].close()
        assert asked(one, peer) == "203.0.113.10"
        assert flows(one) == 1
        # The row of the first is the same as of the second: its turn to go is over.
        for _ in range(layout.FLOWS_ENDED_MAX):
            one.do("t = socket.socket()", f"t.connect({FIRST})", "t.close()")
            door.accept()[0].close()
        assert asked(one, peer) == "203.0.113.10"
        one.do("s.close()")


def test_a_connection_in_the_making_is_counted_until_it_is_given_up(one: Client) -> None:
    with one.listen(backlog=0) as door:
        waiting = "for s in made: s.setblocking(False); s.connect_ex(('203.0.113.9', 443))\n"
        one.do("made = [socket.socket() for n in range(4)]", waiting)
        assert flows(one) == 4
        one.do("for s in made: s.close()\n")
        # Those that nobody has answered are over at once, and the others as they are answered.
        until(lambda: flows(one) == 0)
        assert door.fileno() >= 0


def test_fast_open_that_never_sends_is_nothing(one: Client) -> None:
    with one.listen() as door:
        defer = "s.setsockopt(6, FASTOPEN_CONNECT, 1)"
        # Of the first connection the client learns that it may.
        one.do(NEW, defer, f"s.connect({FIRST})", "n = s.send(b'x')", "s.close()")
        door.accept()[0].close()
        until(lambda: flows(one) == 0)
        before = row_of(one).ended
        one.do(NEW, defer, f"s.connect({FIRST})", "s.close()")
        until(lambda: flows(one) == 0)
        assert row_of(one).ended <= before + 1


def test_what_a_dead_process_leaves_is_counted_until_the_other_side_is_done(one: Client) -> None:
    with one.listen() as door:
        assert one.do(NEW, f"s.connect({FIRST})", *FILL) is None
        accepted, peer = door.accept()
        one.process.kill()
        one.process.wait()
        # It has still something to send.
        assert flows(one) == 1
        assert asked(one, peer) == "203.0.113.9"
        accepted.close()
        until(lambda: flows(one) == 0)


def test_nothing_is_left_of_a_call_whose_socket_outlives_it(fenced: Calls) -> None:
    with fenced.client("orphan") as one:
        one.open(*PLACES)
        with one.listen() as door:
            fill = (
                "try:\n    while True: n = s.send(bytes(1 << 16))\nexcept BlockingIOError: pass\n"
            )
            one.do(NEW, f"s.connect({FIRST})", "s.setblocking(False)", fill)
            accepted, peer = door.accept()
            one.process.kill()
            one.process.wait()
            assert asked(one, peer) == "203.0.113.9"
            one.watch.close()
            assert asked(one, peer) == ""
            assert list(fenced.fence._doors.origins.all_keys()) == []
            accepted.close()
