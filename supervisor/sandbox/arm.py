"""Read the walls of a created container back from the kernel, before its first instruction.

Nothing here trusts the spec or the runtime: every wall is looked at from the outside, through
/proc and the cgroup files of the waiting process. The first wall that cannot be shown to stand
ends the call: fail closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import HostError
from supervisor.linux.cgroup import Cgroup
from supervisor.linux.credentials import cgroup_of, shared_namespaces, standing
from supervisor.linux.netns import interfaces
from supervisor.oci.spec import GID, MASKED, READ_ONLY, UID
from supervisor.profile.model import EffectiveProfile

SECCOMP_MODE_FILTER = 2
PAGE_BYTES = 4096
KIB = 1024
OWN = {"/dev/pts": "devpts", "/dev/shm": "tmpfs"}  # noqa: S108
"""What may be written besides the profile's mounts: path → file system, all the sandbox's own."""

SOCKETS_SHARE = 8
"""Sockets may buffer this part of the memory, on top of it, where no cgroup counts it there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountLine:
    """A line of mountinfo (proc_pid_mountinfo(5)); `size_bytes` is a tmpfs's, 0 where unknown."""

    path: str
    kind: str
    options: frozenset[str]
    size_bytes: int = 0


def read_back(pid: int, profile: EffectiveProfile, cgroup: Cgroup, uid_base: int) -> None:
    """Check every wall around the waiting process `pid`.

    Raises:
        HostError: `WALL_NOT_STANDING`, naming the wall and what was found.
    """
    try:
        faults = list(_faults(pid, profile, cgroup, uid_base))
    except (OSError, ValueError, LookupError) as error:
        # Gone, or written in a way that is not known here: what cannot be read does not stand.
        raise HostError("WALL_NOT_STANDING", f"a wall could not be read back: {error}") from error
    if faults:
        raise HostError(
            "WALL_NOT_STANDING",
            "; ".join(faults),
            hint="stockade doctor tells which wall this host cannot raise",
        )


def _faults(pid: int, profile: EffectiveProfile, cgroup: Cgroup, uid_base: int) -> Iterator[str]:
    yield from _identity(pid, uid_base)
    yield from _seccomp(pid)
    shared = shared_namespaces(pid)
    if shared:
        yield f"namespaces: shared with the daemon: {', '.join(shared)}"
    found = interfaces(pid)
    if found != ["lo"]:
        yield f"no way out: interfaces {found}, expected only lo"
    yield from _resources(pid, profile, cgroup)
    mounts = mounts_of(pid)
    yield from _files(mounts, profile)
    yield from _proc(pid, mounts)


def _identity(pid: int, uid_base: int) -> Iterator[str]:
    has = standing(pid)
    if set(has.uids) != {uid_base + UID} or set(has.gids) != {uid_base + GID}:
        yield f"identity: uid {has.uids}, gid {has.gids}, expected {uid_base + UID} alone"
    if has.groups:
        yield f"identity: supplementary groups {has.groups}"
    if has.capabilities:
        yield f"identity: capabilities {has.capabilities:#x}"
    if not has.no_new_privs:
        yield "identity: no_new_privs is not set"


def _seccomp(pid: int) -> Iterator[str]:
    has = standing(pid)
    if has.seccomp_mode != SECCOMP_MODE_FILTER or has.seccomp_filters < 1:
        yield f"syscalls: mode {has.seccomp_mode}, {has.seccomp_filters} filters"


def _resources(pid: int, profile: EffectiveProfile, cgroup: Cgroup) -> Iterator[str]:
    for controllers, path in cgroup_of(pid).items():
        if controllers in ("", "memory", "pids") and path.strip("/") != cgroup.path:
            yield f"resources: {controllers or 'unified'} cgroup is {path}, expected {cgroup.path}"
    has = cgroup.limits()
    allowed = profile.limits.memory_bytes - profile.limits.memory_bytes % PAGE_BYTES
    if has["memory"] > allowed or has["memory_and_swap"] > allowed:
        yield f"resources: memory {has['memory']}, with swap {has['memory_and_swap']}"
    if has["sockets"] > socket_bytes(profile):
        yield f"resources: sockets may buffer {has['sockets']} bytes"
    if has["pids"] > profile.limits.pids:
        yield f"resources: pids {has['pids']}"
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max open files") and int(line.split()[4]) > profile.limits.files:
            yield f"resources: {line}"


def socket_bytes(profile: EffectiveProfile) -> int:
    """Give how much the TCP and UDP sockets of a call may buffer, where that has its own limit."""
    return profile.limits.memory_bytes // SOCKETS_SHARE


def _files(mounts: list[MountLine], profile: EffectiveProfile) -> Iterator[str]:
    writable = {mount.path: mount for mount in profile.write}
    for mount in mounts:
        wanted = writable.pop(mount.path, None)
        if wanted is not None:
            flags = {"nosuid", "nodev"} | (set() if wanted.exec else {"noexec"})
            if mount.kind != "tmpfs" or not flags <= mount.options:
                yield f"files: {mount.path} is {mount.kind} with {sorted(mount.options)}"
            elif not 0 < mount.size_bytes < wanted.size_bytes + PAGE_BYTES:
                yield f"files: {mount.path} holds {mount.size_bytes} bytes"
        elif "ro" not in mount.options and not _of_the_runtime(mount):
            yield f"files: {mount.path} can be written ({mount.kind})"
        elif mount.path == "/proc" and mount.kind != "proc":
            yield f"files: /proc is {mount.kind}"
    if writable:
        yield f"files: not mounted: {', '.join(sorted(writable))}"


def _proc(pid: int, mounts: list[MountLine]) -> Iterator[str]:
    """Look at the files of /proc that are the whole host's: hidden or read-only, each of them."""
    options = {mount.path: mount.options for mount in mounts}
    for path in (*MASKED, *READ_ONLY):
        if path not in options and Path(f"/proc/{pid}/root{path}").exists():
            yield f"files: {path} is the host's"
    for path in READ_ONLY:
        if "ro" not in options.get(path, {"ro"}):
            yield f"files: {path} can be written"


def _of_the_runtime(mount: MountLine) -> bool:
    """Say whether a mount is one that is the sandbox's own, whatever its profile says."""
    return OWN.get(mount.path) == mount.kind


def mounts_of(pid: int) -> list[MountLine]:
    """List what a process has mounted."""
    found = []
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields, kind, settings = left.split(), right.split()[0], right.split()[-1]
        sizes = [
            word for word in settings.split(",") if kind == "tmpfs" and word.startswith("size=")
        ]
        found.append(
            MountLine(
                path=fields[4],
                kind=kind,
                options=frozenset(fields[5].split(",")),
                size_bytes=int(sizes[0][len("size=") : -1]) * KIB if sizes else 0,
            )
        )
    return found
