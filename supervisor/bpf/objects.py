"""A probe's object: open it, share maps with others, load it, attach it, pin what it made."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from supervisor.bpf.libbpf import check, failed, library
from supervisor.errors import HostError

OF_A_CGROUP = ("cgroup", "sockops")
"""How sections of programs begin that are attached to a cgroup."""

CONFIGURATION = "call_level"
"""The one word of .rodata that the daemon writes: see probes/include/maps.h."""


class ProbeObject:
    """One object file, from open to closed; what is pinned of it stays."""

    def __init__(self, path: Path) -> None:
        self.name = path.name.removesuffix(".bpf.o")
        self._path = path
        self._lib = library()
        self._links: dict[str, int] = {}
        with self._lib.listening() as said:
            self._object = self._lib.bpf_object__open_file(os.fsencode(path), None)
            if not self._object:
                raise self._broken("cannot be opened", failed("bpf_object__open_file"), said)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything; what is not pinned is gone."""
        self.let_links_go()
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None

    def let_links_go(self) -> None:
        """Detach what is not pinned; the programs stay loaded."""
        for link in self._links.values():
            self._lib.bpf_link__destroy(link)
        self._links = {}

    def _broken(self, what: str, error: OSError, said: object) -> HostError:
        lines = [str(line) for line in said] if hasattr(said, "__iter__") else []
        return HostError(
            "PROBE_UNLOADABLE",
            f"{self._path}: {what}: {error.strerror}",
            hint="stockade doctor tells what this kernel lacks",
            metadata={"log": "\n".join(lines[-20:])},
        )

    def programs(self) -> Iterator[tuple[str, int]]:
        """Give names and handles of the programs."""
        handle = self._lib.bpf_object__next_program(self._object, None)
        while handle:
            yield self._lib.bpf_program__name(handle).decode(), handle
            handle = self._lib.bpf_object__next_program(self._object, handle)

    def _maps(self) -> Iterator[tuple[str, int]]:
        handle = self._lib.bpf_object__next_map(self._object, None)
        while handle:
            yield self._lib.bpf_map__name(handle).decode(), handle
            handle = self._lib.bpf_object__next_map(self._object, handle)

    def map_fds(self) -> dict[str, int]:
        """Give the descriptors of the maps, by name; they are this object's."""
        return {name: self._lib.bpf_map__fd(handle) for name, handle in self._maps()}

    def share(self, fds: Mapping[str, int]) -> None:
        """Use maps that are there already, instead of new ones of the same name. Whether they are
        of the right shape, loading tells.

        Raises:
            OSError: one of them is no map.
        """
        for name, handle in self._maps():
            if name in fds:
                code = self._lib.bpf_map__reuse_fd(handle, fds[name])
                check(code, f"{self.name}: the map {name}")

    def configure(self, call_level: int) -> None:
        """Write the constants; only before it is loaded.

        Raises:
            OSError: the object has no such constant.
        """
        for name, handle in self._maps():
            if not name.endswith(".rodata"):
                continue
            size = ctypes.c_size_t()
            value = self._lib.bpf_map__initial_value(handle, ctypes.byref(size))
            if not value or size.value < 4:
                raise failed(f"{self.name}: {name}")
            ctypes.c_uint32.from_address(value).value = call_level
            return
        raise failed(f"{self.name}: no .rodata", -2)

    def load(self) -> None:
        """Hand it to the kernel.

        Raises:
            HostError: `PROBE_UNLOADABLE`, with the end of the verifier's log in the metadata.
        """
        with self._lib.listening() as said:
            code = self._lib.bpf_object__load(self._object)
            if code < 0:
                raise self._broken("the kernel refuses it", failed("load", code), said)

    def attach(self, cgroup_fd: int = -1) -> None:
        """Attach every program: to the cgroup, or where its section says.

        Raises:
            HostError: `PROBE_UNATTACHABLE`.
        """
        for name, handle in self.programs():
            section = self._lib.bpf_program__section_name(handle).decode()
            with self._lib.listening():
                if section.startswith(OF_A_CGROUP):
                    link = self._lib.bpf_program__attach_cgroup(handle, cgroup_fd)
                else:
                    link = self._lib.bpf_program__attach(handle)
            if not link:
                error = failed(name)
                raise HostError(
                    "PROBE_UNATTACHABLE",
                    f"{self.name}: {name} ({section}): {error.strerror}",
                    hint="stockade doctor tells what this kernel lacks",
                )
            self._links[name] = link

    def pin(self, folder: Path) -> None:
        """Pin every link, so that it outlives this process.

        Raises:
            OSError: `folder` is not on a bpf file system.
        """
        for name, link in self._links.items():
            path = os.fsencode(folder / name)
            check(self._lib.bpf_link__pin(link, path), f"pin {name}")
