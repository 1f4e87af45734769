"""Standard streams that were closed, or that nothing can be written to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.cli import standard

REOPENED = """
import os, sys
closed = [int(number) for number in sys.argv[1]]
from supervisor.cli import standard
standard.reopen()
for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
    assert stream.fileno() == number
    assert os.get_inheritable(number)
    assert (os.path.samestat(os.fstat(number), os.stat(os.devnull))) == (number in closed), number
with open(sys.executable) as file:
    assert file.fileno() > 2
assert 0 not in closed or sys.stdin.read() == ""
print("something")
sys.stderr.write("something")
os._exit(7)
"""

FULL = """
import os, sys
from supervisor.cli import standard
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
sys.stdout.write("something")
standard.settle()
sys.stdout.write("more")
sys.stdout.flush()
"""


@pytest.mark.parametrize("closed", ["", "0", "1", "2", "02", "12", "012"])
def test_what_is_closed_leads_nowhere(closed: str) -> None:
    redirections = " ".join(f"{number}{'<' if number == '0' else '>'}&-" for number in closed)
    said = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirections}', sys.executable, "-c", REOPENED, closed],
        check=False, capture_output=True, text=True, input="",
    )  # fmt: skip
    assert said.returncode == 7, said.stderr


def test_what_cannot_be_written_is_let_go() -> None:
    said = subprocess.run(
        [sys.executable, "-E", "-c", FULL], check=False, capture_output=True, text=True
    )
    assert (said.returncode, said.stderr) == (0, "")


def test_whom_something_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours), os.fdopen(theirs) as terminal, Path(os.devnull).open() as nobody:
        for stdin, stderr, asks in (
            (terminal, terminal, True),
            (nobody, terminal, False),
            (terminal, nobody, False),
            (None, terminal, False),
        ):
            monkeypatch.setattr(sys, "stdin", stdin)
            monkeypatch.setattr(sys, "stderr", stderr)
            assert standard.asks() is asks
