"""How many arguments a system call has: every call that a kernel still has is in the table."""

from __future__ import annotations

import pytest

from supervisor.profile.syscall_arguments import ARGUMENTS, ARGUMENTS_MAX, real_arguments
from supervisor.profile.syscall_numbers import NUMBERS
from supervisor.profile.syscalls import CONDITIONS, REFUSED

GONE = "does not exist in the kernel any more"


def test_only_calls_that_are_gone_are_missing() -> None:
    missing = set(NUMBERS) - set(ARGUMENTS)
    assert missing == {name for name in missing if REFUSED.get(name) == GONE}
    assert set(ARGUMENTS) <= set(NUMBERS)


@pytest.mark.parametrize(
    ("name", "count"),
    [("getpid", 0), ("unshare", 1), ("setns", 2), ("socket", 3), ("reboot", 4), ("bpf", 3),
     ("symlinkat", 3), ("ptrace", 4), ("mount", 5), ("clone", 5), ("mmap", 6), ("futex", 6),
     ("file_getattr", 5)],
)  # fmt: skip
def test_known_counts(name: str, count: int) -> None:
    assert ARGUMENTS[name] == count


def test_rules_look_at_real_arguments_only() -> None:
    for name, alternatives in CONDITIONS.items():
        indexes = {rule.index for conjunction in alternatives for rule in conjunction}
        assert max(indexes) < ARGUMENTS[name]


def test_registers_beyond_are_left_out() -> None:
    assert real_arguments("unshare", (1, 2, 3, 4, 5, 6)) == (1,)
    assert real_arguments("getpid", (1, 2, 3, 4, 5, 6)) == ()
    assert len(real_arguments("tuxcall", (1, 2, 3, 4, 5, 6))) == ARGUMENTS_MAX
