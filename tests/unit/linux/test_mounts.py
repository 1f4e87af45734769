"""Mounts of the daemon stay the daemon's: the host never sees them, and they end with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.linux import mounts

ROOT = Path(__file__).resolve().parents[3]

OVERLAY = """
import os, sys
from pathlib import Path
from supervisor.linux import mounts
top = Path(sys.argv[1])
mounts.enter_private_mounts()
mounts.mount_overlay([top / "upper", top / "lower"], top / "target")
print(sorted(os.listdir(top / "target")))
print((top / "target/both").read_text())
try:
    (top / "target/new").write_text("x")
except OSError as error:
    print(error.errno)
[line] = [l for l in open("/proc/self/mountinfo") if f" {top}/target " in l]
print(sorted(set(line.split()[5].split(",")) & {"ro", "nosuid", "nodev"}))
print(line.split()[6])
sys.stdout.flush()
sys.stdin.read(1)
mounts.unmount(top / "target")
print(sorted(os.listdir(top / "target")))
"""

PINS = """
import subprocess, sys
from pathlib import Path
from supervisor.linux import mounts
path = Path(sys.argv[1]) / "bpf"
folder = mounts.BpfFolder(path)
host = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
if sys.argv[2] == "apart":
    mounts.enter_private_mounts()
print(folder.mounted(), path.is_mount())
if sys.argv[3] == "by hand":
    enter = ["nsenter", f"--mount=/proc/{host.pid}/ns/mnt"]
    subprocess.run([*enter, "umount", path], check=True)
    print(folder.mounted(), path.is_mount())
folder.close()
print(path.exists())
host.communicate()
"""


FAILS = """
import sys
from pathlib import Path
from supervisor.errors import HostError
from supervisor.linux import mounts
path = Path(sys.argv[1]) / "bpf"
folder = mounts.BpfFolder(path)
mounts.enter_private_mounts()
mounts.find_program = lambda name: "/usr/bin/false"
try:
    folder.close()
except HostError as error:
    print(error.reason)
folder.close_if_empty()
"""


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("upper", "lower", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "upper/both").write_text("upper")
    (tmp_path / "lower/both").write_text("lower")
    (tmp_path / "lower/only").write_text("lower")
    return tmp_path


@pytest.mark.root
def test_an_overlay_in_a_namespace_of_its_own(top: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OVERLAY, top], cwd=ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(5)]
        assert said[:2] == ["['both', 'only']", "upper"]
        assert said[2:4] == ["30", "['nodev', 'nosuid', 'ro']"]  # EROFS
        assert not said[4].startswith("shared:")
        # The host does not see it.
        assert list((top / "target").iterdir()) == []
        assert str(top) not in Path("/proc/self/mountinfo").read_text()
        process.stdin.write("x")
        process.stdin.flush()
        assert process.stdout.readline().strip() == "[]"


@pytest.mark.parametrize("name", ["a:b", "a,b", "a\\b"])
def test_a_path_with_a_separator_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError) as caught:
        mounts.mount_overlay([tmp_path / name, tmp_path], tmp_path)
    assert caught.value.errno == 22


@pytest.mark.root
def test_what_is_not_mounted_cannot_be_detached(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        mounts.unmount(tmp_path)


@pytest.mark.root
@pytest.mark.parametrize(
    ("where", "end", "said"),
    [
        ("here", "by us", "True True\nFalse\n"),
        ("apart", "by us", "True True\nFalse\n"),
        ("apart", "by hand", "True True\nFalse True\nFalse\n"),
    ],
)
def test_a_folder_for_pins_knows_whether_it_is_mounted_where_it_was(
    tmp_path: Path, where: str, end: str, said: str
) -> None:
    """In a namespace whose mounts are private: from the other one, nothing is handed on."""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", PINS]
    done = subprocess.run(
        [*command, tmp_path, where, end], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == said


@pytest.mark.root
def test_an_unmount_that_failed_is_not_tried_again(tmp_path: Path) -> None:
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", FAILS]
    done = subprocess.run(
        [*command, tmp_path], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == "PROGRAM_FAILED\n"
