"""Flags that hide above bit 31: the kernel drops those bits, a filter on 32 bits does as well.

BPF looks at 32 bits at a time; a filter that compares the low word only lets
`clone(CLONE_NEWUSER | 1 << 32)` through, and one that compares for "not equal" with all 64 lets
`ioctl(TIOCSTI | 1 << 32)` through (firedancer #9172, CVE-2019-7303).
"""

from __future__ import annotations

from tests.escape.arena import NOWHERE, Row, expect_refused
from tests.support.daemon import Daemon

HIGH = 1 << 32
TOP = 1 << 63
AF_UNIX, AF_INET, AF_PACKET, SOCK_STREAM, SOCK_RAW = 1, 2, 17, 1, 3
CLONE_NEWUSER, SIGCHLD = 0x10000000, 17
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
PR_SET_SECCOMP = 22
ADDR_NO_RANDOMIZE = 0x40000
DEVICE = 0o20666

ROWS = (
    Row("clone", (CLONE_NEWUSER | SIGCHLD | HIGH,)),
    Row("clone", (SIGCHLD | HIGH,)),
    Row("clone", (SIGCHLD | TOP,)),
    Row("unshare", (CLONE_NEWUSER | HIGH,)),
    Row("ioctl", (0, TIOCSTI | HIGH, NOWHERE)),
    Row("ioctl", (0, TIOCSTI | TOP, NOWHERE)),
    Row("ioctl", (0, TIOCLINUX | HIGH, NOWHERE)),
    Row("prctl", (PR_SET_SECCOMP | HIGH, 2, NOWHERE)),
    Row("personality", (ADDR_NO_RANDOMIZE | HIGH,)),
    Row("mknod", (NOWHERE, DEVICE | HIGH, 0x103)),
    Row("socket", (AF_PACKET | HIGH, SOCK_RAW, 0)),
    Row("socket", (AF_UNIX | HIGH, SOCK_STREAM, 0)),
    Row("socket", (AF_INET, SOCK_RAW | HIGH, 1)),
    Row("socketpair", (AF_UNIX | HIGH, SOCK_STREAM, 0, NOWHERE)),
)

TERMINALS = (
    Row("ioctl", (0, TIOCSTI, NOWHERE)),
    Row("ioctl", (0, TIOCLINUX, NOWHERE)),
)


def test_high_bits_hide_nothing(daemon: Daemon) -> None:
    expect_refused(daemon, ROWS, profile="net")


def test_input_cannot_be_pushed_into_a_terminal(daemon: Daemon) -> None:
    expect_refused(daemon, TERMINALS)
