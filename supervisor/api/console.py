"""The console, as the daemon has it: sessions, a socket for browsers, and a process that reads it.

HTTP is parsed by that process, which has the listening socket, a folder with one socket of ours in
it, and no rights on this host. It asks this daemon for all that it shows, by the API, over that
socket; each request names the session that it is for, and is that of the caller who opened it.
Nothing is answered there without one, and nothing that changes anything. The process ends with the
daemon, and is started again where it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from supervisor.api import callers, sockets
from supervisor.api.console_sessions import Sessions
from supervisor.api.front import Front
from supervisor.api.intercept import Context
from supervisor.api.peers import Peer, Peers, peer_of
from supervisor.call.texts import brief
from supervisor.call.types import SESSION_KEY, UID_KEY, WATCHING_KEY
from supervisor.errors import HostError, InvariantError, NotPermitted, Unauthenticated
from supervisor.linux import process
from supervisor.linux.fds import take_no_descriptors, wait_readable
from supervisor.oci.spec import ID_RANGE
from supervisor.sandbox.uids import FIRST_ID, RANGES

TRANSPORT = "console"
UID = FIRST_ID + (RANGES + 8) * ID_RANGE
"""The process's own user: no sandbox has it, and nobody else."""

SERVICE = "/supervisor.v1.ConsoleService"
ENTER = f"{SERVICE}/EnterSession"
OWN = frozenset(f"{SERVICE}/{name}" for name in ("EnterSession", "GetSession", "LeaveSession"))
ALLOWED = OWN | {
    "/supervisor.v1.ToolService/GetCall",
    "/supervisor.v1.ToolService/ListCalls",
    "/supervisor.v1.AuditService/GetCheckpoint",
    "/supervisor.v1.AuditService/GetRecord",
    "/supervisor.v1.AuditService/ListRecords",
    "/supervisor.v1.AuditService/ReadOutput",
    "/supervisor.v1.ExportService/ListSinks",
}
"""All that the process may ask for. A method that is not in here is refused, whoever's session."""

TARGET, FOLDER, SOCKET = "c", "d", "daemon"
FOLDER_MODE, SOCKET_MODE = 0o711, 0o666
"""They lie in a folder that only we can enter: the process is given this one, open."""

PACKAGES = ("aiohttp", "jinja2")
AGAIN_MIN_S, AGAIN_MAX_S = 0.5, 30.0
LISTENER_FD, FOLDER_FD = 3, 4
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_ENTRY = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from supervisor.console import worker; worker.main()"
)
"""The process imports this very package, wherever the daemon was started."""

log = logging.getLogger("stockade.console")


class Console:
    """The daemon's side. Belongs to one event loop; `bind`, `start`, `close`."""

    def __init__(
        self,
        address: str,
        identify: Callable[[Peer, Mapping[str, Iterable[bytes]]], callers.Identity],
    ) -> None:
        """`identify` knows a caller by its transport: it is asked again for each request."""
        self._address = address
        self._identify = identify
        self._peer_of: Callable[[Context], Peer | None] = lambda _: None
        self.sessions = Sessions(time.monotonic)
        self._listener: socket.socket | None = None
        self._front: Front | None = None
        self._folder = -1
        self._task: asyncio.Task[None] | None = None
        self.pid = 0
        self.url = ""

    def bind(self) -> None:
        """Listen for browsers; `url` says where, with the port that the kernel chose.

        Raises:
            HostError: `ADDRESS_UNUSABLE`, `CONSOLE_MISSING`.
        """
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise HostError(
                "CONSOLE_MISSING",
                f"the console needs what is not installed: {', '.join(missing)}",
                hint="pip install 'stockade[console]'",
            )
        self._listener = sockets.tcp_listener(self._address)
        host, port, *_ = self._listener.getsockname()
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(
        self,
        folder: Path,
        peers: Peers,
        peer_of_request: Callable[[Context], Peer | None],
        *,
        on_refused: Callable[[Peer], None],
    ) -> None:
        """Take requests in a folder below `folder`, for gRPC at TARGET, and start the process."""
        listener = self._listener
        if listener is None:
            raise InvariantError("NOT_BOUND", "the console is started before it listens")
        self._peer_of = peer_of_request
        inner = folder / FOLDER
        inner.mkdir(mode=FOLDER_MODE)
        inner.chmod(FOLDER_MODE)
        self._folder = os.open(inner, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        take_no_descriptors(door)
        try:
            # By the descriptor: the whole path may be too long for a socket.
            door.bind(f"/proc/self/fd/{self._folder}/{SOCKET}")
            (inner / SOCKET).chmod(SOCKET_MODE)
            door.listen(sockets.BACKLOG)
        except BaseException:
            door.close()
            raise
        target = str(folder / TARGET)
        self._front = Front(door, target, peers, on_refused, describe=self._describe)
        self._front.start()
        self._task = asyncio.create_task(self._keep_running(listener), name="stockade-console")

    def open(self, context: Context, uid: int) -> str:
        """Give the link of a new session for the caller of a request, in a browser of `uid`.

        Raises:
            CapacityError: `CONSOLE_SESSIONS`.
            InvariantError: `PEER_GONE`.
        """
        peer, certificate = self._peer_of(context), dict(context.auth_context() or {})
        if peer is None:
            raise InvariantError("PEER_GONE", "a request was let in, and nobody knows of whom")
        caller = callers.current().caller.name
        token = self.sessions.open(caller, uid, lambda: self._identify(peer, certificate))
        return f"{self.url}/enter#{token}"

    def identify(self, context: Context, method: str) -> callers.Identity:
        """Give whose a request of the process is: the caller who opened the session it names.

        Raises:
            NotPermitted: `CONSOLE_READS_ONLY`.
            Unauthenticated: `SESSION_UNKNOWN`, or the caller is none any more.
        """
        if method not in ALLOWED:
            raise NotPermitted("CONSOLE_READS_ONLY", f"the console may not ask for {brief(method)}")
        secret, uid = secret_of(context)
        if method == ENTER:
            return _through(self.sessions.opener(secret, uid))
        watching = WATCHING_KEY in dict(context.invocation_metadata() or ())
        return _through(self.sessions.use(secret, uid, watching=watching))

    async def close(self) -> None:
        """End the process, and listen no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._front is not None:
            await self._front.close()
        if self._listener is not None:
            self._listener.close()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _describe(self, connection: socket.socket) -> Peer:
        """Say who connects.

        Raises:
            OSError: it is not our own process.
        """
        peer = peer_of(connection)
        if peer.uid != UID or not self.pid or peer.pid != self.pid:
            raise PermissionError(f"uid {peer.uid}, pid {peer.pid} is not the console")
        return Peer(
            transport=TRANSPORT, address=TRANSPORT, uid=peer.uid, gid=peer.gid, pid=peer.pid
        )

    async def _keep_running(self, listener: socket.socket) -> None:
        wait_s = AGAIN_MIN_S
        while True:
            began_s = time.monotonic()
            try:
                why = await self._one_life(listener)
            except OSError as error:
                why = f"its process cannot be started: {error.strerror}"
            if time.monotonic() - began_s > AGAIN_MAX_S:
                wait_s = AGAIN_MIN_S
            log.warning("the console is away: %s; it is started again in %g s", why, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(AGAIN_MAX_S, wait_s * 2)

    async def _one_life(self, listener: socket.socket) -> str:
        order = json.dumps({"uid": UID, "url": self.url, "parent": os.getpid()})
        argv = [sys.executable, "-I", "-c", _ENTRY, os.fspath(_PACKAGE_PARENT), order]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        fds = {
            0: null,
            1: null,
            2: 2,
            LISTENER_FD: listener.fileno(),
            FOLDER_FD: self._folder,
        }
        try:
            pid = process.spawn(argv, fds=fds)
        finally:
            os.close(null)
        pidfd = os.pidfd_open(pid)
        self.pid = pid
        try:
            await wait_readable(pidfd)
        finally:
            self.pid = 0
            process.send_signal(pidfd, signal.SIGKILL)
            code = await process.wait(pidfd)
            os.close(pidfd)
        return f"its process ended with {code}"


def _through(identity: callers.Identity) -> callers.Identity:
    """Say of a caller that it comes by the console: the process that it was is long gone."""
    caller = dataclasses.replace(identity.caller, transport=TRANSPORT, pid=None)
    return dataclasses.replace(identity, caller=caller)


def secret_of(context: Context) -> tuple[str, int]:
    """Give the secret that a request names, and the user whose browser it came from.

    Raises:
        Unauthenticated: `SESSION_UNKNOWN`: it names none.
    """
    named = dict(context.invocation_metadata() or ())
    secret, uid = named.get(SESSION_KEY), named.get(UID_KEY)
    if isinstance(secret, str) and isinstance(uid, str) and uid.isascii() and uid.isdecimal():
        return secret, int(uid)
    raise Unauthenticated("SESSION_UNKNOWN", "the request names no session of the console")
