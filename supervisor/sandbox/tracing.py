"""What `stockade trace` points a tool at: a running daemon of this host, and one of its calls.

Everything is found by files that only root can read, without asking the daemon: who traces calls
needs no grant to call. A call is its cgroup, whose id is the inode of its folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.bpf import guests
from supervisor.errors import HostError, InvalidRequest, NotFound, Unreachable
from supervisor.linux import cgroup
from supervisor.linux.locks import flock_holder
from supervisor.sandbox.host import PARENT_CGROUP, instance_of

FORBIDDEN = '"\\\n'
"""In a path that BCC writes into C source, between quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningDaemon:
    """A daemon that runs now; `pins` is its bpf file system, `calls` the cgroup of its calls."""

    pid: int
    pins: Path
    calls: Path

    @property
    def live(self) -> Path:
        """Give the map of all its live calls."""
        return self.pins / guests.LIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a tool looks at; `folder` is the call's cgroup, None where it is all calls."""

    daemon: RunningDaemon
    folder: Path | None = None
    cgroup_id: int = 0

    def lives(self) -> bool:
        """Say whether there is still something to look at, as far as the daemon lives."""
        if self.folder is None:
            return self.daemon.live.exists()
        return _id_of(self.folder) == self.cgroup_id

    @contextlib.contextmanager
    def pinned(self) -> Iterator[Path]:
        """Give the path of a map with what is looked at.

        Raises:
            HostError: `MAP_UNPINNABLE`.
        """
        if self.folder is None:
            yield self.daemon.live
            return
        with contextlib.ExitStack() as stack:
            try:
                guests.remove_ended(self.daemon.pins)
                pinned = guests.one_call(self.daemon.pins, self.cgroup_id)
                path = stack.enter_context(pinned)
            except OSError as error:
                raise HostError("MAP_UNPINNABLE", f"{self.daemon.pins}: {error}") from error
            yield path


def daemons(runtime: Path, state: Path | None = None) -> list[RunningDaemon]:
    """List the daemons that run over `runtime`; only that of `state`, where it is given."""
    hierarchies = cgroup.detect()
    names = [instance_of(state)] if state is not None else _names(runtime)
    found = []
    for name in names:
        pins = runtime / name / "bpf"
        pid = flock_holder(runtime / name / "lock")
        if pid:
            calls = hierarchies.unified / PARENT_CGROUP / name
            found.append(RunningDaemon(pid=pid, pins=pins, calls=calls))
    return found


def scope_of(call_id: str | None, runtime: Path, state: Path | None = None) -> Scope:
    """Give what to look at: a live call, or all calls of the daemon where that is None.

    Raises:
        Unreachable: `DAEMON_NOT_RUNNING`.
        NotFound: `CALL_NOT_LIVE`.
        InvalidRequest: `DAEMON_AMBIGUOUS`, `PATH_UNUSABLE`.
        HostError: `MAP_MISSING`.
    """
    running = daemons(runtime, state)
    if not running:
        raise Unreachable(
            "DAEMON_NOT_RUNNING",
            f"no daemon runs over {runtime}" + (f" for {state}" if state is not None else ""),
            hint="give its --runtime-dir, or start one: stockade serve",
        )
    for daemon in running:
        if any(character in os.fspath(daemon.pins) for character in FORBIDDEN):
            raise InvalidRequest("PATH_UNUSABLE", f"BCC cannot take the path {daemon.pins}")
    if call_id is not None:
        return _scope_of_call(call_id, running)
    if len(running) > 1:
        pids = ", ".join(str(daemon.pid) for daemon in running)
        raise InvalidRequest(
            "DAEMON_AMBIGUOUS", f"several daemons run over {runtime}: {pids}",
            hint="say whose calls with --state",
        )  # fmt: skip
    [daemon] = running
    if not daemon.live.exists():
        raise HostError(
            "MAP_MISSING",
            f"the daemon {daemon.pid} runs, but its map of live calls is not there: {daemon.live}",
            hint="where it does not start just now, restart it: it puts its pins in place again",
        )
    return Scope(daemon=daemon)


def _scope_of_call(call_id: str, running: list[RunningDaemon]) -> Scope:
    for daemon in running:
        folder = daemon.calls / call_id
        number = _id_of(folder) if "/" not in call_id and call_id not in ("", ".", "..") else 0
        if number:
            return Scope(daemon=daemon, folder=folder, cgroup_id=number)
    raise NotFound(
        "CALL_NOT_LIVE", f"no live call is {call_id}: there is none, or it has ended",
        hint="stockade ps; --all also sees calls that begin later",
    )  # fmt: skip


def _names(runtime: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in runtime.iterdir() if (entry / "lock").exists())
    except FileNotFoundError:
        return []


def _id_of(folder: Path) -> int:
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return 0
