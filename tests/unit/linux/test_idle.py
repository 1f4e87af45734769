"""What is in the idle cgroup has the processor only while nobody else needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.linux import cgroup, idle
from supervisor.linux.cgroup import Hierarchies

HERE = Path(__file__).resolve().parents[3]
CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from supervisor.linux import cgroup, idle
idle.put(cgroup.detect(), 0)
print(open("/proc/self/cgroup").read(), end="", flush=True)
sys.stdin.read()
"""


@pytest.mark.root
def test_who_is_put_there_is_idle_and_it_stays_while_somebody_is_in_it() -> None:
    host = cgroup.detect()
    folder = host.controllers["cpu"] / idle.NAME
    arguments = [sys.executable, "-I", "-c", CODE, str(HERE)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().decode()]
            while not lines[-1].endswith(f"/{idle.NAME}\n"):
                assert lines[-1], lines
                lines.append(process.stdout.readline().decode())
            assert (folder / "cpu.idle").read_text() == "1\n"
            idle.remove(host)
            assert folder.is_dir()
            idle.put(host, process.pid, idly=False)
            assert idle.ours(Path(f"/proc/{process.pid}/cgroup")) == idle.ours()
        finally:
            process.kill()
            process.wait()
    idle.remove(host)
    # Another lane's daemon may have somebody in it.
    assert not folder.is_dir() or (folder / "cgroup.procs").read_text()


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
    ("text", "where"),
    [
        ("4:memory:/m\n1:cpu,cpuacct:/a/b\n0::/c\n", "a/b"),
        ("0::/system.slice/stockade.service\n", "system.slice/stockade.service"),
        ("2:cpuset:/x\n1:cpu:/\n0::/c\n", ""),
        ("0::/sys\udcff.slice\n", "sys\udcff.slice"),
    ],
)
def test_our_own_is_that_which_has_the_processor(tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "cgroup").write_bytes(os.fsencode(text))
    assert idle.ours(tmp_path / "cgroup") == where
