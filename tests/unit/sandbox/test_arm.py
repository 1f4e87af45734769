"""The walls are read back: each, knocked out in turn, ends the call before it runs.

First with a real container whose spec was tampered with, then with made-up readings for what a
runtime cannot be brought to do.
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import HostError
from supervisor.linux.cgroup import Cgroup
from supervisor.linux.credentials import Standing
from supervisor.oci import spec as oci
from supervisor.profile.model import EffectiveProfile
from supervisor.sandbox import arm
from supervisor.sandbox import sandbox as module
from supervisor.sandbox.arm import MountLine, read_back
from tests.unit.sandbox.harness import content, made, sandbox_host, shipped

Spec = dict[str, Any]
UID_BASE = 1879048192


def _without(kind: str) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        spec["linux"]["namespaces"] = [
            one for one in spec["linux"]["namespaces"] if one["type"] != kind
        ]
        if kind == "uts":
            del spec["hostname"]

    return change


def _process(**values: object) -> Callable[[Spec], None]:
    return lambda spec: spec["process"].update(values)


def _linux(**values: object) -> Callable[[Spec], None]:
    return lambda spec: spec["linux"].update(values)


def _resources(kind: str, **values: object) -> Callable[[Spec], None]:
    return lambda spec: spec["linux"]["resources"][kind].update(values)


def _options(path: str, change: Callable[[list[str]], list[str]]) -> Callable[[Spec], None]:
    def apply(spec: Spec) -> None:
        for mount in spec["mounts"]:
            if mount["destination"] == path:
                mount["options"] = change(mount["options"])

    return apply


def _less(*gone: str) -> Callable[[list[str]], list[str]]:
    return lambda options: [one for one in options if one not in gone]


def _bound(spec: Spec) -> None:
    for mount in spec["mounts"]:
        if mount["destination"] == "/work":
            options = ["bind", "rw", "nosuid", "nodev", "noexec"]
            mount.update(type="bind", source="/var/tmp", options=options)


def _extra(spec: Spec) -> None:
    mount = {"destination": "/var", "type": "bind", "source": "/var/tmp", "options": ["bind", "rw"]}
    spec["mounts"].append(mount)


def _unmounted(spec: Spec) -> None:
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/tmp"]


def _elsewhere(spec: Spec) -> None:
    spec["linux"]["cgroupsPath"] += "-elsewhere"


CAPABLE = {name: ["CAP_NET_BIND_SERVICE"] for name in oci.CAPABILITY_SETS}
TAMPERED: dict[str, tuple[Callable[[Spec], None], str]] = {
    "no_new_privs": (_process(noNewPrivileges=False), "identity: no_new_privs"),
    "capabilities": (_process(capabilities=CAPABLE), "identity: capabilities"),
    "bounding set": (
        _process(capabilities={"bounding": ["CAP_CHOWN"]}),
        "identity: capabilities",
    ),
    "root": (_process(user={"uid": 0, "gid": 0}), "identity: uid"),
    "groups": (
        _process(user={"uid": 1000, "gid": 1000, "additionalGids": [5]}),
        "identity: supplementary groups",
    ),
    "ids": (
        _linux(uidMappings=[{"containerID": 0, "hostID": 3_000_000_000, "size": 65536}]),
        "identity: uid",
    ),
    "network": (_without("network"), "namespaces: shared"),
    "ipc": (_without("ipc"), "namespaces: shared"),
    "uts": (_without("uts"), "namespaces: shared"),
    "cgroup": (_without("cgroup"), "namespaces: shared"),
    "memory": (_resources("memory", limit=1 << 40, swap=1 << 40), "resources: memory"),
    "swap": (_resources("memory", swap=-1), "resources: memory"),
    "pids": (_resources("pids", limit=-1), "resources: pids"),
    "files": (
        _process(rlimits=[{"type": "RLIMIT_NOFILE", "hard": 300, "soft": 256}]),
        "resources: Max open files",
    ),
    "another cgroup": (_elsewhere, "could not be read back"),
    "writable root": (lambda spec: spec["root"].update(readonly=False), "files: / can be written"),
    "writable /usr": (_options("/usr", _less("ro", "rro")), "files: /usr can be written"),
    "exec on /work": (_options("/work", _less("noexec")), "files: /work is tmpfs"),
    "setuid on /tmp": (_options("/tmp", _less("nosuid")), "files: /tmp is tmpfs"),
    "devices on /work": (_options("/work", _less("nodev")), "files: /work is tmpfs"),
    "larger /tmp": (
        _options("/tmp", lambda options: [*options, "size=1g"]),
        "files: /tmp holds 1073741824 bytes",
    ),
    "unbounded /tmp": (
        _options("/tmp", lambda options: [*options, "size=0"]),
        "files: /tmp holds 0 bytes",
    ),
    "a folder of the host": (_bound, "files: /work is"),
    "one mount more": (_extra, "files: /var can be written"),
    "one mount less": (_unmounted, "files: not mounted: /tmp"),
    "/proc/sys": (_linux(readonlyPaths=[]), "files: /proc/sys is the host's"),
    "/proc/kallsyms": (_linux(maskedPaths=[]), "files: /proc/kallsyms is the host's"),
}


def armed(monkeypatch: pytest.MonkeyPatch, tamper: Callable[[Spec], None]) -> HostError | None:
    """Prepare a real sandbox from a tampered spec and read its walls back."""

    def build(*arguments: Any) -> Spec:
        spec: Spec = copy.deepcopy(oci.build_spec(*arguments))
        tamper(spec)
        return spec

    monkeypatch.setattr(module, "build_spec", build)

    async def main() -> HostError | None:
        async with sandbox_host() as host:
            sandbox = made(host, [])
            elsewhere = host.cgroup(f"{sandbox.cgroup.path.rsplit('/', 1)[1]}-elsewhere")
            try:
                await sandbox.prepare(content)
                sandbox.arm()
            except HostError as error:
                return error
            finally:
                sandbox.kill()
                elsewhere.destroy()
                sandbox.destroy()
        return None

    return asyncio.run(main())


@pytest.mark.root
def test_every_wall_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert armed(monkeypatch, lambda spec: None) is None


@pytest.mark.root
@pytest.mark.parametrize(("tamper", "wall"), TAMPERED.values(), ids=list(TAMPERED))
def test_a_wall_that_the_runtime_did_not_raise(
    monkeypatch: pytest.MonkeyPatch, tamper: Callable[[Spec], None], wall: str
) -> None:
    error = armed(monkeypatch, tamper)
    assert error is not None
    assert error.reason == "WALL_NOT_STANDING"
    assert wall in error.message


# Made-up readings.

GOOD = Standing(
    uids=(UID_BASE + oci.UID,) * 4,
    gids=(UID_BASE + oci.GID,) * 4,
    groups=(),
    capabilities=0,
    no_new_privs=True,
    seccomp_mode=2,
    seccomp_filters=1,
)
PROFILE = shipped()
LIMITS = {
    "memory": PROFILE.limits.memory_bytes,
    "memory_and_swap": PROFILE.limits.memory_bytes,
    "sockets": arm.socket_bytes(PROFILE),
    "pids": PROFILE.limits.pids,
}
TMPFS = frozenset({"rw", "nosuid", "nodev", "noexec"})
MOUNTS = [
    MountLine(path="/", kind="ext4", options=frozenset({"ro"})),
    MountLine(path="/usr", kind="ext4", options=frozenset({"ro", "nosuid"})),
    MountLine(path="/proc", kind="proc", options=frozenset({"ro"})),
    MountLine(path="/dev", kind="tmpfs", options=frozenset({"ro"})),
    MountLine(path="/dev/pts", kind="devpts", options=frozenset({"rw"})),
    MountLine(path="/dev/shm", kind="tmpfs", options=TMPFS),
    *[
        MountLine(path=one.path, kind="tmpfs", options=TMPFS, size_bytes=one.size_bytes)
        for one in PROFILE.write
    ],
    *[MountLine(path=p, kind="proc", options=frozenset({"ro"})) for p in oci.READ_ONLY],
    *[MountLine(path=p, kind="tmpfs", options=frozenset({"ro"})) for p in oci.MASKED],
]


class FakeCgroup(Cgroup):
    """A cgroup whose limits are said."""

    def __init__(self, limits: dict[str, int]) -> None:
        self.path = "stockade/x/call"
        self._limits = limits

    def limits(self) -> dict[str, int]:
        return self._limits


class Readings:
    """What the kernel is made to say; every value stands until one is knocked out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.standing = GOOD
        self.shared: list[str] = []
        self.interfaces = ["lo"]
        self.cgroups = {"": "/stockade/x/call", "memory": "/stockade/x/call", "cpuset": "/"}
        self.limits = dict(LIMITS)
        self.mounts = list(MOUNTS)
        self.files_line = f"Max open files   64   {PROFILE.limits.files}   files"
        for name in ("standing", "shared_namespaces", "interfaces", "cgroup_of", "mounts_of"):
            value = {"shared_namespaces": "shared", "cgroup_of": "cgroups", "mounts_of": "mounts"}
            monkeypatch.setattr(arm, name, self._reader(value.get(name, name)))
        monkeypatch.setattr(arm.Path, "read_text", lambda path: f"Limit\n{self.files_line}\n")

    def _reader(self, name: str) -> Callable[[int], object]:
        return lambda pid: getattr(self, name)

    def check(self, profile: EffectiveProfile = PROFILE) -> None:
        """Read the walls back."""
        read_back(os.getpid(), profile, FakeCgroup(self.limits), UID_BASE)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Readings:
    return Readings(monkeypatch)


def test_good_readings_pass(readings: Readings) -> None:
    readings.check()


def _stands(**values: Any) -> Callable[[Readings], None]:
    return lambda readings: setattr(readings, "standing", replace(GOOD, **values))


def _limit(**values: int) -> Callable[[Readings], None]:
    return lambda readings: readings.limits.update(values)


def _mounted(path: str, **values: Any) -> Callable[[Readings], None]:
    def change(readings: Readings) -> None:
        readings.mounts = [
            replace(mount, **values) if mount.path == path else mount for mount in readings.mounts
        ]

    return change


KNOCKED_OUT: dict[str, tuple[Callable[[Readings], None], str]] = {
    "one uid of four": (_stands(uids=(*GOOD.uids[:3], 0)), "identity: uid"),
    "one gid of four": (_stands(gids=(0, *GOOD.gids[1:])), "identity: uid"),
    "a group": (_stands(groups=(4,)), "identity: supplementary groups"),
    "a capability": (_stands(capabilities=1 << 40), "identity: capabilities"),
    "privileges": (_stands(no_new_privs=False), "identity: no_new_privs"),
    "no filter": (_stands(seccomp_mode=0, seccomp_filters=0), "syscalls: mode 0"),
    "strict mode": (_stands(seccomp_mode=1), "syscalls: mode 1"),
    "mode without a filter": (_stands(seccomp_filters=0), "syscalls: mode 2, 0 filters"),
    "a namespace": (lambda r: r.shared.append("net"), "namespaces: shared with the daemon: net"),
    "an interface": (lambda r: r.interfaces.append("eth0"), "no way out"),
    "no loopback": (lambda r: r.interfaces.clear(), "no way out"),
    "unified cgroup": (lambda r: r.cgroups.update({"": "/"}), "resources: unified cgroup"),
    "memory cgroup": (lambda r: r.cgroups.update(memory="/other"), "resources: memory cgroup"),
    "memory": (_limit(memory=LIMITS["memory"] + 4096), "resources: memory"),
    "swap": (_limit(memory_and_swap=LIMITS["memory"] + 4096), "resources: memory"),
    "sockets": (_limit(sockets=LIMITS["sockets"] + 4096), "resources: sockets"),
    "pids": (_limit(pids=LIMITS["pids"] + 1), "resources: pids"),
    "files": (
        lambda r: setattr(r, "files_line", "Max open files   64   1048576   files"),
        "resources: Max open files",
    ),
    "unlimited files": (
        lambda r: setattr(r, "files_line", "Max open files   64   unlimited   files"),
        "could not be read back",
    ),
    "root": (_mounted("/", options=frozenset({"rw"})), "files: / can be written"),
    "a size": (_mounted("/work", size_bytes=1 << 40), "files: /work holds"),
    "no size": (_mounted("/work", size_bytes=0), "files: /work holds"),
    "a disk": (_mounted("/work", kind="ext4"), "files: /work is ext4"),
    "a disk as /proc": (_mounted("/proc", kind="ext4"), "files: /proc is ext4"),
    "/proc": (_mounted("/proc", options=frozenset({"rw"})), "files: /proc can be written"),
    "devices": (_mounted("/dev", options=frozenset({"rw"})), "files: /dev can be written"),
    "/dev/pts": (_mounted("/dev/pts", kind="devtmpfs"), "files: /dev/pts can be written"),
    "a mask": (
        _mounted("/proc/kcore", options=frozenset({"rw"})),
        "files: /proc/kcore can be written",
    ),
    "/proc/sys": (_mounted("/proc/sys", options=frozenset({"rw"})), "files: /proc/sys can be"),
    "a disk in /proc": (
        _mounted("/proc/sys", kind="ext4", options=frozenset({"rw"})),
        "files: /proc/sys can be written",
    ),
    "nothing mounted": (lambda r: r.mounts.clear(), "files: not mounted"),
}


@pytest.mark.parametrize(("knock", "wall"), KNOCKED_OUT.values(), ids=list(KNOCKED_OUT))
def test_a_reading_that_is_wrong(
    readings: Readings, knock: Callable[[Readings], None], wall: str
) -> None:
    knock(readings)
    with pytest.raises(HostError) as caught:
        readings.check()
    assert caught.value.reason == "WALL_NOT_STANDING"
    assert wall in caught.value.message


def test_two_fallen_walls_are_both_named(readings: Readings) -> None:
    readings.standing = replace(GOOD, no_new_privs=False)
    readings.interfaces = ["lo", "eth0"]
    with pytest.raises(HostError) as caught:
        readings.check()
    assert "no_new_privs" in caught.value.message
    assert "eth0" in caught.value.message


def test_exec_is_allowed_only_where_the_profile_says_so(readings: Readings) -> None:
    _mounted("/work", options=TMPFS - {"noexec"})(readings)
    with pytest.raises(HostError):
        readings.check()
    write = tuple(replace(mount, exec=mount.path == "/work") for mount in PROFILE.write)
    readings.check(replace(PROFILE, write=write))


@pytest.mark.parametrize("error", [ProcessLookupError(3, "gone"), ValueError("?"), KeyError("Uid")])
def test_what_cannot_be_read_does_not_stand(
    readings: Readings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(pid: int) -> None:
        raise error

    for name in ("standing", "shared_namespaces", "interfaces", "cgroup_of", "mounts_of"):
        with monkeypatch.context() as patch:
            patch.setattr(arm, name, fail)
            with pytest.raises(HostError) as caught:
                readings.check()
            assert caught.value.reason == "WALL_NOT_STANDING"


def test_own_mounts_are_read() -> None:
    paths = {mount.path: mount for mount in arm.mounts_of(os.getpid())}
    assert paths["/proc"].kind == "proc"
    assert paths["/"].options & {"ro", "rw"}
    assert Path("/") in {Path(path) for path in paths}
