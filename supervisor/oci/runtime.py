"""OCI runtimes as client objects, one method for each verb: what they have in common, and runc.

runc's `start` and `remove` do without a process where its own state folder allows it: letting a
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
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

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

    def numbered(self) -> dict[int, int]:
        """Give them by the numbers that the init sees."""
        return {0: self.stdin, 1: self.stdout, 2: self.stderr, 3: self.status}


class Runtime(ABC):
    """A runtime with a state folder of our own."""

    NAME: ClassVar[str]
    GATED: ClassVar[bool] = False
    """Whether `create` leaves the init at cell's gate: see `SandboxPlaces.gate`."""

    BINDS_NULL: ClassVar[bool] = False
    """Whether it hides masked files behind the host's /dev/null, and not the sandbox's."""

    NEEDS_CGROUP_V2: ClassVar[bool] = False
    """Whether it does not run, or not whole, where controllers are of version 1."""

    def __init__(self, state: Path) -> None:
        """Find the program, and ask for its version.

        Raises:
            HostError: `PROGRAM_MISSING`, `PROGRAM_FAILED`.
        """
        self._program = find_program(self.NAME)
        self._state = state
        self.version = run_program([self._program, "--version"]).splitlines()[0]

    @abstractmethod
    async def create(self, container: str, bundle: Path, fds: StandardFds) -> int:
        """Create a container and give its init's process id: the program waits, behind every wall.

        Raises:
            RuntimeFailed: `OCI_CREATE_FAILED`, with what the runtime said and the command to
                replay.
        """

    @abstractmethod
    async def start(self, container: str, init_pidfd: int) -> None:
        """Let a created container go, once.

        Raises:
            RuntimeFailed: `OCI_START_FAILED`: its init did not answer, or is gone.
        """

    def remove(self, container: str) -> None:
        """Forget a container whose processes and cgroups are gone."""
        folder = self._state / container
        if folder.is_dir():
            shutil.rmtree(folder)

    async def _run(self, verb: list[str], bundle: Path, fds: Mapping[int, int]) -> None:
        """Run a verb that is part of creating a container.

        Raises:
            RuntimeFailed: `OCI_CREATE_FAILED`.
        """
        log = bundle / f"{self.NAME}.log"
        options = ["--root", str(self._state), "--log", str(log), "--log-format", "json"]
        command = [self._program, *options, *verb]
        pid = process.spawn(command, fds=fds)
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
                f"{self.NAME} {verb[0]} ended with {status}: {_said(log)}",
                hint=f"replay: {shlex.join(command)}",
            )


class Runc(Runtime):
    """The runtime of the Open Container Initiative itself, which every host has."""

    NAME = "runc"

    async def create(self, container: str, bundle: Path, fds: StandardFds) -> int:
        """Create a container; its init waits before its first instruction, behind every wall."""
        pid_file = bundle / "pid"
        create = ["create", "--bundle", str(bundle), "--pid-file", str(pid_file)]
        await self._run([*create, "--preserve-fds", "1", container], bundle, fds.numbered())
        return int(pid_file.read_text())

    async def start(self, container: str, init_pidfd: int) -> None:
        """Let a created container go."""
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


def _said(log: Path) -> str:
    """Give the messages of a runtime's log, shortened."""
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
