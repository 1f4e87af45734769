"""The seccomp notify descriptor: receive a denied system call, answer it with an error.

Never answered with CONTINUE: the call's pointers could change between our look and the kernel's
(seccomp_unotify(2)), so nothing here decides on memory, and nothing here allows.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from dataclasses import dataclass

# include/uapi/linux/seccomp.h: struct seccomp_notif { u64 id; u32 pid; u32 flags; struct
# seccomp_data { int nr; u32 arch; u64 instruction_pointer; u64 args[6]; } }
_NOTIF = struct.Struct("=QIIiIQ6Q")
# struct seccomp_notif_resp { u64 id; s64 val; s32 error; u32 flags; }
_RESPONSE = struct.Struct("=QqiI")


_ID = struct.Struct("=Q")


def _iowr(number: int, size: int) -> int:
    return (3 << 30) | (size << 16) | (ord("!") << 8) | number


def _iow(number: int, size: int) -> int:
    return (1 << 30) | (size << 16) | (ord("!") << 8) | number


_RECV = _iowr(0, _NOTIF.size)
_SEND = _iowr(1, _RESPONSE.size)
_ID_VALID = _iow(2, _ID.size)

AUDIT_ARCH_X86_64 = 0xC000003E


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """A system call that waits for an answer; `pid` is as this process sees it."""

    id: int
    pid: int
    number: int
    arch: int
    arguments: tuple[int, ...]


def receive(fd: int) -> Notification | None:
    """Take one notification; None where its thread has gone meanwhile."""
    buffer = bytearray(_NOTIF.size)
    try:
        fcntl.ioctl(fd, _RECV, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    identifier, pid, _flags, number, arch, _ip, *arguments = _NOTIF.unpack(buffer)
    return Notification(
        id=identifier, pid=pid, number=number, arch=arch, arguments=tuple(arguments)
    )


def still_waits(fd: int, notification: Notification) -> bool:
    """Say whether a thread still waits for this answer (SECCOMP_IOCTL_NOTIF_ID_VALID)."""
    try:
        fcntl.ioctl(fd, _ID_VALID, _ID.pack(notification.id))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def refuse(fd: int, notification: Notification, error_number: int = errno.EPERM) -> None:
    """Answer with an error. A thread that has gone meanwhile needs no answer."""
    response = _RESPONSE.pack(notification.id, 0, -error_number, 0)
    try:
        fcntl.ioctl(fd, _SEND, response)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
