"""The table of numbers against itself and against the host's headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from supervisor.profile.syscall_numbers import NUMBERS

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")


def test_no_number_stands_twice() -> None:
    assert len(set(NUMBERS.values())) == len(NUMBERS)


def test_the_numbers_have_no_gap_but_the_reserved_ones() -> None:
    # 337..423 are left free so that new calls have one number on all architectures; x32 has
    # 512 upwards to itself.
    assert sorted(NUMBERS.values()) == [*range(337), *range(424, 470)]


@pytest.mark.parametrize(
    ("name", "number"),
    [("read", 0), ("execve", 59), ("prlimit64", 302), ("uprobe", 336), ("clone3", 435),
     ("futex_waitv", 449), ("mseal", 462), ("file_setattr", 469)],
)  # fmt: skip
def test_known_places(name: str, number: int) -> None:
    assert NUMBERS[name] == number


def test_the_headers_of_this_host_agree() -> None:
    if not HEADER.is_file():
        pytest.skip(f"no {HEADER}: linux-libc-dev is not installed")
    theirs = dict(re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text()))
    differ = {
        name: (number, NUMBERS.get(name))
        for name, number in theirs.items()
        if int(number) < 470 and NUMBERS.get(name) != int(number)
    }
    assert not differ
