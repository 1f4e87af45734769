"""Registers in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.profile.syscall_numbers import NUMBERS
from supervisor.sandbox.arguments import describe

HIGH = 1 << 32


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("unshare", (0x10020000,), "unshare(CLONE_NEWNS|CLONE_NEWUSER)"),
        ("unshare", (0,), "unshare(0x0)"),
        ("clone", (0x10000011,), "clone(CLONE_NEWUSER|0x11)"),
        ("clone", (0x11 | HIGH,), "clone(0x100000011)"),
        ("setns", (5, 0x40000000), "setns(5, CLONE_NEWNET)"),
        ("socket", (17, 3, 768), "socket(AF_PACKET, SOCK_RAW, 768)"),
        ("socket", (2, 0o2000003, 1), "socket(AF_INET, SOCK_RAW, 1)"),
        ("socket", (999, 15, 0), "socket(999, 15, 0)"),
        ("socketpair", (1, 3, 0), "socketpair(AF_UNIX, SOCK_RAW, 0)"),
        ("ptrace", (16, 1), "ptrace(PTRACE_ATTACH, 1)"),
        ("ptrace", (0x4200, 1), "ptrace(0x4200, 1)"),
        ("prctl", (22, 2), "prctl(PR_SET_SECCOMP)"),
        ("prctl", (22 | HIGH, 2), "prctl(PR_SET_SECCOMP)"),
        ("ioctl", (0, 0x5412), "ioctl(0, TIOCSTI)"),
        ("ioctl", (0, 0x5412 | HIGH), "ioctl(0, TIOCSTI)"),
        ("personality", (0x40000,), "personality(0x40000)"),
        ("symlinkat", (16, 0xFFFFFF9C, 32), "symlinkat(0x10, AT_FDCWD, 0x20)"),
        ("symlinkat", (16, 5, 32), "symlinkat(0x10, 5, 0x20)"),
        ("tkill", (3, 9), "tkill(3, SIGKILL)"),
        ("tkill", (3, 99), "tkill(3, 99)"),
        ("mount", (1, 2, 3), ""),
        ("no_such_call", (), ""),
    ],
)
def test_known_constants(name: str, arguments: tuple[int, ...], text: str) -> None:
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    assert describe(name, padded) == text


@given(
    st.sampled_from(sorted(NUMBERS)),
    st.tuples(*[st.integers(min_value=0, max_value=(1 << 64) - 1)] * 6),
)
def test_no_register_is_too_odd(name: str, arguments: tuple[int, ...]) -> None:
    text = describe(name, arguments)
    assert text == "" or text.startswith(f"{name}(")
    assert text.isascii()
    assert text.isprintable()
