"""The bypass matrix: every way out that was ever found to lead past one hook or another.

Each row is tried twice by the same program in the same container, once in a cgroup that is fenced
and once in one that is not, over a wire to a namespace that plays the internet. That one says what
really came out: frames, by marks that every frame of the row has, and applications' data. The
fenced container goes first, so what it sends cannot hide behind what is allowed later.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from supervisor.linux.cgroup import Cgroup
from tests.support.internet import FAR4, FAR6, FAR_MORE, NEAR4, NEAR6, PORT, Internet
from tests.support.unwalled import PYTHON, Denials, Ground, denials

STREAM, DGRAM, RAW = 1, 2, 3
MPTCP, SCTP, L2TP, UDPLITE, SMC, GRE = 262, 132, 115, 136, 256, 47
UNIX, KEY, NETLINK, PPPOX, VSOCK, XDP = 1, 15, 16, 24, 40, 44
PROTOCOLS = {KEY: 2, NETLINK: 16}
"""PF_KEY_V2 and NETLINK_GENERIC, where 0 would not do."""

LISTENING = "listening"
FIRST = 10
"""The number of the first row, and the last part of its address."""

LACKING = {"EPROTONOSUPPORT", "EAFNOSUPPORT", "ESOCKTNOSUPPORT", "ENOTSUP", "ENOSYS"}
"""What a kernel says to a row that it has not got."""

# Makes sockets outside of every sandbox, to be handed in as 3, 4 and 5, and becomes the runtime.
PASSING = """
import fcntl, os, socket, sys
udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
udp.connect((sys.argv[1], 443))
connected = socket.create_connection((sys.argv[2], 443))
high = [fcntl.fcntl(one, fcntl.F_DUPFD, 20) for one in (udp, tcp, connected)]
for number, fd in enumerate(high, 3):
    os.dup2(fd, number)
os.execvp(sys.argv[3], sys.argv[3:])
"""
PASSED = 3
PASSED_TO = ("203.0.113.254", "203.0.113.253")
WAIT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way out, and its attempt in programs/leave.py.

    `told` is how the record calls it, none where no hook sees it. `answer` is what the program
    says where nothing stops it; `heard`: an application over there gets `token`. A row that is
    `optional` is one that not every kernel has.
    """

    name: str
    way: str
    arguments: dict[str, Any]
    told: tuple[str, str] | None
    marks: tuple[bytes, ...]
    token: str
    answer: str
    heard: bool
    optional: bool

    def __str__(self) -> str:
        return self.name

    @property
    def reaches(self) -> set[str]:
        """Say how it gets through where nothing stops it."""
        return set() if self.answer == "made" else {"wire", *(["heard"] * self.heard)}


@dataclass(slots=True)
class Table:
    """Rows in the making, each with an address and a text of its own."""

    first: int = FIRST
    rows: list[Row] = field(default_factory=list)

    def add(
        self, name: str, way: str, told: str = "", *, to: str = "", mark: str = "",
        answer: str = "sent", heard: bool = False, optional: bool = False, **arguments: Any,
    ) -> None:  # fmt: skip
        """Add a row.

        `to` is an address, or one of 4, 6 and "mapped" for one that is the row's own and so a mark
        of its frames; `mark` is another such address. In `told`, hook and detail, {place} stands
        for address and port.
        """
        number = self.first + len(self.rows)
        token = f"<row {number}, {name}>"
        fresh = {
            "4": f"203.0.113.{number}",
            "6": f"2001:db8:1::{number:x}",
            "mapped": f"::ffff:203.0.113.{number}",
        }
        marks = [packed(one) for one in (fresh.get(to, ""), mark) if one]
        to = fresh.get(to, to)
        hook, _, detail = told.format(place=place(to), to=plain(to)).partition(" ")
        self.rows.append(
            Row(
                name=name,
                way=way,
                arguments={**arguments, "token": token, **({"to": to} if to else {})},
                told=(hook, detail) if hook else None,
                marks=(token.encode(), *marks),
                token=token,
                answer=answer,
                heard=heard,
                optional=optional,
            )
        )


def plain(address: str) -> str:
    """Give an address as it is told: an IPv4 address in IPv6's clothes is an IPv4 address."""
    return address.removeprefix("::ffff:")


def place(address: str) -> str:
    """Give an address and the port as they are told."""
    four = plain(address)
    return f"[{four}]:{PORT}" if ":" in four else f"{four}:{PORT}"


def packed(address: str) -> bytes:
    """Give an address as it is in a packet."""
    return ipaddress.ip_address(plain(address)).packed


def _streams(table: Table) -> None:
    tcp = {"told": "connect {place} tcp", "answer": "heard", "heard": True}
    for family, inet in ((4, "inet"), (6, "inet6")):
        mine: dict[str, Any] = {"to": str(family), "family": family}
        table.add(f"tcp{family}", "tcp", **tcp, **mine)
        table.add(f"fastopen{family} sendto", "fast_open", **tcp, **mine)
        table.add(f"fastopen{family} connect", "fast_open_connect", **tcp, **mine)
        table.add(f"tcp{family} in repair", "repair", "connect {place} tcp", **mine)
        maybe: dict[str, Any] = {"way": "tcp", "answer": "heard", "heard": True, "optional": True}
        for name, protocol in (("mptcp", MPTCP), ("smc as tcp", SMC)):
            told = f"socket {inet} stream {protocol}"
            table.add(f"{name}{family}", told=told, protocol=protocol, **maybe, **mine)
        # SCTP answers at an interface's own addresses only.
        to = FAR_MORE[3 if family == 4 else 4]
        table.add(
            f"sctp{family}", told=f"socket {inet} stream sctp", to=to, mark=to, family=family,
            protocol=SCTP, **maybe,
        )  # fmt: skip
    table.add("tcp4 as tcp6", "tcp", **tcp, to="mapped", family=6)
    table.add(
        "tcp6 link-local", "tcp", **tcp, to=FAR_MORE[0], mark=FAR_MORE[0], family=6, scoped=True
    )
    table.add("tcp4 from a cgroup below", "from_below", **tcp, to="4")
    table.add("smc", "smc", "connect {place} tcp", to="4", heard=True, optional=True)
    table.add("dccp", "dccp", "socket inet type 6 33", to="4", optional=True)


def _datagrams(table: Table) -> None:
    sendto, connect = "sendmsg {place} udp", "connect {place} udp"
    for family, inet in ((4, "inet"), (6, "inet6")):
        mine: dict[str, Any] = {"to": str(family), "family": family}
        table.add(f"udp{family} sendto", "udp", sendto, heard=True, **mine)
        table.add(f"udp{family} connect", "udp_connected", connect, heard=True, **mine)
        table.add(
            f"udp{family} connected, sent elsewhere", "udp_elsewhere", sendto, heard=True, **mine
        )
        table.add(f"udp{family} sendmmsg", "udp_many", sendto, heard=True, **mine)
        table.add(
            f"udplite{family}", "datagram_protocol", f"socket {inet} dgram udplite", heard=True,
            protocol=UDPLITE, optional=True, **mine,
        )  # fmt: skip
        table.add(
            f"l2tp{family}", "datagram_protocol", f"socket {inet} dgram {L2TP}", protocol=L2TP,
            optional=True, **mine,
        )  # fmt: skip
    for way, told, link in (
        ("udp", sendto, FAR_MORE[1]),
        ("udp_connected", connect, FAR_MORE[2]),
    ):
        table.add(f"udp4 as udp6: {way}", way, told, to="mapped", family=6, heard=True)
        table.add(
            f"udp6 link-local: {way}", way, told, to=link, mark=link, family=6, scoped=True,
            heard=True,
        )  # fmt: skip
    odd: dict[str, Any] = {"to": "4", "named": socket.AF_INET, "family": 6, "heard": True}
    table.add("udp6 sendto AF_INET", "udp_odd_family", sendto, **odd)
    table.add("udp6 connect AF_INET", "udp_odd_family", connect, connects=True, **odd)
    table.add("udp4 sendto AF_UNSPEC", "udp_odd_family", sendto, **{**odd, "named": 0, "family": 4})
    table.add("udp4 multicast", "udp", sendto, to="224.0.0.251", family=4)
    table.add("udp6 multicast", "udp", sendto, to="ff02::fb", family=6, scoped=True)
    table.add("broadcast", "udp_broadcast", sendto, to="255.255.255.255", heard=True)
    table.add("broadcast to the net", "udp_broadcast", sendto, to="192.0.2.255", heard=True)
    # Nobody is there: the kernel asks for them all the same, and who is asked for is a message.
    for name, to, family in (("arp", "192.0.2.200", 4), ("ndp", "2001:db8::200", 6)):
        table.add(f"{name} for nobody", "udp", sendto, to=to, mark=to, family=family)


def _tricks(table: Table) -> None:
    """Loopback to a hook on addresses, and elsewhere in truth; and somebody else as the sender."""
    device: dict[str, Any] = {"way": "loopback_by_device", "told": "egress {to}"}
    table.add("loopback4 by device", to="127.9.0.9", mark="127.9.0.9", family=4, **device)
    table.add("loopback6 by device", to="::1", family=6, **device)
    table.add("loopback4 by source route", "loopback_by_source_route", "egress {to}", to="4")
    table.add("loopback6 by segment", "loopback_by_segment", "egress {to}", to="6")
    for family, source in ((4, "192.0.2.77"), (6, "2001:db8::77")):
        table.add(
            f"spoofed udp{family}", "spoofed", f"bind {source} udp", to=str(family), mark=source,
            source=source, family=family, heard=True,
        )  # fmt: skip


def _raw(table: Table) -> None:
    for family, inet, icmp in ((4, "inet", "icmp"), (6, "inet6", "icmp6")):
        mine: dict[str, Any] = {"to": str(family), "family": family}
        echo = {"way": "ping", "answer": "heard", **mine}
        table.add(f"raw icmp{family}", told=f"socket {inet} raw {icmp}", kind=RAW, **echo)
        table.add(f"ping{family}", told=f"socket {inet} dgram {icmp}", kind=DGRAM, **echo)
        table.add(
            f"raw ip{family} with its header", "header_included", f"socket {inet} raw 255",
            heard=True, **mine,
        )  # fmt: skip


def _uring(table: Table) -> None:
    tcp = {"told": "connect {place} tcp", "answer": "heard", "heard": True, "to": "4"}
    table.add("io_uring connect", "uring_connect", **tcp)
    table.add("io_uring connect by a worker", "uring_connect", **tcp, aside=True)
    table.add("io_uring connect by a polling thread", "uring_connect", **tcp, polled=True)
    table.add("io_uring sendmsg", "uring_sendmsg", "sendmsg {place} udp", to="4", heard=True)
    table.add(
        "io_uring fastopen", "uring_sendmsg", "connect {place} tcp", to="4", heard=True, fast=True
    )
    table.add(
        "io_uring socket", "uring_socket", f"socket inet raw {GRE}", answer="made", kind=RAW,
        protocol=GRE,
    )  # fmt: skip
    table.add(
        "io_uring join", "uring_join", "setsockopt inet option 35: join a group",
        group="239.7.0.9", mark="239.7.0.9", optional=True,
    )  # fmt: skip


def _groups(table: Table) -> None:
    for name, way, option, group, arguments in (
        ("igmp join", "join", 35, "239.7.0.1", {}),
        ("igmp join by address", "join", 35, "239.7.0.2", {"by_index": False}),
        ("igmp join of a source", "join", 39, "232.7.0.3", {"source": "203.0.113.7"}),
        ("igmp join by an ipv6 socket", "join", 35, "239.7.0.4", {"on": 6}),
        ("igmp join by a long value", "join_by_long_value", 35, "239.7.0.7", {}),
        ("igmp join, both families", "join_any", 42, "239.7.0.5", {}),
        ("igmp source, both families", "join_any", 46, "232.7.0.6", {"source": "203.0.113.7"}),
        ("mld join", "join", 20, "ff05::7:1", {}),
        ("mld join, both families", "join_any", 42, "ff05::7:2", {}),
        ("mld source, both families", "join_any", 46, "ff35::7:3", {"source": "2001:db8:1::7"}),
    ):  # fmt: skip
        family, inet = (6, "inet6") if ":" in group else (4, "inet")
        table.add(
            name, way, f"setsockopt {inet} option {option}: join a group", mark=group,
            group=group, family=family, **arguments,
        )  # fmt: skip
    # The neighbours are told the group of those who ask for the address (RFC 4291, 2.7.1).
    table.add(
        "mld join of an anycast address", "join_anycast",
        "setsockopt inet6 option 27: join a group", group="2001:db8::a7:a07",
        mark="ff02::1:ffa7:a07",
    )  # fmt: skip


def _visits(table: Table) -> None:
    for family, far, home in ((4, FAR4, "127.0.0.1"), (6, FAR6, "::1")):
        table.add(
            f"reply to a visit by ipv{family}", "listen", f"ingress {far}",
            answer=f"{far} {home} {far} {home}", family=family,
        )  # fmt: skip


def few(first: int) -> tuple[Row, ...]:
    """Give one row for each family, to be tried from other places than a container."""
    table = Table(first=first)
    table.add("tcp4", "tcp", "connect {place} tcp", to="4", answer="heard", heard=True, family=4)
    table.add("udp6 sendto", "udp", "sendmsg {place} udp", to="6", heard=True, family=6)
    return tuple(table.rows)


def _stopped() -> tuple[Row, ...]:
    table = Table()
    for part in (_streams, _datagrams, _tricks, _raw, _uring, _groups, _visits):
        part(table)
    return tuple(table.rows)


def _unseen() -> tuple[Row, ...]:
    table = Table(first=FIRST + len(STOPPED))
    for name, bypass in (("packet", False), ("packet past the queues", True)):
        table.add(name, "packet_socket", to="4", heard=True, bypass=bypass)
    table.add("packet by its old name", "old_packet_socket", to="4", heard=True)
    table.add("rds", "rds", to="4", optional=True)
    for name, group, x32 in (("i386", "239.7.0.8", False), ("x32", "239.7.0.10", True)):
        table.add(
            f"igmp join by a call of {name}", "join_by_foreign_call", optional=True, mark=group,
            group=group, x32=x32,
        )  # fmt: skip
    table.add("loopback led elsewhere", "led_elsewhere", to="127.9.0.10", optional=True)
    table.add(
        "an address of its own", "own_address", mark="2001:db8::77:7", address="2001:db8::77:7"
    )
    for number, name, to in ((3, "udp", ""), (4, "tcp", "4"), (5, "connected tcp", "")):
        table.add(f"passed {name}", "passed", to=to, heard=True, fd=number)
    for name, family, kind in (
        ("netlink", NETLINK, RAW), ("unix", UNIX, STREAM), ("xdp", XDP, RAW),
        ("vsock", VSOCK, STREAM), ("key", KEY, RAW), ("pppox", PPPOX, STREAM),
    ):  # fmt: skip
        table.add(
            name, "only_made", answer="made", optional=name not in ("netlink", "unix"),
            family=family, kind=kind, protocol=PROTOCOLS.get(family, 0),
        )  # fmt: skip
    return tuple(table.rows)


STOPPED = _stopped()
"""What the fence stops by itself."""

UNSEEN = _unseen()
"""What no hook of the fence sees: other walls stop it."""

ROWS = (*STOPPED, *UNSEEN)

ALLOWED = {
    "127.0.0.1": "127.0.0.1",
    "127.9.8.7": "127.0.0.1",
    "0.0.0.0": "127.0.0.1",  # noqa: S104
    "::1": "::1",
    "::": "::1",
    "::ffff:127.0.0.1": "::ffff:127.0.0.1",
    "::ffff:0.0.0.0": "::ffff:127.0.0.1",
}
"""One's own loopback by all its names, and who visits there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """What came of all rows on one side: what the program said, and what was seen over there."""

    said: dict[str, str]
    visits: dict[str, str]
    frames: list[bytes]
    heard: list[str]

    def lacks(self, row: Row) -> bool:
        """Say whether the kernel has not got this row."""
        return row.optional and self.said[row.name] in LACKING

    def reached(self, row: Row) -> set[str]:
        """Say how a row got through: "wire" and "heard"."""
        found = set()
        if any(mark in frame for frame in self.frames for mark in row.marks):
            found.add("wire")
        if any(row.token in one for one in self.heard):
            found.add("heard")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Both halves, and what the fence told of the first."""

    confined: Half
    control: Half
    told: Denials


def line(findings: Findings, row: Row) -> str:
    """Give what was found of a row, as a line of the table."""
    control, confined = findings.control, findings.confined
    return " | ".join(
        (
            row.name,
            f"{control.said[row.name]} {sorted(control.reached(row))}",
            f"{confined.said[row.name]} {sorted(confined.reached(row))}",
            " ".join(row.told or ("no hook",)),
        )
    )


def find(ground: Ground, there: Internet) -> Findings:
    """Try every row on both sides."""
    call = ground.place("call", inside=True)
    watch = ground.watch(call)
    try:
        confined = half(ground, there, call, ROWS)
        told = denials(watch)
    finally:
        watch.close()
    control = half(ground, there, ground.place("call", inside=False), ROWS)
    return Findings(confined=confined, control=control, told=told)


def half(ground: Ground, there: Internet, call: Cgroup, rows: Sequence[Row]) -> Half:
    """Try rows in a cgroup."""
    tries = {row.name: (row.way, row.arguments) for row in rows}
    for to in ALLOWED:
        tries[to] = ("visit_self", {"family": 6 if ":" in to else 4, "to": to, "token": "own"})
    argv = [PYTHON, "leave.py", json.dumps(list(tries.values()))]
    runtime = ground.bundle(call, there.near, argv)
    runtime[-1:-1] = ["--preserve-fds", str(PASSED)]
    passing = [*there.inside, PYTHON, "-c", PASSING, *PASSED_TO, *runtime]
    frames_before, heard_before = there.everything()
    said, visits = {}, {}
    with subprocess.Popen(passing, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for name, (_, arguments) in tries.items():
            answer = json.loads(process.stdout.readline())
            if answer == LISTENING:
                to = NEAR4 if arguments["family"] == 4 else NEAR6
                visits[name] = there.visit(to, udp=True) + there.visit(to, udp=False)
                process.stdin.write(b"\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
            said[name] = answer
        process.stdin.close()
        assert process.wait(WAIT_S) == 0
    frames, heard = there.everything()
    return Half(
        said=said,
        visits=visits,
        frames=frames[len(frames_before) :],
        heard=heard[len(heard_before) :],
    )
