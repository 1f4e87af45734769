"""`stockade` with a fence that does nothing: for `make bench` alone, to see what a real one costs.

There is no such daemon outside of this folder. It is started in a network namespace with nothing
but loopback, and runs `true`.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast
from unittest import mock

from supervisor.bpf.fence import Fence
from supervisor.bpf.syscalls import Asked
from supervisor.bpf.watch import Told, Watch
from supervisor.cli.main import main
from supervisor.sandbox import host, sandbox
from supervisor.sandbox.fenced import CallFence


class NoFence(Fence):
    """Loads nothing, pins nothing, and finds no fault."""

    def open(self) -> None:
        """Do nothing."""

    def mark_reading(self) -> None:
        """Do nothing."""

    def leftovers(self) -> dict[int, Told]:
        """Give nothing."""
        return {}

    async def watch(self, cgroup_id: int, asked: Asked | None = None) -> Watch:
        """Give nothing: who gets it, `NoCallFence`, never looks at it."""
        return cast("Watch", None)

    def faults(self) -> list[str]:
        """Find nothing."""
        return []

    def strays(self) -> dict[str, int]:
        """Count nothing."""
        return {}

    def close(self) -> None:
        """Do nothing."""


class NoCallFence(CallFence):
    """Tries no canary and tells nothing."""

    def guard(self, *_: object) -> None:
        """Guard nothing."""

    async def try_canary(self, program: Path) -> None:
        """Do nothing."""

    def tell(self, *_: object) -> None:
        """Tell nothing."""

    def finish(self) -> None:
        """Tell nothing."""

    def close(self) -> None:
        """Do nothing."""


if __name__ == "__main__":
    with (
        mock.patch.object(host, "Fence", NoFence),
        mock.patch.object(sandbox, "CallFence", NoCallFence),
    ):
        main()
