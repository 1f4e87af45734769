"""Which configured callers cannot reach the unix sockets, by mode and group.

Only a warning comes of it: ACLs and groups of a running process are not seen from here, and a
caller that cannot connect is denied in any case.
"""

from __future__ import annotations

import pwd
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from supervisor.api.accounts import group_name, groups_of, user_name
from supervisor.api.config import DEFAULT_GROUP, CallerEntry, Socket

ROOT_GROUP = "root"


def unreachable(
    entries: Iterable[CallerEntry], sockets: Sequence[Path], settings: Socket
) -> list[str]:
    """Give a warning for each caller by uid or gid that can connect to none of `sockets`, which
    were made as the `settings` say."""
    warnings = []
    for entry in entries:
        users = _users(entry)
        if not users or not sockets:
            continue
        obstacles = [_obstacle(uid, groups, path) for uid, groups in users for path in sockets]
        if None not in obstacles and obstacles[0] is not None:
            warnings.append(_warning(entry, sockets[0], obstacles[0], settings))
    return warnings


def _users(entry: CallerEntry) -> list[tuple[int, frozenset[int]]]:
    """Give user and groups of whoever matches an entry; nothing where it is no unix caller."""
    if entry.uid is not None:
        return [(entry.uid, groups_of(entry.uid))]
    if entry.gid is not None:
        users = [user.pw_uid for user in pwd.getpwall() if user.pw_gid == entry.gid]
        return [(uid, groups_of(uid)) for uid in users] or [(-1, frozenset({entry.gid}))]
    return []


def _obstacle(uid: int, groups: frozenset[int], socket: Path) -> Path | None:
    """Give what keeps a user from connecting: the socket, or a folder on the way to it."""
    if uid == 0:
        return None
    # Connecting needs the right to write the socket and to pass its folders (unix(7)).
    if not _may(socket, uid, groups, stat.S_IWOTH):
        return socket
    closed = (folder for folder in socket.parents if not _may(folder, uid, groups, stat.S_IXOTH))
    return next(closed, None)


def _may(path: Path, uid: int, groups: frozenset[int], bit: int) -> bool:
    found = path.stat()
    if found.st_uid == uid:
        return bool(found.st_mode & bit << 6)
    if found.st_gid in groups:
        return bool(found.st_mode & bit << 3)
    return bool(found.st_mode & bit)


def _warning(entry: CallerEntry, socket: Path, obstacle: Path, settings: Socket) -> str:
    found = obstacle.stat()
    key, number = entry.identity
    mode = f"mode {stat.S_IMODE(found.st_mode):04o}, {user_name(found.st_uid)}"
    place = "it" if obstacle == socket else str(obstacle)
    way_out = _way_out(entry, socket, obstacle, settings)
    return (
        f"caller {entry.name!r} ({key} {number}) cannot reach {socket}: "
        f"{place} is {mode}:{group_name(found.st_gid)}; {way_out}"
    )


def _way_out(entry: CallerEntry, socket: Path, obstacle: Path, settings: Socket) -> str:
    if obstacle != socket:
        return f"to let it pass: chmod o+x {obstacle}"
    user = user_name(entry.uid) if entry.uid is not None else "USER"
    found = socket.stat()
    if found.st_mode & stat.S_IWGRP and found.st_gid != 0:
        return f"to let it in: usermod -aG {group_name(found.st_gid)} {user}"
    group, wanted = settings.group, []
    if group == ROOT_GROUP:  # which is no callers' group
        group, wanted = DEFAULT_GROUP, [f"socket.group {DEFAULT_GROUP}"]
    if not settings.mode_bits & stat.S_IWGRP:
        wanted.append("socket.mode 0660")
    with_them = f", with {' and '.join(wanted)}" if wanted else ""
    return (
        f"to let it in: groupadd --system -f {group}; usermod -aG {group} {user}; "
        f"then restart the daemon{with_them}"
    )
