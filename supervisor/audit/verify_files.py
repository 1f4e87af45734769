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


def strange_files(directory: Path) -> Iterator[Problem]:
    """Give what is neither a file nor a folder in the state folder and the rooms that are verified,
    or not the one that it should be. A link counts as what it leads to; below the rooms, none leads
    to a folder."""
    if not directory.is_dir():
        return  # that there is none is said by who looks for the log
    with os.scandir(directory) as found:
        top = sorted(found, key=lambda one: one.name)
    for one in top:
        if one.name in ROOMS:
            if one.is_dir():
                yield from _in_room(Path(one.path), one.name, flat=one.name in FLAT)
            else:
                yield _problem(f"{one.name} is no folder")
        elif not one.is_file() and not one.is_dir():
            yield _problem(f"{one.name} is no file")


def _in_room(folder: Path, name: str, *, flat: bool) -> Iterator[Problem]:
    with os.scandir(folder) as found:
        for one in found:
            inside = f"{name}/{one.name}"
            if one.is_symlink() and one.is_dir():
                yield _problem(f"{inside} is a link to a folder")  # which may be above it
            elif one.is_dir() and not flat:
                yield from _in_room(Path(one.path), inside, flat=False)
            elif not one.is_file():
                yield _problem(f"{inside} is no file")


def _problem(message: str) -> Problem:
    return Problem(message=message)
