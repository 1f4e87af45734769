"""Objects: what is in them, and what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.bpf.doors import MAPS as DOOR_MAPS
from supervisor.bpf.fence import CGROUP_PROGRAMS, OBJECTS, OTHER_PROGRAMS, SHARED
from supervisor.bpf.guard import GUARD
from supervisor.bpf.objects import ProbeObject
from supervisor.bpf.syscalls import OBJECT, PROGRAMS
from supervisor.errors import HostError
from supervisor.sandbox.places import find_probes

pytestmark = pytest.mark.root


def path_of(name: str) -> Path:
    return find_probes() / f"{name}.bpf.o"


@pytest.mark.parametrize("content", [None, b"", b"no object"])
def test_what_is_no_object_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "odd.bpf.o"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HostError) as caught:
        ProbeObject(path)
    assert caught.value.reason == "PROBE_UNLOADABLE"
    assert str(path) in caught.value.message


def test_every_program_and_map_has_its_place() -> None:
    programs: list[str] = []
    for name in OBJECTS:
        with ProbeObject(path_of(name)) as one:
            assert one.name == name
            programs += [program for program, _ in one.programs()]
            assert set(one.map_fds()) >= set(SHARED)
            # What is shared is shared by name.
            doors = set(DOOR_MAPS) if name == "egress" else set()
            assert set(one.map_fds()) & set(DOOR_MAPS) == doors
    for name in (OBJECT, GUARD):
        with ProbeObject(path_of(name)) as one:
            assert not set(one.map_fds()) & set(DOOR_MAPS)
    assert sorted(programs) == sorted([*CGROUP_PROGRAMS, *OTHER_PROGRAMS])


def test_maps_are_shared() -> None:
    with ProbeObject(path_of("egress")) as first, ProbeObject(path_of("process")) as second:
        first.configure(1)
        first.load()
        shared = {name: first.map_fds()[name] for name in SHARED}
        second.configure(1)
        second.share(shared)
        second.load()
        assert all(fd >= 0 for fd in second.map_fds().values())


def test_a_map_of_another_shape_is_refused() -> None:
    with ProbeObject(path_of("egress")) as first, ProbeObject(path_of("process")) as second:
        first.load()
        second.share({"calls": first.map_fds()["strays"]})
        with pytest.raises(HostError) as caught:
            second.load()
        assert caught.value.reason == "PROBE_UNLOADABLE"
        assert caught.value.metadata["log"]


def test_attaching_to_what_is_no_cgroup_is_named(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with ProbeObject(path_of("egress")) as one, pytest.raises(HostError) as caught:
        one.load()
        one.attach(fd)
    os.close(fd)
    assert caught.value.reason == "PROBE_UNATTACHABLE"


def test_the_kernel_s_reason_is_kept(tmp_path: Path) -> None:
    """One byte of an instruction is not what it was: soon found in an object that is small."""
    good = path_of("syscalls").read_bytes()
    for at in range(0x40, len(good), 8):
        bad = tmp_path / "bad.bpf.o"
        bad.write_bytes(good[:at] + b"\xff" + good[at + 1 :])
        try:
            with ProbeObject(bad) as one:
                one.load()
        except HostError as error:
            assert error.reason == "PROBE_UNLOADABLE"
            if "processed" in error.metadata["log"]:
                return
        except OSError:
            continue
    pytest.fail("no change was refused by the verifier")


def test_links_can_go_while_the_programs_stay_loaded() -> None:
    with ProbeObject(path_of("syscalls")) as one:
        one.configure(1)
        one.load()
        for _ in range(2):
            one.attach()
            assert sorted(one._links) == sorted(PROGRAMS)
            one.let_links_go()
            assert one._links == {}
