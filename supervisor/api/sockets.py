"""The sockets that the daemon listens on, and the private folder in which gRPC listens.

A unix socket is there for its owner and its group and nobody else, and it takes the place of an
old one only where nobody answers on that. All of it fails closed: a group that was asked for and is
missing is an error, not another mode.
"""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import shutil
import socket
import stat
from pathlib import Path

from supervisor.api.config import UNIX_PATH_BYTES_MAX, Socket
from supervisor.api.witness_config import split_host_port
from supervisor.errors import HostError, ProfileError
from supervisor.linux.fds import take_no_descriptors

log = logging.getLogger("stockade.api")

PROBE_TIMEOUT_S = 2.0
OWNER_ONLY = 0o600
BACKLOG = 1024
"""Connections that wait to be accepted, of all users in one row (the kernel caps it at somaxconn):
room for a flood of one beside the others, and no more than the daemon takes in some ten
milliseconds. From `listen` on another daemon sees that we are here."""


def unix_listener(path: Path, settings: Socket) -> socket.socket:
    """Listen on the public unix socket; nobody can connect before it has its mode and group.

    Raises:
        HostError: `ADDRESS_IN_USE` where a daemon answers there, `ADDRESS_TAKEN` where something
            else than a socket is there, `ADDRESS_UNUSABLE` where it cannot be made.
        ProfileError: `SOCKET_GROUP_MISSING`.
    """
    group, mode = _group_and_mode(settings)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    take_no_descriptors(listener)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
        listener.bind(str(path))
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(mode)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise HostError(
            "ADDRESS_UNUSABLE", f"cannot listen on unix://{path}: {error.strerror or error}"
        ) from error
    except BaseException:
        listener.close()
        raise
    return listener


def tcp_listener(address: str) -> socket.socket:
    """Listen on a TCP address.

    Raises:
        HostError: `ADDRESS_UNUSABLE`.
    """
    host, port = split_host_port(address)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise HostError("ADDRESS_UNUSABLE", f"cannot listen on {address}: {error}") from error
    try:
        # A restart must not wait for connections of the last daemon to leave TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise HostError("ADDRESS_UNUSABLE", f"cannot listen on {address}: {error}") from error
    return listener


def private_folder(beside: Path) -> Path:
    """Make the folder, for this user alone, in which gRPC's own sockets are.

    It stands beside the public socket, where a cleaner of /tmp does not come by. What a former
    daemon left in it is removed.

    Raises:
        HostError: `ADDRESS_UNUSABLE`.
    """
    folder = beside.with_name(f".{beside.name}.d")
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if folder.is_symlink() or (folder.exists() and folder.stat().st_uid != os.geteuid()):
            raise HostError("ADDRESS_UNUSABLE", f"{folder} is not this user's own folder")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise HostError("ADDRESS_UNUSABLE", f"cannot make {folder}: {error.strerror}") from error
    if len(os.fsencode(folder / "00")) > UNIX_PATH_BYTES_MAX:
        folder.rmdir()
        raise HostError("ADDRESS_UNUSABLE", f"the path {beside} is too long for a socket")
    return folder


def identity_of(path: Path) -> tuple[int, int]:
    """Give device and inode, to know a socket again."""
    found = path.lstat()
    return found.st_dev, found.st_ino


def remove_own(path: Path, identity: tuple[int, int]) -> None:
    """Remove a socket unless another one has taken its place."""
    with contextlib.suppress(FileNotFoundError):
        if identity_of(path) == identity:
            path.unlink()


def _group_and_mode(settings: Socket) -> tuple[int | None, int]:
    try:
        return _group_id(settings.group), settings.mode_bits
    except KeyError:
        if not settings.group_is_default:
            raise ProfileError(
                "SOCKET_GROUP_MISSING",
                f"there is no group {settings.group!r} for the socket",
                hint=f"make it with: groupadd --system {settings.group}",
            ) from None
    log.warning(
        "there is no group %r: only this user and root can reach the socket", settings.group
    )
    return None, OWNER_ONLY


def _group_id(name: str) -> int:
    group = grp.getgrnam(name).gr_gid
    if os.geteuid() != 0 and group not in {os.getegid(), *os.getgroups()}:
        # This user cannot give a socket to that group (chown(2)): for it there is none.
        raise KeyError(name)
    return group


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise HostError("ADDRESS_TAKEN", f"{path} is there and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):
            log.info("%s does not accept, but somebody listens on it", path)
    raise HostError(
        "ADDRESS_IN_USE",
        f"a daemon answers on unix://{path} already",
        hint="stop it first, or listen elsewhere",
    )
