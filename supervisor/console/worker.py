"""The process of the console, which `api.console` starts.

It has the socket that browsers connect to, a folder with the daemon's socket in it as its working
directory, and nothing else: before the first byte of a browser's is read it is another user, in a
network namespace of its own where nothing is, and ends with the daemon.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass

from supervisor.console.reader import Reader
from supervisor.console.server import Site, serve
from supervisor.linux.sock_diag import open_diag
from supervisor.linux.syscalls import (
    CLONE_NEWNET,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    prctl,
    unshare,
)

PR_SET_NO_NEW_PRIVS = 38
LISTENER_FD, FOLDER_FD = 3, 4
FILES_MAX = 512
MEMORY_BYTES_MAX = 2 << 30
"""Of addresses; gRPC takes much of those and uses little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the daemon says: the user to become, where browsers find us, and its own process id."""

    uid: int
    url: str
    parent: int


def confine(order: Order) -> None:
    """Give up all rights, in an order in which each step still may.

    Raises:
        OSError: a step is not possible; nobody may be served then.
    """
    if order.uid <= 0:
        raise PermissionError(f"the console cannot be user {order.uid}")
    unshare(CLONE_NEWNET)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MAX, FILES_MAX))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    os.setgroups([])
    os.setresgid(order.uid, order.uid, order.uid)
    os.setresuid(order.uid, order.uid, order.uid)
    # A change of user clears both of these (kernel/cred.c, commit_creds).
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order.parent:
        raise ProcessLookupError("the daemon has gone meanwhile")
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def main() -> None:
    """Serve browsers until the daemon ends us."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        # The terminal's and the service manager's word is for the daemon, which ends us.
        signal.signal(kind, signal.SIG_IGN)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # What a browser sends that is no HTTP is nobody's news.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    os.putenv("GRPC_VERBOSITY", "NONE")  # a broken connection is told by a page
    order = Order(**json.loads(sys.argv[1]))
    os.fchdir(FOLDER_FD)
    os.close(FOLDER_FD)
    with socket.socket(fileno=LISTENER_FD) as listener, open_diag() as diag:
        os.set_inheritable(listener.fileno(), False)
        site = Site(url=order.url, diag=diag)
        confine(order)
        gc.freeze()
        asyncio.run(serve(listener, site, Reader()))
