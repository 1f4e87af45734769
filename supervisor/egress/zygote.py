"""The process that brokers are forked from: `python -m supervisor.egress.zygote FD FOLDER`.

It is root's, has loaded all that a broker needs, and does one thing: for each order from the daemon
it forks a child with the descriptors that came along, and hands back the child's pidfd. It reads
nothing of a sandbox, nor what a broker is told: that is in a memfd that only the child reads. When
the daemon's socket closes it ends, and its children with it.

It has one thread, so that forking is safe, and never an event loop.
"""

from __future__ import annotations

import array
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

from supervisor.egress import broker
from supervisor.egress.confine import FIRST_FD, RULES, Confinement, confine, files_of, keep
from supervisor.egress.control import FLOWS_MAX, ORDER_BYTES_MAX, Failed, encode
from supervisor.egress.warmup import warm_up
from supervisor.linux.fds import receive_fds
from supervisor.linux.seccomp import Filter

FDS_MAX = 16
"""Of one order: control, policy, origins, and six listeners."""

FLOWS_LIMIT = 65536

NOTHING_LEFT = 70
"""The exit code of a child that could not even be confined."""


def main() -> None:
    """Serve the daemon's socket until it closes."""
    number, folder = sys.argv[1:]
    for kind in (signal.SIGINT, signal.SIGTERM):
        # The terminal's and the service manager's word is for the daemon, which tells us.
        signal.signal(kind, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.chdir("/")
    with socket.socket(fileno=int(number)) as daemon:
        os.set_inheritable(daemon.fileno(), False)
        broker.preload()
        warm_up()
        gc.collect()
        # What is there now stays shared: a child that touches it only to count would copy it.
        gc.freeze()
        serve(daemon, Path(folder))


def serve(daemon: socket.socket, root: Path) -> None:
    """Take orders, and reap children, until the daemon's side is closed."""
    poll = select.poll()
    poll.register(daemon, select.POLLIN)
    rules = Filter(RULES)
    children: dict[int, int] = {}
    while True:
        for fd, _events in poll.poll():
            if fd in children:
                poll.unregister(fd)
                os.waitpid(children.pop(fd), 0)
                os.close(fd)
                continue
            data, fds = receive_fds(daemon, ORDER_BYTES_MAX, FDS_MAX)
            if not data:
                return
            try:
                pid = _start(data, fds, root, rules)
            except (OSError, ValueError, TypeError, KeyError) as error:
                _answer(daemon, {"error": f"{type(error).__name__}: {error}"})
                continue
            finally:
                for passed in fds:
                    os.close(passed)
            pidfd = os.pidfd_open(pid)
            children[pidfd] = pid
            poll.register(pidfd, select.POLLIN)
            _answer(daemon, {"pid": pid}, pidfd)


def _answer(daemon: socket.socket, answer: dict[str, int | str], *fds: int) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    # EPIPE, ECONNRESET: the daemon has gone, which the next look at its socket says.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        daemon.sendmsg([json.dumps(answer).encode()], ancillary)


def _start(data: bytes, fds: list[int], root: Path, rules: Filter) -> int:
    order = json.loads(data)
    uid, flows_max = int(order["uid"]), int(order.get("flows_max", FLOWS_MAX))
    if uid <= 0 or not 0 < flows_max <= FLOWS_LIMIT or len(fds) != order["fds"]:
        raise ValueError("an order that is none")
    to = Confinement(
        uid=uid,
        files=files_of(flows_max),
        root=root,
        filter=rules,
        parent=os.getpid(),
    )
    pid = os.fork()
    if pid == 0:
        _child(to, fds)
    return pid


def _child(to: Confinement, fds: list[int]) -> None:
    """Confine this process and be a broker in it; never comes back.

    The policy is read before: it is the daemon's own word, and what terminates TLS needs files.
    """
    code = NOTHING_LEFT
    control = fds[0]
    try:
        keep(fds)
        control = FIRST_FD
        given = broker.prepare(FIRST_FD, len(fds))
        confine(to)
        code = broker.run(given)
    except BaseException as error:  # noqa: BLE001 (the child must end here, and say why if it can)
        _say(control, error)
    finally:
        os._exit(code)


def _say(control: int, error: BaseException) -> None:
    """Tell the daemon why, where that can be said at once."""
    said = encode(Failed(reason=f"{type(error).__name__}: {error}"[:1000]))
    with contextlib.suppress(OSError), socket.socket(fileno=control) as one:
        one.sendmsg([said])


if __name__ == "__main__":
    main()
