"""A real fence on a cgroup of its own, for tests that are root."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.bpf.fence import Fence, FencePlaces
from supervisor.linux import cgroup
from supervisor.linux.mounts import BpfFolder
from supervisor.sandbox.places import find_canary, find_probes

LEVEL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A cgroup for sandboxes, with one for a call below it, and a place for pins."""

    places: FencePlaces
    call: cgroup.Cgroup

    @property
    def call_id(self) -> int:
        """Give the id of the call's cgroup."""
        return self.call.identity()

    def run(self, script: str, **options: object) -> subprocess.CompletedProcess[bytes]:
        """Run a shell in the call's cgroup, in a network of its own with nothing but loopback."""
        enter = f"ip link set lo up; echo $$ >{self.call.unified}/cgroup.procs; {script}\n:"
        return subprocess.run(
            ["unshare", "--net", "sh", "-c", enter], capture_output=True, check=True, timeout=60
        )


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """Make it, and remove it."""
    hierarchies = cgroup.detect()
    top = cgroup.Cgroup(hierarchies, f"stockade-unit-{secrets.token_hex(4)}")
    call = cgroup.Cgroup(hierarchies, f"{top.path}/call")
    call.unified.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="stockade-unit-") as folder:
        bpf = BpfFolder(Path(folder) / "bpf")
        try:
            places = FencePlaces(
                objects=find_probes(),
                pins=bpf.path,
                cgroup=top.unified,
                level=LEVEL,
                canary=find_canary(),
            )
            yield Ground(places=places, call=call)
        finally:
            bpf.close()
            call.destroy()
            top.destroy()


def with_fence(scenario: Callable[[Ground, Fence], Coroutine[Any, Any, None]]) -> None:
    """Run `scenario` with a fence that is open, and close it."""

    async def main() -> None:
        with ground() as here:
            fence = Fence(here.places)
            fence.open()
            try:
                await asyncio.wait_for(scenario(here, fence), 60)
            finally:
                fence.close()

    asyncio.run(main())


def fail(error: Exception) -> None:
    """Be what a watch tells where it went wrong: a failure of the test."""
    raise error
