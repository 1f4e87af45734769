"""runc as a client object: one method for each verb.

`start` and `remove` do without a process where runc's own state folder allows it: letting a
created container go is reading one byte from `exec.fifo`, and deleting a stopped one is removing
its state folder and its cgroups (libcontainer/container_linux.go, runc 1.1 and 1.2). Each saves
about 4 ms a call.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import RuntimeFailed
from supervisor.linux import process
from supervisor.linux.host import find_program, run_program

CREATE_TIMEOUT_S = 30.0
START_TIMEOUT_S = 10.0
MESSAGE_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardFds:
    """Our ends of what the container's init gets: 0, 1, 2, and the status pipe as 3."""

    stdin: int
    stdout: int
    stderr: int
    status: int


class Runc:
    """A runc with a state folder of our own."""

    def __init__(self, state: Path) -> None:
        self._program = find_program("runc")
        self._state = state

    def version(self) -> str:
        """Give runc's first line of `--version`."""
        return run_program([self._program, "--version"]).splitlines()[0]

    def _command(self, *arguments: str) -> list[str]:
        return [self._program, "--root", str(self._state), *arguments]

    async def create(self, container: str, bundle: Path, fds: StandardFds) -> int:
        """Create a container and give its init's process id: it waits before the first instruction.

        Raises:
            RuntimeFailed: `OCI_CREATE_FAILED`, with what runc said and the command to replay.
        """
        log, pid_file = bundle / "runc.log", bundle / "pid"
        command = self._command(
            "--log", str(log), "--log-format", "json",
            "create", "--bundle", str(bundle), "--pid-file", str(pid_file), "--preserve-fds", "1",
            container,
        )  # fmt: skip
        numbers = {0: fds.stdin, 1: fds.stdout, 2: fds.stderr, 3: fds.status}
        pid = process.spawn(command, fds=numbers)
        pidfd = os.pidfd_open(pid)
        try:
            async with asyncio.timeout(CREATE_TIMEOUT_S):
                status = await process.wait(pidfd)
        except TimeoutError:
            process.send_signal(pidfd, 9)
            await process.wait(pidfd)
            status = -9
        except asyncio.CancelledError:
            process.send_signal(pidfd, 9)
            process.disown(pid)
            raise
        finally:
            os.close(pidfd)
        if status != 0:
            raise RuntimeFailed(
                "OCI_CREATE_FAILED",
                f"runc create ended with {status}: {_said(log)}",
                hint=f"replay: {shlex.join(command)}",
            )
        return int(pid_file.read_text())

    async def start(self, container: str, init_pidfd: int) -> None:
        """Let a created container go.

        Raises:
            RuntimeFailed: `OCI_START_FAILED`: its init did not answer, or is gone.
        """
        fifo = self._state / container / "exec.fifo"
        try:
            fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise RuntimeFailed("OCI_START_FAILED", f"{fifo}: {error.strerror}") from error
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()

        def answered() -> None:
            if not readable.done():
                readable.set_result(None)

        loop.add_reader(fd, answered)
        loop.add_reader(init_pidfd, answered)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await readable
            if os.read(fd, 1) != b"0":
                raise RuntimeFailed("OCI_START_FAILED", "the container's init ended before start")
        except TimeoutError:
            raise RuntimeFailed(
                "OCI_START_FAILED", "the container's init does not answer"
            ) from None
        finally:
            loop.remove_reader(fd)
            loop.remove_reader(init_pidfd)
            os.close(fd)
        fifo.unlink(missing_ok=True)

    def remove(self, container: str) -> None:
        """Forget a container whose processes and cgroups are gone."""
        folder = self._state / container
        if folder.is_dir():
            shutil.rmtree(folder)

    def containers(self) -> list[str]:
        """List the containers in the state folder, whatever state they are in."""
        return sorted(entry.name for entry in self._state.iterdir() if entry.is_dir())


def _said(log: Path) -> str:
    """Give the messages of runc's log, shortened."""
    try:
        lines = log.read_bytes()[-MESSAGE_BYTES_MAX:].decode(errors="replace").splitlines()
    except FileNotFoundError:
        return "nothing was logged"
    messages = []
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            found = line
        messages.append(str(found.get("msg", line)) if isinstance(found, dict) else line)
    return "; ".join(messages) or "nothing was logged"
