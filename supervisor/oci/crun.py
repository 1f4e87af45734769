"""crun: created, started, and held at cell's gate.

With no_new_privs, crun installs the seccomp filter only after `start`, on its way to the program of
the container (container_init in src/libcrun/container.c, crun 1.8): what `create` leaves has no
filter that could be read back, and has handed over no descriptor. So `create` here is both of its
verbs. The container's program is cell, our own: it waits at its gate, behind every wall, and our
`start` opens that.

Its `exec.fifo` is no business of ours: it is read where runc's is written, and `crun start` knows.
Deleting is removing the state folder, as with runc: cgroups, processes and mounts are gone by then,
and no hooks were asked for. A `.cache` of compiled filters stays beside it for the next container.
"""

from __future__ import annotations

import os
from pathlib import Path

from supervisor.errors import RuntimeFailed
from supervisor.linux.fds import make_pipe
from supervisor.oci.runtime import Runtime, StandardFds
from supervisor.oci.spec import GATE_FD

LET_GO = b"1"


class Crun(Runtime):
    """A runtime in C, for hosts whose cgroups are of version 2 alone."""

    NAME = "crun"
    GATED = True
    BINDS_NULL = True
    NEEDS_CGROUP_V2 = True

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self._gates: dict[str, int] = {}

    async def create(self, container: str, bundle: Path, fds: StandardFds) -> int:
        """Create a container and start it; cell waits at its gate."""
        gate = make_pipe()
        self._gates[container] = gate.write
        pid_file = bundle / "pid"
        create = ["create", "--bundle", str(bundle), "--pid-file", str(pid_file)]
        numbers = {**fds.numbered(), GATE_FD: gate.read}
        try:
            await self._run([*create, "--preserve-fds", "2", container], bundle, numbers)
        finally:
            # The init's copy is the only one: it learns of our end by the end of this pipe.
            os.close(gate.read)
        await self._run(["start", container], bundle, {})
        return int(pid_file.read_text())

    async def start(self, container: str, init_pidfd: int) -> None:
        """Let a created container go."""
        gate = self._gates.pop(container, None)
        if gate is None:
            raise RuntimeFailed("OCI_START_FAILED", f"no container {container} waits at its gate")
        try:
            os.write(gate, LET_GO)
        except BrokenPipeError:
            raise RuntimeFailed(
                "OCI_START_FAILED", "the container's init ended before start"
            ) from None
        finally:
            os.close(gate)

    def remove(self, container: str) -> None:
        """Forget a container whose processes and cgroups are gone."""
        gate = self._gates.pop(container, None)
        if gate is not None:
            os.close(gate)
        super().remove(container)
