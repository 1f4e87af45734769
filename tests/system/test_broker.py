"""A real broker, with a real fence before it: bytes, both ways, and what is told of them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import time
from pathlib import Path

import pytest

from supervisor.call.events import Denied, Flow, Lost, Verdict, Wall
from supervisor.egress import client
from supervisor.egress.control import FLOWS_MAX
from supervisor.errors import BrokerFailed
from tests.support.brokers import (
    ECHO,
    ECHO6,
    FAR,
    FAR6,
    FAR_MORE,
    MIB,
    NEAR,
    PORT,
    WAIT_S,
    Rig,
    rig,
    rule,
)
from tests.support.rounds import rounds

RESET = struct.pack("ii", 1, 0)


def receive(far: socket.socket, count: int) -> bytes:
    parts = []
    while count and (part := far.recv(min(count, MIB))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def taken(here: Rig, count: int) -> int:
    """Have the client read so many bytes, or to the end; give how many."""
    here.client.do(
        "n = 0", f"while n < {count} and (data := s.recv({count} - n)): n += len(data)\n"
    )
    return int(here.client.do("n"))


def refused(here: Rig) -> None:
    """See that nobody is at the door, once the kernel has taken the dead process's sockets away."""
    end = time.monotonic() + WAIT_S
    said = None
    while said != "ECONNREFUSED" and time.monotonic() < end:
        said = here.client.do(f"socket.create_connection(('{FAR}', 9000)).close()")
    assert said == "ECONNREFUSED"


def test_bytes_move_both_ways() -> None:
    with rig(ECHO) as here, here.listen() as server:
        far = here.connected(server)
        assert here.client.do("s.sendall(b'ask')", "s.getpeername()[0]") == FAR
        assert far.recv(10) == b"ask"
        far.sendall(b"answer")
        assert here.client.do("s.recv(10).decode()") == "answer"
        far.close()
        assert here.client.do("s.recv(10).decode()") == ""
        here.client.do("s.close()")
        (flow,) = here.wait_for(Flow)
        assert flow.verdict is Verdict.CLOSED
        assert (flow.sent, flow.received, flow.name, flow.address) == (3, 6, FAR, FAR)
        assert (flow.port, flow.rule) == (9000, "203.0.113.0/24:9000")
        assert (flow.pid, flow.program) == (here.client.process.pid, b"python3")
        assert here.failed == []


def test_ipv6_is_the_same() -> None:
    with rig(ECHO6) as here, here.listen(host=FAR6) as server:
        far = here.connected(server, host=FAR6)
        here.client.do("s.sendall(b'ask')", "s.shutdown(1)")
        assert far.recv(10) == b"ask"
        far.close()
        (flow,) = here.wait_for(Flow)
        assert (flow.name, flow.address, flow.sent) == (FAR6, FAR6, 3)


def test_one_side_may_end_before_the_other() -> None:
    with rig(ECHO) as here, here.listen() as server:
        far = here.connected(server)
        here.client.do("s.sendall(b'all')", "s.shutdown(socket.SHUT_WR)")
        assert receive(far, 100) == b"all"
        far.sendall(b"then this")
        assert here.client.do("s.recv(100).decode()") == "then this"
        assert not here.flows
        far.close()
        assert here.client.do("s.recv(100).decode()") == ""
        (flow,) = here.wait_for(Flow)
        assert (flow.verdict, flow.sent, flow.received) == (Verdict.CLOSED, 3, 9)


def test_a_slow_reader_holds_its_writer_up_and_nobody_else() -> None:
    with rig(ECHO) as here, here.listen() as server:
        far, other = here.connected(server), here.connected(server, "other")
        far.setblocking(False)
        sent = 0
        still = time.monotonic() + 1
        while time.monotonic() < still:
            try:
                sent += far.send(bytes(MIB))
                still = time.monotonic() + 1
            except BlockingIOError:
                time.sleep(0.01)
            assert sent < 256 * MIB
        other.sendall(b"quick")
        assert here.client.do("other.recv(10).decode()") == "quick"
        far.close()
        assert taken(here, 256 * MIB) == sent
        here.client.do("s.close()")
        assert here.wait_for(Flow)[0].received == sent


def test_a_reset_goes_through_as_a_reset() -> None:
    with rig(ECHO) as here, here.listen() as server:
        far = here.connected(server)
        far.sendall(b"x")
        assert here.client.do("s.recv(10).decode()") == "x"
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        far.close()
        assert here.client.do("s.recv(10)") == "ECONNRESET"
        far = here.connected(server)
        reset = "s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))"
        here.client.do(reset, "s.close()")
        with pytest.raises(ConnectionResetError):
            far.recv(10)
        flows = here.wait_for(Flow, 2)
        assert [flow.verdict for flow in flows] == [Verdict.RESET] * 2
        assert flows[0].reason == "the far side: Connection reset by peer"
        assert flows[1].reason == "the sandbox's side: Connection reset by peer"


def test_a_reset_is_seen_though_nothing_is_read() -> None:
    with rig(ECHO) as here, here.listen() as server:
        far = here.connected(server)
        far.sendall(b"x")
        assert here.client.do("s.recv(1).decode()") == "x"
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            for _ in range(256):
                far.send(bytes(MIB))
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        far.close()
        assert here.wait_for(Flow)[0].verdict is Verdict.RESET


def test_many_connections_at_a_time() -> None:
    with rig(ECHO) as here, here.listen() as server:
        here.client.do(
            f"all = [socket.create_connection(('{FAR}', 9000), {WAIT_S}) for _ in range(200)]",
            "for n, one in enumerate(all): one.sendall(b'%d' % n)\n",
        )
        fars = [server.accept()[0] for _ in range(200)]
        for far in fars:
            far.sendall(b"<" + far.recv(10) + b">")
        said = here.client.do("[one.recv(10).decode() for one in all]")
        assert said == [f"<{n}>" for n in range(200)]
        here.client.do("for one in all: one.close()\n")
        for far in fars:
            far.close()
        assert {flow.verdict for flow in here.wait_for(Flow, 200)} == {Verdict.CLOSED}


def test_nobody_gets_straight_to_the_door() -> None:
    """The kernel says no; who came there all the same: tests/unit/egress/test_connection.py."""
    with rig(ECHO) as here:
        assert here.client.do(f"socket.create_connection(('127.0.0.1', {PORT}))") == "EPERM"


def test_what_was_sent_arrives_though_its_program_has_closed_the_connection() -> None:
    with rig(ECHO) as here, here.listen() as server:
        fire = f"s = socket.create_connection(('{FAR}', 9000)); s.sendall(b'fire'); s.close()"
        for _ in range(20):
            assert here.client.do(fire) is None
        for _ in range(20):
            far, _ = server.accept()
            assert receive(far, 100) == b"fire"
            far.close()
        assert [flow.sent for flow in here.wait_for(Flow, 20)] == [4] * 20
        assert not here.denials


def test_the_hosts_own_address_is_not_dialled() -> None:
    with rig(ECHO) as here:
        said = here.client.do(f"s = socket.create_connection(('{NEAR}', 9000))", "s.recv(1)")
        assert said == "ECONNRESET"
        (denied,) = here.wait_for(Denied)
        assert denied.name == "dial"
        assert denied.detail == f"{NEAR}:9000 {NEAR}: the host's own address"
        assert denied.rule == "egress: 203.0.113.0/24:9000"


def test_a_place_where_nobody_listens_is_a_failed_flow() -> None:
    with rig(ECHO) as here:
        assert here.client.do(f"s = socket.create_connection(('{FAR_MORE}', 9000))", "s.recv(1)")
        (flow,) = here.wait_for(Flow)
        assert (flow.verdict, flow.reason) == (Verdict.FAILED, "Connection refused")
        assert flow.address == FAR_MORE
        assert not here.denials


@pytest.mark.parametrize("down", [True, False], ids=["down", "up"])
def test_the_budget_is_exact_to_the_byte(down: bool) -> None:
    budget = 3 * MIB + 1
    with rig(ECHO, egress_bytes=budget) as here, here.listen() as server:
        far = here.connected(server)
        other = here.connected(server, "other")
        if down:
            far.sendall(bytes(budget))
            assert taken(here, budget) == budget
            assert not here.denials
            far.sendall(b"x")
            assert here.client.do("s.recv(1)") == "ECONNRESET"
        else:
            here.client.do(f"s.sendall(bytes({budget}))")
            assert len(receive(far, budget)) == budget
            assert not here.denials
            here.client.do("s.sendall(b'x')")
            with pytest.raises(ConnectionResetError):
                far.recv(1)
        with pytest.raises(ConnectionResetError):
            other.recv(1)
        (denied,) = here.wait_for(Denied)
        assert (denied.wall, denied.name, denied.rule) == (Wall.LIMIT, "egress", "limits.egress")
        assert (denied.used, denied.allowed) == (budget, budget)
        said = here.client.do(f"t = socket.create_connection(('{FAR}', 9000))", "t.recv(1)")
        assert said == "ECONNRESET"
        flows = here.wait_for(Flow, 3)
        assert {flow.verdict for flow in flows} == {Verdict.BUDGET}
        assert sum(flow.sent + flow.received for flow in flows) == budget
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_budget_that_is_just_enough_is_enough() -> None:
    with rig(ECHO, egress_bytes=MIB) as here, here.listen() as server:
        far = here.connected(server)
        far.sendall(bytes(MIB))
        far.close()
        assert taken(here, 2 * MIB) == MIB
        here.client.do("s.close()")
        assert here.wait_for(Flow)[0].verdict is Verdict.CLOSED
        assert not here.denials


def test_a_killed_broker_closes_the_door() -> None:
    with rig(ECHO) as here, here.listen() as server:
        far = here.connected(server)
        os.kill(here.pid(), signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            far.recv(10)
        assert here.client.do("s.recv(10)") == "ECONNRESET"
        assert here.wait_for(Lost) == [Lost(what="flow", count=0, reason="BROKER_GONE")]
        refused(here)
        (error,) = here.failed
        assert isinstance(error, BrokerFailed)
        assert error.reason == "BROKER_GONE"
        assert not here.broker.alive


def test_a_zygote_that_dies_takes_its_brokers_with_it() -> None:
    with rig(ECHO) as here, here.listen() as server:
        far = here.connected(server)
        os.kill(here.run(_pid_of_zygote(here)), signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            far.recv(10)
        assert here.client.do("s.recv(10)") == "ECONNRESET"
        here.wait_for(Lost)
        assert [error.reason for error in here.failed if isinstance(error, BrokerFailed)] == [
            "BROKER_GONE"
        ]


async def _pid_of_zygote(here: Rig) -> int:
    text = Path(f"/proc/self/fdinfo/{here.zygote._pidfd}").read_text()
    return int(text.split("Pid:")[1].split()[0])


def test_the_end_of_a_call_ends_its_flows_and_tells_them() -> None:
    with rig(ECHO) as here, here.listen() as server:
        far, second = here.connected(server), here.connected(server, "t")
        far.sendall(b"some")
        assert here.client.do("s.recv(10).decode()") == "some"
        here.run(here.broker.finish())
        assert [flow.verdict for flow in here.flows] == [Verdict.STOPPED] * 2
        assert sorted(flow.received for flow in here.flows) == [0, 4]
        for one in (far, second):
            with pytest.raises(ConnectionResetError):
                one.recv(1)
        refused(here)
        assert here.failed == []
        assert here.lost == []
        assert not here.broker.alive


def test_a_broker_that_does_not_end_is_killed_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "FINISH_S", 0.5)
    with rig(ECHO) as here, here.listen() as server:
        far = here.connected(server)
        pid = here.pid()
        os.kill(pid, signal.SIGSTOP)
        here.run(here.broker.finish())
        assert here.lost == [Lost(what="flow", count=0, reason="BROKER_GONE")]
        assert here.failed == []
        with pytest.raises(ConnectionResetError):
            far.recv(1)


def test_the_kernel_confines_it() -> None:
    """What `confine` promises, read from the kernel; by effect: tests/unit/egress/test_confine."""
    with rig(ECHO) as here:
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{here.pid()}/status").read_text().splitlines()
        )
        assert set(status["Uid"].split()) == {status["Gid"].split()[0]} != {"0"}
        assert status["Groups"].split() == []
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[capabilities], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        root = Path(f"/proc/{here.pid()}/root")
        assert list(root.iterdir()) == []
        fds = sorted(int(fd.name) for fd in Path(f"/proc/{here.pid()}/fd").iterdir())
        # Null three times, control, origins, six listeners, and what asyncio and the relays made.
        assert len(fds) == 15, fds
        kinds = {os.readlink(f"/proc/{here.pid()}/fd/{fd}").partition(":")[0] for fd in fds}  # noqa: PTH115
        assert kinds == {"/dev/null", "socket", "anon_inode"}


@pytest.mark.slow
@pytest.mark.timeout(rounds(120))
def test_a_thousand_flows_leave_nothing_behind() -> None:
    with rig(ECHO, flows_max=FLOWS_MAX) as here, here.listen() as server:
        # The interpreter's own heap and collector take some rounds to be as large as they get.
        for _ in range(4):
            _thousand(here, server)
        fds, resident = _size(here)
        for _ in range(rounds(4)):
            _thousand(here, server)
        fds_after, resident_after = _size(here)
        assert fds_after <= fds
        assert resident_after - resident < 4 * MIB
        assert {flow.verdict for flow in here.flows} == {Verdict.CLOSED}


def _thousand(here: Rig, server: socket.socket) -> None:
    before = len(here.flows)
    here.client.do(
        f"all = [socket.create_connection(('{FAR}', 9000), {WAIT_S}) for _ in range(1000)]",
        "for n, one in enumerate(all): one.sendall(b'%d' % n)\n",
    )
    fars = [server.accept()[0] for _ in range(1000)]
    for far in fars:
        far.sendall(far.recv(10))
    assert here.client.do("sum(int(one.recv(10)) for one in all)") == sum(range(1000))
    here.client.do("for one in all: one.close()\n")
    for far in fars:
        far.close()
    here.wait_for(Flow, before + 1000)


def _size(here: Rig) -> tuple[int, int]:
    fds = len(list(Path(f"/proc/{here.pid()}/fd").iterdir()))
    pages = int(Path(f"/proc/{here.pid()}/statm").read_text().split()[1])
    return fds, pages * os.sysconf("SC_PAGE_SIZE")


def test_no_more_connections_than_there_may_be() -> None:
    with rig(ECHO, flows_max=3) as here, here.listen() as server:
        fars = [here.connected(server, f"s{n}") for n in range(3)]
        assert here.client.do(f"socket.create_connection(('{FAR}', 9000), 1)") == "EPERM"
        fars[0].close()
        here.client.do("s0.close()")
        here.wait_for(Flow)
        here.connected(server, "t")


def test_a_rule_is_for_its_ports() -> None:
    """The kernel says no first; the broker would, too: tests/unit/egress/test_connection.py."""
    with rig(rule("203.0.113.0/24", 9000)) as here, here.listen(9001):
        said = here.client.do(f"socket.create_connection(('{FAR}', 9001), 5)")
        assert said == errno.errorcode[errno.EPERM]
