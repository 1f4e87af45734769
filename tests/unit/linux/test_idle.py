"""What is in the idle cgroup has the processor only while nobody else needs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from supervisor.linux import cgroup, credentials, idle
from supervisor.linux.cgroup import Hierarchies


@pytest.mark.root
def test_who_is_put_there_is_idle_and_it_stays_while_somebody_is_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idle, "NAME", f"stockade-idle-test-{os.getpid()}")
    host = cgroup.detect()
    folder = host.controllers["cpu"] / idle.NAME
    with subprocess.Popen(["sleep", "inf"]) as process:
        try:
            assert idle.group_of(process.pid) == idle.group_of(os.getpid())
            idle.put(host, process.pid)
            assert idle.group_of(process.pid) == idle.NAME
            assert (folder / "cpu.idle").read_text() == "1\n"
            idle.remove(host)
            assert folder.is_dir()
            idle.put(host, process.pid, idly=False)
            assert idle.group_of(process.pid) == idle.group_of(os.getpid())
        finally:
            process.kill()
            process.wait()
            idle.remove(host)
    assert not folder.exists()


def tree(folder: Path, *, pure: bool) -> Hierarchies:
    where = folder if pure else folder / "cpu"
    where.mkdir(exist_ok=True)
    return Hierarchies(unified=folder, controllers={"cpu": where}, pure=pure)


@pytest.mark.parametrize("pure", [True, False])
def test_version_2_passes_the_processor_down_first(tmp_path: Path, pure: bool) -> None:
    host = tree(tmp_path, pure=pure)
    idle.put(host, 7)
    folder = host.controllers["cpu"] / idle.NAME
    assert {one.name: one.read_text() for one in folder.iterdir()} == {
        "cpu.idle": "1", "cgroup.procs": "7",
    }  # fmt: skip
    assert (tmp_path / "cgroup.subtree_control").exists() == pure


def test_it_is_made_again_where_another_has_removed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, times, write = tree(tmp_path, pure=False), [0], Path.write_text

    def gone(path: Path, text: str) -> int:
        times[0] += 1
        if times[0] == 1:
            path.parent.rmdir()
            raise FileNotFoundError
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", gone)
    idle.put(host, 7)
    assert times[0] == 3


def test_a_kernel_without_it_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(path: Path, _: str) -> int:
        raise FileNotFoundError(2, "no such file", str(path))

    monkeypatch.setattr(Path, "write_text", without)
    with pytest.raises(FileNotFoundError, match=r"cpu\.idle"):
        idle.put(tree(tmp_path, pure=False), 0)
    with pytest.raises(FileNotFoundError, match="no cgroup has the processor"):
        idle.put(Hierarchies(unified=tmp_path, controllers={}, pure=False), 0)


def test_none_to_remove_is_no_error_and_a_stranger_is(tmp_path: Path) -> None:
    host = tree(tmp_path, pure=False)
    idle.remove(host)
    (host.controllers["cpu"] / idle.NAME / "sub").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        idle.remove(host)


@pytest.mark.parametrize(
    ("groups", "where"),
    [
        ({"memory": "/m", "cpu,cpuacct": "/a/b", "": "/c"}, "a/b"),
        ({"": "/system.slice/stockade.service"}, "system.slice/stockade.service"),
        ({"cpuset": "/x", "cpu": "/", "": "/c"}, ""),
    ],
)
def test_that_of_a_process_is_the_one_that_has_the_processor(
    groups: dict[str, str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "cgroup_of", {7: groups}.__getitem__)
    assert idle.group_of(7) == where


@pytest.mark.root
def test_a_group_may_have_any_name() -> None:
    host, name = cgroup.detect(), os.fsdecode(b"stockade-test-\xff\xc2\x85x")
    folder = host.unified / name
    folder.mkdir()
    with subprocess.Popen(["sleep", "inf"]) as process:
        try:
            (folder / "cgroup.procs").write_text(str(process.pid))
            assert credentials.cgroup_of(process.pid)[""] == f"/{name}"
        finally:
            process.kill()
            process.wait()
            cgroup.Cgroup(host, name).remove()
