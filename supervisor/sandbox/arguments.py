"""Say in words what the registers of a denied system call mean.

Only registers: what they point to belongs to the program, and can change while one looks.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Sequence

_FLAGS_CLONE = {
    0x80: "CLONE_NEWTIME",
    0x400: "CLONE_FILES",
    0x20000: "CLONE_NEWNS",
    0x2000000: "CLONE_NEWCGROUP",
    0x4000000: "CLONE_NEWUTS",
    0x8000000: "CLONE_NEWIPC",
    0x10000000: "CLONE_NEWUSER",
    0x20000000: "CLONE_NEWPID",
    0x40000000: "CLONE_NEWNET",
}
_PTRACE = {0: "PTRACE_TRACEME", 16: "PTRACE_ATTACH", 0x4206: "PTRACE_SEIZE"}
_PRCTL = {22: "PR_SET_SECCOMP", 35: "PR_SET_MM", 62: "PR_SCHED_CORE"}
_IOCTL = {0x5412: "TIOCSTI", 0x541C: "TIOCLINUX", 0x5423: "TIOCSETD"}
_SOCKET_OPTIONS = {
    26: "SO_ATTACH_FILTER",
    50: "SO_ATTACH_BPF",
    51: "SO_ATTACH_REUSEPORT_CBPF",
    52: "SO_ATTACH_REUSEPORT_EBPF",
}
_FCNTL = {37: "F_OFD_SETLK", 38: "F_OFD_SETLKW", 1024: "F_SETLEASE", 1026: "F_NOTIFY"}
_AT_FDCWD = 0xFFFFFF9C
_KIND_MASK = 0xF
_INT = 0xFFFFFFFF


def describe(name: str, arguments: Sequence[int]) -> str:
    """Give the call as a line of C, with the constants that are known; "" where none is."""
    writer = _WRITERS.get(name)
    return writer(arguments) if writer else ""


def _namespaces(flags: int) -> str:
    known = [word for bit, word in _FLAGS_CLONE.items() if flags & bit]
    rest = flags & ~sum(_FLAGS_CLONE)
    return "|".join([*known, *([hex(rest)] if rest or not known else [])])


def family(number: int) -> str:
    """Name a socket's address family."""
    try:
        return socket.AddressFamily(number & _INT).name
    except ValueError:
        return str(number)


def _kind(number: int) -> str:
    try:
        return socket.SocketKind(number & _KIND_MASK).name
    except ValueError:
        return str(number)


def _directory(number: int) -> str:
    return "AT_FDCWD" if number & _INT == _AT_FDCWD else str(number & _INT)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _named(table: dict[int, str], number: int) -> str:
    return table.get(number & _INT, hex(number))


_WRITERS: dict[str, Callable[[Sequence[int]], str]] = {
    "unshare": lambda a: f"unshare({_namespaces(a[0])})",
    "clone": lambda a: f"clone({_namespaces(a[0])})",
    "setns": lambda a: f"setns({a[0]}, {_namespaces(a[1])})",
    "socket": lambda a: f"socket({family(a[0])}, {_kind(a[1])}, {a[2]})",
    "socketpair": lambda a: f"socketpair({family(a[0])}, {_kind(a[1])}, {a[2]})",
    "ptrace": lambda a: f"ptrace({_named(_PTRACE, a[0])}, {a[1]})",
    "prctl": lambda a: f"prctl({_named(_PRCTL, a[0])})",
    "ioctl": lambda a: f"ioctl({a[0]}, {_named(_IOCTL, a[1])})",
    "fcntl": lambda a: f"fcntl({a[0]}, {_named(_FCNTL, a[1])})",
    "setsockopt": lambda a: f"setsockopt({a[0]}, {a[1] & _INT}, {_named(_SOCKET_OPTIONS, a[2])})",
    "personality": lambda a: f"personality({a[0]:#x})",
    "symlinkat": lambda a: f"symlinkat({a[0]:#x}, {_directory(a[1])}, {a[2]:#x})",
    "tkill": lambda a: f"tkill({a[0]}, {_signal(a[1])})",
}
