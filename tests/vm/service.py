"""The daemon as a service of systemd's, in a guest."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.profiles import with_profiles
from tests.vm.machine import ROOT

STOCKADE = Path(sys.executable).with_name("stockade")
TREE = Path("/sys/fs/cgroup")
STATE, RUNTIME = Path("/var/lib/stockade"), Path("/run/stockade")
ADDRESS = f"unix://{RUNTIME}/stockade.sock"
SAID = Path("/var/tmp/stockade.log")
EVENTS = Path("/var/lib/stockade-events.jsonl")
UNIT = "stockade-vm.service"


@contextlib.contextmanager
def service(folder: Path, **profiles: str) -> Iterator[None]:
    """Run the daemon as production does: Type=notify, in a cgroup that is delegated to it.

    Its configuration lies in `folder`; `profiles` are those of `with_profiles`.
    """
    config = folder / "config.yaml"
    sinks = {"events": {"type": "file", "path": str(EVENTS)}}
    made = {**with_profiles(folder / "profiles", **profiles), "sinks": sinks}
    config.write_text(json.dumps(made))
    command = [STOCKADE, "serve", "--config", config, "--state", STATE, "--runtime-dir", RUNTIME]
    properties = [
        "Type=notify", "Delegate=yes", "Restart=always", "DefaultDependencies=no",
        # Beside the host's tests a start may take longer than systemd's 90 s.
        "TimeoutSec=600",
        f"Environment=PYTHONPATH={ROOT}", f"StandardError=append:{SAID}",
    ]  # fmt: skip
    run = ["systemd-run", f"--unit={UNIT}", *(f"--property={line}" for line in properties)]
    started = subprocess.run([*run, *command], check=False)
    assert started.returncode == 0, SAID.read_text()
    try:
        yield
    finally:
        systemctl("stop")


def systemctl(verb: str, *arguments: str) -> str:
    """Ask systemd about the daemon."""
    done = subprocess.run(
        ["systemctl", verb, UNIT, *arguments], check=False, capture_output=True, text=True
    )
    return done.stdout.strip()


def main_pid() -> int:
    """Give the daemon's process id, 0 where there is none."""
    return int(systemctl("show", "--value", "--property=MainPID"))


def cgroups() -> list[Path]:
    """List the cgroups of calls: /sys/fs/cgroup/stockade/INSTANCE/CALL."""
    return [path for path in (TREE / "stockade").glob("*/*") if path.is_dir()]


def listens() -> bool:
    """Say whether somebody listens on the daemon's socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(ADDRESS.removeprefix("unix://")) == 0
