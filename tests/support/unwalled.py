"""Real containers with every wall taken down but the fence: as root, with all capabilities, no
seccomp filter, and a network namespace that leads somewhere.

The spec is that of a real call, and runc is the host's. What is taken out of it is what a call
could do if each other wall had a hole at once. Only tests can make one: no profile can.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.bpf.fence import Fence, FencePlaces
from supervisor.bpf.watch import Watch
from supervisor.linux import cgroup
from supervisor.linux.credentials import standing
from supervisor.linux.devices import make_devices, remove_mount
from supervisor.linux.mounts import BpfFolder, mount_overlay
from supervisor.oci.images import ImageStore
from supervisor.oci.rootfs import RootFolders
from supervisor.oci.spec import CAPABILITY_SETS, Program, SandboxPlaces, build_spec
from supervisor.profile.load import ProfileSet
from supervisor.profile.model import EffectiveProfile
from supervisor.sandbox.places import find_canary, find_cell, find_probes
from tests.style.tree import ROOT

PROFILES = (ROOT / "profiles", ROOT / "tests/escape/profiles")
PROGRAMS = ROOT / "tests/escape/programs"
PYTHON = "/usr/bin/python3"
LEVEL = 3
"""How deep a call's cgroup lies: /TOP/inside/CALL."""

CAPABILITIES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO
SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME
SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
"""In the order of their numbers (capabilities(7))."""

Denials = collections.Counter[tuple[str, str]]
"""How often was denied what, by hook and detail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A place for containers: `inside` the fence or outside of it."""

    top: str
    folder: Path
    root: Path
    profile: EffectiveProfile
    fence: Fence
    loop: asyncio.AbstractEventLoop

    def place(self, name: str, *, inside: bool) -> cgroup.Cgroup:
        """Give a cgroup for a call."""
        side = "inside" if inside else "outside"
        return cgroup.Cgroup(cgroup.detect(), f"{self.top}/{side}/{name}")

    def watch(self, call: cgroup.Cgroup) -> Watch:
        """Let a call in, as the daemon does before the sandbox exists."""
        return self.loop.run_until_complete(self.fence.watch(call.make()))

    def bundle(self, call: cgroup.Cgroup, network: str, argv: Sequence[str]) -> list[str]:
        """Make the bundle of a container in `call`, in the network namespace `network`; give the
        command that runs it."""
        places = SandboxPlaces(
            call_id="unwalled",
            root=str(self.root),
            devices=str(self.folder / "dev"),
            cgroup=f"/{call.path}",
            cell=str(find_cell()),
            listener="",
            uid_base=0,
        )
        program = Program(argv=(b"true",), env={}, working_directory=b"/")
        spec = unwalled(build_spec(self.profile, places, program), network, argv)
        name = f"unwalled-{secrets.token_hex(4)}"
        bundle = self.folder / name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(spec))
        state = self.folder / "runc"
        return ["runc", "--root", str(state), "run", "--bundle", str(bundle), name]


def unwalled(spec: dict[str, Any], network: str, argv: Sequence[str]) -> dict[str, Any]:
    """Take every wall out of a call's spec; `argv` starts in the folder of the attacks."""
    linux, process = spec["linux"], spec["process"]
    for wall in ("seccomp", "maskedPaths", "readonlyPaths", "uidMappings", "gidMappings"):
        del linux[wall]
    kept = [one for one in linux["namespaces"] if one["type"] not in ("user", "network")]
    linux["namespaces"] = [*kept, {"type": "network", "path": network}]
    process["user"] = {"uid": 0, "gid": 0}
    process["capabilities"] = dict.fromkeys(CAPABILITY_SETS, our_capabilities())
    process["noNewPrivileges"] = False
    process["args"], process["cwd"] = list(argv), "/work"
    process["env"] = ["PATH=/usr/sbin:/usr/bin", "PYTHONDONTWRITEBYTECODE=1"]
    attacks = {"destination": "/work", "type": "bind", "source": str(PROGRAMS)}
    mounts = [one for one in spec["mounts"] if one["destination"] != "/work"]
    spec["mounts"] = [*mounts, {**attacks, "options": ["bind", "ro"]}]
    return spec


def our_capabilities() -> list[str]:
    """Name all the capabilities that this process has: nobody can hand out more."""
    held = standing(os.getpid()).capabilities
    return [f"CAP_{name}" for number, name in enumerate(CAPABILITIES.split()) if held >> number & 1]


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """Make cgroups and a fence around one of them, and remove them."""
    hierarchies = cgroup.detect()
    top = cgroup.Cgroup(hierarchies, f"stockade-unwalled-{secrets.token_hex(4)}")
    profile = ProfileSet.load(PROFILES).effective("net")
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(prefix="stockade-unwalled-") as name:
        folder = Path(name)
        bpf = BpfFolder(folder / "bpf")
        try:
            cgroup.make_parent(hierarchies, f"{top.path}/inside")
            make_devices(folder / "dev")
            places = FencePlaces(
                objects=find_probes(),
                pins=bpf.path,
                cgroup=top.unified / "inside",
                level=LEVEL,
                canary=find_canary(),
            )
            fence = Fence(places)
            fence.open()
            roots = RootFolders(folder / "roots", ImageStore(folder), mount_overlay)
            yield Ground(
                top=top.path,
                folder=folder,
                root=roots.path(profile),
                profile=profile,
                fence=fence,
                loop=loop,
            )
            fence.close()
        finally:
            top.destroy()
            remove_mount(folder / "dev")
            bpf.close()
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()


def denials(watch: Watch) -> Denials:
    """Give what was denied since the last look."""
    found: Denials = collections.Counter()
    while batch := watch.take():
        for denial in batch.denials:
            found[denial.refused.name, denial.refused.detail] += denial.count
    for denial in watch.sweep(all_kinds=True).denials:
        found[denial.refused.name, denial.refused.detail] += denial.count
    return found


def in_cgroup(call: cgroup.Cgroup, network: str, script: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell, without a container, in a cgroup and a network namespace."""
    enter = f'echo $$ >{call.unified}/cgroup.procs && exec nsenter --net={network} sh -c "$0"'
    return subprocess.run(
        ["sh", "-c", enter, script], check=True, capture_output=True, timeout=60, cwd=PROGRAMS
    )
