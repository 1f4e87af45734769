"""Users and groups of this host by number, for people to read and for the groups of a user."""

from __future__ import annotations

import grp
import os
import pwd


def user_name(uid: int) -> str:
    """Give the name of a user, `uid N` where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def group_name(gid: int) -> str:
    """Give the name of a group, its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def groups_of(uid: int) -> frozenset[int]:
    """Give all groups of a user, none where it has no account."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return frozenset()
    return frozenset(os.getgrouplist(user.pw_name, user.pw_gid))


def is_private_group(gid: int, uid: int) -> bool:
    """Say whether a group bears the name of the user `uid` and has no other member."""
    try:
        group, owner = grp.getgrgid(gid), pwd.getpwuid(uid)
    except KeyError:
        return False
    return group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name}
