"""What the kernel keeps for all calls together: no cgroup counts it, and no namespace divides it.

Socket filters go through the kernel's one BPF compiler: some thousand of them, freed at once, were
seen to stop a 6.18 host's every later filter for good. So one is attached here, never many.
"""

from __future__ import annotations

import errno
import json

from supervisor.oci.spec import PTYS_MAX
from tests.escape.arena import NO_FD, NOWHERE, Row, confined, expect_refused, on_host
from tests.support.daemon import Daemon

HIGH = 1 << 32
SOL_SOCKET, SOL_IPV6 = 1, 41
ATTACH_FILTER, ATTACH_BPF, ATTACH_REUSEPORT_CBPF, ATTACH_REUSEPORT_EBPF = 26, 50, 51, 52
IPV6_V6ONLY = 26
OFD_SETLK, OFD_SETLKW, SETLEASE, NOTIFY = 37, 38, 1024, 1026
CLONE_FILES, SIGCHLD = 0x400, 17
TIOCSETD = 0x5423

ROWS = (
    *(
        Row("setsockopt", (NO_FD, SOL_SOCKET | high, option | high, NOWHERE, 16))
        for option in (ATTACH_FILTER, ATTACH_BPF, ATTACH_REUSEPORT_CBPF, ATTACH_REUSEPORT_EBPF)
        for high in (0, HIGH)
    ),
    *(
        Row("fcntl", (NO_FD, command | high, NOWHERE))
        for command in (OFD_SETLK, OFD_SETLKW, SETLEASE, NOTIFY)
        for high in (0, HIGH)
    ),
    Row("ioctl", (NO_FD, TIOCSETD, NOWHERE)),
    Row("ioctl", (NO_FD, TIOCSETD | HIGH, NOWHERE)),
    Row("clone", (CLONE_FILES | SIGCHLD,)),
    Row("clone", (CLONE_FILES | SIGCHLD | HIGH,)),
)

EVIDENCE = {
    "socket filter": "setsockopt",
    "OFD lock": "fcntl",
    "OFD lock, waiting": "fcntl",
    "lease": "fcntl",
    "dnotify": "fcntl",
    "shared descriptors": "clone",
    "line discipline": "ioctl",
}


def test_it_is_refused_and_on_record(daemon: Daemon) -> None:
    expect_refused(daemon, ROWS, profile="net")


def test_it_works_on_a_host_and_not_in_a_sandbox(daemon: Daemon) -> None:
    outside = json.loads(on_host("take_uncounted.py").stdout)
    assert outside.pop("terminals") > PTYS_MAX
    assert outside == dict.fromkeys(EVIDENCE, 0)
    trial = confined(daemon, "take_uncounted.py")
    inside = trial.said()
    assert inside.pop("terminals") == PTYS_MAX
    assert inside == dict.fromkeys(EVIDENCE, errno.EPERM)
    assert {name for body in trial.denied if (name := body["name"])} == set(EVIDENCE.values())
    assert trial.count("fcntl") == 4


def test_the_same_number_at_another_level_is_left(daemon: Daemon) -> None:
    script = (
        "import socket\n"
        "one = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)\n"
        f"one.setsockopt({SOL_IPV6}, {IPV6_V6ONLY}, 1)\n"
        f"print(one.getsockopt({SOL_IPV6}, {IPV6_V6ONLY}))\n"
    )
    call = daemon.client.run(["python3", "-c", script], profile="net")
    assert (call.stdout, list(call.denials)) == (b"1\n", [])
