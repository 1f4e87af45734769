"""Start programs and wait for their end on the event loop, through pidfds."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from supervisor.linux.syscalls import PR_SET_CHILD_SUBREAPER, prctl

ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
"""All that our own helper programs get: nothing is inherited."""


_ours: set[int] = set()
"""Children that somebody here waits for; every other ended child is an orphan to reap. One set,
because a process has one set of children."""


def become_subreaper() -> None:
    """Make orphans below this process its children, so that it learns how they end."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def spawn(argv: Sequence[str], *, fds: Mapping[int, int], new_session: bool = True) -> int:
    """Start argv[0] (an absolute path) and give its process id.

    `fds` maps descriptor numbers of the child to descriptors of ours; everything else is closed
    for it, since every descriptor of the daemon is close-on-exec.
    """
    actions: list[tuple[int, ...]] = []
    # A source may be the target of another mapping: move all of them out of the way first.
    high = max([*fds.keys(), *fds.values(), 2]) + 1
    for offset, source in enumerate(fds.values()):
        actions.append((os.POSIX_SPAWN_DUP2, source, high + offset))
    for offset, target in enumerate(fds.keys()):
        actions.append((os.POSIX_SPAWN_DUP2, high + offset, target))
    actions += [(os.POSIX_SPAWN_CLOSE, high + offset) for offset in range(len(fds))]
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        dict(ENVIRONMENT),
        file_actions=actions,
        setsid=new_session,
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM),
    )
    _ours.add(pid)
    return pid


def adopt(pid: int) -> int:
    """Take a child that came to us as its subreaper as our own; give its pidfd."""
    _ours.add(pid)
    return os.pidfd_open(pid)


def disown(pid: int) -> None:
    """Leave a child that nobody will wait for to `reap_strangers`."""
    _ours.discard(pid)


async def wait(pidfd: int) -> int:
    """Wait until the child behind `pidfd` has ended and give its wait status, as waitid(2) has it:
    the exit code, or minus the signal."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(pidfd, readable)
    try:
        await ended
    finally:
        loop.remove_reader(pidfd)
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)  # noqa: ASYNC222 (it has ended)
    if result is None:
        raise ChildProcessError(f"pidfd {pidfd} is readable and has no status")
    _ours.discard(result.si_pid)
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def send_signal(pidfd: int, number: int) -> bool:
    """Send a signal to exactly that process; say whether it was still there."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def reap_strangers() -> int:
    """Reap ended children that nobody waits for: orphans that came to us as their subreaper."""
    reaped = 0
    for pid in zombie_children():
        if pid not in _ours and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None:
            reaped += 1
    return reaped


def zombie_children() -> list[int]:
    """List our own children that have ended and were not waited for."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [int(pid) for pid in children if _state(int(pid)) == "Z"]
    return found


def _state(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.rpartition(")")[2].split()[0]


def comm(pid: int) -> bytes:
    """Give the kernel's name of a process: a hint, the process can change it."""
    try:
        return Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n")
    except (FileNotFoundError, ProcessLookupError):
        return b""


def trim_heap() -> None:
    """Give freed memory back to the kernel (malloc_trim(3)), after bursts of large buffers."""
    ctypes.CDLL(None).malloc_trim(0)
