"""What runs inside a virtual machine: this kernel's verifier takes every probe, however it is set.

What one kernel takes another may refuse, with the same object: so each object is loaded with every
setting that its constants can have, and every program of it is attached.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.bpf.objects import CONFIGURATION, ProbeObject
from supervisor.errors import HostError
from supervisor.linux.mounts import BpfFolder
from tests.vm.machine import ROOT
from tests.vm.service import TREE

OBJECTS = sorted((ROOT / "probes/.output").glob("*.bpf.o"))
SOURCES = sorted((ROOT / "probes").glob("*.bpf.c"))
SETTINGS = {CONFIGURATION: (1, 3, 6)}
"""Every constant of .rodata that the daemon writes, and what it may be: the verifier knows its
value, and takes other paths by it. Sandboxes lie at level 3, in a container's tree deeper."""

log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def cgroup() -> Iterator[int]:
    folder = TREE / "stockade-probes"
    folder.mkdir()
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
        folder.rmdir()


@contextlib.contextmanager
def loaded(path: Path, level: int) -> Iterator[ProbeObject]:
    """Load an object with a setting; where that fails, say what the verifier said."""
    with ProbeObject(path) as probe:
        probe.configure(level)
        try:
            probe.load()
        except HostError as error:
            pytest.fail(f"{error.message}, {CONFIGURATION} {level}:\n{error.metadata['log']}")
        yield probe


def constants(path: Path) -> set[str]:
    """List the constants of an object that can be written before it is loaded."""
    dumped = subprocess.run(
        ["bpftool", "--json", "btf", "dump", "file", path],
        check=True, capture_output=True, env={"PATH": "/usr/sbin:/usr/bin"},
    )  # fmt: skip
    types = {one["id"]: one for one in json.loads(dumped.stdout)["types"]}
    sections = [one for one in types.values() if one["kind"] == "DATASEC"]
    return {
        types[variable["type_id"]]["name"]
        for section in sections
        if section["name"].startswith(".rodata")
        for variable in section["vars"]
    }


def test_every_source_has_its_object() -> None:
    assert [path.name for path in OBJECTS] == [f"{path.stem}.o" for path in SOURCES]
    assert len(OBJECTS) >= 4


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.stem)
def test_every_setting_is_tried_below(path: Path) -> None:
    assert constants(path) == set(SETTINGS)


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.stem)
def test_it_loads_attaches_and_can_be_pinned_in_every_setting(
    path: Path, cgroup: int, tmp_path: Path
) -> None:
    for level in SETTINGS[CONFIGURATION]:
        folder = BpfFolder(tmp_path / f"bpf-{level}")
        with loaded(path, level) as probe:
            programs = {name for name, _ in probe.programs()}
            assert programs
            try:
                probe.attach(cgroup)
            except HostError as error:
                pytest.fail(f"{error.message}, {CONFIGURATION} {level}")
            probe.pin(folder.path)
            assert {one.name for one in folder.pins()} == programs
        folder.close()
        log.info("%s, %s %d: %s", path.name, CONFIGURATION, level, ", ".join(sorted(programs)))
