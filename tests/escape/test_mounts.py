"""Mounts: the old calls, the new mount API, another root."""

from __future__ import annotations

from tests.escape.arena import NO_FD, NOWHERE, Row, expect_refused
from tests.support.daemon import Daemon

ROWS = (
    Row("mount", (NOWHERE, NOWHERE, NOWHERE, 0, 0)),
    Row("umount2", (NOWHERE, 0)),
    Row("pivot_root", (NOWHERE, NOWHERE)),
    Row("chroot", (NOWHERE,)),
    Row("fsopen", (NOWHERE, 0)),
    Row("fsconfig", (NO_FD, 0, 0, 0, 0)),
    Row("fsmount", (NO_FD, 0, 0)),
    Row("fspick", (NO_FD, NOWHERE, 0)),
    Row("move_mount", (NO_FD, NOWHERE, NO_FD, NOWHERE, 0)),
    Row("open_tree", (NO_FD, NOWHERE, 0)),
    Row("mount_setattr", (NO_FD, NOWHERE, 0, NOWHERE, 32)),
    Row("open_tree_attr", (NO_FD, NOWHERE, 0, NOWHERE, 32)),
    Row("statmount", (NOWHERE, NOWHERE, 0, 0)),
    Row("listmount", (NOWHERE, NOWHERE, 0, 0)),
)


def test_it_is_refused_and_on_record(daemon: Daemon) -> None:
    expect_refused(daemon, ROWS)
