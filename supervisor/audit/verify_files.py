"""What lies in a state folder, before any of it is read: a copy of anybody may hold a pipe, a
device or a folder in the place of a file, and who opens that may wait for ever."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from supervisor.audit.directory import BLOBS_NAME, KEYS_NAME, LOG_NAME, TREE_NAME
from supervisor.audit.verify_log import Problem

ROOMS = (LOG_NAME, TREE_NAME, KEYS_NAME, BLOBS_NAME)
FLAT = frozenset({LOG_NAME, KEYS_NAME})
"""Rooms without a folder in them."""

DEPTH_MAX = 16
"""Folders in each other below a room: the tiles of the largest log need fewer."""

KERNEL = ("/proc", "/sys", "/dev")
"""What lies here may be no file that looks like one."""


def strange_files(directory: Path) -> Iterator[Problem]:
    """Give what is neither a file nor a folder in the state folder and the rooms that are verified,
    or not the one that it should be. A room, and a file beside the rooms, may be a link; below the
    rooms there are none."""
    if not directory.is_dir():
        return  # that there is none is said by who looks for the log
    with os.scandir(directory) as found:
        top = sorted(found, key=lambda one: one.name)
    for one in top:
        if one.name in ROOMS:
            if _is_folder(one):
                yield from _in_room(Path(one.path), one.name, flat=one.name in FLAT)
            else:
                yield _problem(f"{one.name} is no folder")
        elif not _is_file(one) and not _is_folder(one):
            yield _problem(f"{one.name} is no file")


def _in_room(room: Path, name: str, *, flat: bool) -> Iterator[Problem]:
    left = [(room, name, 0)]
    while left:
        folder, called, depth = left.pop()
        with os.scandir(folder) as found:
            for one in found:
                inside = f"{called}/{one.name}"
                if one.is_symlink():
                    yield _problem(f"{inside} is a link")
                elif not one.is_dir():
                    if not one.is_file():
                        yield _problem(f"{inside} is no file")
                elif flat:
                    yield _problem(f"{inside} is no file")
                elif depth == DEPTH_MAX:
                    yield _problem(f"{called} has folders in it, {DEPTH_MAX} levels down")
                    break
                else:
                    left.append((Path(one.path), inside, depth + 1))


def _is_folder(one: os.DirEntry[str]) -> bool:
    return _leads_to(one) and one.is_dir()


def _is_file(one: os.DirEntry[str]) -> bool:
    return _leads_to(one) and one.is_file()


def _leads_to(one: os.DirEntry[str]) -> bool:
    """Say whether it is no link, or one to something of a file system that holds files."""
    if not one.is_symlink():
        return True
    try:
        target = Path(one.path).resolve(strict=True)
    except (OSError, RuntimeError):  # Leads nowhere; leads to itself.
        return False
    return not any(target.is_relative_to(place) for place in KERNEL)


def _problem(message: str) -> Problem:
    return Problem(message=message)
