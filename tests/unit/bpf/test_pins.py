"""Pins: what is there, what is gone, and names that the file system takes."""

from __future__ import annotations

import ctypes
import os

import pytest

from supervisor.bpf import pins
from supervisor.bpf.fence import Fence
from supervisor.bpf.libbpf import check, library
from tests.unit.bpf.real import ground

pytestmark = pytest.mark.root


def test_links_know_where_they_are() -> None:
    with ground() as here:
        fence = Fence(here.places)
        fence.open()
        link = pins.Link(here.places.pins / here.places.version() / "links/fence_connect4")
        assert link.name == "fence_connect4"
        assert link.pinned()
        assert link.cgroup() == here.places.cgroup.stat().st_ino
        link.path.unlink()
        assert not link.pinned()
        link.close()
        link.close()
        fence.close()


def test_maps_are_found_again() -> None:
    with ground() as here:
        fd = check(library().bpf_map_create(1, b"one", 4, 4, 1, None), "create")
        place = here.places.pins / "one"
        pins.pin_map(fd, place)
        os.close(fd)
        again = pins.open_map(place)
        key = ctypes.c_uint32(1)
        assert library().bpf_map_update_elem(again, ctypes.byref(key), ctypes.byref(key), 0) == 0
        with pytest.raises(OSError):
            pins.pin_map(again, place)
        os.close(again)
        with pytest.raises(FileNotFoundError):
            pins.open_map(here.places.pins / "none")
        folder = here.places.pins / "folder/below"
        folder.mkdir(parents=True)
        place.rename(folder / "one")
        pins.remove_tree(folder.parent)
        pins.remove_tree(folder.parent)
        assert not folder.parent.exists()
