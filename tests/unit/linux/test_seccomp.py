"""What is not listed is refused, and conditions hold."""

from __future__ import annotations

import subprocess
import sys

import pytest

from supervisor.linux.seccomp import Argument, Filter
from tests.style.tree import ROOT

PROGRAM = """
import os, sys
sys.path.insert(0, {root!r})
from supervisor.linux.seccomp import Argument, Filter
os.getppid()
filter = Filter({{
    "write": ((Argument(index=0, value=1),), (Argument(index=0, value=2),)), "exit_group": (),
    "rt_sigaction": (), "getpid": (),
}})
filter.load()
os.getpid()
reading = writing = "allowed"
try:
    os.pipe()
except PermissionError:
    reading = "refused"
try:
    os.write(3, b"x")
except PermissionError:
    writing = "refused"
os.write(1, f"{{reading}} {{writing}}".encode())
os._exit(0)
"""


@pytest.mark.seccomp
def test_what_is_not_listed_is_refused_and_conditions_hold() -> None:
    said = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM.format(root=str(ROOT))],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert said.stdout == b"refused refused", said.stderr.decode()


def test_an_unknown_system_call_is_an_error() -> None:
    with pytest.raises(OSError, match="no_such_call"):
        Filter({"no_such_call": ()})


def test_a_condition_that_libseccomp_does_not_take_is_an_error() -> None:
    with pytest.raises(OSError, match="read"):
        Filter({"read": ((Argument(index=9, value=1),),)})
