"""The /dev of sandboxes: devices that work, links that lead, and nothing left of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from supervisor.linux.devices import FOLDERS, LINKS, NODES, make_devices, remove_mount


@pytest.mark.root
def test_it_is_made_used_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    make_devices(folder)
    try:
        assert folder.is_mount()
        assert {entry.name for entry in folder.iterdir()} == {*NODES, *LINKS, *FOLDERS}
        for name, number in NODES.items():
            status = (folder / name).stat()
            assert stat.S_ISCHR(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o666
            assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == number
            assert status.st_rdev == Path("/dev", name).stat().st_rdev
        assert (folder / "zero").open("rb").read(3) == bytes(3)
        (folder / "null").write_bytes(b"gone")
        assert (folder / "fd").readlink() == Path("/proc/self/fd")
        make_devices(folder)  # over what a former daemon left
    finally:
        remove_mount(folder)
    assert list(folder.iterdir()) == []
    remove_mount(folder)
