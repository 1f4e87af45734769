"""The structures are those of the built objects, byte by byte, by their BTF."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest

from supervisor.bpf import layout
from supervisor.sandbox.places import find_probes
from tests.style.tree import ROOT

BPFTOOL = shutil.which("bpftool", path=f"{os.environ['PATH']}:/usr/sbin")
BITS = 8
ENUMERATIONS = ("HOOK", "EVENT_", "WATCHING", "BECAUSE_", "MOUNTING_", "SORT_")
HEADER = (ROOT / "probes/include/abi.h").read_text()


@functools.cache
def structures() -> dict[str, dict[str, tuple[int, int]]]:
    """Give name → member → (offset, size in bytes), of all objects."""
    assert BPFTOOL is not None, "bpftool builds the probes, so it is here"
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for path in find_probes().glob("*.bpf.o"):
        command = [BPFTOOL, "--json", "btf", "dump", "file", str(path)]
        types = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["types"]
        by_id = {one["id"]: one for one in types}
        for one in types:
            if one["kind"] == "STRUCT" and one["name"] in layout.STRUCTURES:
                found[one["name"]] = {
                    member["name"]: (
                        member["bits_offset"] // BITS, _size(member["type_id"], by_id)
                    )
                    for member in one["members"]
                }  # fmt: skip
    return found


def _size(number: int, by_id: dict[int, Any]) -> int:
    one = by_id[number]
    if one["kind"] == "ARRAY":
        return int(one["nr_elems"]) * _size(one["type_id"], by_id)
    return int(one["size"]) if "size" in one else _size(one["type_id"], by_id)


@pytest.mark.parametrize("name", layout.STRUCTURES)
def test_a_structure_is_that_of_the_objects(name: str) -> None:
    theirs = structures()[name]
    ours = {
        field: (getattr(layout.STRUCTURES[name], field).offset, ctypes.sizeof(kind))
        for field, kind in layout.STRUCTURES[name]._fields_
    }
    assert ours == theirs
    end = max(offset + size for offset, size in theirs.values())
    assert ctypes.sizeof(layout.STRUCTURES[name]) == end, "padding is written out"


@pytest.mark.parametrize(
    "name",
    [
        "ABI_VERSION", "ADDRESS_BYTES", "COMM_BYTES", "CALLS_MAX", "KINDS_MAX", "MOUNTS_MAX",
        "RING_BYTES", "TRIAL_RING", "PORT_RANGES_MAX", "PLACE_ROWS_MAX", "ORIGIN_ROWS_MAX",
        "FLOWS_ENDED_MAX", "FLOWS_ENDED_ROWS_MAX",
        "SYSCALLS_MAX", "SYSCALL_WORDS", "PLACES_MAX", "PLACE_UNIX", "PLACE_INET", "PLACE_INET6",
        "PLACE_NETLINK", "ARGUMENTS_MAX",
    ],
)  # fmt: skip
def test_a_number_is_that_of_the_header(name: str) -> None:
    found = re.search(rf"#define {name}\s+(.*)", HEADER)
    assert found is not None
    product = 1
    for factor in found.group(1).strip("()").split("*"):
        product *= int(factor)
    assert getattr(layout, name) == product


def test_the_enumerations_are_those_of_the_header() -> None:
    theirs = {name: int(value) for name, value in re.findall(r"\t([A-Z_]+) = (\d+),", HEADER)}
    ours = {
        name: value
        for name, value in vars(layout).items()
        if name.startswith(ENUMERATIONS) and isinstance(value, int)
    }
    assert ours == theirs
