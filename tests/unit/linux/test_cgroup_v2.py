"""The daemon's parent cgroup on a version 2 host, and what Debian's systemd mounts on either."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.errors import HostError
from supervisor.linux import cgroup
from supervisor.linux.cgroup import Hierarchies

TREE = Path("/sys/fs/cgroup")
DEBIAN_12_HYBRID = (
    "systemd", "cpu,cpuacct", "blkio", "devices", "cpuset", "rdma", "freezer", "hugetlb", "pids",
    "perf_event", "memory", "net_cls,net_prio", "misc",
)  # fmt: skip
"""In systemd's order, on Debian's 6.1 with systemd.unified_cgroup_hierarchy=0."""


def _unified(where: Path) -> str:
    return f"30 23 0:26 / {where} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def _version_1(names: str) -> str:
    options = "xattr,name=systemd" if names == "systemd" else names
    return f"32 31 0:29 / {TREE}/{names} rw,nosuid shared:9 - cgroup cgroup rw,{options}\n"


def _detect(tmp_path: Path, text: str) -> Hierarchies:
    path = tmp_path / "mountinfo"
    path.write_text(text)
    return cgroup.detect(path)


def test_every_tree_that_the_runtime_uses_is_cleaned(tmp_path: Path) -> None:
    text = _unified(TREE / "unified") + "".join(map(_version_1, DEBIAN_12_HYBRID))
    found = _detect(tmp_path, text)
    assert not found.pure
    assert set(found.trees) == {TREE / name for name in (*DEBIAN_12_HYBRID, "unified")}


@pytest.mark.parametrize("where", [TREE, TREE / "unified"])
def test_the_mount_that_the_runtime_knows_wins(tmp_path: Path, where: Path) -> None:
    found = _detect(tmp_path, _unified(Path("/run/other")) + _unified(where))
    assert found.unified == where
    assert found.pure


def test_a_mount_point_may_have_any_name(tmp_path: Path) -> None:
    odd = _unified(Path("/home/u/\udcff\x85\x0b\u2028x")).replace("cgroup2 cgroup2", "fuse fuse")
    (tmp_path / "mountinfo").write_bytes(os.fsencode(odd + _unified(TREE)))
    assert cgroup.detect(tmp_path / "mountinfo").unified == TREE


@pytest.fixture
def host(tmp_path: Path) -> Hierarchies:
    """Make a folder that stands for /sys/fs/cgroup."""
    tree = tmp_path / "cgroup"
    tree.mkdir()
    (tree / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids rdma misc\n")
    return Hierarchies(
        unified=tree, controllers=dict.fromkeys((*cgroup.WANTED, "cpuacct"), tree), pure=True
    )


def test_all_sandboxes_together_weigh_less_than_the_daemon(host: Hierarchies) -> None:
    cgroup.make_parent(host, "stockade/one")
    weight = int((host.unified / "stockade/cpu.weight").read_text())
    assert 1 <= weight < 100
    assert not (host.unified / "stockade/one/cpu.weight").exists()


def test_the_parent_goes_with_the_last_daemon(host: Hierarchies) -> None:
    (host.unified / "stockade/one/call").mkdir(parents=True)
    (host.unified / "stockade/two").mkdir()
    cgroup.remove_parent(host, "stockade/one")
    assert not (host.unified / "stockade/one").exists()
    assert (host.unified / "stockade/two").is_dir()
    cgroup.remove_parent(host, "stockade/two")
    assert not (host.unified / "stockade").exists()
    assert host.unified.is_dir()


def test_removing_what_is_gone_does_no_harm(host: Hierarchies) -> None:
    cgroup.remove_parent(host, "stockade/one")
    assert host.unified.is_dir()


def test_on_a_hybrid_host_the_shared_parent_stays(host: Hierarchies) -> None:
    """The runtime of another daemon may just have found it there, and be about to use it."""
    hybrid = Hierarchies(unified=host.unified, controllers=host.controllers, pure=False)
    (host.unified / "stockade/one").mkdir(parents=True)
    cgroup.remove_parent(hybrid, "stockade/one")
    assert [entry.name for entry in (host.unified / "stockade").iterdir()] == []


def test_a_parent_that_another_daemon_removes_meanwhile_is_made_again(
    host: Hierarchies, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text, lost = Path.write_text, []

    def remove_once(path: Path, text: str) -> int:
        if path.parent.name == "stockade" and not lost:
            lost.append(path)
            path.parent.rmdir()
        return write_text(path, text)

    monkeypatch.setattr(Path, "write_text", remove_once)
    cgroup.make_parent(host, "stockade/one")
    assert lost
    assert (host.unified / "stockade/one/cgroup.subtree_control").is_file()


def test_a_parent_that_never_takes_its_controllers_is_an_error(
    host: Hierarchies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing a controller that the folder above withholds gives ENOENT (cgroup.c, 6.1)."""

    def withhold(path: Path, text: str) -> int:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "write_text", withhold)
    with pytest.raises(HostError) as caught:
        cgroup.make_parent(host, "stockade/one")
    assert caught.value.reason == "CGROUP_CONTROLLER_MISSING"
