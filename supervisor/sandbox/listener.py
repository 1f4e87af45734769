"""Where the runtime hands over the seccomp notify descriptor of each new container."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from pathlib import Path

from supervisor.errors import RuntimeFailed
from supervisor.linux.fds import receive_fds

STATE_BYTES_MAX = 64 * 1024
FDS_MAX = 4
HANDOVER_TIMEOUT_S = 10.0

log = logging.getLogger("stockade.sandbox")


class NotifyListener:
    """A unix socket that only root reaches; what arrives is matched by the call's id.

    The OCI runtime sends one message: the container's state as JSON, with our metadata in it,
    and the descriptors (runtime-spec, "Container Process State"). runc connects when it has them,
    crun long before: a connection may be silent for as long as its container is being created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._expected: dict[str, asyncio.Future[int]] = {}
        self._silent: set[socket.socket] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

    def open(self) -> None:
        """Listen."""
        self.path.unlink(missing_ok=True)
        self._socket.bind(os.fspath(self.path))
        self.path.chmod(0o600)
        self._socket.listen(128)
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Stop listening; who still waits is told."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        for connection in list(self._silent):
            self._hang_up(connection)
        self.path.unlink(missing_ok=True)
        for waiting in self._expected.values():
            waiting.cancel()

    def expect(self, call_id: str) -> asyncio.Future[int]:
        """Say that a descriptor for this call will come; the future gives it."""
        self._expected[call_id] = asyncio.get_running_loop().create_future()
        return self._expected[call_id]

    def forget(self, call_id: str) -> None:
        """Stop waiting for a call, and close a descriptor that nobody took."""
        waiting = self._expected.pop(call_id, None)
        if waiting is None or waiting.cancel() or waiting.cancelled():
            return
        if waiting.exception() is None:
            os.close(waiting.result())

    async def take(self, call_id: str, init_pidfd: int) -> int:
        """Give the descriptor of a call; it is the caller's from then on.

        Raises:
            RuntimeFailed: `SECCOMP_NOT_HANDED_OVER`: no filter can be shown to stand;
                `SANDBOX_GONE`: nobody is left who would hand it over.
        """
        waiting = self._expected[call_id]
        loop = asyncio.get_running_loop()
        loop.add_reader(init_pidfd, _give_up, waiting)
        try:
            async with asyncio.timeout(HANDOVER_TIMEOUT_S):
                fd = await asyncio.shield(waiting)
        except TimeoutError:
            raise RuntimeFailed(
                "SECCOMP_NOT_HANDED_OVER",
                "the runtime did not hand over a seccomp notify descriptor",
            ) from None
        finally:
            loop.remove_reader(init_pidfd)
        del self._expected[call_id]
        return fd

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return
        # Only root can connect: these are runtimes, and each ends with its container.
        connection.setblocking(False)
        self._silent.add(connection)
        asyncio.get_running_loop().add_reader(connection, self._receive, connection)

    def _receive(self, connection: socket.socket) -> None:
        try:
            data, fds = receive_fds(connection, STATE_BYTES_MAX, FDS_MAX)
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("seccomp listener: %s", error)
            data, fds = b"", []
        self._hang_up(connection)
        if data or fds:
            self._deliver(data, fds)

    def _hang_up(self, connection: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(connection)
        self._silent.discard(connection)
        connection.close()

    def _deliver(self, data: bytes, fds: list[int]) -> None:
        try:
            state = json.loads(data)
            call_id, names = str(state["metadata"]), list(state["fds"])
            waiting = self._expected[call_id]
        except (ValueError, KeyError, TypeError) as error:
            log.warning("seccomp listener: a message that fits no call: %r", error)
            waiting, names = None, []
        for name, fd in zip(names, fds, strict=False):
            if name == "seccompFd" and waiting is not None and not waiting.done():
                waiting.set_result(fd)
                fds = [other for other in fds if other != fd]
                break
        for fd in fds:
            os.close(fd)


def _give_up(waiting: asyncio.Future[int]) -> None:
    if not waiting.done():
        waiting.set_exception(
            RuntimeFailed("SANDBOX_GONE", "the sandbox ended while it was being created")
        )
