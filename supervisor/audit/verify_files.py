"""What lies in a state folder, before any of it is read: a copy of anybody may hold a pipe, a
device or a folder in the place of a file, and who opens that may wait for ever."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from supervisor.audit.blobs import HASHES_NAME
from supervisor.audit.directory import BLOBS_NAME, KEYS_NAME, LOG_NAME, TREE_NAME
from supervisor.audit.parts import PART_NAME
from supervisor.audit.verify_log import Problem

ROOMS = (LOG_NAME, TREE_NAME, KEYS_NAME, BLOBS_NAME)
FLAT = frozenset({LOG_NAME, KEYS_NAME})
"""Rooms without a folder in them."""

DEPTH_MAX = 16
"""Folders in each other below a room: the tiles of the largest log need fewer."""

STRAY_MAX = 100
"""Files in the room of blobs that are no blobs: further ones are counted."""

_FOLDER = re.compile(r"[0-9a-f]{2}")
_BLOB = re.compile(r"([0-9a-f]{2})[0-9a-f]{62}(?:\.zst|\.seal)?")

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


def stray_files(blobs: Path) -> Iterator[Problem]:
    """Give what lies in the folder of blobs and has the name of none. What is not finished may be
    called anything, and a blob that no entry names was left by a crash."""
    strays = 0
    for name in _strays(blobs):
        strays += 1
        if strays <= STRAY_MAX:
            yield _problem(f"{BLOBS_NAME}/{name} does not belong among blobs")
    if strays > STRAY_MAX:
        yield _problem(f"{strays - STRAY_MAX} more do not belong among blobs")


def _strays(blobs: Path) -> Iterator[str]:
    """Give their paths below the folder."""
    yield from (name for name in _names(blobs) if name not in (HASHES_NAME, PART_NAME))
    hashes = blobs / HASHES_NAME
    for folder in _names(hashes):
        if _FOLDER.fullmatch(folder) is None or not (hashes / folder).is_dir():
            yield f"{HASHES_NAME}/{folder}"
            continue
        for name in _names(hashes / folder):
            found = _BLOB.fullmatch(name)
            if found is None or found[1] != folder:
                yield f"{HASHES_NAME}/{folder}/{name}"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


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
