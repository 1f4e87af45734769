"""Other doors into the kernel: i386's `int 0x80` and x32's numbers pass rules for x86_64 by.

No daemon can be asked here: a filter for one architecture has no rules for another, so the kernel
ends the process, and the outcome says with which signal.
"""

from __future__ import annotations

import errno
import signal
import subprocess
from pathlib import Path

import pytest

from supervisor.call.outcome import Signaled
from tests.escape.arena import compiled, tried
from tests.support.daemon import Daemon


@pytest.mark.parametrize("abi", ["i386", "x32"])
def test_foreign_abi_is_killed(daemon: Daemon, tmp_path: Path, abi: str) -> None:
    program = tmp_path / "foreign_abi"
    program.write_bytes(compiled("foreign_abi.c"))
    program.chmod(0o755)
    # A kernel without that ABI says ENOSYS, or ends the process where there is no such gate.
    outside = subprocess.run([program, abi], check=False, capture_output=True, cwd="/")
    assert outside.returncode != -signal.SIGSYS
    assert (
        outside.returncode or int(outside.stdout) > 0 or int(outside.stdout) in (-1, -errno.ENOSYS)
    )
    call = daemon.client.run(
        ["./foreign_abi", abi], profile="build", files={"foreign_abi": program}
    )
    assert call.outcome == Signaled(signal=signal.SIGSYS)
    assert call.stdout == b""
    record = tried(daemon, call)
    assert record.stdout == b""
