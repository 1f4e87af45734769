"""A program that receives events: started, stalled, killed and started again, on a port of its own.

It runs in the foreground, as a child of the test; no service of the host is touched.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

START_S, STOP_S = 30.0, 10.0
POLL_S = 0.02


def free_port() -> int:
    """Find a port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Receiver:
    """The program `arguments`, which listens on `port` and writes a line for each message into
    `lines_path`. A context manager: it is gone in the end."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        port: int,
        lines_path: Path,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.port = port
        self.lines_path = lines_path
        self.arguments = list(arguments)
        self._environment = {"PATH": "/usr/sbin:/usr/bin:/bin", **(environment or {})}
        self._log = lines_path.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert self._process is None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._environment, cwd=self.lines_path.parent,
            )  # fmt: skip
        until = time.monotonic() + START_S
        while not _listens(self.port):
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            time.sleep(POLL_S)

    def kill(self) -> None:
        """End it with SIGKILL: it puts nothing away."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """End it as a service manager does."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Have it do nothing, with its connections open."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            if self._process is not None:  # It may have been killed meanwhile.
                os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """Give what it said itself."""
        return self._log.read_text(errors="replace")

    def lines(self) -> list[bytes]:
        """Give what it has written: whole lines."""
        with contextlib.suppress(FileNotFoundError):
            return self.lines_path.read_bytes().split(b"\n")[:-1]
        return []


def _listens(port: int) -> bool:
    """Say whether somebody does, without connecting: a receiver would log that."""
    wanted = f"0100007F:{port:04X}"
    for name in ("tcp", "tcp6"):  # gRPC listens on ::ffff:127.0.0.1
        with Path("/proc/net", name).open() as table:
            if any(row.split()[1].endswith(wanted) and row.split()[3] == "0A" for row in table):
                return True
    return False
