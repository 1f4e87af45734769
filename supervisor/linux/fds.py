"""File descriptors: pipes, waiting for them, what comes over a unix socket, safe opening."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

PIPE_BYTES = 1 << 20
"""Capacity that is asked for: the default of /proc/sys/fs/pipe-max-size. A larger pipe means
fewer, larger reads; the kernel's 64 KiB do where it refuses."""


SO_PASSRIGHTS = 83
"""asm-generic/socket.h of Linux 6.16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipe:
    """Both ends of a pipe, close-on-exec."""

    read: int
    write: int


def make_pipe(capacity_bytes: int | None = None) -> Pipe:
    """Make a pipe, as large as asked for or as the kernel allows."""
    read, write = os.pipe2(os.O_CLOEXEC)
    if capacity_bytes is not None:
        # EPERM: over the per-user quota of pipe pages. A smaller pipe works just as well.
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, capacity_bytes)
    return Pipe(read=read, write=write)


def receive_fds(
    connection: socket.socket, data_bytes_max: int, fds_max: int
) -> tuple[bytes, list[int]]:
    """Receive one message with the descriptors that came along (SCM_RIGHTS), close-on-exec."""
    room = socket.CMSG_SPACE(fds_max * array.array("i").itemsize)
    data, ancillary, _flags, _address = connection.recvmsg(
        data_bytes_max, room, socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


def take_no_descriptors(end: socket.socket) -> bool:
    """Have the kernel refuse descriptors that others send to a unix socket, or to connections that
    are made to it: they would come whether they are asked for or not, and who lets go of one may
    wait for as long as its sender likes (SO_LINGER, socket(7)). Say whether it does: not before
    Linux 6.16.
    """
    try:
        end.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def open_below(directory: int, parts: list[bytes], flags: int, mode: int = 0o600) -> int:
    """Open a path below an open directory, following no symlink at any step.

    Raises:
        OSError: ELOOP or ENOTDIR where a step is a symlink.
    """
    current = os.dup(directory)
    try:
        for part in parts[:-1]:
            following = os.open(
                part, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_RDONLY, dir_fd=current
            )
            os.close(current)
            current = following
        return os.open(parts[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=current)
    finally:
        os.close(current)


async def wait_readable(fd: int) -> None:
    """Wait until `fd` can be read, or has hung up."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def wait_writable(fd: int) -> None:
    """Wait until `fd` can be written, or has hung up."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_writer(fd)


@contextlib.contextmanager
def closing_fd(fd: int) -> Iterator[int]:
    """Close `fd` at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)
