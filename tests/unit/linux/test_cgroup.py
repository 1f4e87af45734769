"""Cgroups: where a host keeps them, what is read from files, and real ones of this host."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import HostError
from supervisor.linux import cgroup
from supervisor.linux.cgroup import Cgroup, Hierarchies

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
ROOT = "23 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
TREE = "/sys/fs/cgroup"


def _v1(where: str, controllers: str) -> str:
    return f"32 31 0:29 / {TREE}/{where} rw,relatime - cgroup cgroup rw,{controllers}\n"


V1 = (
    _v1("memory", "memory")
    + _v1("pids", "pids")
    + _v1("cpu,cpuacct", "cpu,cpuacct")
    + _v1("systemd", "xattr,name=systemd")
)
HYBRID = ROOT + V1 + f"41 31 0:38 / {TREE}/unified rw,relatime - cgroup2 cgroup2 rw\n"


def detect(tmp_path: Path, text: str) -> Hierarchies:
    path = tmp_path / "mountinfo"
    path.write_text(text)
    return cgroup.detect(path)


def test_pure_version_2(tmp_path: Path) -> None:
    found = detect(tmp_path, ROOT + V2)
    assert found.pure
    assert found.unified == Path(TREE)
    assert set(found.controllers.values()) == {Path(TREE)}
    assert found.trees == (Path(TREE),)


def test_hybrid(tmp_path: Path) -> None:
    found = detect(tmp_path, HYBRID)
    assert not found.pure
    assert found.unified == Path(TREE, "unified")
    assert found.controllers["memory"] == Path(TREE, "memory")
    assert found.controllers["cpu"] == found.controllers["cpuacct"] == Path(TREE, "cpu,cpuacct")
    assert found.controllers["systemd"] == Path(TREE, "systemd")
    assert len(found.trees) == len(set(found.trees)) == 5


def test_version_2_with_a_stray_version_1_mount_counts_as_pure(tmp_path: Path) -> None:
    """What some tools mount (net_cls for VPNs) does not carry memory and pids."""
    found = detect(tmp_path, ROOT + V2 + _v1("net_cls", "net_cls"))
    assert found.pure
    assert found.trees == (Path(TREE),)


def test_the_first_of_two_unified_mounts_counts(tmp_path: Path) -> None:
    other = V2.replace(TREE, "/run/other")
    assert detect(tmp_path, V2 + other).unified == Path(TREE)


@pytest.mark.parametrize("text", [ROOT, ROOT + V1, ""], ids=["none", "v1", "empty"])
def test_without_version_2_nothing_can_be_killed_as_a_whole(tmp_path: Path, text: str) -> None:
    with pytest.raises(HostError) as caught:
        detect(tmp_path, text)
    assert caught.value.reason == "CGROUP_V2_REQUIRED"


@pytest.fixture
def pure(tmp_path: Path) -> Hierarchies:
    tree = tmp_path / "cgroup"
    tree.mkdir()
    (tree / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    names = ("memory", "pids", "cpu", "cpuacct")
    return Hierarchies(unified=tree, controllers=dict.fromkeys(names, tree), pure=True)


@pytest.fixture
def hybrid(tmp_path: Path) -> Hierarchies:
    names = ("memory", "pids", "cpu", "cpuacct")
    return Hierarchies(
        unified=tmp_path / "unified",
        controllers={name: tmp_path / name for name in names},
        pure=False,
    )


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_readings_of_version_2(pure: Hierarchies) -> None:
    write(
        pure.unified / "stockade/call",
        memory__events="low 0\noom 1\noom_kill 3\n",
        memory__peak="4096\n",
        memory__max="max\n",
        memory__swap__max="0\n",
        pids__events="max 7\n",
        pids__peak="5\n",
        pids__max="64\n",
        cpu__stat="usage_usec 9\nuser_usec 1500000\nsystem_usec 250000\n",
        cgroup__events="populated 1\nfrozen 0\n",
    )
    call = Cgroup(pure, "/stockade/call/")
    assert call.path == "stockade/call"
    assert (call.oom_kills(), call.memory_peak()) == (3, 4096)
    assert (call.pids_refused(), call.pids_peak()) == (7, 5)
    assert call.cpu() == pytest.approx((1.5, 0.25))
    assert call.populated()
    unlimited = (1 << 63) - 1
    assert call.limits() == {
        "memory": unlimited,
        "memory_and_swap": unlimited,
        "sockets": 0,
        "pids": 64,
    }
    call.bound_sockets(1)
    assert call.sockets_peak() == 0


def test_readings_of_version_1(hybrid: Hierarchies) -> None:
    write(
        hybrid.controllers["memory"] / "call",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        memory__max_usage_in_bytes="8192\n",
        memory__limit_in_bytes="1048576\n",
        memory__memsw__limit_in_bytes="1048576\n",
        memory__kmem__tcp__limit_in_bytes="9223372036854771712\n",
        memory__kmem__tcp__max_usage_in_bytes="4096\n",
    )
    write(hybrid.controllers["pids"] / "call", pids__events="max 1\n", pids__max="max\n")
    write(
        hybrid.controllers["cpuacct"] / "call",
        cpuacct__usage_user="1500000000\n",
        cpuacct__usage_sys="250000000\n",
    )
    call = Cgroup(hybrid, "call")
    assert (call.oom_kills(), call.memory_peak(), call.pids_refused()) == (2, 8192, 1)
    assert call.cpu() == pytest.approx((1.5, 0.25))
    assert call.limits() == {
        "memory": 1 << 20,
        "memory_and_swap": 1 << 20,
        "sockets": 9223372036854771712,
        "pids": (1 << 63) - 1,
    }
    call.bound_sockets(1 << 16)
    assert (call.limits()["sockets"], call.sockets_peak()) == (1 << 16, 4096)


def test_figures_of_what_is_not_there_are_0_but_limits_are_not(pure: Hierarchies) -> None:
    call = Cgroup(pure, "call")
    assert (call.oom_kills(), call.memory_peak(), call.pids_refused(), call.pids_peak()) == (0,) * 4
    assert call.cpu() == (0.0, 0.0)
    assert call.processes() == []
    assert not call.populated()
    call.kill()
    assert call.sockets_peak() == 0
    call.destroy()
    with pytest.raises(OSError):
        call.limits()


def test_children_are_those_of_every_tree(hybrid: Hierarchies) -> None:
    (hybrid.unified / "stockade/a").mkdir(parents=True)
    (hybrid.controllers["memory"] / "stockade/b").mkdir(parents=True)
    (hybrid.unified / "stockade/cgroup.procs").write_text("")
    assert cgroup.children(hybrid, "stockade") == {"a", "b"}
    assert cgroup.children(hybrid, "other") == set()


def test_controllers_are_passed_down_from_the_root(pure: Hierarchies) -> None:
    cgroup.make_parent(pure, "stockade/one")
    for folder in (pure.unified, pure.unified / "stockade", pure.unified / "stockade/one"):
        words = (folder / "cgroup.subtree_control").read_text().split()
        assert set(words) == {"+memory", "+pids", "+cpu"}


def test_a_controller_that_is_withheld_is_named(
    pure: Hierarchies, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, text: str) -> int:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(HostError) as caught:
        cgroup.make_parent(pure, "stockade")
    assert caught.value.reason == "CGROUP_CONTROLLER_MISSING"


def test_a_controller_that_the_host_lacks_is_named(pure: Hierarchies) -> None:
    (pure.unified / "cgroup.controllers").write_text("cpu pids\n")
    with pytest.raises(HostError) as caught:
        cgroup.make_parent(pure, "stockade")
    assert caught.value.reason == "CGROUP_CONTROLLER_MISSING"
    assert "memory" in caught.value.message
    assert not (pure.unified / "stockade").exists()


def test_a_hybrid_host_needs_a_parent_on_the_unified_tree_alone(hybrid: Hierarchies) -> None:
    """For the probes, which are attached to it before anything is in it."""
    cgroup.make_parent(hybrid, "stockade/one")
    assert (hybrid.unified / "stockade/one").is_dir()
    assert not any(folder.exists() for folder in set(hybrid.controllers.values()))


def test_a_call_has_an_id_on_the_unified_tree(hybrid: Hierarchies) -> None:
    call = Cgroup(hybrid, "stockade/one/call")
    assert call.identity() == 0
    cgroup.make_parent(hybrid, "stockade/one")
    assert call.make() == call.make() == call.identity() == call.unified.stat().st_ino


@contextlib.contextmanager
def real_cgroup() -> Iterator[Cgroup]:
    """Make a cgroup on every tree of this host, and remove it."""
    hierarchies = cgroup.detect()
    call = Cgroup(hierarchies, f"stockade-unit-test-{secrets.token_hex(4)}/call")
    cgroup.make_parent(hierarchies, str(Path(call.path).parent))
    for tree in hierarchies.trees:
        (tree / call.path).mkdir(parents=True)
    try:
        yield call
    finally:
        call.destroy()
        Cgroup(hierarchies, str(Path(call.path).parent)).remove()


@contextlib.contextmanager
def started_in(call: Cgroup, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a shell in the unified tree's folder of a cgroup."""
    move = f"echo $$ > {call.unified}/cgroup.procs && echo ready && {script}"
    with subprocess.Popen(["sh", "-c", move], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.root
def test_killing_ends_every_process_below() -> None:
    with real_cgroup() as call:
        (call.unified / "below").mkdir()
        with started_in(call, "exec sleep 600") as process:
            other = subprocess.Popen(["sleep", "600"])
            (call.unified / "below/cgroup.procs").write_text(str(other.pid))
            assert call.populated()
            assert {process.pid, other.pid} <= set(call.processes())
            call.kill()
            assert process.wait(30) == other.wait(30) == -9
        assert call.processes() == []
        call.destroy()
        assert not call.unified.exists()
    assert not any((tree / call.path).exists() for tree in cgroup.detect().trees)


@pytest.mark.root
def test_a_populated_cgroup_is_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "KILL_ROUNDS_MAX", 2)
    with real_cgroup() as call, started_in(call, "exec sleep 600") as process:
        with pytest.raises(OSError):
            call.remove()
        with monkeypatch.context() as patch, pytest.raises(OSError, match="cannot be ended"):
            patch.setattr(Cgroup, "kill", lambda self: None)
            call.destroy(2)
        assert process.poll() is None
        call.kill()
        process.wait(30)


@pytest.mark.root
def test_limits_of_a_real_cgroup_are_read_back() -> None:
    with real_cgroup() as call:
        has = call.limits()
        assert set(has) == {"memory", "memory_and_swap", "sockets", "pids"}
        assert all(value > 0 for name, value in has.items() if name != "sockets")
        call.bound_sockets(1 << 20)
        assert call.limits()["sockets"] in (0, 1 << 20)
