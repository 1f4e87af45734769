"""The notify descriptor, with a real filter: a child installs it and makes the denied call.

No root is needed: a filter after no_new_privs is every process's right.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from supervisor.linux import notify, process
from supervisor.linux.notify import AUDIT_ARCH_X86_64, Notification, receive, refuse

PR_SET_NO_NEW_PRIVS, SECCOMP, SET_MODE_FILTER, NEW_LISTENER = 38, 317, 1, 8
GETPRIORITY = 140
LOAD_NR, RETURN, NOTIFY, ALLOW = 0x20, 0x06, 0x7FC00000, 0x7FFF0000
JUMP_EQUAL = 0x15
ARGUMENTS = (1 << 63 | 7, 2, 3, 4, 5, 6)


pytestmark = pytest.mark.seccomp


def _install_filter() -> int:
    """Notify of getpriority, allow all else; give the listener."""
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (LOAD_NR, 0, 0, 0),
            (JUMP_EQUAL, 0, 1, GETPRIORITY),
            (RETURN, 0, 0, NOTIFY),
            (RETURN, 0, 0, ALLOW),
        )
    )
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    fd = libc.syscall(SECCOMP, SET_MODE_FILTER, NEW_LISTENER, header)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return int(fd)


def _in_child(ours: socket.socket, action: Callable[[ctypes.CDLL], int]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    listener = _install_filter()
    socket.send_fds(ours, [b"x"], [listener])
    os.close(listener)
    ours.recv(1)
    os._exit(action(libc))


@contextlib.contextmanager
def filtered(action: Callable[[ctypes.CDLL], int]) -> Iterator[tuple[int, int]]:
    """Run `action` in a child under the filter; give its pid and the notify descriptor."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            _in_child(theirs, action)
        finally:
            os._exit(99)
    theirs.close()
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    ours.send(b"x")
    try:
        yield pid, fds[0]
    finally:
        if process._state(pid):
            os.kill(pid, signal.SIGKILL)
        os.close(fds[0])
        ours.close()


def _denied_call(libc: ctypes.CDLL) -> int:
    result = libc.syscall(GETPRIORITY, *map(ctypes.c_ulong, ARGUMENTS))
    return ctypes.get_errno() if result < 0 else 0


def _status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("answer", [errno.EPERM, errno.ENOSYS])
def test_a_denied_call_is_told_whole_and_gets_the_error(answer: int) -> None:
    with filtered(_denied_call) as (pid, fd):
        told = receive(fd)
        assert told is not None
        assert (told.pid, told.number, told.arch) == (pid, GETPRIORITY, AUDIT_ARCH_X86_64)
        assert told.arguments == ARGUMENTS
        refuse(fd, told, answer)
        assert _status(pid) == answer


def test_a_caller_that_has_gone_needs_no_answer() -> None:
    with filtered(_denied_call) as (pid, fd):
        told = receive(fd)
        assert told is not None
        os.kill(pid, signal.SIGKILL)
        assert _status(pid) == -signal.SIGKILL
        refuse(fd, told)


def test_without_a_listener_the_call_is_still_denied() -> None:
    """What the design relies on: a daemon that dies opens nothing."""
    with filtered(_denied_call) as (pid, fd):
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, fd)  # the listener is gone, the number stays ours to close
        os.close(null)
        assert _status(pid) == errno.ENOSYS


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EINTR])
def test_a_notification_that_vanished_is_none(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(notify.fcntl, "ioctl", fail)
    assert receive(0) is None


def test_other_errors_are_not_hidden(tmp_path_factory: pytest.TempPathFactory) -> None:
    told = Notification(id=1, pid=1, number=1, arch=AUDIT_ARCH_X86_64, arguments=(0,) * 6)
    read, write = os.pipe()
    try:
        with pytest.raises(OSError):
            receive(read)
        with pytest.raises(OSError):
            refuse(read, told)
    finally:
        os.close(read)
        os.close(write)
