"""Where attacks are tried: once on the host, to see that they work, and once in a sandbox.

An attack is a small program of `programs/`, or a table of system calls with pointers that lead
nowhere: where such a call is allowed it fails with EFAULT or its like and changes nothing, and
where it is denied with EPERM before the kernel looks at any argument.
"""

from __future__ import annotations

import errno
import functools
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.call.types import Json, Stream
from supervisor.client import FinishedCall
from supervisor.client.request import Content
from supervisor.profile.syscall_numbers import NUMBERS
from tests.support.daemon import Daemon

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
PYTHON = "/usr/bin/python3"
HOST_TIMEOUT_S = 60
HOST_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
PROFILES = [str(HERE.parents[1] / "profiles"), str(HERE / "profiles")]

NOWHERE = 8
"""A pointer that no process has mapped."""

NO_FD = 0xFFFFFFFF
"""A descriptor that no process has open."""

LIBSECCOMP_KNOWS = 450
"""The last number that the libseccomp of Debian 12 (2.5.4) has a name for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A finished call with its record; `denied` are the bodies of its `denied` entries."""

    call: FinishedCall
    denied: tuple[dict[str, Any], ...]
    stdout: bytes

    @property
    def lines(self) -> list[str]:
        """Give what it printed, by line."""
        return self.call.stdout.decode(errors="replace").splitlines()

    def said(self) -> Any:
        """Give the JSON value that it printed."""
        assert self.call.ok, (self.call.outcome, self.call.stderr.decode(errors="replace")[-2000:])
        return json.loads(self.call.stdout)

    def denials(self, name: str, *arguments: int, wall: str = "syscall") -> list[dict[str, Any]]:
        """Find what is on record about `name`, where its first arguments are `arguments`."""
        return [
            body
            for body in self.denied
            if body["wall"] == wall and body["name"] == name
            if [int(n) for n in body["arguments"]][: len(arguments)] == list(arguments)
        ]

    def count(self, name: str, *arguments: int, wall: str = "syscall") -> int:
        """Add up how often `name` was denied."""
        return sum(int(body["count"]) for body in self.denials(name, *arguments, wall=wall))


def confined(
    daemon: Daemon,
    program: str,
    *arguments: str,
    profile: str = "python",
    files: dict[str, Content] | None = None,
    **options: Any,
) -> Trial:
    """Run a Python program of `programs/` in a sandbox; give the call and its record."""
    placed: dict[str, Content] = {program: PROGRAMS / program, **(files or {})}
    argv = ["python3", program, *arguments]
    return tried(daemon, daemon.client.run(argv, profile=profile, files=placed, **options))


def tried(daemon: Daemon, call: FinishedCall) -> Trial:
    """Fetch the record of a call."""
    record = daemon.client.record(call.call_id)
    stdout = b"".join(daemon.client.read_output(call.call_id, Stream.STDOUT))
    return Trial(call=call, denied=tuple(_denied(record.entries)), stdout=stdout)


def _denied(entries: Sequence[Any]) -> Iterator[dict[str, Json]]:
    for entry in entries:
        body = entry.body().get("body")
        if entry.kind == "denied" and isinstance(body, dict):
            yield body


def on_host(
    program: str, *arguments: str, inside: Sequence[str] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Run a program of `programs/` on the host, wrapped in `inside` where it could do harm."""
    return subprocess.run(
        [*inside, PYTHON, PROGRAMS / program, *arguments],
        check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=HOST_TIMEOUT_S,
        env=HOST_ENVIRONMENT, cwd="/",
    )  # fmt: skip


@functools.cache
def compiled(source: str) -> bytes:
    """Compile a C program of `programs/`, static, and give the binary."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "a.out"
        subprocess.run(
            ["gcc", "-static", "-O1", "-w", "-o", binary, PROGRAMS / source],
            check=True, capture_output=True, env=HOST_ENVIRONMENT,
        )  # fmt: skip
        return binary.read_bytes()


@dataclass(frozen=True, slots=True)
class Row:
    """One system call of a table; `privileged` says why a host may refuse it even to root."""

    name: str
    arguments: tuple[int, ...] = ()
    privileged: str = ""

    def call(self) -> list[int]:
        """Give number and arguments, as `try_syscalls.py` takes them."""
        return [NUMBERS[self.name], *self.arguments]

    @property
    def is_recent(self) -> bool:
        """Say whether libseccomp may be too old for it: runc then answers ENOSYS by itself, as if
        the kernel did not have the call, and nobody is notified."""
        return NUMBERS[self.name] > LIBSECCOMP_KNOWS

    def __str__(self) -> str:
        return f"{self.name}({', '.join(hex(n) for n in self.arguments)})"


def table(rows: Sequence[Row]) -> str:
    """Give rows as the argument of `try_syscalls.py`."""
    return json.dumps([row.call() for row in rows])


# The table runs on the host as well: in namespaces of its own, in case one of its calls works.
APART = ("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child")


def expect_refused(daemon: Daemon, rows: Sequence[Row], *, profile: str = "python") -> Trial:
    """See that each row gets through on the host, and in a sandbox neither gets through nor stays
    off the record."""
    host = on_host("try_syscalls.py", table(rows), inside=APART)
    assert host.returncode == 0, host.stderr.decode()
    outside = dict(zip(rows, json.loads(host.stdout), strict=True))
    refused = [str(row) for row, got in outside.items() if got == errno.EPERM]
    assert refused == [str(row) for row in rows if row.privileged and str(row) in refused]
    trial = confined(daemon, "try_syscalls.py", table(rows), profile=profile)
    inside = dict(zip(rows, trial.said(), strict=True))
    unknown = {row for row, got in inside.items() if got == errno.ENOSYS and row.is_recent}
    got_through = {str(row): got for row, got in inside.items() if got != errno.EPERM}
    assert got_through == {str(row): errno.ENOSYS for row in unknown}
    counts = {str(row): trial.count(row.name, *row.arguments) for row in rows}
    assert counts == {str(row): int(row not in unknown) for row in rows}
    return trial
